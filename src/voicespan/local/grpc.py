"""OTLP over gRPC, beside HTTP and into the same intake, where grpcio is installed."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from voicespan.local import port as ports
from voicespan.local.form import PROTOBUF, MalformedRequestError
from voicespan.local.schema import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from voicespan.local.body import Limits
    from voicespan.local.intake import Intake

DEFAULT_PORT = 4317
"""The port of OTLP over gRPC."""

SERVICES = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
}
"""The gRPC service of each signal; each has the one method Export."""

_USE_HTTP = "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf in the service"
_THREADS = 4
_MAX_CALLS = 32
_MAX_REASON = 500
_STOP_S = 1.0


class GrpcDoor:
    """The gRPC server. Where it cannot be, `say` tells why and what to do, and nothing fails."""

    def __init__(self) -> None:
        self.endpoint: str | None = None
        """The address to send to; None when there is none."""
        self.say: str | None = None
        """Why there is none, in one line."""
        self._server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor | None = None

    def open(self, intake: Intake, limits: Limits, *, host: str, port: int, token: str | None) -> None:
        """Listen on this port, 0 for any; with a token, to those who send it."""
        try:
            import grpc
        except ModuleNotFoundError:
            self.say = f"OTLP over gRPC is not received: {_USE_HTTP}, or here: pip install 'voicespan[otlp-grpc]'"
            return
        try:
            free = ports.is_free(host, port)  # gRPC itself would write lines of its own about it
        except OSError as error:
            self.say = f"OTLP over gRPC is not received: port {port}: {error.strerror}; {_USE_HTTP}, or use --grpc-port"
            return
        if not free:
            self._is_taken(port)
            return
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="voicespan-grpc")
        server = grpc.server(
            threads,
            maximum_concurrent_rpcs=_MAX_CALLS,
            options=[
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.so_reuseport", 0),  # else two viewers would share the port, each with half of the requests
            ],
        )
        server.add_generic_rpc_handlers([_handlers(intake, token)])
        try:
            bound = server.add_insecure_port(f"{ports.bracketed(host)}:{port}")
        except RuntimeError:
            self._is_taken(port)
            return
        server.start()
        self._server, self._threads = server, threads
        self.endpoint = f"http://{ports.known(host)}:{bound}"

    def close(self) -> None:
        """Answer what has arrived, then close; harmless when it is closed already."""
        server, self._server = self._server, None
        self.endpoint = None
        if server is not None:
            server.stop(_STOP_S).wait()
        if self._threads is not None:
            self._threads.shutdown(wait=True)

    def _is_taken(self, port: int) -> None:
        who = ports.holder(port)
        self.say = f"OTLP over gRPC is not received: port {port} is taken by {who}; {_USE_HTTP}, or use --grpc-port"


def _handlers(intake: Intake, token: str | None) -> grpc.GenericRpcHandler:
    import grpc

    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        f"/{service}/Export": grpc.unary_unary_rpc_method_handler(_export(intake, signal, token))
        for signal, service in SERVICES.items()
    }

    class Handlers(grpc.GenericRpcHandler):
        """The methods, by their whole names. Messages stay bytes: the intake decodes them."""

        def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
            return methods.get(call.method)

    return Handlers()


def _export(intake: Intake, signal: str, token: str | None) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    from grpc import StatusCode

    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        if token is not None and not _has(context, token):
            context.abort(StatusCode.UNAUTHENTICATED, "voicespan takes telemetry with its token only")
        try:
            return intake.take(signal, PROTOBUF, body).result().SerializeToString()
        except MalformedRequestError as malformed:
            context.abort(StatusCode.INVALID_ARGUMENT, str(malformed)[:_MAX_REASON])
        except StoreError as error:
            context.abort(StatusCode.UNAVAILABLE, str(error)[:_MAX_REASON])

    return export


def _has(context: grpc.ServicerContext, token: str) -> bool:
    given = dict(context.invocation_metadata()).get("authorization", "")
    scheme, _, value = str(given).partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(value.strip().encode(), token.encode())
