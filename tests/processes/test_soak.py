"""benchmarks/soak.py for a moment; 200,000 turns are run by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.parametrize("receiver", [[], ["--viewer"]], ids=["counting", "viewer"])
def test_no_turn_is_lost(receiver: list[str]) -> None:
    """Turns of every kind, as fast as the queue takes them: each arrives once, and memory is bounded."""
    command = [sys.executable, str(SOAK), "--turns", "300", "--seconds", "30", *receiver]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=55)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert (found["lost"], found["twice"]) == (0, 0)
    assert found["arrived"] == found["turns"] > 100
    assert found["counts"] == {"sent": found["counts"]["sent"]}
