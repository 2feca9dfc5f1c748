"""Finished turns as OTLP: written straight into protobuf's wire format, redacted, without a span object in between.

A message is a row of fields, each a tag (field number times 8, plus the wire type) and a value: eight or four bytes, a
varint (seven bits a byte, the lowest first), or a length as a varint and so many bytes. The numbers are those of
opentelemetry-proto 1: collector/trace/v1, trace/v1, resource/v1 and common/v1. Nearly all names, attributes and
lengths come again and again: their bytes, redacted, are remembered.

What comes out is what the SDK's encoder makes of the same spans (tests/sdk/test_wire.py compares them). What it would
have to change or leave out (a limit, a value of an unusual type) is not written here: see `Unfit`.
"""

from __future__ import annotations

import struct
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from voicespan.content_names import MESSAGES, verdicts
from voicespan.redaction import redact
from voicespan.sdk import scrub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from voicespan.finished import Attributes, FinishedSpan, FinishedTurn, Kind, Link

_Key = TypeVar("_Key")

_REMEMBERED = 8192
"""How many byte strings of one kind are remembered; then it begins anew."""
_REMEMBERED_LENGTH = 256
_ONE_BYTE = 1 << 7
_TWO_BYTES = 1 << 14
_KINDS = {"internal": 1, "server": 2, "client": 3}
_HALF = 1 << 63

_FLAGS = b"\x85\x01\x00\x01\x00\x00"
"""Span.flags: the parent is known to be of this process."""
_END = b"\x7a\x00" + _FLAGS
"""Status and flags of a span that did not fail."""
_LINK_FLAGS = b"\x35\x00\x01\x00\x00"
_CHILD = struct.Struct(">20sQHQ").pack
"""Trace id, span id, and the parent's with its tag."""
_ROOT = struct.Struct(">20sQ").pack
_LINKED = struct.Struct(">H16sHQ").pack
_TIMES = struct.Struct("<BQBQ").pack
_MOMENT = struct.Struct("<BQ").pack
_DOUBLE = struct.Struct("<d").pack
_NO_VALUE = (TypeError, ValueError, OverflowError, struct.error)
"""What a value raises that is none of OTLP: half a surrogate pair, a time before 1970, a name that is no text."""
_USUAL = 1 << 10
_LENGTHS = tuple(bytes((number,)) for number in range(_ONE_BYTE))


class Unfit(Exception):
    """Not to be written here: the SDK's own way knows what to do with it."""


def varint(number: int) -> bytes:
    """Return a number that is not negative as a varint."""
    if number < _ONE_BYTE:
        return _LENGTHS[number]
    if number < _TWO_BYTES:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80,)) + varint(number >> 7)


def field(tag: bytes, value: bytes) -> bytes:
    """Return a field with a length."""
    return tag + varint(len(value)) + value


_SPAN_OF = tuple([b"\x12" + varint(length) for length in range(_USUAL)])
"""How a span of this length begins, in a `ScopeSpans`."""
_EVENT_OF = tuple([b"\x5a" + varint(length + 9) for length in range(_USUAL)])
"""How an event begins in a span, by the length of what follows its time."""


class Remembered(dict[_Key, bytes]):
    """Bytes by what they say; made when first asked for. Bounded: when it is full it begins anew."""

    def __init__(self, make: Callable[[_Key], bytes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: _Key) -> bytes:
        """Make the bytes."""
        made = self._make(key)
        if len(made) <= _REMEMBERED_LENGTH:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[key] = made
        return made


class _ByType(dict[type, Remembered[tuple[str, Any]]]):
    """What writes attributes of further types."""

    def __missing__(self, kind: type) -> Remembered[tuple[str, Any]]:
        raise Unfit


class Frame:
    """What stands around the spans of one resource and scope."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext

        # Once in a process, so by the encoder itself.
        identity, who = SpanContext(1, 1, is_remote=False), scrub.resource(resource)
        made = encode_spans(
            [ReadableSpan("", identity, resource=who, instrumentation_scope=scope, start_time=0, end_time=0)]
        ).resource_spans[0]
        (inner,) = made.scope_spans
        inner.ClearField("spans")
        self.resource = resource
        self._scope = _parts(inner.SerializeToString(), inner.schema_url)
        made.ClearField("scope_spans")
        self._resource = _parts(made.SerializeToString(), made.schema_url)

    def around(self, spans: Iterable[bytes]) -> bytes:
        """Return an `ExportTraceServiceRequest` with what a `Writer` wrote; several of them make one, end to end."""
        (before, after), (scope_before, scope_after) = self._resource, self._scope
        inner = field(b"\x12", b"".join([scope_before, *spans, scope_after]))
        return field(b"\x0a", before + inner + after)


def _parts(message: bytes, schema_url: str) -> tuple[bytes, bytes]:
    """What comes before and after the field 2 of a message that ends with its schema URL, field 3."""
    after = field(b"\x1a", schema_url.encode()) if schema_url else b""
    return message.removesuffix(after), after


class Writer:
    """Writes the spans of turns; `limits` are those of the tracer provider. For one thread at a time."""

    def __init__(self, limits: SpanLimits, *, content: bool) -> None:
        self._content = content
        self._most_attributes = _most(limits.max_span_attributes)
        self._most_event_attributes = _most(limits.max_event_attributes)
        self._most_link_attributes = _most(limits.max_link_attributes)
        self._most_events = _most(limits.max_events)
        self._most_links = _most(limits.max_links)
        self._longest = min(_most(limits.max_attribute_length), _most(limits.max_span_attribute_length))
        self._names = Remembered(_name)
        self._errors = Remembered(_error)
        self._events = Remembered(self._event_name)
        self._strings: Remembered[tuple[str, Any]] = Remembered(self._string)
        self._values = _ByType({bool: Remembered(self._truth), int: Remembered(self._integer)})
        self._doubles = Remembered(self._double)

    def spans(self, turn: FinishedTurn) -> bytes:
        """Return all spans of the turn, as fields of a `ScopeSpans`.

        Raises:
            Unfit: the SDK would change something, or leave something out.

        """
        parts: list[bytes] = []
        try:
            trace_id = b"\x0a\x10" + turn.trace_id.to_bytes(16, "big") + b"\x12\x08"
            for span in turn.spans:
                written = self._span(trace_id, span)
                length = len(written)
                parts.append(_SPAN_OF[length] if length < _USUAL else b"\x12" + varint(length))
                parts.append(written)
        except _NO_VALUE as error:
            raise Unfit from error
        return b"".join(parts)

    def _span(self, trace_id: bytes, span: FinishedSpan) -> bytes:
        attributes, parent_id = span.attributes, span.parent_id
        parts = [
            _ROOT(trace_id, span.span_id) if parent_id is None else _CHILD(trace_id, span.span_id, 0x2208, parent_id),
            self._names[span.name, span.kind],
            _TIMES(0x39, span.start_ns, 0x41, span.end_ns),
        ]
        if attributes:
            if len(attributes) > self._most_attributes:
                raise Unfit
            # As in `_attributes`, but here for nearly all of them: with a call for each span it takes 7 % longer.
            strings, doubles, values = self._strings, self._doubles, self._values
            for pair in attributes.items():
                kind = type(pair[1])
                if kind is str:
                    parts.append(strings[pair])
                elif kind is float:
                    parts.append(doubles[pair[0]])
                    parts.append(_DOUBLE(pair[1]))
                else:
                    parts.append(values[kind][pair])
        if span.events:
            if len(span.events) > self._most_events:
                raise Unfit
            for event in span.events:
                name = self._events[event.name]
                if event.attributes:
                    name += self._of_event(event.attributes)
                length = len(name)
                parts.append(_EVENT_OF[length] if length < _USUAL else b"\x5a" + varint(length + 9))
                parts.append(_MOMENT(0x09, event.time_ns))
                parts.append(name)
        if span.links:
            if len(span.links) > self._most_links:
                raise Unfit
            parts += map(self._link, span.links)
        parts.append(_END if span.error is None else self._errors[span.error])
        return b"".join(parts)

    def _attributes(self, attributes: Attributes, put: Callable[[bytes], None]) -> None:
        """Put the attributes one by one, as fields of a span."""
        strings, doubles, values = self._strings, self._doubles, self._values
        for pair in attributes.items():
            kind = type(pair[1])
            if kind is str:
                put(strings[pair])
            elif kind is float:
                put(doubles[pair[0]] + _DOUBLE(pair[1]))
            else:
                put(values[kind][pair])

    def _tagged(self, tag: bytes, attributes: Attributes) -> bytes:
        """The attributes as fields of another message."""
        parts: list[bytes] = []
        self._attributes(attributes, parts.append)
        return b"".join([tag + each[1:] for each in parts])

    def _of_event(self, attributes: Attributes) -> bytes:
        if len(attributes) > self._most_event_attributes:
            raise Unfit
        return self._tagged(b"\x1a", attributes)

    def _link(self, link: Link) -> bytes:
        if len(link.attributes) > self._most_link_attributes:
            raise Unfit
        trace_id, span_id = link.context
        identity = _LINKED(0x0A10, trace_id.to_bytes(16, "big"), 0x1208, span_id)
        return field(b"\x6a", identity + self._tagged(b"\x22", link.attributes) + _LINK_FLAGS)

    def _event_name(self, name: str) -> bytes:
        if not self._content and name in MESSAGES:
            raise Unfit
        return _text(b"\x12", redact(name))

    # Attributes, each with the tag that it has in a span

    def _key(self, key: str) -> bytes:
        if type(key) is not str or not key or (not self._content and verdicts[key]) or scrub.names[key] != key:
            raise Unfit
        return field(b"\x0a", key.encode())

    def _string(self, pair: tuple[str, str]) -> bytes:
        key, value = pair
        if len(value) > self._longest:
            raise Unfit
        return _pair(self._key(key), field(b"\x0a", scrub.text(key, value).encode()))

    def _truth(self, pair: tuple[str, bool]) -> bytes:
        return _pair(self._key(pair[0]), b"\x10\x01" if pair[1] else b"\x10\x00")

    def _integer(self, pair: tuple[str, int]) -> bytes:
        key, value = pair
        if not -_HALF <= value < _HALF:
            raise Unfit
        return _pair(self._key(key), b"\x18" + varint(value % (2 * _HALF)))

    def _double(self, key: str) -> bytes:
        """The attribute up to its value."""
        return _pair(self._key(key), b"\x21" + bytes(8))[:-8]


def _most(limit: int | None) -> float:
    return inf if limit is None else limit


def _pair(key: bytes, value: bytes) -> bytes:
    return field(b"\x4a", key + field(b"\x12", value))


def _name(given: tuple[str, Kind]) -> bytes:
    name, kind = given
    return _text(b"\x2a", redact(name)) + b"\x30" + _LENGTHS[_KINDS[kind]]


def _text(tag: bytes, value: str) -> bytes:
    """A field that is left out when it is empty, as the fields of proto3 are that have no presence."""
    return field(tag, value.encode()) if value else b""


def _error(message: str) -> bytes:
    return field(b"\x7a", _text(b"\x12", redact(message)) + b"\x18\x02") + _FLAGS
