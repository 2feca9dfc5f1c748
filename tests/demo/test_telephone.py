"""The caller's telephone, called by a scripted agent."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from voicespan.clock import RemoteClock
from voicespan.demo import pcm, protocol
from voicespan.demo.telephone import Playing, Telephone

from .sounds import tone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.alone  # a telephone keeps real time

OFFSET_NS = 10**15
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Agent:
    """Answers pings, keeps what the caller says and sends, and speaks when told to."""

    def __init__(self) -> None:
        self.said = bytearray()
        self.told: list[dict[str, Any]] = []
        self.clock = RemoteClock()
        self.connected = asyncio.Event()

    async def __call__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.connected.set()
        async for message in connection:
            now_ns = time.monotonic_ns()
            if isinstance(message, bytes):
                self.said += message
                continue
            told = json.loads(message)
            self.told.append(told)
            if told["type"] == protocol.PING:
                await self.tell(protocol.PONG, t0=told["t0"], t1=now_ns, t2=time.monotonic_ns())
            elif told["type"] == protocol.CLOCK:
                self.clock.exchange(told["t0"], told["t1"], told["t2"], told["t3"])

    async def tell(self, kind: str, **fields: str | int) -> None:
        await self.connection.send(protocol.encoded(kind, **fields))

    async def speak(self, number: int, sound: bytes, *, whole: bool = True) -> None:
        """Send a speech, all at once."""
        await self.tell(protocol.SPEECH, speech=number, traceparent=TRACEPARENT)
        for frame in pcm.frames(sound):
            await self.connection.send(frame)
        if whole:
            await self.tell(protocol.COMPLETE, speech=number)

    def reports(self, kind: str) -> list[dict[str, Any]]:
        return [told for told in self.told if told["type"] == kind]

    async def reported(self, kind: str) -> dict[str, Any]:
        """Wait for a report, and return the first of its kind."""
        async with asyncio.timeout(20):
            while not self.reports(kind):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self.reports(kind)[0]


@asynccontextmanager
async def a_call() -> AsyncIterator[tuple[Agent, Telephone]]:
    """Give an agent and a telephone that are connected."""
    agent = Agent()
    async with serve(agent, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with Telephone(f"ws://127.0.0.1:{port}/call", clock_offset_ns=OFFSET_NS) as phone:
            yield agent, phone


async def heard(phone: Telephone, number: int) -> Playing:
    """Wait for a speech to be heard out."""
    async with asyncio.timeout(20):
        speech = await phone.speech(number)
        assert speech is not None
        await speech.stopped.wait()
    return speech


async def test_the_agent_learns_the_callers_clock() -> None:
    """Before any sound the offset of the two clocks is known, to half a short round trip."""
    async with a_call() as (agent, phone):
        start = await agent.reported(protocol.START)
        local_ns = agent.clock.local_ns(start["at"])
        error_ns = agent.clock.error_ns
        assert local_ns is not None
        assert error_ns is not None
        assert abs(local_ns - phone.machine_ns(phone.began_ns)) <= error_ns


async def test_plays_and_reports_what_was_heard() -> None:
    """The first sample and the silence are reported with the caller's times, as far apart as the speech is long."""
    async with a_call() as (agent, phone):
        await agent.speak(1, tone(0.3))
        await heard(phone, 0)
        stopped, began = await agent.reported(protocol.STOPPED), await agent.reported(protocol.HEARD)
    assert stopped["played"] == 15
    assert stopped["at"] - began["at"] == 300_000_000
    position = (began["at"] - phone.began_ns) * pcm.RATE // 1_000_000_000
    extent = pcm.extent(bytes(phone.recording.heard))
    assert extent is not None
    assert abs(extent[0] - position) <= pcm.RATE // 200, "the recording has it where the report says"


async def test_clearing_stops_and_tells_how_far_it_was() -> None:
    """After a clear nothing more is heard, and the report counts the frames that were."""
    async with a_call() as (agent, phone):
        await agent.speak(1, tone(3.0))
        speech = await phone.speech(0)
        assert speech is not None
        await asyncio.sleep(0.2)
        await agent.tell(protocol.CLEAR, speech=1)
        stopped = await agent.reported(protocol.STOPPED)
        silent_from = len(phone.recording.heard)
        await asyncio.sleep(0.1)
        assert 0 < stopped["played"] < 150
        assert pcm.peak(bytes(phone.recording.heard[silent_from:])) == 0
        for frame in list(pcm.frames(tone(3.0)))[stopped["played"] :][:10]:
            await agent.connection.send(frame)
        await agent.tell(protocol.COMPLETE, speech=1)
        await heard(phone, 0)
    assert speech.played == stopped["played"] + 10
    assert len(agent.reports(protocol.HEARD)) == 1


async def test_what_is_said_arrives_and_is_recorded() -> None:
    """The agent gets the very samples that the recording has, and the utterance knows where it is in them."""
    sound = tone(0.2)
    async with a_call() as (agent, phone):
        utterance = phone.say("hello", sound)
        async with asyncio.timeout(20):
            await utterance.done.wait()
        await agent.tell(protocol.TURN, traceparent=TRACEPARENT)
        async with asyncio.timeout(20):
            while utterance.traceparent is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert bytes(phone.recording.said[2 * utterance.begin : 2 * utterance.end]) == sound
    assert phone.recording.said.startswith(agent.said)
    assert utterance.traceparent == TRACEPARENT


async def test_directions_share_one_clock() -> None:
    """Both directions of the recording are equally long, but for the slot that the speaker is ahead."""
    async with a_call() as (agent, phone):
        await agent.speak(1, tone(0.2))
        await heard(phone, 0)
        assert len(phone.recording.heard) - len(phone.recording.said) in (0, pcm.FRAME_BYTES)


async def test_a_lost_agent_is_noticed() -> None:
    """When the agent hangs up, nobody waits for its next words."""
    async with a_call() as (agent, phone):
        await agent.connected.wait()
        waiting = asyncio.ensure_future(phone.speech(0))
        await agent.connection.close()
        assert await asyncio.wait_for(waiting, 20) is None
        assert phone.lost


async def test_hanging_up_is_said() -> None:
    """The agent is told when the caller left, on the caller's clock."""
    async with a_call() as (agent, phone):
        await phone.hang_up()
        left = await agent.reported(protocol.HANG_UP)
        assert left["at"] >= phone.began_ns
        assert phone.hung_up
