"""The examples, run as their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver

if TYPE_CHECKING:
    from voicespan.local.turn import Turn

EXAMPLES = Path(__file__).parent.parent / "examples"


def received(example: str, count: int, folder: Path) -> list[Turn]:
    """Run an example under `voicespan run`; return the turns that have arrived, in order."""
    program = Path(sys.executable).with_name("voicespan")
    with Receiver(port=0, database=folder / "turns.db") as receiver:
        environ = os.environ | {"OTEL_SERVICE_NAME": "bot", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        command = [str(program), "run", "--", sys.executable, str(EXAMPLES / example)]
        subprocess.run(command, env=environ, check=True, timeout=50, capture_output=True)
        deadline = time.monotonic() + 10
        while len(turns := receiver.store.reader.turns(TurnQuery())) < count and time.monotonic() < deadline:
            time.sleep(0.1)
    return sorted(turns, key=lambda turn: turn.start_ns)


def test_the_pipeline_gives_a_turn_for_every_question(tmp_path: Path) -> None:
    """Under `voicespan run` the small pipeline sends three turns; the slow model is named as the cause."""
    turns = received("pipeline.py", 3, tmp_path)
    assert [(turn.turn_index, turn.outcome) for turn in turns] == [(1, "completed"), (2, "completed"), (3, "completed")]
    assert turns[1].bottleneck == "llm"
    assert {turn.service for turn in turns} == {"bot"}


def test_the_livekit_agent_gives_a_turn_for_every_utterance(tmp_path: Path) -> None:
    """Under `voicespan run` the unchanged LiveKit agent sends its greeting, two answers, and the one cut off."""
    pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")
    turns = received("livekit/offline.py", 4, tmp_path)
    outcomes = ["completed", "completed", "interrupted", "completed"]
    assert [(turn.turn_index, turn.outcome) for turn in turns] == list(enumerate(outcomes, 1))
    assert len({turn.session_id for turn in turns}) == 1


def test_the_realtime_service_gives_a_turn_for_every_utterance(tmp_path: Path) -> None:
    """Under `voicespan run` the unchanged realtime service sends its greeting, two answers, and the one cut off."""
    pytest.importorskip("openai", reason="openai is not installed")
    turns = received("openai/offline.py", 4, tmp_path)
    outcomes = ["completed", "completed", "interrupted", "completed"]
    assert [(turn.turn_index, turn.outcome) for turn in turns] == list(enumerate(outcomes, 1))
    assert {turn.session_id for turn in turns} == {"sess_1"}
