"""Programs that the tests of the stack run."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.programs import program

from voicespan.stack import alerts, generate
from voicespan.stack.objectives import Objectives, load
from voicespan.stack.programs import PROMTOOL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

RULE_FILES = ("recording.yml", "alerts.yml", "pipeline.yml")


@pytest.fixture(scope="session")
def promtool() -> Callable[..., str]:
    """Run promtool, which must succeed; returns what it says."""
    found = program(PROMTOOL)

    def run(*arguments: object) -> str:
        done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def objectives() -> Objectives:
    """What deploy/slo.yaml says."""
    return load(generate.CHECKOUT / generate.OBJECTIVES, alerts.LIMITS)


@pytest.fixture
def judge(promtool: Callable[..., str], objectives: Objectives, tmp_path: Path) -> Callable[..., None]:
    """Hold rules against series: `judge(tests)` runs promtool's unit tests with the rules of some objectives."""

    def run(tests: Sequence[dict[str, Any]], given: Objectives = objectives, names: Sequence[str] = RULE_FILES) -> None:
        files = generate.rule_files(given)
        for name in names:
            (tmp_path / name).write_text(files[name])
        unit = {
            "rule_files": list(names),
            "evaluation_interval": "30s",
            # Without it promtool takes the groups in any order, and an alert may read what was recorded before.
            "group_eval_order": [group["name"] for name in names for group in yaml.safe_load(files[name])["groups"]],
            "tests": list(tests),
        }
        (tmp_path / "test.yml").write_text(yaml.safe_dump(unit))
        promtool("test", "rules", tmp_path / "test.yml")

    return run
