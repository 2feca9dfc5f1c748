"""The examples, run as their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from voicespan.local.reader import TurnQuery
from voicespan.local.server import Receiver

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_pipeline_gives_a_turn_for_every_question(tmp_path: Path) -> None:
    """Under `voicespan run` the small pipeline sends three turns; the slow model is named as the cause."""
    program = Path(sys.executable).with_name("voicespan")
    with Receiver(port=0, database=tmp_path / "turns.db") as receiver:
        environ = os.environ | {"OTEL_SERVICE_NAME": "bot", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        command = [str(program), "run", "--", sys.executable, str(EXAMPLES / "pipeline.py")]
        subprocess.run(command, env=environ, check=True, timeout=50, capture_output=True)
        deadline = time.monotonic() + 10
        while len(turns := receiver.store.reader.turns(TurnQuery())) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
    turns = sorted(turns, key=lambda turn: turn.start_ns)
    assert [(turn.turn_index, turn.outcome) for turn in turns] == [(1, "completed"), (2, "completed"), (3, "completed")]
    assert turns[1].bottleneck == "llm"
    assert {turn.service for turn in turns} == {"bot"}
