"""Turns out and in as files of OTLP JSON."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import resource
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from click.testing import CliRunner, Result
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from voicespan import settings as variables
from voicespan.cli import main
from voicespan.local import transfer
from voicespan.local.decode import decode_protobuf
from voicespan.local.form import PROTOBUF, MalformedRequestError, to_plain
from voicespan.local.intake import Intake
from voicespan.local.log import decode_logs
from voicespan.local.part import unpack
from voicespan.local.query import TurnQuery
from voicespan.local.reader import Reader
from voicespan.local.server import Receiver
from voicespan.local.store import Store
from voicespan.local.transfer import Imported, exported, file_name, pieces_of, take_file, traces
from voicespan.names import SHARE_STAGES

from .otlp import SHARES, Trace, log, log_request, pairs, request, turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

    from voicespan.local.decode import ReceivedSpan
    from voicespan.local.turn import Turn

SECRET = "my card number is 4111"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No database of the user."""
    monkeypatch.setenv("VOICESPAN_DB", str(tmp_path / "turns.db"))
    variables.reset()
    yield
    variables.reset()


def add(store: Store, *found: Trace, logs: Sequence[LogRecord] = ()) -> None:
    spans = [item for trace in found for item in trace.spans]
    store.add(decode_protobuf(request(*spans).SerializeToString()).spans)
    store.add_logs(decode_logs(PROTOBUF, log_request(*logs).SerializeToString()).logs)


def file_of(store: Store, parameters: dict[str, str] | None = None, *, content: bool = False) -> str:
    reader = store.reader
    return "".join(exported(reader, traces(reader, parameters or {}), content=content))


def taken(text: str, store: Store, *, content: bool = False) -> Imported:
    imported = Imported()
    intake = Intake(store, content=content)
    try:
        take_file(io.StringIO(text), intake, imported)
    finally:
        intake.close()
    return imported


def rows(store: Store) -> list[Any]:
    """All turns, but for the numbers that a database gives to its own."""
    return [turn._replace(run=None) for turn in store.reader.turns(TurnQuery(limit=20_000))]


def all_of(store: Store, table: str, columns: str) -> list[tuple[Any, ...]]:
    statement = f"SELECT {columns} FROM {table} JOIN source ON source.id = {table}.source"
    return sorted(store.reader.ask(statement, []), key=repr)


def spans(store: Store) -> list[tuple[Any, ...]]:
    """All spans as they were sent, each with its source: in which parts they came is no matter."""
    statement = "SELECT body, resource, instrumentation FROM part JOIN source ON source.id = part.source"
    sent = [
        (span.SerializeToString(deterministic=True), *source)
        for body, *source in store.reader.ask(statement, [])
        for span in unpack(body)
    ]
    return sorted(sent, key=repr)


def same(first: Store, second: Store) -> bool:
    """Whether two stores hold the same turns, spans and log records of the same sources."""
    logs = "trace_id, time_ns, span_id, severity, log.body, attributes, resource"
    return (
        rows(first) == rows(second)
        and spans(first) == spans(second)
        and all_of(first, "log", logs) == all_of(second, "log", logs)
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats().map(lambda value: value if value == value else math.nan)  # noqa: PLR0124 - JSON knows one NaN
    | st.text(max_size=6)
    | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ATTRIBUTES = st.dictionaries(st.text('abcä.\n"\\', min_size=1, max_size=6), VALUES, max_size=3)


@st.composite
def any_trace(draw: st.DrawFn) -> tuple[Trace, list[LogRecord]]:
    """A turn with parts missing and attributes of every kind, or another trace; and its log records."""
    shares = draw(st.dictionaries(st.sampled_from(SHARE_STAGES), st.floats(0.001, 5), max_size=4))
    trace = turn(
        draw(st.integers(1, 9)),
        session=draw(st.sampled_from(["a", "ü", '"\\'])),
        outcome=draw(st.sampled_from(["completed", "error", "no_reply"])),
        shares=shares or SHARES,
    )
    if draw(st.booleans()):
        trace.spans = draw(st.lists(st.sampled_from(trace.spans), min_size=1, unique_by=lambda each: each[2].span_id))
    span = trace.spans[0][2]
    extra = Trace()
    extra.add("x", 0, 1)
    extra.last().attributes.extend(pairs(draw(ATTRIBUTES)))
    span.attributes.extend(extra.last().attributes)
    span.events.add(name="seen", time_unix_nano=span.start_time_unix_nano, attributes=extra.last().attributes)
    span.links.add(trace_id=os.urandom(16), span_id=os.urandom(8), trace_state="a=b", flags=1)
    span.status.code = draw(st.sampled_from(Status.StatusCode.values()))
    span.flags = draw(st.integers(0, 2**32 - 1))
    logs = [
        log(trace, body, attributes, severity_number=draw(st.integers(0, 24)), span_id=draw(st.binary(max_size=8)))
        for body, attributes in draw(st.lists(st.tuples(VALUES, ATTRIBUTES), max_size=2))
    ]
    return trace, logs


@settings(max_examples=40, deadline=None)
@given(st.lists(any_trace(), min_size=1, max_size=4), st.sampled_from([1, 2, 64]))
def test_what_goes_out_comes_in_the_same(found: list[tuple[Trace, list[LogRecord]]], at_once: int) -> None:
    """A file of everything makes, in an empty store, the same turns, spans and log records; and once more, nothing."""
    patch = pytest.MonkeyPatch()
    patch.setattr(transfer, "TRACES_OF_A_PIECE", at_once)
    with patch.context(), Store() as first, Store() as second:
        for trace, logs in found:
            add(first, trace, logs=logs)
        text = file_of(first, content=True)
        taken(text, second, content=True)
        assert same(first, second)
        taken(text, first, content=True)
        assert same(first, second)
    patch.undo()


def test_the_file_is_otlp_in_json() -> None:
    """Ids are in hex, times are texts, enumerations numbers: the form that every OTLP receiver takes."""
    with Store() as store:
        trace = turn()
        trace.last().links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
        add(store, trace, logs=[log(trace, "words", severity_number=9, span_id=trace.last().span_id)])
        data = json.loads(file_of(store))
    assert list(data) == ["resourceSpans", "resourceLogs"]
    spans = [span for each in data["resourceSpans"] for inner in each["scopeSpans"] for span in inner["spans"]]
    assert {span["traceId"] for span in spans} == {trace.hex}
    response = next(span for span in spans if span["name"] == "voice.response")
    assert (response["spanId"], response["kind"]) == (trace.last().span_id.hex(), 1)
    assert response["startTimeUnixNano"] == str(trace.last().start_time_unix_nano)
    assert response["links"][0]["traceId"] == (b"t" * 16).hex()
    (record,) = data["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert (record["traceId"], record["severityNumber"], record["body"]) == (trace.hex, 9, {"stringValue": "words"})
    ParseDict({"resourceSpans": data["resourceSpans"]}, ExportTraceServiceRequest())
    ParseDict({"resourceLogs": data["resourceLogs"]}, ExportLogsServiceRequest())


def test_a_selection_is_exported(tmp_path: Path) -> None:
    """A trace, the turns of a session or of any other query, or everything: also traces that are no turn."""
    first, second, third = turn(session="a"), turn(session="b", outcome="error"), turn(session="b")
    other = Trace()
    other.add("GET /", 0, 5, scope="http")
    with Store(tmp_path / "x.db") as store:
        add(store, third, first, second, other)

        def chosen(**parameters: str) -> list[bytes]:
            return traces(store.reader, parameters)

        assert chosen() == [first.trace_id, second.trace_id, third.trace_id, other.trace_id]
        assert chosen(trace=first.hex[:10]) == chosen(session="a") == [first.trace_id]
        assert chosen(session="b", outcome="error", limit="1") == [second.trace_id]
        assert chosen(session="b", limit="1") == [second.trace_id, third.trace_id]
        assert chosen(session="none") == []
        with pytest.raises(ValueError, match="alone"):
            chosen(trace="last", session="a")
        with pytest.raises(ValueError, match="no parameter"):
            chosen(tarce="last")
        found = json.loads(file_of(store, {"session": "b"}))
        ids = {span["traceId"] for each in found["resourceSpans"] for s in each["scopeSpans"] for span in s["spans"]}
        assert ids == {second.hex, third.hex}


@pytest.mark.parametrize("count", [0, 1, 64, 65, 130])
def test_progress_ends_at_the_end(count: int) -> None:
    """The number of texts that a file is written in is known beforehand, and each is small."""
    with Store() as store:
        add(store, *(turn() for _ in range(count)))
        found = traces(store.reader, {})
        assert len(list(exported(store.reader, found, content=False))) == pieces_of(found)


# What was said


def with_content(store: Store) -> Trace:
    """A turn with what was said in a span, an event, a log record, and beside them."""
    trace = turn()
    trace.add("chat", 0, 5, scope="framework", gen_ai__prompt=SECRET, gen_ai__request__model="small")
    trace.last().events.add(name="gen_ai.choice").attributes.add(key="message").value.string_value = SECRET
    add(store, trace, logs=[log(trace, SECRET, event_name="gen_ai.user.message")])
    store.add_content(trace.trace_id, "user", SECRET, b"\0\1" * 20, 16_000)
    store.add_content(trace.trace_id, "agent", SECRET)
    return trace


CONTENT = "SELECT role, text, audio, sample_rate FROM content ORDER BY role"


def test_what_was_said_goes_along_only_where_it_is_wanted() -> None:
    """A file has none of it, unless asked; what a viewer keeps of such a file is its own choice."""
    with Store() as first, Store() as kept, Store() as left:
        trace = with_content(first)
        assert SECRET not in file_of(first)
        assert taken(file_of(first), kept).content == 0
        text = file_of(first, content=True)
        assert text.count(SECRET) == 5

        imported = taken(text, left)
        assert imported.content == 5
        assert left.reader.ask(CONTENT, []) == []
        assert SECRET not in file_of(left, content=True)
        assert len(left.reader.spans(trace.hex)) == len(trace.spans)

    with Store() as second:
        assert taken(text, second, content=True).content == 0
        said = second.reader.ask(CONTENT, [])
        assert said == [("agent", SECRET, None, None), ("user", SECRET, b"\0\1" * 20, 16_000)]
        assert file_of(second, content=True).count(SECRET) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"traceId": "00"},
        {"attributes": []},
        {"attributes": [{"key": "voicespan.content.role", "value": {"stringValue": "nobody"}}]},
        {"body": {"stringValue": "x" * 70_000}},
    ],
)
def test_impossible_content_is_counted(change: dict[str, Any]) -> None:
    """What was said by nobody, in no trace or without end is not stored."""
    with Store() as store:
        with_content(store)
        data = json.loads(file_of(store, content=True))
    of_content = data["resourceLogs"][-1]["scopeLogs"][0]
    assert of_content["scope"]["name"] == "voicespan.content"
    of_content["logRecords"] = [of_content["logRecords"][0] | change]
    with Store() as store:
        assert taken(json.dumps(data), store, content=True).rejected == 1
        assert store.reader.ask(CONTENT, []) == []


# Files that are not ours


def test_a_file_of_another_program_is_taken() -> None:
    """The Collector's file exporter writes a request a line; unknown lists are passed over."""
    found = [turn() for _ in range(3)]
    lines = [json.dumps(to_plain(request(*trace.spans)) | {"resourceMetrics": [{}]}) for trace in found]
    with Store() as store:
        imported = taken("\n".join(lines), store)
        assert (imported.spans, store.reader.count()) == (3 * len(found[0].spans), 3)


def test_many_small_pieces_are_stored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a resource for each span does not make a transaction of each."""
    with Store() as store:
        counts: list[int] = []
        add_spans = store.add

        def counted(spans: Sequence[ReceivedSpan]) -> list[Turn]:
            counts.append(len(spans))
            return add_spans(spans)

        monkeypatch.setattr(store, "add", counted)
        lines = [json.dumps(to_plain(request(item))) for _ in range(20) for item in turn().spans]
        taken("\n".join(lines), store)
        assert (len(counts), sum(counts)) == (1, len(lines))
        monkeypatch.setattr(transfer, "_BATCH_CHARACTERS", 2_000)
        counts.clear()
        taken("\n".join(lines), store)
        assert len(counts) > 10


def test_what_comes_before_a_fault_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is cut off gives what was whole; spans that make no sense are counted with the first reason."""
    monkeypatch.setattr(transfer, "_BATCH_CHARACTERS", 0)
    first, second = turn(), turn()
    second.spans[0][2].name = ""
    text = json.dumps(to_plain(request(*first.spans))) + json.dumps(to_plain(request(*second.spans)))
    with Store() as store:
        imported = taken(text, store)
        assert (imported.rejected, "no name" in imported.reason) == (1, True)
        assert imported.spans == 2 * len(first.spans) - 1
    with Store() as store, pytest.raises(MalformedRequestError):
        taken(text[:-20], store)
    with Store() as store:
        with pytest.raises(MalformedRequestError):
            taken(text[:-20], store)
        assert store.reader.turn(first.hex) is not None


# Over HTTP


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A receiver with a turn, which keeps what is said."""
    with Receiver(port=0, content=True) as started:
        with_content(started.store)
        yield started


def test_a_trace_is_downloaded_and_dropped_into_another_viewer(receiver: Receiver) -> None:
    """The page's own way: GET a file with a name, POST it to another viewer, and the turn is there."""
    (row,) = receiver.store.reader.turns(TurnQuery())
    answer = httpx.get(f"{receiver.endpoint}/api/export", params={"trace": row.trace_id})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == f'attachment; filename="voicespan-{row.trace_id[:12]}.json"'
    with Receiver(port=0) as other:
        headers = {"Content-Type": "application/json"}
        for content, encoding in ((answer.content, {}), (gzip.compress(answer.content), {"Content-Encoding": "gzip"})):
            said = httpx.post(f"{other.endpoint}/api/import", content=content, headers=headers | encoding)
            assert said.status_code == 200
            assert said.json() == {"spans": 17, "logs": 1, "rejected": 0, "reason": "", "content": 0}
        assert [turn._replace(run=None) for turn in other.store.reader.turns(TurnQuery())] == [row._replace(run=None)]
        assert httpx.get(f"{other.endpoint}/api/status").json()["received"]["spans"] == 34


def test_what_was_said_is_given_to_who_asks(receiver: Receiver) -> None:
    """With `content=true` it goes along, from a viewer that keeps it; another one says what is missing."""
    address = f"{receiver.endpoint}/api/export"
    assert SECRET not in httpx.get(address).text
    assert httpx.get(address, params={"content": "true"}).text.count(SECRET) == 5
    with Receiver(port=0) as other:
        answer = httpx.get(f"{other.endpoint}/api/export", params={"content": "true"})
        assert (answer.status_code, "--content" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"trace": "ffffffff"}, 404),
        ({"trace": "x"}, 404),
        ({"content": "1"}, 400),
        ({"sort": "x"}, 400),
        ({"a": "b"}, 400),
    ],
)
def test_impossible_exports_are_refused(receiver: Receiver, parameters: dict[str, str], status: int) -> None:
    """An unknown trace is 404, an impossible parameter 400, each with the reason."""
    answer = httpx.get(f"{receiver.endpoint}/api/export", params=parameters)
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"resourceSpans": [3]}', b'{"resourceLogs": [{"a"]}'])
def test_files_of_other_kinds_are_refused(receiver: Receiver, body: bytes) -> None:
    """What is no OTLP in JSON gets 400 with the reason and with what was taken before; an empty file has nothing."""
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{receiver.endpoint}/api/import", content=body, headers=headers)
    assert answer.status_code == (400 if body else 200)
    assert answer.json()["spans"] == 0
    assert bool(body) == ("error" in answer.json())
    damaged = httpx.post(
        f"{receiver.endpoint}/api/import", content=b"x", headers=headers | {"Content-Encoding": "gzip"}
    )
    assert damaged.status_code == 400


def test_names_of_files_are_harmless() -> None:
    """Whatever a session is called, the name of its file is made of letters that every system takes."""
    for session in ('../../etc/"x\r\ny', "ü" * 300, "..", "call 7"):
        name = file_name({"session": session}, [])
        assert name.isascii()
        assert not set(name) & set('/\\"\r\n; ')
        assert (len(name) < 100, name.startswith("voicespan"), name.endswith(".json")) == (True, True, True)


# On the command line


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_turns_are_carried_by_commands(tmp_path: Path) -> None:
    """`voicespan export` writes a file, `voicespan import` takes it into another database."""
    first, second, third = turn(session="a"), turn(session="a"), turn(session="b")
    with Store(tmp_path / "turns.db") as store:
        add(store, first, second, third)
    other = str(tmp_path / "other.db")
    whole = tmp_path / "whole.json"
    result = run("export", "--all", "-o", str(whole))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "3 traces\n")
    result = run("import", str(whole), "--db", other)
    assert (result.exit_code, result.output) == (0, f"{whole}: {3 * len(first.spans)} spans, 0 log records\n")
    assert Reader(tmp_path / "other.db").count() == 3
    one = tmp_path / "one.json"
    assert run("export", "last", "-o", str(one)).stderr == "1 trace\n"
    assert third.hex in one.read_text()
    assert len(json.loads(run("export", "--session", "a").stdout)["resourceSpans"]) > 0
    assert first.hex in run("export", first.hex[:8]).stdout
    assert second.hex not in run("export", first.hex[:8]).stdout


@pytest.mark.parametrize("arguments", [[], ["last", "--all"], ["--all", "--session", "a"]])
def test_an_export_says_what_of(arguments: list[str]) -> None:
    """One of a trace, a session and everything is asked for."""
    result = run("export", *arguments)
    assert (result.exit_code, "--session" in result.stderr) == (2, True)


def test_failures_are_told(tmp_path: Path) -> None:
    """An unknown session or trace, a file that is none, and what was left out are told in words."""
    with Store(tmp_path / "turns.db") as store:
        with_content(store)
    assert run("export", "--session", "none").exit_code == run("export", "ffff").exit_code == 1
    result = run("export", "--all", "-o", "/dev/full")
    assert (result.exit_code, "cannot write" in result.stderr) == (1, True)
    (tmp_path / "bad.json").write_text('{"resourceSpans": [')
    result = run("import", str(tmp_path / "bad.json"))
    assert (result.exit_code, "0 spans, 0 log records before that" in result.stderr) == (1, True)
    assert run("import", str(tmp_path / "none.json")).exit_code == 2
    run("export", "--all", "--content", "-o", str(tmp_path / "said.json"))
    result = run("import", str(tmp_path / "said.json"), "--db", str(tmp_path / "other.db"))
    assert "5 values with what was said were left out (--content keeps them)" in result.output
    run("import", "--content", str(tmp_path / "said.json"), "--db", str(tmp_path / "third.db"))
    assert len(Reader(tmp_path / "third.db").ask(CONTENT, [])) == 2


def test_file_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """Where there is no room for the file, or for what it holds, the answer is 507 with the reason, and no failure."""
    headers = {"Content-Type": "application/json"}
    trace = turn()
    trace.last().attributes.extend(pairs({"large": "x" * 50_000}))
    content = json.dumps(to_plain(request(*trace.spans))).encode()

    def ask(viewer: Receiver) -> httpx.Response:
        return httpx.post(f"{viewer.endpoint}/api/import", content=content * 40, headers=headers, timeout=60)

    with Receiver(port=0, database=tmp_path / "x.db") as viewer:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            answer = ask(viewer)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert (answer.status_code, answer.json()["spans"]) == (507, 0), answer.text
        assert "cannot keep the file" in answer.json()["error"]

        connection = viewer.store._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        answer = ask(viewer)
        assert (answer.status_code, "full" in answer.json()["error"]) == (507, True)
        connection.execute("PRAGMA max_page_count = 1000000")
        answer = ask(viewer)
        assert (answer.status_code, answer.json()["spans"]) == (200, 40 * len(trace.spans))
