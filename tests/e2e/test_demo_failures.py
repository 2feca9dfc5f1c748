"""What the demo does when its processes are killed, stopped or interrupted, and what is left behind: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from voicespan import names as n

pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")

from voicespan.demo import truth
from voicespan.demo.processes import Processes, ProcessFailed
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import Measured

    from voicespan.local.turn import Turn

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]  # a conversation keeps real time

WAIT_S = 30.0
DEMO = (sys.executable, "-c", "from voicespan.cli import main; main()", "demo", "--no-browser", "--port", "0")


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[Processes, Receiver]]:
    """Give the demo's processes and the receiver that they send to."""
    with Receiver(port=0, database=directory / "demo.db") as receiver:
        async with Processes(endpoint=receiver.endpoint, directory=directory) as processes:
            yield processes, receiver


async def noted(processes: Processes, event: str, scenario: str) -> None:
    """Wait until this has happened."""
    async with asyncio.timeout(WAIT_S):
        while (event, scenario) not in {(note.event, note.scenario) for note in truth.read(processes.truth)}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def turns(receiver: Receiver, count: int) -> list[Turn]:
    """Wait until so many complete turns are there, and return them in order of start."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found = receiver.store.reader.turns(TurnQuery(service="demo-agent"))
            if sum(turn.complete for turn in found) >= count:
                return sorted(found, key=lambda turn: turn.start_ns)
            await asyncio.sleep(0.1)


async def hold(processes: Processes, *names: str) -> None:
    """Have the caller go through these scenarios."""
    async for _ in processes.call(names):
        pass


@pytest.mark.failure(
    "A speech worker is killed in the middle of its stream", "That turn is `error`; the next one is answered"
)
async def test_a_killed_worker_costs_one_turn(tmp_path: Path, measured: Measured) -> None:
    """`kill -9` of the speech worker fails the turn that it speaks in; the next turn is answered by its successor."""
    async with running(tmp_path) as (processes, receiver):
        call = asyncio.create_task(hold(processes, "greeting", "broken", "slow_speech", "plain"))
        await noted(processes, "speech.request", "slow_speech")
        killed = processes.worker.pid
        os.kill(killed, signal.SIGKILL)
        await call
        _, _, failed, answered = await turns(receiver, 4)
        assert processes.worker.pid != killed
    assert (failed.outcome, answered.outcome) == ("error", "completed")
    assert failed.error == "UNAVAILABLE"
    measured(call="the call went on", lost="0 of 4 turns")


async def test_a_stopped_agent_sends_what_it_knows(tmp_path: Path) -> None:
    """SIGTERM to the agent in a turn: the turn arrives with its stages, as one that was cut."""
    async with running(tmp_path) as (processes, receiver):
        call = asyncio.create_task(hold(processes, "greeting", "slow_model"))
        await noted(processes, "model.request", "slow_model")
        begin = time.monotonic()
        os.kill(processes.orchestrator.pid, signal.SIGTERM)
        await processes.orchestrator.ended()
        took_s = time.monotonic() - begin
        with pytest.raises(ProcessFailed, match="the agent hung up"):
            await call
        _, cut = await turns(receiver, 2)
        names = {span.name for span in receiver.store.reader.spans(cut.trace_id)}
    assert (cut.outcome, cut.error) == ("error", "ConnectionAbortedError")
    assert {n.SPAN_VAD, n.SPAN_ASR, n.SPAN_LLM, n.SPAN_UNANSWERED} <= names
    assert took_s < 10


async def test_an_agent_that_does_not_start_is_explained(tmp_path: Path) -> None:
    """When a process ends at once, the error has the end of what it wrote, and the others are stopped."""
    processes = Processes(endpoint="http://127.0.0.1:1", directory=tmp_path)
    processes.orchestrator.arguments = ("orchestrator", "--no-such-option")
    with pytest.raises(ProcessFailed, match=r"the orchestrator did not start(.|\n)*no-such-option"):
        async with processes:
            pass
    assert processes.worker.process is not None
    assert processes.worker.process.returncode is not None


def test_another_language_model_can_answer(tmp_path: Path, free_port: int) -> None:
    """Where OPENAI_BASE_URL names a service, that one is asked, with the model and key of the environment.

    Once before the call, so that the first caller does not wait for what a first request takes.
    """
    asked: list[tuple[str, str, str]] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append((body["model"], self.headers["authorization"], body["messages"][-1]["content"]))
            delta = {"index": 0, "delta": {"content": "I am another model."}, "finish_reason": "stop"}
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "own", "choices": [delta]}
            answer = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", free_port), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    try:
        command = subprocess.run(
            [*DEMO, "--json", "--db", str(tmp_path / "demo.db"), "--scenarios", "greeting,broken"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                **os.environ,
                "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port}/v1",
                "OPENAI_API_KEY": "secret",
                "OPENAI_MODEL": "own",
            },
        )
    finally:
        service.shutdown()
        service.server_close()
    assert command.returncode == 0, command.stderr
    assert asked == [("own", "Bearer secret", text) for text in ("Hello", "can you book a table for two")]
    _, turn = json.loads(command.stdout)
    assert turn["outcome"] == "completed", "the reply is that model's, which no scenario breaks"


def start(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start the command, wait until the call has begun, and return it with its child processes."""
    command = subprocess.Popen(
        [*DEMO, "--db", str(tmp_path / "demo.db"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert command.stdout is not None
    for line in command.stdout:
        if "the call begins" in line:
            break
    children = psutil.Process(command.pid).children()
    assert len(children) == 4
    return command, children


def gone(children: list[psutil.Process]) -> bool:
    """Whether all of these ended soon."""
    _, alive = psutil.wait_procs(children, timeout=15)
    for child in alive:
        child.kill()
    return not alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM in the call end every process, without a traceback."""
    command, children = start(tmp_path)
    command.send_signal(number)
    _, errors = command.communicate(timeout=30)
    assert gone(children)
    assert command.returncode == 130
    assert "Traceback" not in errors


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    """When the demo itself is killed, its processes notice that and end."""
    command, children = start(tmp_path)
    command.kill()
    command.communicate(timeout=30)
    assert gone(children)


def test_stays_for_the_viewer_until_interrupted(tmp_path: Path) -> None:
    """Without `--exit` the receiver goes on after the conversation, and Ctrl-C ends it with status 0."""
    command, children = start(tmp_path, "--scenarios", "greeting")
    assert command.stdout is not None
    shown: list[Any] = []
    for line in command.stdout:
        shown.append(line)
        if "Ctrl-C ends" in line:
            break
    assert any("What to do next" in line for line in shown)
    assert gone(children)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert command.returncode == 0
