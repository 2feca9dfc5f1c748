"""One call as a span and a measurement; it ends once, whoever says first that it is over."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from voicespan import events
from voicespan import names as n
from voicespan.guard import guarded, swallowed
from voicespan.metrics.instruments import METRICS
from voicespan.version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context

WORKER_ID = "voice-worker-id"
"""Key of the response metadata in which a worker says its `voice.worker.id`."""

_EXCLUDED = "OTEL_PYTHON_GRPC_EXCLUDED_SERVICES"
_NO_WORK = ("grpc.health.", "grpc.reflection.", "opentelemetry.proto.collector.")
"""Probes, and telemetry itself."""
_CANCELLED = "CANCELLED"
_UNREACHABLE = "UNAVAILABLE"
_FAULTS_OF_A_SERVER = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""The other codes tell the client of its own mistake (semantic conventions of gRPC, "server span status")."""
_BY_NUMBER = {code.value[0]: code.name for code in grpc.StatusCode}

_tracer = trace.get_tracer("voicespan.grpc", __version__)
_meter = metrics.get_meter("voicespan.grpc", __version__)
_measured = {
    trace.SpanKind.CLIENT: METRICS[n.METRIC_RPC_CLIENT_CALL_DURATION],
    trace.SpanKind.SERVER: METRICS[n.METRIC_RPC_SERVER_CALL_DURATION],
}
_durations = {
    kind: _meter.create_histogram(metric.name, metric.unit, metric.brief) for kind, metric in _measured.items()
}


def is_traced(method: str) -> bool:
    """Return whether calls of a method, `pkg.Service/Method`, are to have spans now."""
    if method.startswith(_NO_WORK) or not is_instrumentation_enabled():
        return False
    excluded = os.environ.get(_EXCLUDED)
    return not excluded or method.partition("/")[0] not in {each.strip() for each in excluded.split(",")}


def qualified(method: str | bytes) -> str:
    """Return `pkg.Service/Method` of gRPC's `/pkg.Service/Method`."""
    return (method.decode() if isinstance(method, bytes) else method).lstrip("/")


def code_name(code: Any) -> str:
    """Return the name of a status code, in whichever form gRPC gives it; none is `OK`."""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _BY_NUMBER.get(code, "UNKNOWN") if code is not None else "OK"


class Call:
    """A call under way. `finish` may come several times, from any thread; the first counts."""

    __slots__ = ("_address", "_begun_ns", "_done", "_kind", "_method", "span")

    def __init__(self, kind: trace.SpanKind, method: str, context: Context | None, address: dict[str, Any]) -> None:
        self._kind = kind
        self._method = method
        self._address = address
        self._done = False
        self._begun_ns = time.monotonic_ns()
        name = method if kind is trace.SpanKind.CLIENT else method.rpartition("/")[2]
        attributes = {n.RPC_SYSTEM_NAME: "grpc", n.RPC_METHOD: method, **address}
        self.span = _tracer.start_span(name, context, kind, attributes)

    @guarded
    def finish(self, code: Any, error: BaseException | None = None) -> None:
        """End the span with a status code. What was cancelled is no error: somebody has changed their mind."""
        if self._done:
            return
        self._done = True
        status = code_name(code)
        measured = {n.RPC_SYSTEM_NAME: "grpc", n.RPC_METHOD: self._method, n.RPC_RESPONSE_STATUS_CODE: status}
        self.span.set_attribute(n.RPC_RESPONSE_STATUS_CODE, status)
        if status == _UNREACHABLE and self._kind is trace.SpanKind.CLIENT:
            where = self.span.get_span_context()
            events.unreachable("worker.unreachable", "Failed to connect to worker", error, self._address, where)
        if self._failed(status):
            measured[n.ERROR_TYPE] = status
            self.span.set_attribute(n.ERROR_TYPE, status)
            self.span.set_status(trace.StatusCode.ERROR)
            if error is not None and not isinstance(error, grpc.RpcError):
                self.span.record_exception(error)
        duration_s = (time.monotonic_ns() - self._begun_ns) / 1e9
        _durations[self._kind].record(duration_s, measured, trace.set_span_in_context(self.span))
        self.span.end()

    def _failed(self, status: str) -> bool:
        if self._kind is trace.SpanKind.SERVER:
            return status in _FAULTS_OF_A_SERVER
        return status not in ("OK", _CANCELLED)


def begin(kind: trace.SpanKind, method: str, context: Context | None, address: dict[str, Any]) -> Call | None:
    """Begin a call; None where it is not to be traced, or cannot be."""
    try:
        return Call(kind, method, context, address) if is_traced(method) else None
    except Exception as error:
        swallowed("grpc", error)
        return None
