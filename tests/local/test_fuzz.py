"""Whatever is sent, in every form and through every door: it is taken or refused, and the store stays whole."""

from __future__ import annotations

import base64
import contextlib
import copy
import gzip
import json
import sqlite3
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from voicespan.local.body import Limits
from voicespan.local.decode import MAX_TIME_NS
from voicespan.local.form import JSON, PROTOBUF, to_plain
from voicespan.local.grpc import SERVICES
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver

from .otlp import START_NS, Trace, log, log_request, metrics_request, request, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

LIMITS = Limits(sent_bytes=4 << 20, body_bytes=8 << 20)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TAKEN = {200}
REFUSED = {400, 413, 415}
FINE = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
SIGNALS = sorted(SERVICES)


class Doors:
    """A receiver, and every way to send to it."""

    def __init__(self, receiver: Receiver) -> None:
        assert receiver.grpc.endpoint is not None
        self.receiver = receiver
        self.http = httpx.Client(base_url=receiver.endpoint, timeout=60)
        self.channel = grpc.insecure_channel(
            receiver.grpc.endpoint.removeprefix("http://"), [("grpc.max_send_message_length", -1)]
        )
        self.calls: dict[str, Callable[..., bytes]] = {
            signal: self.channel.unary_unary(f"/{service}/Export") for signal, service in SERVICES.items()
        }

    def post(self, path: str, body: bytes, media_type: str, **headers: str) -> int:
        """Send over HTTP; return the status, which says that it was taken or refused."""
        answer = self.http.post(path, content=body, headers={"Content-Type": media_type, **headers})
        assert answer.status_code in TAKEN | REFUSED, (answer.status_code, answer.text, body[:200])
        return answer.status_code

    def call(self, signal: str, body: bytes) -> grpc.StatusCode:
        """Send over gRPC; return the status, which says that it was taken or refused."""
        try:
            self.calls[signal](body, timeout=60)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
        else:
            code = grpc.StatusCode.OK
        assert code in FINE, (code, body[:200])
        return code

    def send(self, signal: str, body: bytes) -> None:
        """Send the same bytes over HTTP and gRPC: both take them, or both refuse them."""
        taken = self.post(f"/v1/{signal}", body, PROTOBUF) in TAKEN
        assert (self.call(signal, body) == grpc.StatusCode.OK) == taken

    def send_json(self, signal: str, data: Any) -> int:
        """Send what stands for JSON, and the same as a file to import."""
        text = data if isinstance(data, str) else json.dumps(data)
        body = text.encode("utf-8", "surrogatepass")
        self.post("/api/import", body, JSON)
        return self.post(f"/v1/{signal}", body, JSON)

    def rest(self) -> None:
        """Look at everything that was stored: the database is whole, and every view of it can be made."""
        with contextlib.closing(sqlite3.connect(self.receiver.store.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            traces = [row[0].hex() for row in connection.execute("SELECT DISTINCT trace_id FROM part LIMIT 300")]
        paths = ["turns?limit=1000", "figures", "silence", "dots", "choices", "sessions", "runs", "traces", "status"]
        paths += ["open", "compare?against=0..", "compare?against=..2000000000"]
        listed = self.http.get("/api/sessions", params={"limit": 200}).json()["sessions"]
        paths += [f"session?{urlencode({'id': session['session_id']})}" for session in listed if session["session_id"]]
        for path in (*paths, "export", *(f"turns/{trace_id}" for trace_id in traces)):
            answer = self.http.get(f"/api/{path}")
            assert answer.status_code == 200, (path, answer.text)
            answer.json()
        assert self.http.get("/health").status_code == 200

    def close(self) -> None:
        """Let go of the connections."""
        self.http.close()
        self.channel.close()


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    """A receiver that is looked at when all tests of this module have sent to it."""
    with Receiver(port=0, grpc_port=0, limits=LIMITS) as receiver:
        opened = Doors(receiver)
        yield opened
        opened.rest()
        opened.close()


# Strategies: requests with everything that a sender may get wrong

IDS = st.sampled_from([b"", bytes(16), bytes(8), b"t" * 16, b"s" * 8, b"x" * 15, b"x" * 17, b"x" * 7, b"x" * 9]) | (
    st.binary(max_size=20)
)
NANOS = st.sampled_from(
    [0, 1, 86_400 * 10**9, START_NS, MAX_TIME_NS, 2**63 - 1, 2**63, 2**64 - 1, 9_300_000_000 * 10**9]
) | st.integers(0, 2**64 - 1)
TEXTS = st.text(max_size=12) | st.sampled_from(["voice.turn", "voice.response", "llm", "\0", "x" * 2000, "session.id"])
VALUES = st.recursive(
    st.builds(AnyValue)
    | TEXTS.map(lambda text: AnyValue(string_value=text))
    | st.booleans().map(lambda value: AnyValue(bool_value=value))
    | st.integers(-(2**63), 2**63 - 1).map(lambda value: AnyValue(int_value=value))
    | st.floats().map(lambda value: AnyValue(double_value=value))
    | st.binary(max_size=8).map(lambda value: AnyValue(bytes_value=value)),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: AnyValue(array_value=ArrayValue(values=values)))
        | st.lists(st.builds(KeyValue, key=TEXTS, value=inner), max_size=3).map(
            lambda values: AnyValue(kvlist_value=KeyValueList(values=values))
        )
    ),
    max_leaves=6,
)
KEYS = TEXTS | st.sampled_from(
    [
        "voice.turn.index",
        "voice.turn.outcome",
        "voice.response.share.llm",
        "voice.clock.offset_error_s",
        "gen_ai.request.model",
        "gen_ai.input.messages",
        "voice.session.first_audio",
        "voice.critical_path",
        "voice.barge_in.phase",
        "error.type",
    ]
)
ATTRIBUTES = st.lists(st.builds(KeyValue, key=KEYS, value=VALUES), max_size=4)
SPANS = st.builds(
    Span,
    trace_id=IDS,
    span_id=IDS,
    parent_span_id=IDS,
    trace_state=TEXTS,
    name=TEXTS,
    kind=st.integers(0, 9),
    start_time_unix_nano=NANOS,
    end_time_unix_nano=NANOS,
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(Span.Event, name=TEXTS, time_unix_nano=NANOS, attributes=ATTRIBUTES), max_size=2),
    links=st.lists(st.builds(Span.Link, trace_id=IDS, span_id=IDS, attributes=ATTRIBUTES), max_size=2),
    status=st.builds(Status, message=TEXTS, code=st.integers(0, 5)),
    flags=st.integers(0, 2**32 - 1),
)
RECORDS = st.builds(
    LogRecord,
    trace_id=IDS,
    span_id=IDS,
    time_unix_nano=NANOS,
    observed_time_unix_nano=NANOS,
    severity_number=st.integers(-3, 30),
    severity_text=TEXTS,
    body=VALUES,
    attributes=ATTRIBUTES,
    event_name=TEXTS | st.just("gen_ai.user.message"),
)


def spans_request(spans: list[Span], resource: list[KeyValue], scope: str) -> ExportTraceServiceRequest:
    made = request(*(("a", scope, span) for span in spans))
    for of_resource in made.resource_spans:
        of_resource.resource.attributes.extend(resource)
    return made


REQUESTS: dict[str, st.SearchStrategy[Message]] = {
    "traces": st.builds(
        spans_request, st.lists(SPANS, max_size=4), ATTRIBUTES, st.sampled_from(["voicespan", "http", ""])
    ),
    "logs": st.lists(RECORDS, max_size=4).map(lambda records: log_request(*records)),
    "metrics": st.builds(metrics_request),
}
VALID: dict[str, Message] = {
    "traces": request(*turn().spans),
    "logs": log_request(log(turn(), "words", {"a": [1, {"b": 2.5}]}, severity_number=9, span_id=b"s" * 8)),
    "metrics": metrics_request(),
}


@pytest.mark.parametrize("signal", SIGNALS)
@FUZZ
@given(data=st.data())
def test_any_request_is_taken_or_refused(doors: Doors, signal: str, data: st.DataObject) -> None:
    """Ids, times, names, kinds and values of every kind, in protobuf and JSON, over HTTP and gRPC."""
    message = data.draw(REQUESTS[signal])
    doors.send(signal, message.SerializeToString())
    doors.send_json(signal, to_plain(message))


@pytest.mark.parametrize("signal", SIGNALS)
@FUZZ
@given(body=st.binary(max_size=300))
def test_any_bytes_are_taken_or_refused(doors: Doors, signal: str, body: bytes) -> None:
    """Noise in every form, compressed or said to be."""
    doors.send(signal, body)
    doors.post(f"/v1/{signal}", body, JSON)
    doors.post(f"/v1/{signal}", body, PROTOBUF, **{"Content-Encoding": "gzip"})
    doors.post(f"/v1/{signal}", gzip.compress(body), PROTOBUF, **{"Content-Encoding": "gzip"})
    doors.post("/api/import", body, JSON)


@pytest.mark.parametrize("signal", SIGNALS)
@FUZZ
@given(data=st.data())
def test_damaged_requests_are_taken_or_refused(doors: Doors, signal: str, data: st.DataObject) -> None:
    """A valid request that is cut off, repeated, or has some bytes changed."""
    body = bytearray(VALID[signal].SerializeToString())
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=5)
    ):
        body[position] = value
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))))
    for changed in (bytes(body), bytes(body[:end]), bytes(body[:end] + body[start:])):
        doors.send(signal, changed)


HALVES = st.sampled_from(["\ud800", "a\udfff", "\ud800\ud800"])
"""Halves of characters: JSON lets them through, UTF-8 does not."""
ANY_TEXT = st.text(max_size=5) | HALVES
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in parsed JSON."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = {signal: list(places(to_plain(message))) for signal, message in VALID.items()}


@pytest.mark.parametrize("signal", SIGNALS)
@FUZZ
@given(data=st.data())
def test_json_of_wrong_types_is_taken_or_refused(doors: Doors, signal: str, data: st.DataObject) -> None:
    """A valid request in JSON in which something stands in the place of something else, or the text is cut off."""
    document: Any = copy.deepcopy(to_plain(VALID[signal]))
    path = data.draw(st.sampled_from(PLACES[signal]))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = data.draw(ANY_JSON)
    doors.send_json(signal, document)
    text = json.dumps(document)
    doors.send_json(signal, text[: data.draw(st.integers(0, len(text)))])


@FUZZ
@given(told=ANY_JSON | st.dictionaries(st.sampled_from(["trace_id", "role", "text", "audio", "turns"]), ANY_JSON))
def test_what_services_tell_is_taken_or_refused(doors: Doors, told: Any) -> None:
    """Turns in progress and content of any shape; where content is not kept it is forbidden."""
    body = json.dumps(told).encode()
    doors.post("/api/open", body, JSON)
    answer = doors.http.post("/api/content", content=body, headers={"Content-Type": JSON})
    assert answer.status_code in REFUSED | {403}


# Explicit cases


@pytest.mark.parametrize(
    "text",
    [
        r'{"\ud800":[1]}',
        r'{"resourceSpans":["\ud800"],"resourceLogs":["\udfff"],"resourceMetrics":["\ud800"]}',
        r'{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"\ud800"}]}]}]}',
        r'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a\udfff"}]}]}]}',
        r'{"resourceSpans":[{"\ud800":1}],"resourceLogs":[{"\ud800":1}],"resourceMetrics":[{"\ud800":1}]}',
        r'{"resourceSpans":"\ud800","resourceLogs":"\ud800"}',
        r'"\ud800"',
    ],
)
@pytest.mark.parametrize("signal", SIGNALS)
def test_halves_of_characters_are_refused(doors: Doors, signal: str, text: str) -> None:
    """Half a surrogate pair as a key, a value or an enumeration, over OTLP and in a file: a reason, and no failure."""
    assert doors.send_json(signal, text) in REFUSED


@pytest.mark.parametrize("nanos", [0, 1, 86_400 * 10**9, MAX_TIME_NS, MAX_TIME_NS + 1, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_times_of_1970_and_2262(doors: Doors, signal: str, nanos: int) -> None:
    """The first and the last moments that a time stamp can name, and those after: taken where 64 bits hold them."""
    trace = Trace(onset_ns=nanos)
    record = log(trace, "x", time_unix_nano=nanos)
    span = Span(trace_id=trace.trace_id, span_id=b"s" * 8, name="voice.turn", start_time_unix_nano=nanos)
    span.end_time_unix_nano = nanos
    message = request(("a", "voicespan", span)) if signal == "traces" else log_request(record)
    possible = nanos <= MAX_TIME_NS and (nanos > 0 or signal == "logs")
    assert doors.post(f"/v1/{signal}", message.SerializeToString(), PROTOBUF) == (200 if possible else 400)
    doors.send(signal, message.SerializeToString())
    doors.send_json(signal, to_plain(message))
    if possible and signal == "traces":
        found = doors.http.get(f"/api/turns/{trace.hex}").json()
        assert found["turn"]["start_s"] == nanos / 1e9


def nested(depth: int) -> AnyValue:
    value = AnyValue(string_value="x")
    for _ in range(depth):
        value = AnyValue(array_value=ArrayValue(values=[value]))
    return value


def wire(depth: int) -> bytes:
    """A request whose attribute is nested so deeply that no library would write it."""

    def field(number: int, body: bytes) -> bytes:
        length, size = b"", len(body)
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + body

    value = b""
    for _ in range(depth):
        value = field(5, field(1, value))
    pair = field(1, b"k") + field(2, value)
    times = b"\x39" + struct.pack("<Q", START_NS) + b"\x41" + struct.pack("<Q", START_NS)
    span = field(1, b"t" * 16) + field(2, b"s" * 8) + field(5, b"llm") + times + field(9, pair)
    return field(1, field(2, field(2, span)))


@pytest.mark.parametrize("depth", [5, 20, 45, 100, 1000, 20_000])
def test_deep_values(doors: Doors, depth: int) -> None:
    """Values inside values: as deep as protobuf allows they are kept and can be looked at, beyond they are refused."""
    doors.send("traces", wire(depth))
    inner = "[" * depth + "]" * depth
    text = '{"arrayValue":{"values":[' * depth + "{}" + "]}}" * depth
    span = f'{{"traceId":"{"ab" * 16}","spanId":"{"cd" * 8}","name":"x","startTimeUnixNano":"5","endTimeUnixNano":"6"'
    for attributes in (inner, f'[{{"key":"k","value":{text}}}]'):
        doors.send_json(
            "traces", f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span},"attributes":{attributes}}}]}}]}}]}}'
        )
        doors.send_json(
            "logs", f'{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"attributes":{attributes}}}]}}]}}]}}'
        )
        doors.send_json("metrics", f'{{"resourceMetrics":[{{"schemaUrl":"","unknown":{attributes}}}]}}')


def test_deep_values_are_kept_as_far_as_they_can_be(doors: Doors) -> None:
    """A value twenty lists deep arrives and is given back."""
    trace = turn()
    trace.spans[0][2].attributes.append(KeyValue(key="deep", value=nested(20)))
    doors.send("traces", request(*trace.spans).SerializeToString())
    value = doors.http.get(f"/api/turns/{trace.hex}").json()["spans"][0]["attributes"]["deep"]
    for _ in range(20):
        (value,) = value
    assert value == "x"


def test_duplicate_ids(doors: Doors) -> None:
    """The same span twice in one request, again in the next, and one id in several traces: the first one counts."""
    trace, other = turn(), turn()
    for item in trace.spans:
        again = Span.FromString(item[2].SerializeToString())
        again.name = "changed"
        other.spans.append((*item[:2], again))
    doors.send("traces", request(*trace.spans, *trace.spans, *other.spans).SerializeToString())
    doors.send("traces", request(*other.spans).SerializeToString())
    doors.send_json("traces", to_plain(request(*other.spans)))
    names = [span.name for span in doors.receiver.store.reader.spans(trace.hex)]
    assert sorted(names) == sorted(span.name for _, _, span in trace.spans)
    ring = Trace()
    first = ring.add("voice.turn", 0, 1)
    ring.add("llm", 0, 1, first)
    ring.spans[0][2].parent_span_id = ring.last().span_id
    ring.add("tts", 0, 1)
    ring.last().parent_span_id = ring.last().span_id
    doors.send("traces", request(*ring.spans).SerializeToString())
    assert doors.http.get(f"/api/turns/{ring.hex}").status_code == 200


def test_a_trace_of_very_many_spans(doors: Doors) -> None:
    """Ten thousand spans in one trace, and a turn of a hundred roots."""
    trace = turn()
    for index in range(10_000):
        trace.add(f"step {index}", index, index + 1, trace.spans[0][2].span_id)
    for _ in range(100):
        trace.add("voice.turn", 0, 5)
    doors.send("traces", request(*trace.spans).SerializeToString())
    found = doors.http.get(f"/api/turns/{trace.hex}").json()
    assert len(found["spans"]) + found["spans_beyond"] == len(trace.spans)


@pytest.mark.parametrize("signal", SIGNALS)
def test_memory_stays_bounded(doors: Doors, signal: str) -> None:
    """Bodies that unpack to far more than is allowed, and values as large as is allowed, leave nothing behind."""
    bomb = gzip.compress(bytes(200 << 20), 9)
    large = AnyValue(string_value="x" * (1 << 20))
    span = Span(trace_id=b"l" * 16, span_id=b"s" * 8, name="x", start_time_unix_nano=5, end_time_unix_nano=6)
    span.attributes.append(KeyValue(key="k", value=large))
    bodies = {
        "traces": request(*([("a", "b", span)] * 3)),
        "logs": log_request(*([LogRecord(trace_id=b"l" * 16, body=large)] * 3)),
        "metrics": metrics_request(),
    }
    body = bodies[signal].SerializeToString()
    doors.send(signal, body)
    tracemalloc.start()
    try:
        for _ in range(10):
            assert doors.post(f"/v1/{signal}", bomb, PROTOBUF, **{"Content-Encoding": "gzip"}) == 413
            doors.send(signal, body)
            doors.send_json(signal, to_plain(bodies[signal]))
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150 << 20
    assert left < 20 << 20


def test_content_of_every_size() -> None:
    """What was said, with a viewer that keeps it: text and audio beyond the limits are refused, the rest is kept."""
    with Receiver(port=0, grpc_port=0, content=True) as receiver:
        opened = Doors(receiver)
        trace = turn()
        opened.send("traces", request(*trace.spans).SerializeToString())
        texts = ["", "ä", "\0", "\ud800", "x" * 70_000]
        audios = ["", "!", base64.b64encode(bytes(3)).decode(), base64.b64encode(bytes(11 << 20)).decode()]
        for text in texts:
            for audio in audios:
                told = {"trace_id": trace.hex, "role": "user", "text": text, "audio": audio, "sample_rate": 16_000}
                answer = opened.http.post("/api/content", content=json.dumps(told), headers={"Content-Type": JSON})
                assert answer.status_code in TAKEN | REFUSED | {204}, answer.text
        opened.rest()
        opened.close()


def test_a_span_like_any_other_is_still_taken(doors: Doors) -> None:
    """After all of that the receiver works as before."""
    trace = turn()
    doors.send("traces", request(*trace.spans).SerializeToString())
    doors.send("logs", log_request(log(trace, "x", {"a": 1})).SerializeToString())
    assert doors.receiver.store.reader.turn(trace.hex) is not None
    assert doors.receiver.store.reader.turns(TurnQuery(limit=1))


def test_nothing_is_a_request_of_another_kind(doors: Doors) -> None:
    """Requests of one signal at the address of another are refused, or have nothing in them."""
    for sent in SIGNALS:
        for signal in SIGNALS:
            doors.send(signal, VALID[sent].SerializeToString())
            doors.send_json(signal, to_plain(VALID[sent]))
