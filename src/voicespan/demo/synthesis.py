"""The calls between agent and speech worker: gRPC, a stream of samples, and a command that stops the stream.

Requests are JSON and answers are bare samples, so that no generated code has to fit the protobuf that is installed.
The worker's packets are as long as it likes; the agent cuts them into the frames of its line (`audio.processing`).
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import grpc
from opentelemetry import trace

from voicespan.demo import pcm
from voicespan.names import SPAN_AUDIO_PROCESSING, VOICE_AUDIO_FRAME_COUNT

SERVICE = "demo.Speech"
SYNTHESIZE = "Synthesize"
CONTROL = "Control"
WORKER_ID = "voice-worker-id"
"""Key of the response metadata that says which worker speaks."""
PAUSE, RESUME = "PAUSE", "RESUME"

_TIMEOUT_S = 15.0
_CONTROL_TIMEOUT_S = 0.5
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
_tracer = trace.get_tracer("voicespan.demo.synthesis")


@dataclass(frozen=True, slots=True)
class Request:
    """What to say, and with which voice; `stream` names it for commands."""

    text: str
    voice: str
    stream: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class Command:
    """What to do with the stream: `PAUSE` or `RESUME`."""

    command: str
    stream: str


def encoded(message: Request | Command) -> bytes:
    """Return the message for the wire."""
    return json.dumps(asdict(message)).encode()


class Frames:
    """The frames of one request (20 ms each), as they come, and the commands to the worker about them.

    At the end of an `async with` block the worker is told to stop, if it still speaks.
    """

    def __init__(self, request: Request, synthesize: Any, control: Any) -> None:
        # A worker that is just being restarted is waited for.
        self._call = synthesize(request, timeout=_TIMEOUT_S, wait_for_ready=True)
        self._packets = aiter(self._call)
        self._stream = request.stream
        self._control = control
        self._ready: deque[bytes] = deque()
        self._rest = b""
        self._count = 0
        self._span: trace.Span | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        if self._span is not None:
            self._span.set_attribute(VOICE_AUDIO_FRAME_COUNT, self._count)
            self._span.end(self._cut_ns)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next frame; the last one is filled up with silence."""
        while not self._ready:
            self._cut(await anext(self._packets, b""))
        return self._ready.popleft()

    def _cut(self, packet: bytes) -> None:
        """Cut what has come into frames; an empty packet is the end."""
        if self._span is None and packet:
            self._span = _tracer.start_span(SPAN_AUDIO_PROCESSING)
        if not packet and not self._rest:
            raise StopAsyncIteration
        sound = self._rest + packet
        whole = len(sound) - len(sound) % pcm.FRAME_BYTES if packet else len(sound)
        self._ready.extend(pcm.frames(sound[:whole]))
        self._rest = sound[whole:]
        self._count += len(self._ready)
        self._cut_ns = time.time_ns()

    async def worker_id(self) -> str:
        """Return the name of the worker that speaks, once it has taken the request.

        Raises:
            grpc.aio.AioRpcError: it has failed before.

        """
        metadata = await self._call.initial_metadata()
        return next((str(text) for key, text in metadata if key == WORKER_ID), "unknown")

    async def pause(self) -> None:
        """Stop the worker's stream until `resume`; a worker that is gone has nothing to stop."""
        await self._command(PAUSE)

    async def resume(self) -> None:
        """Let the stream go on."""
        await self._command(RESUME)

    async def _command(self, command: str) -> None:
        with contextlib.suppress(grpc.RpcError):
            await self._control(Command(command, self._stream), timeout=_CONTROL_TIMEOUT_S)


class Worker:
    """The agent's connection to a speech worker; finds it again after a restart."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._address, options=_RECONNECT)
        self._channel.get_state(try_to_connect=True)
        self._synthesize: Any = self._channel.unary_stream(f"/{SERVICE}/{SYNTHESIZE}", request_serializer=encoded)
        self._control: Any = self._channel.unary_unary(f"/{SERVICE}/{CONTROL}", request_serializer=encoded)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def synthesize(self, text: str, voice: str) -> Frames:
        """Have the text spoken."""
        return Frames(Request(text, voice), self._synthesize, self._control)
