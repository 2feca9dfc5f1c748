"""gRPC, client and server, of threads and of asyncio: one span for each call, from its start to its status.

Takes the place of OpenTelemetry's own `opentelemetry-instrumentation-grpc`, which leaves the spans of cancelled and
half-read calls open, hands the reader of a stream a bare generator without `cancel()`, and counts nothing
(tests/integrations/grpc/test_stock.py). Nothing of gRPC is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from voicespan.integrations.library import LibraryInstrumentor

if TYPE_CHECKING:
    from collections.abc import Callable

_STOCK = "opentelemetry.instrumentation.grpc"
_CHANNELS = ("insecure_channel", "secure_channel")
# By way of `grpc`: that is complete only after `grpc.aio` was imported.
_AIO_CHANNELS = ("aio.insecure_channel", "aio.secure_channel")


class _GrpcInstrumentor(LibraryInstrumentor):
    requirement = "grpcio >= 1.49, < 2"


class GrpcClientInstrumentor(_GrpcInstrumentor):
    """Channels of threads."""

    functions: ClassVar = {"grpc": _CHANNELS}
    stock = (_STOCK, "GrpcInstrumentorClient")

    def around(self, name: str) -> Callable[..., Any]:
        """Return what stands around the functions that open a channel."""
        from voicespan.integrations.grpc import client

        return client.open_channel


class GrpcServerInstrumentor(_GrpcInstrumentor):
    """Servers of threads."""

    functions: ClassVar = {"grpc": ("server",)}
    stock = (_STOCK, "GrpcInstrumentorServer")

    def around(self, name: str) -> Callable[..., Any]:
        """Return what stands around the function that makes a server."""
        from voicespan.integrations.grpc import server

        return server.make_server


class GrpcAioClientInstrumentor(_GrpcInstrumentor):
    """Channels of asyncio."""

    functions: ClassVar = {"grpc": _AIO_CHANNELS}
    stock = (_STOCK, "GrpcAioInstrumentorClient")

    def around(self, name: str) -> Callable[..., Any]:
        """Return what stands around the functions that open a channel."""
        from voicespan.integrations.grpc import client

        return client.open_aio_channel


class GrpcAioServerInstrumentor(_GrpcInstrumentor):
    """Servers of asyncio."""

    functions: ClassVar = {"grpc": ("aio.server",)}
    stock = (_STOCK, "GrpcAioInstrumentorServer")

    def around(self, name: str) -> Callable[..., Any]:
        """Return what stands around the function that makes a server."""
        from voicespan.integrations.grpc import server

        return server.make_aio_server
