"""benchmarks/peers.py for a moment, with what needs no other environment; the others are measured by `make bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers.py"


def test_the_same_turn_is_held_and_arrives() -> None:
    """Every turn of a worker has its twelve spans at the back end; one without a provider has none."""
    command = [sys.executable, str(PEERS), "--rounds", "1", "--turns", "5", "--starts", "1", "--only", "bare", "ours"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=55)
    assert done.returncode == 0, done.stderr
    peers = json.loads(done.stdout)["peers"]
    assert {name: peer["recording"]["spans_per_turn"] for name, peer in peers.items()} == {"bare": 0, "ours": 12}
    assert peers["ours"]["recording"]["attributes_per_turn"] > 40
    assert 0 < peers["ours"]["recording"]["caller_us"]["min"] <= peers["ours"]["recording"]["bytes_us"]["min"]
    assert peers["ours"]["start"]["modules"] > peers["bare"]["start"]["modules"]
    assert {kind: end["lines"] > 0 for kind, end in peers["ours"]["exit"].items()} == {
        "refuses": True,
        "never answers": True,
    }
