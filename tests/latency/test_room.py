"""`voicespan latency-test` in the rooms of a real LiveKit server, and the turns of the agent that answers there.

The agent is a worker of LiveKit Agents under `voicespan run`, in processes of its own; it notes when it has had the
question and when it has begun to answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from tests.demo.sounds import tone
from tests.ports import free_port
from tests.stillness import steadily

from voicespan.cli import main
from voicespan.demo import pcm
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

from livekit import api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voicespan.local.turn import Turn

pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
VOICESPAN = Path(sys.executable).with_name("voicespan")
KEY, SECRET = "voicespan", "a secret of thirty-two characters or more"
AGENT = "desk"
WAY_S = 0.3
"""Codec, network and jitter buffer of both ways: 0.13 s on an idle machine."""


def program() -> str:
    """Return the server; tests that lack it are left out, also in CI: not every registry has all of its modules."""
    found = shutil.which("livekit-server")
    if found is None:
        where = subprocess.run([ROOT / "scripts/livekit", "--where"], capture_output=True, text=True, check=True)
        found = f"{where.stdout.strip()}/server"
    if not Path(found).exists():
        pytest.skip("no livekit-server: make programs")
    return found


def wait_for(happened: Callable[[], bool], what: str, log: Path, timeout_s: float = 60) -> None:
    """Wait until it has; a log says what was going on where it has not."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"{what}: {log.read_text()}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which a LiveKit server is found."""
    port, log = free_port(), tmp_path_factory.mktemp("livekit") / "server.log"
    config = {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "rtc": {
            "udp_port": free_port(), "tcp_port": 0, "use_external_ip": False, "node_ip": "127.0.0.1",
            "enable_loopback_candidate": True, "interfaces": {"includes": ["lo"]},
        },
        "keys": {KEY: SECRET},
    }  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen([program(), "--config-body", json.dumps(config)], stdout=output, stderr=output)
    environ = {"LIVEKIT_URL": f"ws://127.0.0.1:{port}", "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}
    try:
        wait_for(lambda: b"starting LiveKit server" in log.read_bytes(), "the server does not start", log)
        wait_for(lambda: rooms(environ) == {}, "the server does not answer", log)
        yield environ
    finally:
        process.terminate()
        process.wait(20)


def rooms(environ: dict[str, str]) -> dict[str, int] | None:
    """How many are in each room and speak, or may; None while the server is not there."""

    async def inside(interface: api.LiveKitAPI, room: str) -> int:
        there = await interface.room.list_participants(api.ListParticipantsRequest(room=room))
        return sum(len(each.tracks) > 0 for each in there.participants)

    async def asked() -> dict[str, int] | None:
        try:
            async with api.LiveKitAPI(environ["LIVEKIT_URL"], KEY, SECRET, failover=False) as interface:
                found = await interface.room.list_rooms(api.ListRoomsRequest())
                return {room.name: await inside(interface, room.name) for room in found.rooms}
        except (OSError, api.ServerError):  # or the room has gone meanwhile
            return None

    return asyncio.run(asked())


class Worker:
    """A worker under `voicespan run`: what its agent did, and the turns that came of it."""

    def __init__(self, folder: Path, receiver: Receiver, agent: str) -> None:
        self.log, self._truth, self._receiver = folder / "worker.log", folder / "truth.jsonl", receiver
        self._truth.touch()
        self.environ = {
            "AGENT_TRUTH": str(self._truth), "AGENT_NAME": agent,
            "OTEL_SERVICE_NAME": "desk", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        }  # fmt: skip

    def answers(self) -> list[dict[str, Any]]:
        """Return in which room each answer was given, and how long its agent let the caller wait, in order."""
        return [json.loads(line) for line in self._truth.read_text().splitlines()]

    def turns(self, room: str, count: int) -> list[Turn]:
        """Return the turns of a room, in order, when so many have come."""

        def found() -> list[Turn]:
            turns = self._receiver.store.reader.turns(TurnQuery())
            return [turn for turn in turns if turn.attributes["voice.room.id"] == room and turn.complete]

        wait_for(lambda: len(found()) >= count, "there are too few turns", self.log, 20)
        return sorted(found(), key=lambda turn: turn.start_ns)


@contextmanager
def working(server: dict[str, str], folder: Path, mode: str, agent: str) -> Iterator[Worker]:
    """Have a worker wait for calls of its agent."""
    with Receiver(port=0, database=folder / "turns.db") as receiver:
        made = Worker(folder, receiver, agent)
        script = ROOT / "tests/latency/room_agent.py"
        command: list[str | Path] = [VOICESPAN, "run", "--", sys.executable, script, mode]
        with made.log.open("wb") as output:
            process = subprocess.Popen(command, env=os.environ | server | made.environ, stdout=output, stderr=output)
        try:
            wait_for(lambda: b"registered worker" in made.log.read_bytes(), "the worker does not start", made.log)
            yield made
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def worker(server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker as it runs in production."""
    with working(server, tmp_path_factory.mktemp("worker"), "start", AGENT) as made:
        yield made


def call(server: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Make calls into rooms."""
    command: list[str | Path] = [VOICESPAN, "latency-test", "--protocol", "livekit", "--json", *options]
    environ = os.environ | server
    return subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=100)


def outcomes(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return what became of the calls."""
    found: list[dict[str, Any]] = json.loads(done.stdout)["outcomes"]
    return found


@pytest.mark.covers("D-K04", "D-L02")
def test_calls_in_rooms(server: dict[str, str], worker: Worker) -> None:
    """A caller hears what the agent let it wait and the way there and back; every utterance of the call is one turn."""

    def measured() -> list[dict[str, Any]]:
        before = len(worker.answers())
        done = call(server, "--calls", "2", "--agent", AGENT, "--target", "2000")
        assert done.returncode == 0, done.stderr
        truth = worker.answers()[before:]
        waited_s = [each["waited_s"] for each in truth]
        heard_s = [each["latency_ms"] / 1e3 for each in outcomes(done)]
        assert len(waited_s) == len(heard_s) == 2
        assert [each["room"] for each in outcomes(done)] == [each["room"] for each in truth]
        assert abs(waited_s[0] - waited_s[1]) > 0.3  # it is slow every other time
        for waited, heard in zip(waited_s, heard_s, strict=True):
            assert waited < heard < waited + WAY_S, list(zip(waited_s, heard_s, strict=True))
        for each in truth:
            greeting, answer = worker.turns(each["room"], 2)
            assert (greeting.trigger, greeting.outcome) == ("greeting", "completed")
            assert (answer.input, answer.outcome, answer.measurement_point) == ("speech", "completed", "server")
            assert answer.session_id == greeting.session_id
            assert answer.response_ns is not None
            assert answer.response_ns / 1e9 == pytest.approx(each["waited_s"], abs=0.03)
        return truth

    truth = steadily(measured)
    assert len({each["room"] for each in truth}) == 2
    assert rooms(server) == {}


def test_calls_at_once(server: dict[str, str], worker: Worker) -> None:
    """Calls at a time have a room each, with an agent of its own."""
    before = len(worker.answers())
    done = call(server, "--calls", "2", "--at-once", "2", "--agent", AGENT, "--target", "5000")
    assert [each["problem"] for each in outcomes(done)] == [None, None]
    held = {each["room"] for each in worker.answers()[before:]}
    assert {each["room"] for each in outcomes(done)} == held
    assert len(held) == 2


def test_a_worker_under_development(server: dict[str, str], tmp_path: Path) -> None:
    """With `dev`, which watches the files and has the worker in a process of its own, turns come just the same."""
    with working(server, tmp_path, "dev", "apprentice") as worker:
        done = call(server, "--calls", "1", "--agent", "apprentice", "--target", "5000")
        assert done.returncode == 0, done.stderr
        (answer,) = worker.answers()
        assert [turn.outcome for turn in worker.turns(answer["room"], 2)] == ["completed", "completed"]


def test_nobody_comes(server: dict[str, str], worker: Worker) -> None:
    """An agent that does not come, by name or by itself, is a failed call that says so, and ends in time."""
    common = ("--calls", "1", "--patience", "1")
    with ThreadPoolExecutor() as pool:
        named, unnamed = pool.map(lambda more: call(server, *common, *more), (("--agent", "nobody"), ()))
    assert (named.returncode, unnamed.returncode) == (1, 1)
    assert outcomes(named)[0]["problem"] == "no agent named 'nobody' joined the room within 1 s"
    assert outcomes(unnamed)[0]["problem"] == "no agent joined the room within 1 s"
    assert rooms(server) == {}


def test_nobody_answers(server: dict[str, str], worker: Worker, tmp_path: Path) -> None:
    """An agent that comes and greets, and takes the question for a cough, has given no answer."""
    cough = tmp_path / "cough.wav"
    with wave.open(str(cough), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(pcm.RATE)
        file.writeframes(tone(0.1))
    done = call(server, "--calls", "1", "--agent", AGENT, "--audio", str(cough), "--patience", "6")
    assert done.returncode == 1
    assert outcomes(done)[0]["problem"] == "no answer within 6 s"


def test_who_may_not_call(server: dict[str, str]) -> None:
    """A wrong key or secret fails every call, a missing one is a wrong command."""

    def called(*options: str, **environ: str) -> Result:
        command = ["latency-test", "--protocol", "livekit", "--json", "--calls", "1", *options]
        return CliRunner(env=server | environ).invoke(main, command)

    for wrong in ({"LIVEKIT_API_KEY": "who"}, {"LIVEKIT_API_SECRET": SECRET.upper()}):
        refused = called(**wrong)
        assert refused.exit_code == 1
        (outcome,) = json.loads(refused.stdout)["outcomes"]
        assert outcome["problem"] == f"{server['LIVEKIT_URL']}: the key or the secret is refused"
    missing = called(LIVEKIT_API_KEY="", LIVEKIT_URL="")
    assert missing.exit_code == 2
    assert "needs LIVEKIT_URL, LIVEKIT_API_KEY in the environment" in missing.stderr
    odd = called("ftp://host")
    assert odd.exit_code == 2
    assert "ftp://host is no address of a server" in odd.stderr


def test_the_agent_goes(server: dict[str, str], worker: Worker) -> None:
    """An agent that leaves before it has answered has hung up."""
    with calling(server, "--calls", "1") as process:
        wait_for(lambda: list((rooms(server) or {}).values()) == [2], "nobody calls", worker.log)
        asyncio.run(throw_out(server))
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert json.loads(said)["outcomes"][0]["problem"] == "the agent hung up"


async def throw_out(server: dict[str, str]) -> None:
    """Remove the agents from all rooms."""
    async with api.LiveKitAPI(server["LIVEKIT_URL"], KEY, SECRET) as interface:
        for room in (await interface.room.list_rooms(api.ListRoomsRequest())).rooms:
            there = await interface.room.list_participants(api.ListParticipantsRequest(room=room.name))
            for each in there.participants:
                if each.identity != "caller":
                    await interface.room.remove_participant(
                        api.RoomParticipantIdentity(room=room.name, identity=each.identity)
                    )


@contextmanager
def calling(server: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """Begin to call the agent; no call goes on after the block."""
    command = [str(VOICESPAN), "latency-test", "--protocol", "livekit", "--json", "--agent", AGENT, *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=os.environ | server, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_nobody_is_left_behind(server: dict[str, str], worker: Worker) -> None:
    """Who breaks the test off leaves no room and nobody in one."""
    with calling(server, "--at-once", "2") as process:
        wait_for(lambda: sorted((rooms(server) or {}).values()) == [2, 2], "nobody calls", worker.log)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Aborted!" in said
    assert "Traceback" not in said
    assert rooms(server) == {}
