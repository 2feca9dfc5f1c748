"""What is concluded of measurements: intervals, verdicts, and when `make bench-check` fails."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """Import a module of benchmarks/, which is no package."""
    spec = util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


Ratio: Any = load("ratio").Ratio


def test_the_interval_of_few_pairs_is_all_of_them() -> None:
    """Six pairs are the fewest that bound a median with 95 %: from the least to the largest."""
    ratio = Ratio.of([1, 2, 3, 4, 5, 6], [10] * 6)
    assert (ratio.low, ratio.median, ratio.high) == (0.1, 0.35, 0.6)
    assert Ratio.of([1] * 5, [10] * 5).high == math.inf


def test_the_interval_leaves_out_what_the_sign_test_leaves_out() -> None:
    """Of 25 pairs the seven least and the seven largest are outside: 2 × P(at most 7 of 25) is 4.3 %."""
    ratio = Ratio.of(list(range(1, 26)), [1] * 25)
    assert (ratio.low, ratio.median, ratio.high) == (8, 13, 18)


def test_the_interval_holds_the_true_median() -> None:
    """Of many runs with noise, at least 95 % have the true median inside."""
    rng = random.Random(7)
    runs = [Ratio.of([rng.lognormvariate(0, 0.5) for _ in range(15)], [1.0] * 15) for _ in range(2000)]
    assert sum(run.low <= 1 <= run.high for run in runs) / 2000 > 0.95


@pytest.mark.parametrize(
    ("low", "high", "most", "least"),
    [(0.1, 0.12, "met", "not met"), (0.13, 0.2, "not met", "met"), (0.1, 0.2, "not sure", "not sure")],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, most: str, least: str) -> None:
    """What lies on both sides of the bar is noise: neither met nor missed."""
    ratio = Ratio(low, (low + high) / 2, high, 25)
    assert (ratio.at_most(0.125), ratio.at_least(0.125)) == (most, least)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the modules of benchmarks/ find each other, as they do when one of them is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def check(tmp_path: Path, results: dict[str, Any], *scripts: str) -> subprocess.CompletedProcess[str]:
    """Run `make bench-check` on results that were measured before."""
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    command = [sys.executable, str(BENCHMARKS / "check.py"), *scripts, "--results", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def frames(low: float, median: float, high: float) -> dict[str, Any]:
    one = {"low": low, "median": median, "high": high, "pairs": 25}
    return {"frames": {"ratios": {"in": one, "out": {**one, "low": 0.01, "median": 0.02, "high": 0.03}}}}


def test_a_worse_ratio_fails(tmp_path: Path) -> None:
    """A frame that costs 0.13 to 0.15 of a record, where 0.125 is the bar, ends bench-check with status 1."""
    done = check(tmp_path, frames(0.13, 0.14, 0.15), "frames")
    assert done.returncode == 1
    assert "1 of the ratios" in done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["not met", "met"]


def test_noise_does_not_fail(tmp_path: Path) -> None:
    """The same median passes where the interval reaches under the bar, and the line says that it is not sure."""
    done = check(tmp_path, frames(0.12, 0.14, 0.2), "frames")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not sure")


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    """A Collector that is not there fails nothing, and is not passed over in silence."""
    done = check(tmp_path, {"collector": {"collector": "not measured: no Collector here"}}, "collector")
    assert done.returncode == 0
    assert done.stdout.count("not measured") == 2


def test_a_script_that_fails_is_no_pass(tmp_path: Path) -> None:
    """Where a measurement breaks off, bench-check ends with 1 and names it."""
    done = check(tmp_path, {"frames": {"failed": "ImportError: no such module"}}, "frames")
    assert done.returncode == 1
    assert "cannot be measured: frames" in done.stderr


def test_the_page_says_what_is_missing_and_what_is_not_met(beside: None) -> None:
    """A library that cannot be installed has a row that says why, and a bar that is missed is not passed over."""
    costs = {"min": 80.0, "median": 90.0}
    plain = {
        **dict.fromkeys(("caller_us", "bytes_us", "sent_us"), costs),
        "spans_per_turn": 12.0,
        "attributes_per_turn": 35,
        "bytes_per_turn": 2148,
        "memory_mb": 40.0,
    }
    peers = {
        "plain": {"what": "by hand", "version": "1.45.1", "recording": plain},
        "logfire": {"what": "logfire.span", "missing": "no wheel for this Python"},
    }
    results = frames(0.13, 0.14, 0.15) | {"peers": {"peers": peers, "rounds": 9, "turns": 50}}
    lines = load("performance").page(results).splitlines()
    assert any(line.startswith("| logfire |") and "missing: no wheel for this Python" in line for line in lines)
    assert any(line.startswith("| **plain SDK** 1.45.1 |") and "| 80 |" in line for line in lines)
    assert [line.split(" | ")[-1] for line in lines if "audio frame" in line] == ["**not met** |", "met |"]


def test_every_script_of_the_check_measures_a_ratio(beside: None) -> None:
    """The scripts with a ratio among the bars are those that bench-check runs."""
    bars, checked = load("bars"), load("check")
    assert {bar.script for bar in bars.BARS if bar.is_ratio} == set(checked.BRIEF)
    assert all((BENCHMARKS / f"{bar.script}.py").is_file() for bar in bars.BARS)
