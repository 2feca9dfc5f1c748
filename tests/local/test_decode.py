from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from voicespan.local import decode
from voicespan.local.decode import decode_json, decode_protobuf, plain_span
from voicespan.local.form import MalformedRequestError, to_plain

from .otlp import Trace, pairs, request, turn

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"


def json_request(**fields: Any) -> dict[str, Any]:
    """A request in JSON with one span, which has these fields besides the usual."""
    span = {
        "traceId": TRACE_ID,
        "spanId": SPAN_ID,
        "name": "llm",
        "kind": 3,
        "startTimeUnixNano": "1800000000000000000",
        "endTimeUnixNano": "1800000000500000000",
    }
    return {"resourceSpans": [{"scopeSpans": [{"scope": {"name": "voicespan"}, "spans": [span | fields]}]}]}


def decoded(data: object) -> decode.Request:
    return decode_json(json.dumps(data).encode())


def broken(**fields: Any) -> Span:
    """A usable span, but for these fields."""
    trace = Trace()
    trace.add("llm", 0, 100)
    span = trace.last()
    for name, value in fields.items():
        setattr(span, name, value)
    return span


UNUSABLE = [
    pytest.param({"trace_id": b""}, "trace id", id="no trace id"),
    pytest.param({"trace_id": b"x" * 15}, "trace id", id="short trace id"),
    pytest.param({"trace_id": b"x" * 17}, "trace id", id="long trace id"),
    pytest.param({"trace_id": bytes(16)}, "trace id", id="zero trace id"),
    pytest.param({"span_id": b"x" * 7}, "span id", id="short span id"),
    pytest.param({"span_id": bytes(8)}, "span id", id="zero span id"),
    pytest.param({"parent_span_id": b"x" * 16}, "parent span id", id="long parent id"),
    pytest.param({"end_time_unix_nano": 1}, "ends before", id="end before start"),
    pytest.param({"start_time_unix_nano": 0}, "no start", id="no start"),
    pytest.param({"end_time_unix_nano": 2**63}, "ends before", id="beyond 64 bits"),
    pytest.param({"name": ""}, "no name", id="no name"),
    pytest.param({"name": "x" * 1025}, "longer than 1024", id="long name"),
    pytest.param({"trace_state": "x" * (1 << 20)}, "larger than", id="large span"),
]


def test_every_field_arrives() -> None:
    """A span keeps its ids, times, kind, status, attributes, events, links, service and scope."""
    trace = Trace()
    parent = trace.add("voice.turn", 0, 2000)
    trace.add("llm", 100, 600, parent, gen_ai__request__model="small-chat")
    span = trace.last()
    span.kind = Span.SPAN_KIND_CLIENT
    span.status.code = Status.STATUS_CODE_ERROR
    span.status.message = "no answer"
    span.events.add(name="exception", time_unix_nano=trace.onset_ns + 5, attributes=pairs({"exception.type": "E"}))
    span.links.add(trace_id=b"t" * 16, span_id=b"s" * 8, attributes=pairs({"voice.link.type": "previous"}))

    received = decode_protobuf(request(*trace.spans).SerializeToString()).spans[1]
    plain = plain_span(Span.FromString(received.body), received.service, received.scope)

    assert (plain.trace_id, plain.span_id, plain.parent_id) == (trace.hex, span.span_id.hex(), parent.hex())
    assert (plain.start_ns - trace.onset_ns, plain.end_ns - plain.start_ns) == (100_000_000, 500_000_000)
    assert (plain.name, plain.kind, plain.error) == ("llm", "client", "no answer")
    assert (plain.service, plain.scope) == ("voice-agent", "voicespan")
    assert plain.attributes == received.attributes == {"gen_ai.request.model": "small-chat"}
    assert [(event.name, event.attributes) for event in plain.events] == [("exception", {"exception.type": "E"})]
    assert [(link.trace_id, link.span_id) for link in plain.links] == [((b"t" * 16).hex(), (b"s" * 8).hex())]


def test_values_become_plain() -> None:
    """Every kind of attribute value becomes something that JSON can carry."""
    trace = Trace()
    values: dict[str, Any] = {
        "text": "ä",
        "empty": "",
        "yes": True,
        "no": False,
        "whole": -3,
        "zero": 0,
        "real": 0.5,
        "nothing": None,
        "list": ["a", 1, [True]],
        "map": {"a": {"b": 2}},
        "bytes": b"\x00\xff",
        "nan": float("nan"),
        "infinite": float("inf"),
        "minus": float("-inf"),
    }
    trace.add("llm", 0, 1, **values)
    found = decode_protobuf(request(*trace.spans).SerializeToString()).spans[0].attributes
    assert found == values | {"bytes": "AP8=", "nan": "NaN", "infinite": "Infinity", "minus": "-Infinity"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_json_says_the_same_as_protobuf() -> None:
    """The two forms of one request give the same spans, byte for byte."""
    trace = turn()
    trace.last().links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    message = request(*trace.spans)
    from_protobuf = decode_protobuf(message.SerializeToString())
    from_json = decoded(to_plain(message))
    assert [span.body for span in from_json.spans] == [span.body for span in from_protobuf.spans]
    assert [span.source for span in from_json.spans] == [span.source for span in from_protobuf.spans]


def test_spans_are_kept_as_they_were_sent() -> None:
    """What a newer sender says in fields that this version does not know is kept."""
    first, second = turn(), turn()
    message = request(*first.spans, *second.spans)
    unknown = b"\xfa\x3f\x03new"  # field 1023
    spans = [
        span for of_resource in message.resource_spans for scope in of_resource.scope_spans for span in scope.spans
    ]
    for span in spans:
        span.MergeFromString(unknown)
    received = decode_protobuf(message.SerializeToString())
    assert [span.body for span in received.spans] == [span.SerializeToString() for span in spans]
    assert all(unknown in span.body for span in received.spans)


def test_upper_case_hex_is_the_same_id() -> None:
    """OTLP allows both cases of hex digits in JSON."""
    assert decoded(json_request(traceId=TRACE_ID.upper())).spans[0].trace_id.hex() == TRACE_ID


def test_unknown_json_fields_are_ignored() -> None:
    """A newer sender may say more than this version knows."""
    data = json_request(newField={"a": [1]})
    assert decoded(data | {"another": 1}).spans[0].name == "llm"


def test_parent_of_zeros_is_no_parent() -> None:
    """Some senders write the absent parent of a root as eight zero bytes."""
    received = decode_protobuf(request(("a", "b", broken(parent_span_id=bytes(8)))).SerializeToString())
    assert received.spans[0].parent_id is None


@pytest.mark.parametrize(("fields", "reason"), UNUSABLE)
def test_unusable_span_alone_is_refused(fields: dict[str, Any], reason: str) -> None:
    """A request whose only span makes no sense is refused with the reason."""
    with pytest.raises(MalformedRequestError, match=reason):
        decode_protobuf(request(("a", "b", broken(**fields))).SerializeToString())


@pytest.mark.parametrize(("fields", "reason"), UNUSABLE)
def test_unusable_span_among_others_is_left_out(fields: dict[str, Any], reason: str) -> None:
    """The usable spans of a request are taken, the others counted, and the first reason is given."""
    good = turn()
    received = decode_protobuf(request(("a", "b", broken(**fields)), *good.spans).SerializeToString())
    assert len(received.spans) == len(good.spans)
    assert received.rejected == 1
    assert reason in received.reason


def test_resource_of_absurd_size_is_refused() -> None:
    """A resource is stored once for many spans, so it has a limit of its own."""
    message = request(*turn().spans)
    message.resource_spans[0].resource.attributes.extend(pairs({"x": "y" * decode.MAX_RESOURCE_BYTES}))
    with pytest.raises(MalformedRequestError, match="resource"):
        decode_protobuf(message.SerializeToString())


def test_empty_request_is_fine() -> None:
    """A request without spans is well-formed."""
    assert decode_protobuf(b"").spans == []
    assert decode_json(b"{}").spans == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xff\xff\xff", id="noise"),
        pytest.param(request(*turn().spans).SerializeToString()[:-3], id="cut off"),
        pytest.param(
            request(("a", "b", broken(name="abcdef"))).SerializeToString().replace(b"abcdef", b"abc\xffef"),
            id="not UTF-8",
        ),
    ],
)
def test_malformed_protobuf_is_refused(body: bytes) -> None:
    """What is no ExportTraceServiceRequest, or holds text that is not UTF-8, is refused whole."""
    with pytest.raises(MalformedRequestError, match="ExportTraceServiceRequest"):
        decode_protobuf(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff{}", id="not UTF-8"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"3", id="number"),
        pytest.param(b'{"resourceSpans": {}}', id="object for array"),
        pytest.param(b'{"resourceSpans": [1]}', id="number for object"),
        pytest.param(b'{"resourceSpans": [{"scopeSpans": "x"}]}', id="string for array"),
        pytest.param(b'{"resourceSpans": ' + b"[" * 100_000, id="deep"),
        pytest.param(b'{"a": NaN}', id="NaN"),
    ],
)
def test_malformed_json_is_refused(body: bytes) -> None:
    """JSON of another shape is refused whole."""
    with pytest.raises(MalformedRequestError):
        decode_json(body)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"traceId": base64.b64encode(bytes.fromhex(TRACE_ID)).decode()}, id="base64 trace id"),
        pytest.param({"traceId": TRACE_ID[:-1]}, id="odd digits"),
        pytest.param({"traceId": TRACE_ID[:-2] + "  "}, id="white space"),
        pytest.param({"traceId": 5}, id="number"),
        pytest.param({"trace_id": TRACE_ID}, id="trace id given twice"),
        pytest.param({"spanId": SPAN_ID + "00"}, id="long span id"),
        pytest.param({"parentSpanId": "xyz"}, id="parent of other letters"),
        pytest.param({"links": [{"traceId": "zz"}]}, id="link"),
        pytest.param({"links": [7]}, id="link that is no object"),
        pytest.param({"name": 4}, id="name that is no string"),
        pytest.param({"name": "\ud800"}, id="lone surrogate"),
        pytest.param({"startTimeUnixNano": "yesterday"}, id="time in words"),
        pytest.param({"startTimeUnixNano": 1e300}, id="huge time"),
        pytest.param({"startTimeUnixNano": -1}, id="negative time"),
        pytest.param({"attributes": {"a": 1}}, id="attributes as object"),
        pytest.param({"attributes": [{"key": "a", "value": {"intValue": 2**70}}]}, id="huge integer"),
    ],
)
def test_malformed_span_in_json_is_refused(fields: dict[str, Any]) -> None:
    """A span with a field of another type than OTLP says makes the whole request malformed."""
    with pytest.raises(MalformedRequestError):
        decoded(json_request(**fields))


VALID = request(*turn().spans).SerializeToString()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    """No body raises anything but MalformedRequestError."""
    for read in (decode_protobuf, decode_json):
        with contextlib.suppress(MalformedRequestError):
            checked(read(body))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_requests_are_decoded_or_refused(changes: list[tuple[int, int]]) -> None:
    """A valid request with a few bytes changed gives usable spans or is refused."""
    body = bytearray(VALID)
    for position, value in changes:
        body[position] = value
    with contextlib.suppress(MalformedRequestError):
        checked(decode_protobuf(bytes(body)))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["key", "value", "stringValue", "arrayValue", "values"]), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = ["traceId", "spanId", "parentSpanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "attributes",
          "events", "links", "status", "flags"]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=4))
def test_any_json_span_is_decoded_or_refused(fields: dict[str, Any]) -> None:
    """A span in JSON with arbitrary values gives a usable span or is refused."""
    with contextlib.suppress(MalformedRequestError):
        checked(decoded(json_request(**fields)))


def checked(received: decode.Request) -> None:
    """What was accepted can be stored and read back."""
    for span in received.spans:
        assert (len(span.trace_id), len(span.span_id)) == (16, 8)
        assert 0 < span.start_ns <= span.end_ns < 2**63
        sent = Span.FromString(span.body)
        assert (sent.trace_id, sent.span_id, sent.name) == (span.trace_id, span.span_id, span.name)
        plain = plain_span(sent, span.service, span.scope)
        json.dumps(dict(plain.attributes), allow_nan=False).encode()
        plain.name.encode()
