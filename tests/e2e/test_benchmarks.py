"""The benchmarks of the reference agent, as CI runs them every night, with a single call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.performance import test_latency, test_throughput

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(180)
@pytest.mark.covers("A-K06", "A-K07", "A-K08", "A-K09", "A-K11", "A-S06", "A-E03")
def test_the_benchmarks_write_their_results(tmp_path: Path) -> None:
    """The agent is called and loaded; both results are in pytest's temporary directory, and the report is printed."""
    base, cache = tmp_path / "base", tmp_path / "cache"  # its own: this run holds a place on the machine
    options = ("-v", "-s", "--tb=short", "-m", "benchmark", f"--basetemp={base}", "-o", f"cache_dir={cache}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/performance/", *options], cwd=ROOT,
        env={**os.environ, "BENCHMARK_CALLS": "1"}, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    latency = json.loads((base / "latency_benchmark.json").read_text())
    assert (latency["calls"], latency["metrics"]["success_rate"]) == (1, 1)
    assert "LATENCY TEST RESULTS" in done.stdout
    load = json.loads((base / "throughput_benchmark.json").read_text())
    assert sum(load["answers"].values()) == 1_000
    assert test_throughput.AT_ONCE == 50
    assert set(load["answers"]) == {"200", "429"}
    assert {"average_ms", "p95_ms", "requests_per_second"} <= set(load["metrics"])


@pytest.mark.covers("A-K10", "A-K06")
def test_each_mark_has_its_tests() -> None:
    """`benchmark` measures, `regression` compares with the file under version control, and nothing else runs them."""
    for module in (test_latency, test_throughput):
        tests = [each for name, each in vars(module).items() if name.startswith("test_")]
        assert sorted(mark.name for each in tests for mark in each.pytestmark) == ["benchmark", "regression"]
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    assert options[options.index("-m") + 1] == "not benchmark and not regression"
    baseline = json.loads((ROOT / "tests/benchmarks/baseline_results.json").read_text())
    for each in (baseline, baseline["throughput"]):
        assert {"average_ms", "p95_ms", "success_rate"} <= set(each["metrics"])
        assert each["tolerance"]


@pytest.mark.covers("A-K12", "A-S05")
def test_ci_runs_them_every_night() -> None:
    """The workflow runs at 03:00 and on demand, on the baseline's Python, all benchmarks and the comparison."""
    workflow: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/performance.yml").read_text())
    assert workflow["name"] == "Performance Benchmarks"
    triggers = workflow[True]  # YAML 1.1 reads the key `on` so
    assert triggers["schedule"] == [{"cron": "0 3 * * *"}]
    assert "workflow_dispatch" in triggers
    job = workflow["jobs"]["benchmark"]
    steps = job["steps"]
    assert [step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")] == ["3.11"]
    (run,) = [step["run"] for step in steps if "pytest" in step.get("run", "")]
    assert "tests/performance/" in run
    assert '-m "benchmark or regression"' in run
