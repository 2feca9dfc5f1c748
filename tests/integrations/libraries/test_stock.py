"""Why gRPC and Redis have integrations of their own: what OpenTelemetry's do today.

When one of these fails, the stock instrumentation has been mended: look whether ours can go.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.trace import SpanKind

from .speech import SERVICE, AioSpeech, Speech, aio_opened, aio_serving, opened, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from .conftest import Telemetry

stock: Any = pytest.importorskip("opentelemetry.instrumentation.grpc", reason="it is not installed")


async def test_stock_leaves_cancelled_and_unread_calls_open(telemetry: Telemetry) -> None:
    """With asyncio, the span of a call whose task is cancelled, or of a stream that nobody reads, never ends."""
    speech = AioSpeech()
    interceptors = stock.aio_client_interceptors(telemetry.tracers)
    async with (
        aio_serving(speech) as address,
        aio_opened(address, interceptors=interceptors) as channel,
    ):
        unread = channel.unary_stream(f"/{SERVICE}/Stream")(b"hello")
        call = asyncio.ensure_future(_awaited(channel.unary_unary(f"/{SERVICE}/Say")(b"wait")))
        await asyncio.to_thread(speech.begun.wait, 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.2)
        assert [span for span in telemetry.spans if span.kind is SpanKind.CLIENT] == []
        unread.cancel()


async def _awaited(call: Awaitable[bytes]) -> bytes:
    return await call


def test_stock_takes_the_call_away_from_who_reads_a_stream(telemetry: Telemetry) -> None:
    """With threads, a stream is a bare generator: it can neither be cancelled nor asked for its metadata."""
    from opentelemetry.instrumentation.grpc import grpcext

    intercept: Any = grpcext.intercept_channel

    with serving(Speech()) as address, opened(address) as plain:
        channel = intercept(plain, stock.client_interceptor(telemetry.tracers))
        stream = channel.unary_stream(f"/{SERVICE}/Stream")(b"hello")
        assert not hasattr(stream, "cancel")
        list(stream)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")
async def test_stock_breaks_handlers_that_write(telemetry: Telemetry) -> None:
    """A handler that writes its responses, and is no generator, fails behind the stock server interceptor."""
    interceptors = [stock.aio_server_interceptor(telemetry.tracers)]

    async def numbers() -> AsyncIterator[bytes]:
        yield b"\0"

    async with aio_serving(AioSpeech(), interceptors=interceptors) as address, aio_opened(address) as channel:
        with pytest.raises(grpc.RpcError):
            [each async for each in channel.stream_stream(f"/{SERVICE}/Talk")(numbers())]
