"""From an OTLP request to checked spans. What is malformed is refused; a span that makes no sense is left out."""

from __future__ import annotations

import base64
import binascii
import json
import math
import string
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from voicespan.local.span import Event, Link, Span, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

MAX_NAME_CHARACTERS = 1024
MAX_SPAN_BYTES = 1 << 20
MAX_RESOURCE_BYTES = 1 << 18
MAX_TIME_NS = (1 << 63) - 1

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8
_NO_TRACE = bytes(TRACE_ID_BYTES)
_NO_SPAN = bytes(SPAN_ID_BYTES)
_HEX_DIGITS = frozenset(string.hexdigits)
_KINDS = ("internal", "internal", "server", "client", "producer", "consumer")


class MalformedRequestError(ValueError):
    """The request is not what it says it is, or none of its spans can be used; the message is the reason."""


class Source(NamedTuple):
    """Where spans come from: the service and the instrumentation, readable and as they were sent."""

    service: str
    scope: str
    resource: bytes
    instrumentation: bytes


class ReceivedSpan:
    """A span of a request. Its attributes become plain values when they are asked for: few ever are."""

    __slots__ = (
        "_attributes", "_message", "body", "end_ns", "name", "parent_id", "source", "span_id", "start_ns", "trace_id"
    )  # fmt: skip

    def __init__(self, message: OtlpSpan, source: Source) -> None:
        self._message = message
        self._attributes: dict[str, Value] | None = None
        self.source = source
        self.trace_id = message.trace_id
        self.span_id = message.span_id
        self.parent_id = _parent(message)
        self.name = message.name
        self.start_ns = message.start_time_unix_nano
        self.end_ns = message.end_time_unix_nano
        self.body = message.SerializeToString()

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
            self._attributes = _plain_map(self._message.attributes)
        return self._attributes


class Request(NamedTuple):
    """The usable spans of a request, how many were not, and why the first of those was not."""

    spans: list[ReceivedSpan]
    rejected: int = 0
    reason: str = ""


def decode_protobuf(body: bytes) -> Request:
    """Return the spans of an ExportTraceServiceRequest in protobuf form.

    Raises:
        MalformedRequestError: the body is no such message, holds text that is not UTF-8, or no span of it is usable.

    """
    try:
        message = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise MalformedRequestError(f"not an ExportTraceServiceRequest: {error}") from None
    return _checked(message)


def decode_json(body: bytes) -> Request:
    """Return the spans of an ExportTraceServiceRequest in OTLP's JSON form (ids in hex, names in camelCase).

    Raises:
        MalformedRequestError: the body is no such JSON, or no span of it is usable.

    """
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        _ids_to_base64(data)
        message = ParseDict(data, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except ParseError as error:
        raise MalformedRequestError(f"not an ExportTraceServiceRequest in JSON: {error}") from None
    except RecursionError:
        raise MalformedRequestError("the JSON is nested too deeply") from None
    except (ValueError, TypeError, AttributeError) as error:
        # json_format lets some type errors through as what the interpreter raised.
        raise MalformedRequestError(f"not an ExportTraceServiceRequest in JSON: {error}") from None
    return _checked(message)


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
        attributes=_plain_map(message.attributes),
        events=tuple(Event(event.name, event.time_unix_nano, _plain_map(event.attributes)) for event in message.events),
        links=tuple(
            Link(link.trace_id.hex(), link.span_id.hex(), _plain_map(link.attributes)) for link in message.links
        ),
    )


def _checked(request: ExportTraceServiceRequest) -> Request:
    spans: list[ReceivedSpan] = []
    problems = 0
    reason = ""
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            source = _source(of_resource.resource, of_scope.scope)
            for message in of_scope.spans:
                span = ReceivedSpan(message, source)
                problem = _problem(span)
                if problem is None:
                    spans.append(span)
                else:
                    problems += 1
                    reason = reason or problem
    if problems and not spans:
        raise MalformedRequestError(f"no span of {problems} is usable: {reason}")
    return Request(spans, problems, reason)


def _source(resource: Resource, scope: InstrumentationScope) -> Source:
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


def _plain_map(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    # Most values are strings: those are not worth a call.
    return {pair.key: pair.value.string_value or _plain(pair.value) for pair in pairs}


def _plain(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _plain_map(value.kvlist_value.values)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode("ascii")
    plain: Any = getattr(value, kind)
    if kind == "double_value" and not math.isfinite(plain):
        return "NaN" if math.isnan(plain) else "Infinity" if plain > 0 else "-Infinity"  # as in protobuf's JSON
    return plain  # type: ignore[no-any-return]


def _ids_to_base64(data: object) -> None:
    """Rewrite the ids in place: OTLP writes them in hex, protobuf's JSON mapping in base64."""
    for span in _spans(data):
        _rewrite(span, "traceId", "spanId", "parentSpanId")
        for link in _objects(span, "links"):
            _rewrite(link, "traceId", "spanId")


def _spans(data: object) -> Iterable[dict[str, Any]]:
    for of_resource in _objects(data, "resourceSpans"):
        for of_scope in _objects(of_resource, "scopeSpans"):
            yield from _objects(of_scope, "spans")


def _objects(parent: object, key: str) -> Iterable[dict[str, Any]]:
    if not isinstance(parent, dict):
        raise MalformedRequestError(f"the JSON has {_kind(parent)} where an object with {key!r} belongs")
    items = parent.get(key)
    if not isinstance(items, list | None):
        raise MalformedRequestError(f"{key!r} is {_kind(items)}, not an array")
    for item in items or ():
        if not isinstance(item, dict):
            raise MalformedRequestError(f"{key!r} holds {_kind(item)}, not objects only")
        yield item


def _kind(value: object) -> str:
    names: Mapping[type, str] = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), "a number or truth value")


def _rewrite(item: dict[str, Any], *keys: str) -> None:
    for key in keys:
        text = item.get(key)
        if text is None:
            continue
        # bytes.fromhex alone would skip white space.
        if not isinstance(text, str) or not _HEX_DIGITS.issuperset(text):
            raise MalformedRequestError(f"{key!r} is not a string of hex digits")
        try:
            item[key] = base64.b64encode(binascii.unhexlify(text)).decode("ascii")
        except binascii.Error:
            raise MalformedRequestError(f"{key!r} has an odd number of hex digits") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
