from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import http.client
import json
import os
import socket
import sqlite3
import threading
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import use_span
from starlette.requests import Request
from tests.ports import free_port

from voicespan.local import port as ports
from voicespan.local.body import Limits, RefusedError, read_body
from voicespan.local.form import to_plain
from voicespan.local.hosts import host_name
from voicespan.local.part import COUNT
from voicespan.local.query import TurnQuery
from voicespan.local.retention import Retention
from voicespan.local.schema import StoreError
from voicespan.local.server import Receiver
from voicespan.version import __version__

from .otlp import Trace, log, log_request, metrics_request, request, turn
from .test_decode import broken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
CLIENT = httpx.Client(verify=False, timeout=30)
LIMITS = Limits(sent_bytes=200_000, body_bytes=400_000, seconds=30)
BODY = request(*turn().spans).SerializeToString()


@pytest.fixture(scope="module", autouse=True)
def close_client() -> Iterator[None]:
    """Close the connections that the tests of this module share."""
    yield
    CLIENT.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on a free port, with small limits and a store of its own."""
    with Receiver(port=0, limits=LIMITS) as started:
        yield started


@pytest.fixture(scope="module")
def shared() -> Iterator[Receiver]:
    """A receiver for tests that only look at what each request changes."""
    with Receiver(port=0, limits=LIMITS) as started:
        yield started


def post(receiver: Receiver, body: bytes, headers: dict[str, str], path: str = "/v1/traces") -> httpx.Response:
    return CLIENT.post(receiver.endpoint + path, content=body, headers=headers)


def contents(receiver: Receiver) -> tuple[int, int, int]:
    """How many spans, turns and sources the store holds."""
    with contextlib.closing(sqlite3.connect(receiver.store.path)) as connection:
        spans, turns, sources = (
            connection.execute(f"SELECT {count} FROM {table}").fetchone()[0]
            for count, table in ((COUNT, "part"), ("count(*)", "turn"), ("count(*)", "source"))
        )
    return spans, turns, sources


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip, Compression.Deflate])
def test_standard_exporter_is_understood(shared: Receiver, compression: Compression) -> None:
    """What the SDK's own exporter sends is stored, with and without compression."""
    provider = TracerProvider(resource=Resource({"service.name": "bot"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{shared.endpoint}/v1/traces", compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("voicespan")
    root = tracer.start_span("voice.turn", attributes={"voice.turn.outcome": "completed"})
    with pytest.raises(ValueError, match="wrong"), use_span(root), tracer.start_as_current_span("llm"):
        raise ValueError("wrong")
    root.end()
    provider.shutdown()

    trace_id = f"{root.get_span_context().trace_id:032x}"
    row = shared.store.reader.turn(trace_id)
    assert row is not None
    assert (row.service, row.outcome, row.complete) == ("bot", "completed", True)
    llm = shared.store.reader.spans(trace_id)[1]
    assert (llm.name, llm.error) == ("llm", "ValueError: wrong")
    assert llm.parent_id == f"{root.get_span_context().span_id:016x}"
    assert llm.events[0].attributes["exception.type"] == "ValueError"


def test_json_is_understood(receiver: Receiver) -> None:
    """OTLP's JSON form is stored, and answered in JSON."""
    trace = turn()
    answer = post(receiver, json.dumps(to_plain(request(*trace.spans))).encode(), JSON)
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["content-type"] == "application/json"
    assert receiver.store.reader.turn(trace.hex) is not None


def test_parameters_of_the_content_type_are_ignored(shared: Receiver) -> None:
    """A charset after the type changes nothing."""
    assert post(shared, BODY, {"Content-Type": "Application/X-Protobuf; charset=utf-8"}).status_code == 200


def test_answer_says_what_was_left_out(receiver: Receiver) -> None:
    """Unusable spans among usable ones: the good are stored, the answer counts the others and says why."""
    trace = turn()
    bad = [("a", "b", broken(span_id=b"short")), ("a", "b", broken(name=""))]
    message = request(*bad, *trace.spans)

    answer = post(receiver, message.SerializeToString(), PROTOBUF)
    assert answer.status_code == 200
    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert partial.rejected_spans == 2
    assert "span id" in partial.error_message
    assert contents(receiver)[:2] == (len(trace.spans), 1)

    answered = post(receiver, json.dumps(to_plain(message)).encode(), JSON).json()
    assert answered["partialSuccess"]["rejectedSpans"] == "2"


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body)


BOMB = gzip.compress(bytes(100 << 20), 9)
BAD_REQUESTS = [
    pytest.param(b"\xff\xff", PROTOBUF, 400, "ExportTraceServiceRequest", id="noise"),
    pytest.param(BODY[:-5], PROTOBUF, 400, "ExportTraceServiceRequest", id="cut off"),
    pytest.param(b"{", JSON, 400, "JSON", id="malformed JSON"),
    pytest.param(BODY, JSON, 400, "JSON", id="protobuf said to be JSON"),
    pytest.param(b'{"resourceSpans": 3}', JSON, 400, "resourceSpans", id="wrong shape"),
    pytest.param(
        request(("a", "b", broken(trace_id=b"short"))).SerializeToString(), PROTOBUF, 400, "trace id", id="wrong id"
    ),
    pytest.param(
        request(("a", "b", broken(end_time_unix_nano=1))).SerializeToString(), PROTOBUF, 400, "ends", id="backwards"
    ),
    pytest.param(BODY, {}, 415, "content type", id="no content type"),
    pytest.param(BODY, {"Content-Type": "text/plain"}, 415, "content type", id="text"),
    pytest.param(BODY, {"Content-Type": "multipart/form-data"}, 415, "content type", id="form"),
    pytest.param(BODY, PROTOBUF | {"Content-Encoding": "br"}, 415, "content encoding", id="brotli"),
    pytest.param(BODY, PROTOBUF | {"Content-Encoding": "gzip"}, 400, "gzip", id="not gzip"),
    pytest.param(gzipped(BODY)[:-4], PROTOBUF | {"Content-Encoding": "gzip"}, 400, "too early", id="gzip cut off"),
    pytest.param(gzipped(BODY) + b"x", PROTOBUF | {"Content-Encoding": "gzip"}, 400, "gzip", id="rubbish after gzip"),
    pytest.param(b"", PROTOBUF | {"Content-Encoding": "gzip"}, 400, "gzip", id="empty gzip"),
    pytest.param(bytes(300_000), PROTOBUF, 413, "larger than 200000", id="too large"),
    pytest.param(BOMB, PROTOBUF | {"Content-Encoding": "gzip"}, 413, "400000 bytes after", id="zip bomb"),
    pytest.param(
        zlib.compress(bytes(500_000)), JSON | {"Content-Encoding": "deflate"}, 413, "400000 bytes after", id="deflate"
    ),
]


@pytest.mark.parametrize(("body", "headers", "status", "reason"), BAD_REQUESTS)
def test_bad_request_is_refused_and_changes_nothing(
    shared: Receiver, body: bytes, headers: dict[str, str], status: int, reason: str
) -> None:
    """A bad request gets its status and the reason as google.rpc.Status, stores nothing, and the next one works."""
    post(shared, request(*turn().spans).SerializeToString(), PROTOBUF)
    before = contents(shared)
    answer = post(shared, body, headers)
    assert answer.status_code == status
    if headers.get("Content-Type") == PROTOBUF["Content-Type"]:
        assert answer.headers["content-type"] == "application/x-protobuf"
        message = Status.FromString(answer.content).message
    else:
        assert answer.headers["content-type"] == "application/json"
        message = answer.json()["message"]
    assert reason in message
    assert contents(shared) == before
    assert post(shared, request(*turn().spans).SerializeToString(), PROTOBUF).status_code == 200


async def test_zip_bomb_is_not_unpacked() -> None:
    """What lies beyond the limit is never held in memory, though it came in one piece."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BOMB, "more_body": False}

    scope = {"type": "http", "headers": [(b"content-encoding", b"gzip")]}
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="after decompression"):
            await read_body(Request(scope, receive), LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * LIMITS.body_bytes < 100 << 20


def test_length_that_is_not_declared_is_bounded_too(receiver: Receiver) -> None:
    """A chunked request is cut off at the limit, however long it would go on."""

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(10_000)

    with contextlib.suppress(httpx.WriteError):  # the answer may come while we still send
        answer = CLIENT.post(receiver.endpoint + "/v1/traces", content=endless(), headers=PROTOBUF)
        assert answer.status_code == 413
    assert contents(receiver) == (0, 0, 0)


def test_gzip_of_several_members_is_read_whole(receiver: Receiver) -> None:
    """The format allows compressed parts after each other."""
    parts = gzip.compress(BODY[:100]) + gzip.compress(BODY[100:])
    assert post(receiver, parts, PROTOBUF | {"Content-Encoding": "gzip"}).status_code == 200
    assert contents(receiver)[1] == 1


def test_request_that_does_not_arrive_is_ended() -> None:
    """A body that stays out gets 408, and occupies nothing for ever."""
    with Receiver(port=0, limits=Limits(seconds=0.2)) as receiver:
        connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=30)
        connection.putrequest("POST", "/v1/traces")
        connection.putheader("Content-Type", "application/x-protobuf")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"some")
        answer = connection.getresponse()
        assert answer.status == 408
        assert "did not arrive" in Status.FromString(answer.read()).message
        connection.close()
        assert contents(receiver) == (0, 0, 0)


def test_sender_that_goes_away_changes_nothing(receiver: Receiver) -> None:
    """A connection that is closed in the middle of a body stores nothing, and the receiver goes on."""
    with socket.create_connection(("127.0.0.1", receiver.port)) as sender:
        head = f"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PROTOBUF['Content-Type']}\r\n"
        sender.sendall(f"{head}Content-Length: {len(BODY) * 2}\r\n\r\n".encode() + BODY)
    assert post(receiver, BODY, PROTOBUF).status_code == 200
    assert contents(receiver)[1] == 1


def said(receiver: Receiver) -> dict[str, Any]:
    """What the receiver says about itself."""
    answer = CLIENT.get(f"{receiver.endpoint}/api/status")
    assert answer.status_code == 200
    return answer.json()  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["protobuf", "json"])
def test_log_records_of_a_trace_are_stored(receiver: Receiver, form: str) -> None:
    """Log records come to their trace in both forms; those of no trace are counted, and neither is an error."""
    trace = turn()
    message = log_request(
        log(trace, "slow answer", severity_number=13, span_id=trace.last().span_id), log(None, "of no trace")
    )
    post(receiver, request(*trace.spans).SerializeToString(), PROTOBUF)
    if form == "json":
        answer = post(receiver, json.dumps(to_plain(message)).encode(), JSON, "/v1/logs")
        assert (answer.status_code, answer.json()) == (200, {})
    else:
        answer = post(receiver, message.SerializeToString(), PROTOBUF, "/v1/logs")
        assert (answer.status_code, answer.content) == (200, b"")
    ((body, severity, span_id),) = receiver.store.reader.ask("SELECT body, severity, span_id FROM log", [])
    assert (body, severity, span_id) == ("slow answer", 13, trace.last().span_id)
    assert said(receiver)["received"]["logs"] == 1
    assert said(receiver)["not_shown"]["logs_without_trace"] == 1


@pytest.mark.parametrize("form", ["protobuf", "json"])
def test_metrics_are_counted(receiver: Receiver, form: str) -> None:
    """A service that sends its metrics here as well gets no errors, and the status says how many are not shown."""
    message = metrics_request()
    body = json.dumps(to_plain(message)).encode() if form == "json" else message.SerializeToString()
    answer = post(receiver, body, JSON if form == "json" else PROTOBUF, "/v1/metrics")
    assert answer.status_code == 200
    assert said(receiver)["not_shown"]["metrics"] == said(receiver)["received"]["metrics"] == 5
    assert contents(receiver) == (0, 0, 0)


@pytest.mark.parametrize("signal", ["metrics", "logs"])
@pytest.mark.parametrize("headers", [PROTOBUF, JSON])
def test_other_signals_have_the_same_rules(shared: Receiver, signal: str, headers: dict[str, str]) -> None:
    """An empty request is fine; a malformed, wrongly typed or too large one is refused."""
    empty = b"{}" if headers is JSON else b""
    answer = post(shared, empty, headers, f"/v1/{signal}")
    assert (answer.status_code, answer.content) == (200, empty)
    assert post(shared, b"\xff\xff", headers, f"/v1/{signal}").status_code == 400
    assert post(shared, empty, {}, f"/v1/{signal}").status_code == 415
    assert post(shared, bytes(300_000), headers, f"/v1/{signal}").status_code == 413


def test_answer_says_which_log_records_were_left_out(receiver: Receiver) -> None:
    """A log record of an impossible time is refused and the others are kept; alone it makes the request a bad one."""
    trace = turn()
    bad = log(trace, "late", time_unix_nano=2**63)
    answer = post(receiver, log_request(bad, log(trace, "good")).SerializeToString(), PROTOBUF, "/v1/logs")
    partial = ExportLogsServiceResponse.FromString(answer.content).partial_success
    assert partial.rejected_log_records == 1
    assert "2262" in partial.error_message
    assert receiver.store.reader.ask("SELECT body FROM log", []) == [("good",)]
    assert post(receiver, log_request(bad).SerializeToString(), PROTOBUF, "/v1/logs").status_code == 400
    assert (said(receiver)["rejected"], said(receiver)["refused"]) == (2, 1)
    post(receiver, b"\xff\xff", PROTOBUF)
    spans = request(("a", "b", broken(name="")), ("a", "b", broken(name=""))).SerializeToString()
    assert post(receiver, spans, PROTOBUF).status_code == 400
    assert (said(receiver)["rejected"], said(receiver)["refused"]) == (4, 3)


def test_status_says_what_there_is(tmp_path: Path) -> None:
    """The status has the version, the database with its size and limits, and what was received and refused."""
    retention = Retention(max_age_s=3600, max_bytes=1 << 24)
    link = "https://tempo.example/{trace_id}"
    with Receiver(port=0, database=tmp_path / "x.db", retention=retention, trace_link=link) as receiver:
        trace = turn()
        post(receiver, request(("a", "b", broken(name="")), *trace.spans).SerializeToString(), PROTOBUF)
        found = said(receiver)
        assert found.pop("bytes") > 10_000
        assert found.pop("others") == []
        assert found == {
            "version": __version__,
            "database": str(tmp_path / "x.db"),
            "turns": 1,
            "retention": {"max_age_s": 3600, "max_bytes": 1 << 24},
            "content": False,
            "received": {"spans": len(trace.spans), "logs": 0, "metrics": 0},
            "not_shown": {"metrics": 0, "logs_without_trace": 0, "content": 0},
            "rejected": 1,
            "refused": 0,
            "grpc": {"endpoint": None, "say": None},
            "trace_link": link,
            "in_memory": False,
            "content_withheld": None,
            "send": {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint},
        }


LOCAL = ["localhost", "LOCALHOST:4318", "127.0.0.1:80", "[::1]:4318", "localhost.", "mine.test"]
STRANGE = ["evil.test", "evil.test:4318", "localhost.evil.test", "127.0.0.1.evil.test", "", "[::2]", "[::1].evil.test"]


@pytest.mark.parametrize("host", LOCAL)
def test_names_of_this_machine_are_answered(host: str) -> None:
    """The local names are answered with any port, and those that were allowed."""
    with Receiver(port=0, allowed_hosts=["mine.test"]) as receiver:
        assert CLIENT.get(f"{receiver.endpoint}/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", STRANGE)
def test_other_names_are_refused(shared: Receiver, host: str) -> None:
    """A web page that gave this machine a name of its own reaches neither the data nor the store."""
    before = contents(shared)
    for method, path in (("GET", "/api/turns"), ("GET", "/health"), ("POST", "/v1/traces")):
        content = BODY if method == "POST" else None
        headers = PROTOBUF | {"Host": host}
        answer = CLIENT.request(method, shared.endpoint + path, headers=headers, content=content)
        assert answer.status_code == 403
    assert contents(shared) == before


def test_host_name_is_read_without_port() -> None:
    """Ports, brackets, case and the dot of a complete name are told apart from the name."""
    assert [host_name(text) for text in ("A:1", "[::1]:2", "[::1]", "b.", "")] == ["a", "[::1]", "[::1]", "b", ""]


def test_turns_are_listed(receiver: Receiver) -> None:
    """The list of turns can be filtered and sorted by its address; lengths are in seconds."""
    slow = turn(1, session="a", shares={"llm": 2.0})
    quick = turn(2, session="a", shares={"llm": 0.5})
    receiver_spans = request(*slow.spans, *quick.spans, *turn(1, session="b").spans)
    post(receiver, receiver_spans.SerializeToString(), PROTOBUF)

    def ask(**parameters: str) -> list[dict[str, Any]]:
        answer = CLIENT.get(receiver.endpoint + "/api/turns", params=parameters)
        assert answer.status_code == 200
        return answer.json()["turns"]  # type: ignore[no-any-return]

    assert len(ask()) == 3
    assert [row["trace_id"] for row in ask(session="a", sort="response")] == [slow.hex, quick.hex]
    (row,) = ask(slower_than_ms="1500", session="a")
    assert (row["response_s"], row["bottleneck"], row["shares"]) == (2.0, "llm", {"llm": 2.0})
    assert row["start_s"] == pytest.approx(slow.onset_ns / 1e9)
    assert len(ask(limit="1")) == 1
    assert ask(since_s=str(time.time() + 1e9)) == []


@pytest.mark.parametrize("parameters", ["sort=evil", "limit=none", "limit=0", "slower_than_ms=inf", "since=1"])
def test_impossible_questions_are_refused(shared: Receiver, parameters: str) -> None:
    """A parameter that is unknown or has an impossible value gets 400 and the reason."""
    answer = CLIENT.get(f"{shared.endpoint}/api/turns?{parameters}")
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_one_turn_is_given_with_its_spans(shared: Receiver) -> None:
    """A trace is found by its id, by the beginning of it, and as the last one; unknown ones are 404."""
    trace = turn()
    trace.add("odd", 1, 2, trace.spans[0][2].span_id, value=float("nan"))
    trace.last().links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    trace.last().events.add(name="seen", time_unix_nano=trace.onset_ns)
    post(shared, request(*trace.spans).SerializeToString(), PROTOBUF)
    for name in (trace.hex, trace.hex[:12], "last"):
        answer = CLIENT.get(f"{shared.endpoint}/api/turns/{name}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        found = answer.json()
        assert (found["trace_id"], found["turn"]["trace_id"]) == (trace.hex, trace.hex)
        assert len(found["spans"]) == len(trace.spans)
        odd = next(span for span in found["spans"] if span["name"] == "odd")
        assert (odd["attributes"], odd["duration_s"]) == ({"value": "NaN"}, 0.001)
        assert (odd["events"][0]["name"], odd["links"][0]["span_id"]) == ("seen", (b"s" * 8).hex())
    assert CLIENT.get(f"{shared.endpoint}/api/turns/{'0' * 32}").status_code == 404
    assert CLIENT.get(f"{shared.endpoint}/api/turns/nonsense").status_code == 404


def test_trace_that_is_no_turn_is_given_too(shared: Receiver) -> None:
    """The spans of another trace can be asked for; its turn is null."""
    trace = Trace()
    trace.add("GET /", 0, 5, scope="http")
    post(shared, request(*trace.spans).SerializeToString(), PROTOBUF)
    found = CLIENT.get(f"{shared.endpoint}/api/turns/{trace.hex}").json()
    assert found["turn"] is None
    assert [span["name"] for span in found["spans"]] == ["GET /"]


def test_health_names_the_receiver(shared: Receiver) -> None:
    """Who finds the port taken can learn by whom."""
    answer = CLIENT.get(f"{shared.endpoint}/health").json()
    assert (answer["service"], answer["database"], answer["content"]) == ("voicespan", str(shared.store.path), False)


def test_unknown_addresses_and_methods(shared: Receiver) -> None:
    """The usual answers."""
    assert CLIENT.get(f"{shared.endpoint}/nothing").status_code == 404
    assert CLIENT.get(f"{shared.endpoint}/v1/traces").status_code == 405


def test_locked_database_is_worth_a_retry(receiver: Receiver) -> None:
    """While another process keeps the database locked the sender is told to try again; other requests are answered."""
    receiver.store._connection.execute("PRAGMA busy_timeout = 300")
    with contextlib.closing(sqlite3.connect(receiver.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waiting = pool.submit(post, receiver, BODY, PROTOBUF)
            assert CLIENT.get(f"{receiver.endpoint}/health").status_code == 200
            assert CLIENT.get(f"{receiver.endpoint}/api/turns").json() == {"matching": 0, "turns": []}
            answer = waiting.result()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert post(receiver, BODY, PROTOBUF).status_code == 200
    assert contents(receiver)[1] == 1


def test_many_senders_at_once(receiver: Receiver) -> None:
    """Requests from many connections are all stored; each when it is answered."""
    traces = [turn() for _ in range(60)]

    def send(trace: Trace) -> bool:
        post(receiver, gzipped(request(*trace.spans).SerializeToString()), PROTOBUF | {"Content-Encoding": "gzip"})
        return receiver.store.reader.turn(trace.hex) is not None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(send, traces))
    assert contents(receiver)[:2] == (60 * len(traces[0].spans), 60)


def test_taken_port_leads_to_the_next(tmp_path: Path) -> None:
    """A receiver whose port is taken uses another, and says who holds the one it wanted."""
    with Receiver(port=0, database=tmp_path / "first.db") as first:
        assert first.moved is None
        with Receiver(port=first.port) as second:
            assert second.port != first.port
            assert second.moved is not None
            assert "another voicespan receiver" in second.moved
            assert str(tmp_path / "first.db") in second.moved
            assert CLIENT.get(f"{second.endpoint}/health").status_code == 200


def test_other_holder_of_a_port_is_named() -> None:
    """Of a port that some other program holds, its process is told where the system tells."""
    with contextlib.closing(ports.listen("127.0.0.1", 0)) as taken:
        assert "process" in ports.holder(taken.getsockname()[1])


def test_a_holder_is_found_among_descriptors_that_come_and_go() -> None:
    """A file that is closed while a process is looked at hides none of its others: here the list's own one."""
    before = os.open(os.devnull, os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        os.close(before)
        assert ports.holder(taken.getsockname()[1]).startswith(f"process {os.getpid()} ")


def test_host_of_another_machine_is_an_error() -> None:
    """An address that is not of this machine is no reason to try other ports."""
    with pytest.raises(OSError, match=r"assign|address"):
        Receiver(host="192.0.2.1").start()


def test_failed_start_lets_go_of_the_port(tmp_path: Path) -> None:
    """When the database cannot be used, the port is free again."""
    port = free_port()
    with pytest.raises(StoreError):
        Receiver(port=port, database=tmp_path).start()
    with Receiver(port=port) as receiver:
        assert receiver.moved is None


def test_stopped_receiver_is_gone() -> None:
    """After stop nothing listens, its temporary data is removed, and stopping again is harmless."""
    receiver = Receiver(port=0).start()
    folder = receiver.store.path.parent
    before = threading.active_count()
    receiver.stop()
    receiver.stop()
    assert not folder.exists()
    assert threading.active_count() < before
    with pytest.raises(httpx.ConnectError):
        CLIENT.get(f"{receiver.endpoint}/health")
    with pytest.raises(RuntimeError, match="not started"):
        _ = receiver.store


def test_restarted_receiver_has_the_turns_of_before(tmp_path: Path) -> None:
    """Data in a file is there after a restart."""
    path = tmp_path / "turns.db"
    with Receiver(port=0, database=path) as receiver:
        post(receiver, BODY, PROTOBUF)
    with Receiver(port=0, database=str(path)) as receiver:
        assert len(receiver.store.reader.turns(TurnQuery())) == 1


def test_idle_viewer_forgets_what_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes, nobody asks: turns go when their time is up, and pages that are open hear of it."""
    monkeypatch.setattr("voicespan.local.intake.TIDY_EVERY_S", 0.05)
    with Receiver(port=0) as receiver, httpx.Client(base_url=receiver.endpoint, timeout=30) as client:
        trace = turn()
        client.post("/v1/traces", content=request(*trace.spans).SerializeToString(), headers=PROTOBUF)
        with client.stream("GET", "/api/events") as events:
            lines = events.iter_lines()
            while next(lines) != "event: ready":
                pass
            receiver.store.retention = Retention(max_age_s=-1)
            while next(lines) != "event: forgotten":
                pass
            assert json.loads(next(lines).removeprefix("data: ")) == {"spans": len(trace.spans)}
        assert client.get("/api/turns").json()["matching"] == 0
