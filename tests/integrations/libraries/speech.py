"""A gRPC service with all four kinds of calls, for servers of threads and of asyncio; messages are bytes."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SERVICE = "test.Speech"
FRAMES = 20


class Speech:
    """Of threads."""

    def __init__(self) -> None:
        self.inside: list[int] = []
        """The current span in each handler, at each step."""
        self.begun = threading.Event()

    def note(self) -> None:
        self.inside.append(trace.get_current_span().get_span_context().span_id)

    def say(self, request: bytes, context: Any) -> bytes:
        self.note()
        if request == b"fail":
            context.abort(grpc.StatusCode.INTERNAL, "the vocoder diverged")
        if request == b"refuse":
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            return b""
        if request == b"raise":
            raise ValueError("no such voice")
        if request == b"wait":
            self.begun.set()
            threading.Event().wait(0.5)
        return request

    def stream(self, request: bytes, _context: Any) -> Iterator[bytes]:
        for number in range(FRAMES if request != b"endless" else 10_000_000):
            self.note()
            yield bytes([number % 256])

    def gather(self, requests: Iterator[bytes], _context: Any) -> bytes:
        self.note()
        return b"".join(requests)

    def talk(self, requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        for request in requests:
            self.note()
            yield request


class AioSpeech(Speech):
    """Of asyncio."""

    async def say(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        self.note()
        if request == b"fail":
            await context.abort(grpc.StatusCode.INTERNAL, "the vocoder diverged")
        if request == b"refuse":
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
        if request == b"raise":
            raise ValueError("no such voice")
        if request == b"wait":
            self.begun.set()
            await asyncio.sleep(20)
        return request

    async def stream(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:  # type: ignore[override]
        for number in range(FRAMES if request != b"endless" else 10_000_000):
            self.note()
            yield bytes([number % 256])
            await asyncio.sleep(0)

    async def gather(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:  # type: ignore[override]
        self.note()
        return b"".join([request async for request in requests])

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> None:  # type: ignore[override]
        """Answer by writing, and not as a generator."""
        async for request in requests:
            self.note()
            await context.write(request)


def handlers(speech: Speech) -> grpc.GenericRpcHandler:
    methods: dict[str, Any] = {
        "Say": grpc.unary_unary_rpc_method_handler(speech.say),
        "Stream": grpc.unary_stream_rpc_method_handler(speech.stream),
        "Gather": grpc.stream_unary_rpc_method_handler(speech.gather),
        "Talk": grpc.stream_stream_rpc_method_handler(speech.talk),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def opened(address: str) -> Any:
    """Open a channel of threads; without the types of a method, which a generated stub would have."""
    return grpc.insecure_channel(address)


def aio_opened(address: str, **options: Any) -> Any:
    """Open a channel of asyncio."""
    return grpc.aio.insecure_channel(address, **options)


@contextmanager
def serving(speech: Speech, **options: Any) -> Iterator[str]:
    """Serve with threads; give the address."""
    server = grpc.server(futures.ThreadPoolExecutor(4), **options)
    server.add_generic_rpc_handlers((handlers(speech),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0.2).wait()


@asynccontextmanager
async def aio_serving(speech: Speech, **options: Any) -> AsyncIterator[str]:
    """Serve in this event loop; give the address."""
    server = grpc.aio.server(**options)
    server.add_generic_rpc_handlers((handlers(speech),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0.2)
