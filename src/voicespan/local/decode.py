"""From an OTLP request to checked spans. What is malformed is refused; a span that makes no sense is left out."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from voicespan.local.content import may_have_content, strip_span
from voicespan.local.form import JSON, PROTOBUF, MalformedRequestError, read
from voicespan.local.part import SPAN_ID_BYTES, span_bytes
from voicespan.local.span import Event, Link, Span, Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

MAX_NAME_CHARACTERS = 1024
MAX_SPAN_BYTES = 1 << 20
MAX_RESOURCE_BYTES = 1 << 18
MAX_TIME_NS = (1 << 63) - 1 - 86_400 * 10**9
"""A day in April 2262, the day before the last that 64 bits hold: who adds a little to a time stays within them."""

TRACE_ID_BYTES = 16
_NO_TRACE = bytes(TRACE_ID_BYTES)
_NO_SPAN = bytes(SPAN_ID_BYTES)
_KINDS = ("internal", "internal", "server", "client", "producer", "consumer")


class Source(NamedTuple):
    """Where spans and log records come from: the service and the instrumentation, readable and as they were sent."""

    service: str
    scope: str
    resource: bytes
    instrumentation: bytes


class ReceivedSpan:
    """A span of a request. Its attributes become plain values when they are asked for: few ever are."""

    __slots__ = (
        "_attributes", "_message", "body", "end_ns", "name", "parent_id", "source", "span_id", "start_ns", "trace_id"
    )  # fmt: skip

    def __init__(self, message: OtlpSpan, source: Source, body: bytes) -> None:
        self._message = message
        self._attributes: dict[str, Value] | None = None
        self.source = source
        self.trace_id = message.trace_id
        self.span_id = message.span_id
        self.parent_id = _parent(message)
        self.name = message.name
        self.start_ns = message.start_time_unix_nano
        self.end_ns = message.end_time_unix_nano
        self.body = body

    @property
    def service(self) -> str:
        """Name of the service."""
        return self.source.service

    @property
    def scope(self) -> str:
        """Name of the instrumentation."""
        return self.source.scope

    @property
    def error(self) -> str | None:
        """The status message of a failed span, else None."""
        return _error(self._message)

    @property
    def attributes(self) -> dict[str, Value]:
        """The attributes as plain values."""
        if self._attributes is None:
            self._attributes = plain_map(self._message.attributes)
        return self._attributes


class Request(NamedTuple):
    """The usable spans of a request, how many were not, and why the first of those was not."""

    spans: list[ReceivedSpan]
    rejected: int = 0
    reason: str = ""
    left_out: int = 0
    """How many values were left out of the spans because they hold what was said."""


def decode_protobuf(body: bytes, *, content: bool = True) -> Request:
    """Return the spans of an ExportTraceServiceRequest in protobuf form; without `content`, less what was said.

    Raises:
        MalformedRequestError: the body is no such message, holds text that is not UTF-8, or no span of it is usable.

    """
    message = read(ExportTraceServiceRequest, PROTOBUF, body)
    if content or not may_have_content(body):
        return _not_in_vain(_usable(message, span_bytes(body)))
    return _not_in_vain(checked(message, content=False))


def decode_json(body: bytes, *, content: bool = True) -> Request:
    """Return the spans of an ExportTraceServiceRequest in OTLP's JSON form (ids in hex, names in camelCase).

    Raises:
        MalformedRequestError: the body is no such JSON, or no span of it is usable.

    """
    return _not_in_vain(checked(read(ExportTraceServiceRequest, JSON, body), content=content))


def plain_span(message: OtlpSpan, service: str, scope: str) -> Span:
    """Return the span as plain data."""
    parent = _parent(message)
    return Span(
        trace_id=message.trace_id.hex(),
        span_id=message.span_id.hex(),
        parent_id=parent.hex() if parent else None,
        name=message.name,
        start_ns=message.start_time_unix_nano,
        end_ns=message.end_time_unix_nano,
        service=service,
        scope=scope,
        kind=_KINDS[message.kind] if 0 <= message.kind < len(_KINDS) else _KINDS[0],
        error=_error(message),
        attributes=plain_map(message.attributes),
        events=tuple(Event(event.name, event.time_unix_nano, plain_map(event.attributes)) for event in message.events),
        links=tuple(
            Link(link.trace_id.hex(), link.span_id.hex(), plain_map(link.attributes)) for link in message.links
        ),
    )


def checked(request: ExportTraceServiceRequest, *, content: bool) -> Request:
    """Return the usable spans of a request; without `content`, less what was said.

    Raises:
        MalformedRequestError: a resource is too large.

    """
    messages = _spans(request)
    left_out = 0 if content else sum(map(strip_span, messages))
    found = _usable(request, (message.SerializeToString() for message in messages))
    return found._replace(left_out=left_out)


def _usable(request: ExportTraceServiceRequest, bodies: Iterable[bytes]) -> Request:
    spans: list[ReceivedSpan] = []
    problems = 0
    reason = ""
    body = iter(bodies)  # shared by all scopes: each takes as many as it has spans
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            source = source_of(of_resource.resource, of_scope.scope)
            for message, sent in zip(of_scope.spans, body, strict=False):
                span = ReceivedSpan(message, source, sent)
                problem = _problem(span)
                if problem is None:
                    spans.append(span)
                else:
                    problems += 1
                    reason = reason or problem
    return Request(spans, problems, reason)


def _spans(request: ExportTraceServiceRequest) -> list[OtlpSpan]:
    return [span for of_resource in request.resource_spans for scope in of_resource.scope_spans for span in scope.spans]


def _not_in_vain(request: Request) -> Request:
    if request.rejected and not request.spans:
        raise MalformedRequestError(f"no span of {request.rejected} is usable: {request.reason}", request.rejected)
    return request


def source_of(resource: Resource, scope: InstrumentationScope) -> Source:
    """Return the source of what stands under this resource and scope.

    Raises:
        MalformedRequestError: it is too large.

    """
    service = next((kv.value.string_value for kv in resource.attributes if kv.key == "service.name"), "")
    source = Source(service, scope.name, resource.SerializeToString(), scope.SerializeToString())
    if len(source.resource) + len(source.instrumentation) > MAX_RESOURCE_BYTES:
        raise MalformedRequestError(f"resource and scope are larger than {MAX_RESOURCE_BYTES} bytes")
    return source


def _problem(span: ReceivedSpan) -> str | None:
    """Say why a span cannot be used; None when it can."""
    if len(span.trace_id) != TRACE_ID_BYTES or span.trace_id == _NO_TRACE:
        return f"trace id {_shown(span.trace_id)} is not {TRACE_ID_BYTES} bytes that are not all zero"
    if len(span.span_id) != SPAN_ID_BYTES or span.span_id == _NO_SPAN:
        return f"span id {_shown(span.span_id)} is not {SPAN_ID_BYTES} bytes that are not all zero"
    if span.parent_id is not None and len(span.parent_id) != SPAN_ID_BYTES:
        return f"parent span id {_shown(span.parent_id)} is not {SPAN_ID_BYTES} bytes"
    if not 0 < span.start_ns <= span.end_ns <= MAX_TIME_NS:
        times = f"from {span.start_ns} to {span.end_ns}"
        return f"span {_shown(span.span_id)} lasts {times}: it has no start, or ends before it"
    if not 0 < len(span.name) <= MAX_NAME_CHARACTERS:
        return f"span {_shown(span.span_id)} has no name, or one longer than {MAX_NAME_CHARACTERS} characters"
    if len(span.body) > MAX_SPAN_BYTES:
        return f"span {_shown(span.span_id)} is larger than {MAX_SPAN_BYTES} bytes"
    return None


def _shown(identity: bytes) -> str:
    return f"'{identity[:TRACE_ID_BYTES].hex()}'" + ("..." if len(identity) > TRACE_ID_BYTES else "")


def _parent(message: OtlpSpan) -> bytes | None:
    parent_id = message.parent_span_id
    return parent_id if parent_id and parent_id != _NO_SPAN else None  # some senders write a root's parent as zeros


def _error(message: OtlpSpan) -> str | None:
    return message.status.message if message.status.code == Status.STATUS_CODE_ERROR else None


def plain_map(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    """Return attributes as plain values."""
    # Most values are strings, many of the others numbers: those are not worth a call.
    return {
        pair.key: (value := pair.value).string_value
        or (real if 0.0 < (real := value.double_value) < math.inf else value.int_value)
        or plain(value)
        for pair in pairs
    }


def plain(value: AnyValue) -> Value:
    """Return a value as one that JSON can carry."""
    kind = value.WhichOneof("value")
    if kind == "double_value":
        real = value.double_value
        if math.isfinite(real):
            return real
        return "NaN" if math.isnan(real) else "Infinity" if real > 0 else "-Infinity"  # as in protobuf's JSON
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return plain_map(value.kvlist_value.values)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode("ascii")
    return None if kind is None else getattr(value, kind)
