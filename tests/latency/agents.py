"""Agents that know how long they let callers wait, with the protocols of the reference agent and of a gateway."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.demo.sounds import tone
from websockets.asyncio.server import ServerConnection, serve

from voicespan.demo import pcm, protocol

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports audioop
    from pipecat.frames.frames import InputAudioRawFrame, InterruptionFrame, OutputAudioRawFrame, StartFrame
    from pipecat.serializers.twilio import TwilioFrameSerializer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TRACE = "0af7651916cd43dd8448eb211c80319c"
_END_S = 0.2


class Agent(ABC):
    """Greets, and answers each question after a while; `silences_s` is how long its callers waited, as it saw them."""

    def __init__(self, *, greets: bool = True, hangs_up: tuple[int, ...] = ()) -> None:
        self.silences_s: list[float] = []
        self.calls = 0
        self._greets, self._hangs_up = greets, hangs_up

    async def __call__(self, connection: ServerConnection) -> None:
        number, self.calls = self.calls, self.calls + 1
        if self._greets:
            await self.speak(connection, 0, tone(0.3))
        asked, loud_s = False, 0.0
        async for sound in self.frames(connection):
            now_s = time.monotonic()
            if pcm.peak(sound) > 4 * pcm.AUDIBLE:
                asked, loud_s = True, now_s
            elif asked and now_s - loud_s > _END_S:
                asked = False
                if number in self._hangs_up:
                    await connection.close()
                    return
                self.silences_s.append(time.monotonic() - loud_s)
                await self.speak(connection, 1, tone(0.3))

    @abstractmethod
    def frames(self, connection: ServerConnection) -> AsyncIterator[bytes]:
        """Give the caller's sound, at 16 kHz."""

    @abstractmethod
    async def speak(self, connection: ServerConnection, number: int, sound: bytes) -> None:
        """Send a speech."""


class ReferenceAgent(Agent):
    """Speaks the protocol of the reference agent."""

    async def frames(self, connection: ServerConnection) -> AsyncIterator[bytes]:
        async for message in connection:
            if isinstance(message, bytes):
                yield message
            elif (told := json.loads(message))["type"] == protocol.PING:
                now_ns = time.monotonic_ns()
                await connection.send(protocol.encoded(protocol.PONG, t0=told["t0"], t1=now_ns, t2=now_ns))

    async def speak(self, connection: ServerConnection, number: int, sound: bytes) -> None:
        traceparent = f"00-{TRACE}-b7ad6b7169203331-01"
        if number:
            await connection.send(
                protocol.encoded(protocol.TURN, traceparent=traceparent, session="s", initiator="user")
            )
        await connection.send(protocol.encoded(protocol.SPEECH, speech=number, traceparent=traceparent))
        for frame in pcm.frames(sound):
            await connection.send(frame)
        await connection.send(protocol.encoded(protocol.COMPLETE, speech=number))


class GatewayAgent(Agent):
    """Speaks with a telephone gateway, by Pipecat's own serializer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.events: list[dict[str, Any]] = []
        self._serializers: dict[ServerConnection, TwilioFrameSerializer] = {}

    async def frames(self, connection: ServerConnection) -> AsyncIterator[bytes]:
        serializer = await self._started(connection)
        async for message in connection:
            told = json.loads(message)
            if told["event"] != "media":
                self.events.append(told)
            frame = await serializer.deserialize(message)
            if isinstance(frame, InputAudioRawFrame):
                yield frame.audio

    async def speak(self, connection: ServerConnection, number: int, sound: bytes) -> None:
        serializer = await self._started(connection)
        if number:
            # What was said before is dropped, and a mark asks when this begins to be played.
            await connection.send(str(await serializer.serialize(InterruptionFrame())))
        for frame in pcm.frames(sound + pcm.silence(0.1)):  # the resampler holds some back
            sent = await serializer.serialize(OutputAudioRawFrame(frame, pcm.RATE, 1))
            if sent:
                await connection.send(str(sent))
        if number:
            sid = self.events[1]["streamSid"]
            await connection.send(json.dumps({"event": "mark", "streamSid": sid, "mark": {"name": "said"}}))

    async def _started(self, connection: ServerConnection) -> TwilioFrameSerializer:
        if connection not in self._serializers:
            self.events += [json.loads(await connection.recv()) for _ in range(2)]
            start = self.events[-1]["start"]
            parameters = TwilioFrameSerializer.InputParams(auto_hang_up=False, sample_rate=pcm.RATE)
            serializer = TwilioFrameSerializer(start["streamSid"], start["callSid"], params=parameters)
            await serializer.setup(StartFrame())
            self._serializers[connection] = serializer
        return self._serializers[connection]


@asynccontextmanager
async def answering(agent: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve it; give its address."""
    async with serve(agent, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/call"
    await asyncio.sleep(0)
