"""`voicespan latency-test`: real calls to agents that know how long they let their callers wait."""

from __future__ import annotations

import asyncio
import json
import socket
import wave
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from tests.demo.sounds import tone

from voicespan.cli import main
from voicespan.demo import pcm
from voicespan.latency.gateway import GatewayPhone

from .agents import TRACE, GatewayAgent, ReferenceAgent, answering

if TYPE_CHECKING:
    from pathlib import Path

    from websockets.asyncio.server import ServerConnection

pytestmark = pytest.mark.alone  # a telephone keeps real time

WITHIN_S = 0.15
"""Jitter buffer and slots of 20 ms at both ends."""


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question as a WAV file, at another rate than the line's."""
    file = tmp_path_factory.mktemp("question") / "question.wav"
    with wave.open(str(file), "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(pcm.RATE * 2)
        written.writeframes(tone(0.8, rate=2 * pcm.RATE))
    return file


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["latency-test", *arguments])


@pytest.mark.covers("D-K04", "D-L02", "D-S01")
async def test_calls_to_an_agent(question: Path, tmp_path: Path) -> None:
    """What the agent let each caller wait is in the report; calls without an answer are failed ones, and say why."""
    agent = ReferenceAgent(hangs_up=(1,))
    saved = tmp_path / "baseline.json"
    async with answering(agent) as url:
        done = await run(url, "--calls", "2", "--audio", str(question),
                         "--save", str(saved))  # fmt: skip
        data = json.loads(saved.read_text())
        assert agent.calls == 2
        waited = [each["latency_ms"] for each in data["outcomes"]]
        assert [value is None for value in waited] == [False, True]
        (seen_s,) = agent.silences_s
        assert abs(waited[0] / 1e3 - seen_s) < WITHIN_S
        assert done.exit_code == 0
        assert "Total Calls: 2\nSuccessful Calls: 1\nFailed Calls: 1\nSuccess Rate: 50.0%\n" in done.stdout
        assert "1 failed: the agent hung up" in done.stderr
        assert f"voicespan show {TRACE}" in done.stderr


@pytest.mark.covers("D-L05", "A-K10")
async def test_the_exit_status(question: Path, tmp_path: Path) -> None:
    """A target that is missed, and what is worse than the baseline, end with 1; a file that is none, with 2."""
    before = {"metrics": {"average_ms": 20.0, "success_rate": 1.0}}
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps(before))
    async with answering(ReferenceAgent(greets=False)) as url:
        common = (url, "--calls", "1", "--audio", str(question), "--greeting", "0.1", "--json")
        missed = await run(*common, "--target", "50")
        worse = await run(*common, "--baseline", str(baseline))
    assert missed.exit_code == 1
    assert json.loads(missed.stdout)["passed"] is False
    assert worse.exit_code == 1
    assert json.loads(worse.stdout)["passed"] is True
    assert "average_ms" in worse.stderr
    bad = await run(url, "--audio", str(baseline))
    assert bad.exit_code == 2


async def test_nobody_answers_the_telephone(question: Path) -> None:
    """Where nobody can be called every call has failed, and the status is 1."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))  # nobody else can take it, and it does not listen
        url = f"ws://127.0.0.1:{mute.getsockname()[1]}/call"
        done = await run(url, "--calls", "2", "--audio", str(question))
    assert done.exit_code == 1
    assert "No call was answered!" in done.stdout
    assert "2 failed: " in done.stderr


async def test_a_telephone_gateway(question: Path) -> None:
    """An agent behind a gateway is measured the same way: its sound is played at the pace of a telephone."""
    agent = GatewayAgent()
    async with answering(agent) as url:
        done = await run(url, "--protocol", "twilio", "--calls", "1", "--audio", str(question), "--json")
    (outcome,) = json.loads(done.stdout)["outcomes"]
    assert outcome["problem"] is None
    assert abs(outcome["latency_ms"] / 1e3 - agent.silences_s[0]) < WITHIN_S
    names = [told["event"] for told in agent.events]
    assert names == ["connected", "start", "mark", "stop"]
    assert agent.events[2]["mark"]["name"] == "said"


async def test_an_echo_takes_as_long_as_the_gateway_says() -> None:
    """What an agent gives back at once is heard two slots later: one to take it in, one until it is played."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            if json.loads(message)["event"] == "media":
                await connection.send(message)

    async with answering(echo) as url, GatewayPhone(url) as phone:
        said = phone.say("echo", tone(0.2))
        await said.done.wait()
        await asyncio.sleep(0.5)
    samples, heard = pcm.RATE * pcm.FRAME_MS // 1000, pcm.extent(bytes(phone.recording.heard[2 * said.begin :]))
    assert heard is not None
    assert heard[0] >= 2 * samples
