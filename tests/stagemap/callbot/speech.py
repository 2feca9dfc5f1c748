"""A speech service: gRPC in front, a model's client in threads behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

FRAME = bytes(640)


class Servicer:
    """Speaks."""

    async def Synthesize(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:  # noqa: N802
        """Give frames."""
        await asyncio.sleep(0.1)
        for _ in range(len(request)):
            yield FRAME
            await asyncio.sleep(0.01)

    async def Answer(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:  # noqa: N802
        """Answer."""
        await asyncio.sleep(0.1)
        return request.upper()


class Client:
    """Asks the service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def answer(self, text: bytes) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        """Return the call."""
        channel: Any = self.channel
        answer: grpc.aio.UnaryUnaryCall[bytes, bytes] = channel.unary_unary("/speech.Speech/Answer")(text)
        return answer


async def serve() -> tuple[grpc.aio.Server, int]:
    """Start the server on a free port of this machine."""
    server = grpc.aio.server()
    servicer = Servicer()
    handlers: dict[str, Any] = {
        "Synthesize": grpc.unary_stream_rpc_method_handler(servicer.Synthesize),
        "Answer": grpc.unary_unary_rpc_method_handler(servicer.Answer),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("speech.Speech", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


def tokens(prompt: str) -> Iterator[str]:
    """Give tokens, in a thread."""
    yield from prompt.split()


async def call(call_id: str, body: Callable[[], Awaitable[None]]) -> None:
    """Hold a call."""
    await body()


async def heard(text: str) -> None:
    """Take what the user said."""
