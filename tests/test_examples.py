"""The examples, run as their first lines say."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import websockets
from tests.ports import free_port

from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.local.span import Span
    from voicespan.local.turn import Turn

EXAMPLES = Path(__file__).parent.parent / "examples"


def received(example: str, count: int, folder: Path, **more: str) -> list[Turn]:
    """Run an example under `voicespan run`; return the turns that have arrived, in order."""
    program = Path(sys.executable).with_name("voicespan")
    with Receiver(port=0, database=folder / "turns.db") as receiver:
        environ = os.environ | {"OTEL_SERVICE_NAME": "bot", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint} | more
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


@pytest.mark.covers("D-K02")
def test_the_livekit_agent_gives_a_turn_for_every_utterance(tmp_path: Path) -> None:
    """Under `voicespan run` the unchanged LiveKit agent sends its greeting, two answers, and the one cut off."""
    pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")
    turns = received("livekit/offline.py", 4, tmp_path)
    outcomes = ["completed", "completed", "interrupted", "completed"]
    assert [(turn.turn_index, turn.outcome) for turn in turns] == list(enumerate(outcomes, 1))
    assert len({turn.session_id for turn in turns}) == 1


def environment(file: Path) -> dict[str, str]:
    """Return what an environment file of an example sets."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@contextmanager
def started(folder: Path, command: list[str], port: int, log: Path, **environ: str) -> Iterator[None]:
    """Run a service of an example under `voicespan run` until the block ends; wait for its port."""
    program = Path(sys.executable).with_name("voicespan")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(program), "run", "--", *command], cwd=folder, env=os.environ | environ, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 40
        while not accepts(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def ask(port: int, *questions: str) -> list[int]:
    """Call the service; return how many frames each answer had."""
    async with websockets.connect(f"ws://127.0.0.1:{port}/call/anna") as socket_:
        frames = []
        for question in questions:
            await socket_.send(question)
            count = 0
            while await socket_.recv() != "done":
                count += 1
            frames.append(count)
        return frames


@pytest.mark.covers("F-R13", "C-T08", "A-K02")
def test_the_fastapi_service_gives_a_turn_for_every_question(tmp_path: Path, redis_port: int) -> None:
    """The unchanged service with its environment file: a turn for each question, across the worker and Redis."""
    folder = EXAMPLES / "fastapi"
    worker_port, port = free_port(), free_port()
    python = sys.executable
    with Receiver(port=0, database=tmp_path / "turns.db") as receiver:
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        worker = environment(folder / "worker.env") | where
        service = environment(folder / "service.env") | where
        service |= {"SPEECH_WORKER": f"127.0.0.1:{worker_port}", "REDIS_URL": f"redis://127.0.0.1:{redis_port}"}
        uvicorn = [python, "-m", "uvicorn", "app:app", "--reload", "--port", str(port)]
        with (
            started(folder, [python, "worker.py", str(worker_port)], worker_port, tmp_path / "worker.log", **worker),
            started(folder, uvicorn, port, tmp_path / "service.log", **service),
        ):
            frames = asyncio.run(ask(port, "What time is it", "Thank you"))
        reader, deadline = receiver.store.reader, time.monotonic() + 10
        spans: dict[str, Span] = {}
        turns: list[Turn] = []
        while ("Synthesize" not in spans or len(turns) < 2) and time.monotonic() < deadline:
            time.sleep(0.1)
            turns = sorted(reader.turns(TurnQuery()), key=lambda turn: turn.start_ns)
            spans = {span.name: span for span in reader.spans(turns[0].trace_id)} if turns else {}
    assert frames == [72, 48]
    assert [(turn.turn_index, turn.outcome) for turn in turns] == [(1, "completed"), (2, "completed")]
    assert len({turn.session_id for turn in turns}) == 1
    assert {"llm", "tts", "HGET", "HSET", "demo.Speech/Synthesize", "Synthesize"} <= spans.keys()
    assert spans["HGET"].parent_id == spans["llm"].span_id
    assert spans["demo.Speech/Synthesize"].parent_id == spans["tts"].span_id
    assert spans["Synthesize"].parent_id == spans["demo.Speech/Synthesize"].span_id
    assert spans["Synthesize"].service == "speech-worker"
    assert spans["tts"].attributes["voice.worker.id"] == "tts-0"


def test_the_service_with_a_stage_map_gives_a_turn_for_every_utterance(tmp_path: Path) -> None:
    """An unchanged FastAPI service, whose WebSocket handler is taken by a decorator, sends its call's four turns."""
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    turns = received("stages/offline.py", 4, tmp_path, VOICESPAN_STAGES=str(EXAMPLES / "stages" / "voicespan.yaml"))
    outcomes = ["completed", "completed", "interrupted", "completed"]
    assert [(turn.turn_index, turn.outcome) for turn in turns] == list(enumerate(outcomes, 1))
    assert {turn.session_id for turn in turns} == {"call-7"}
    assert turns[1].response_ns is not None
    assert turns[1].response_ns / 1e9 == pytest.approx(0.4 + 0.12 + 0.08 + 0.36 + 0.15, abs=0.08)


def test_the_realtime_service_gives_a_turn_for_every_utterance(tmp_path: Path) -> None:
    """Under `voicespan run` the unchanged realtime service sends its greeting, two answers, and the one cut off."""
    pytest.importorskip("openai", reason="openai is not installed")
    turns = received("openai/offline.py", 4, tmp_path)
    outcomes = ["completed", "completed", "interrupted", "completed"]
    assert [(turn.turn_index, turn.outcome) for turn in turns] == list(enumerate(outcomes, 1))
    assert {turn.session_id for turn in turns} == {"sess_1"}
