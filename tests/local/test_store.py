from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from voicespan import settings as voicespan_settings
from voicespan.local import figures, schema
from voicespan.local import store as store_module
from voicespan.local.decode import ReceivedSpan, decode_protobuf
from voicespan.local.log import ReceivedLog, decode_logs
from voicespan.local.part import COUNT, unpack
from voicespan.local.query import TurnQuery
from voicespan.local.reader import Reader, UnknownTurnError
from voicespan.local.retention import Retention, used_bytes
from voicespan.local.schema import StoreError
from voicespan.local.store import Store, default_database
from voicespan.local.traces import traces
from voicespan.settings import Settings

from .otlp import START_NS, Trace, log, log_request, pairs, request, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from voicespan.local.turn import Turn


def received(*traces: Trace, only: Callable[[str], bool] = lambda name: True) -> list[ReceivedSpan]:
    """The spans of these traces, decoded; `only` those with such a name."""
    spans = [item for trace in traces for item in trace.spans if only(item[2].name)]
    return decode_protobuf(request(*spans).SerializeToString()).spans


def rows(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def stored_spans(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT {COUNT} FROM part").fetchone()[0])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in a file."""
    with Store(tmp_path / "turns.db") as made:
        yield made


def test_turn_is_stored_with_its_spans(store: Store) -> None:
    """What goes in comes out: the row of the turn, and every span of every service."""
    trace = turn(3)
    changed = store.add(received(trace))
    row = store.reader.turn(trace.hex)
    assert changed == [row]
    assert row is not None
    assert (row.turn_index, row.complete, row.unanswered) == (3, True, False)
    spans = store.reader.spans(trace.hex)
    assert [span.span_id for span in spans] == [span.span_id.hex() for _, _, span in sorted(trace.spans, key=_by_start)]
    assert {span.service for span in spans} == {"voice-agent", "tts-worker"}
    assert {span.scope for span in spans} == {"voicespan", "grpc"}


def _by_start(item: tuple[str, str, Span]) -> tuple[int, int]:
    span = item[2]
    return span.start_time_unix_nano, -span.end_time_unix_nano


WHOLE = turn()
EXPECTED = Store()
EXPECTED.add(received(WHOLE))
(EXPECTED_ROW,) = (row._replace(run=None) for row in EXPECTED.reader.turns(TurnQuery()))
EXPECTED.close()
SPANS = len(WHOLE.spans)


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(range(SPANS)), st.sets(st.integers(1, SPANS - 1), max_size=6), st.lists(st.integers(0, SPANS - 1))
)
def test_order_batches_and_repeats_do_not_matter(order: list[int], cuts: set[int], repeats: list[int]) -> None:
    """The spans of a turn give the same row in any order, cut into any batches, some of them sent twice."""
    bounds = [0, *sorted(cuts), SPANS]
    batches = [[WHOLE.spans[position] for position in order[a:b]] for a, b in itertools.pairwise(bounds)]
    batches.append([WHOLE.spans[position] for position in repeats])
    with Store() as store:
        for batch in batches:
            store.add(decode_protobuf(request(*batch).SerializeToString()).spans)
        row = store.reader.turn(WHOLE.hex)
        assert row is not None
        assert row._replace(run=None) == EXPECTED_ROW
        assert store.reader.ask("SELECT service FROM run WHERE id = ?", [row.run]) == [("voice-agent",)]
        assert stored_spans(store.path) == SPANS


def test_worker_first_makes_an_incomplete_turn_that_becomes_complete(store: Store) -> None:
    """The spans of the TTS worker may arrive before the turn that they belong to."""
    trace = turn()
    of_worker = {"Synthesize", "tts.inference"}
    store.add(received(trace, only=lambda name: name in of_worker))
    before = store.reader.turn(trace.hex)
    assert before is not None
    assert (before.complete, before.outcome, before.service) == (False, None, "tts-worker")
    assert [row.trace_id for row in store.reader.turns(TurnQuery(outcome="incomplete"))] == [trace.hex]

    store.add(received(trace, only=lambda name: name not in of_worker))
    after = store.reader.turn(trace.hex)
    assert after is not None
    assert (after.complete, after.outcome, after.service) == (True, "completed", "voice-agent")
    assert store.reader.turns(TurnQuery(outcome="incomplete")) == []


def test_late_tool_joins_its_turn(store: Store) -> None:
    """A tool that outlived its turn arrives alone, later, and counts."""
    trace = turn()
    store.add(received(trace))
    late = Trace(trace.trace_id, trace.onset_ns)
    late.add("execute_tool book_table", 3000, 9000, trace.spans[0][2].span_id)
    store.add(received(late))
    row = store.reader.turn(trace.hex)
    assert row is not None
    assert row.tool_ns == 6_000_000_000
    assert rows(store.path, "turn") == 1


def test_other_traces_are_kept_as_spans_only(store: Store) -> None:
    """A plain HTTP trace can be shown but is no turn, though a span of voicespan arrives before its root."""
    trace = Trace()
    root = trace.add("POST /token", 0, 50, scope="http")
    trace.add("token.mint", 1, 40, root)
    store.add(received(trace, only=lambda name: name == "token.mint"))
    assert rows(store.path, "turn") == 1
    store.add(received(trace, only=lambda name: name != "token.mint"))
    assert rows(store.path, "turn") == 0
    assert [span.name for span in store.reader.spans(trace.hex)] == ["POST /token", "token.mint"]


def test_span_that_is_there_is_kept(store: Store) -> None:
    """Of two spans with the same ids the first stays."""
    trace = turn()
    store.add(received(trace))
    trace.spans[0][2].attributes.extend(pairs({"voice.turn.outcome": "error"}))
    store.add(received(trace))
    row = store.reader.turn(trace.hex)
    assert row is not None
    assert row.outcome == "completed"


def test_listener_hears_of_changed_turns(store: Store) -> None:
    """Who listens gets the turns that a request completed, after they can be read; until they end it."""
    heard: list[list[Turn]] = []
    end = store.listen(heard.append)
    store.add(received(turn(1), turn(2)))
    end()
    store.add(received(turn(3)))
    assert [[row.turn_index for row in batch] for batch in heard] == [[1, 2]]


def test_failed_insertion_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans and rows of a request are stored together or not at all, and the store goes on working."""
    store.add(received(turn()))
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(store_module, "summarise", lambda *_: 1 / 0)
        store.add(received(turn()))
    assert (stored_spans(store.path), rows(store.path, "turn")) == (SPANS, 1)
    store.add(received(turn()))
    assert rows(store.path, "turn") == 2


def test_locked_database_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that another process keeps locked is an error of the store, and nothing is stored."""
    store._connection.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.add(received(turn()))
    assert stored_spans(store.path) == 0
    store.add(received(turn()))
    assert rows(store.path, "turn") == 1


def test_two_stores_may_make_one_file(tmp_path: Path) -> None:
    """Two viewers that start at once on a new file both open it, however their first steps fall."""
    failures: list[BaseException] = []

    def begin(path: Path, together: threading.Barrier) -> None:
        try:
            together.wait()
            Store(path).close()
        except BaseException as failure:
            failures.append(failure)

    for attempt in range(60):
        arguments = (tmp_path / f"{attempt}.db", threading.Barrier(2))
        threads = [threading.Thread(target=begin, args=arguments) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_two_stores_write_to_one_file(tmp_path: Path) -> None:
    """Two writers that begin together on a new file lose nothing and agree on turns that each has a part of."""
    path = tmp_path / "turns.db"
    traces = [turn(index) for index in range(40)]
    together = threading.Barrier(2)
    failures: list[BaseException] = []

    def write(half: int) -> None:
        try:
            together.wait()
            with Store(path) as store:
                for trace in traces:
                    part = Trace(trace.trace_id, trace.onset_ns, trace.spans[half::2])
                    store.add(received(part))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(half,)) for half in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    found = Reader(path).turns(TurnQuery(limit=100))
    assert {row.trace_id for row in found} == {trace.hex for trace in traces}
    assert all(row.complete and row.response_ns and row.llm_ttft_ns for row in found)


WRITER = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from tests.local.otlp import request, turn
    from voicespan.local.decode import decode_protobuf
    from voicespan.local.store import Store

    with Store(Path(sys.argv[1])) as store:
        while True:
            traces = [turn(session="killed") for _ in range(20)]
            spans = [item for trace in traces for item in trace.spans]
            store.add(decode_protobuf(request(*spans).SerializeToString()).spans)
            print("stored", flush=True)
""")


def test_killed_writer_leaves_a_readable_database(tmp_path: Path) -> None:
    """kill -9 in the middle of insertions: what was acknowledged is there, whole requests only, and writing goes on."""
    path = tmp_path / "turns.db"
    root = Path(__file__).parents[2]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path, root], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = 0
    for _ in range(5):
        acknowledged += writer.stdout.readline() == "stored\n"
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.stdout.read().count("stored")
    writer.wait()
    writer.stdout.close()

    found = Reader(path).turns(TurnQuery(limit=20_000))
    assert len(found) >= acknowledged * 20 > 0
    assert len(found) % 20 == 0
    assert stored_spans(path) == len(found) * SPANS
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with Store(path) as store:
        store.add(received(turn()))
        assert store.reader.count() == len(found) + 1


def test_old_turns_are_forgotten_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the age, traces go with all their spans, also those that arrived later; younger ones stay."""
    now = time.time()
    with Store(tmp_path / "turns.db", retention=Retention(max_age_s=3600)) as store:
        old, young = turn(1), turn(2)
        monkeypatch.setattr(time, "time", lambda: now - 7200)
        store.add(received(old, only=lambda name: name == "voice.turn"))
        monkeypatch.setattr(time, "time", lambda: now - 60)
        store.add(received(old, only=lambda name: name != "voice.turn"))
        store.add(received(young))
        monkeypatch.setattr(time, "time", lambda: now)
        assert store.tidy() == SPANS
        assert [row.trace_id for row in store.reader.turns(TurnQuery())] == [young.hex]
        assert stored_spans(store.path) == SPANS
        assert store.tidy() == 0


def test_sources_that_nobody_needs_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start of a service is a new resource; those of forgotten spans go too."""
    now = time.time()
    with Store(tmp_path / "turns.db", retention=Retention(max_age_s=3600)) as store:
        monkeypatch.setattr(time, "time", lambda: now - 7200)
        gone = Trace()
        gone.add("voice.turn", 0, 1, service="another")
        store.add(received(gone))
        monkeypatch.setattr(time, "time", lambda: now)
        store.add(received(turn()))
        assert rows(store.path, "source") == 5
        store.tidy()
        assert rows(store.path, "source") == 4


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the size, the oldest turns go until it fits; the newest are there, and the file shrinks."""
    monkeypatch.setattr(store_module, "_TIDY_EVERY_S", 1e9)
    limit = 2 << 20
    with Store(tmp_path / "turns.db", retention=Retention(max_bytes=limit)) as store:
        for _ in range(12):
            newest = turn()
            store.add(received(*(turn() for _ in range(99)), newest))
        assert used_bytes(store._connection) > limit
        assert store.tidy() > 0
        assert used_bytes(store._connection) <= limit
        assert store.reader.turn(newest.hex) is not None
        assert stored_spans(store.path) == rows(store.path, "turn") * SPANS > 0
        path = store.path
    assert path.stat().st_size <= limit


def test_tidying_happens_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While spans come in, and when the store is opened, what is too old goes."""
    path = tmp_path / "turns.db"
    retention = Retention(max_age_s=3600)
    monkeypatch.setattr(store_module, "_TIDY_EVERY_S", -1.0)
    now = time.time()
    with Store(path, retention=retention) as store:
        monkeypatch.setattr(time, "time", lambda: now - 7200)
        store.add(received(turn()))
        monkeypatch.setattr(time, "time", lambda: now)
        store.add(received(turn()))
        assert store.reader.count() == 1
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    with Store(path, retention=retention) as store:
        assert store.reader.count() == 0


def test_queries_filter_and_sort(store: Store) -> None:
    """Turns can be asked for by session, outcome, service, time and slowness, sorted by any stage, a few only."""
    slow = turn(1, session="a", shares={"endpoint": 0.2, "llm": 2.0})
    quick = turn(2, session="a", shares={"endpoint": 0.5, "llm": 0.1})
    failed = turn(1, session="b", outcome="error")
    store.add(received(slow, quick, failed))

    def ask(**options: object) -> list[str]:
        return [row.trace_id for row in store.reader.turns(TurnQuery(**options))]  # type: ignore[arg-type]

    assert ask() == [failed.hex, quick.hex, slow.hex]
    assert ask(sort="response") == [slow.hex, failed.hex, quick.hex]
    assert ask(sort="response", limit=1) == [slow.hex]
    assert ask(session="a", sort="response") == [slow.hex, quick.hex]
    assert ask(outcome="error") == [failed.hex]
    assert ask(outcome="incomplete") == []
    assert ask(service="nobody") == []
    assert ask(slower_than_ns=1_500_000_000) == [slow.hex]
    assert ask(since_ns=quick.onset_ns, until_ns=failed.onset_ns) == [quick.hex]


@pytest.mark.parametrize("options", [{"sort": "trace_id; DROP TABLE turn"}, {"limit": 0}, {"limit": 10**9}])
def test_impossible_queries_are_refused(options: dict[str, object]) -> None:
    """A column that is none and an unreasonable limit are errors of the caller."""
    with pytest.raises(ValueError, match=r"sort|limit"):
        TurnQuery(**options)  # type: ignore[arg-type]


def test_traces_are_found_by_prefix(store: Store) -> None:
    """The beginning of an id is enough where it is the only one; `last` is the newest turn."""
    first = Trace(bytes.fromhex("ab" * 16))
    second = Trace(bytes.fromhex("abcd" + "00" * 14))
    for trace in (first, second):
        trace.add("voice.turn", 0, 10)
    store.add(received(second, first))
    assert store.reader.find("abc") == second.hex
    assert store.reader.find("ABABA") == first.hex
    assert store.reader.find(first.hex) == first.hex
    assert store.reader.find("last") == second.hex
    with pytest.raises(UnknownTurnError, match="more than one"):
        store.reader.find("ab")
    for nothing in ("c", "xyz", "", "a" * 33):
        with pytest.raises(UnknownTurnError):
            store.reader.find(nothing)


def test_last_of_an_empty_store_is_said(store: Store) -> None:
    """Without any turn, `last` is an error with words."""
    with pytest.raises(UnknownTurnError, match="no turn yet"):
        store.reader.find("last")


def test_temporary_store_leaves_nothing() -> None:
    """Without a path the database lives as long as the store."""
    with Store() as store:
        store.add(received(turn()))
        folder = store.path.parent
        assert store.path.exists()
    assert not folder.exists()


def test_database_is_private(store: Store) -> None:
    """What callers said is nobody else's business: the files are readable to their owner only."""
    store.add(received(turn()))
    files = list(store.path.parent.iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A file that a later version wrote is neither read nor written."""
    path = tmp_path / "turns.db"
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    for use in (lambda: Store(path), lambda: Reader(path).count()):
        with pytest.raises(StoreError, match="newer voicespan"):
            use()


def test_database_of_an_older_version_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening for writing runs the missing steps and keeps the data; reading alone says what to do."""
    path = tmp_path / "turns.db"
    trace = turn()
    with Store(path) as store:
        store.add(received(trace))
    step = ("CREATE TABLE note (text TEXT)", "INSERT INTO note VALUES ('new')")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(StoreError, match="older voicespan"):
        Reader(path).count()
    with Store(path) as store:
        assert store.reader.turn(trace.hex) is not None
    assert rows(path, "note") == 1


def test_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails leaves the database at its version."""
    path = tmp_path / "turns.db"
    Store(path).close()
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE note (text TEXT)", "NONSENSE")))
        patched.setattr(schema, "VERSION", schema.VERSION + 1)
        with pytest.raises(StoreError, match="syntax error"):
            Store(path)
    with Store(path) as store:
        store.add(received(turn()))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows(path, "note")


def test_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """A path that names some other database is refused, and the file stays as it was."""
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (x)")
    before = path.read_bytes()
    for use in (lambda: Store(path), lambda: Reader(path).count()):
        with pytest.raises(StoreError, match="another program"):
            use()
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """A text file, a folder and a missing file are errors with the path in their words."""
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at " * 100)
    for use in (
        lambda: Store(text),
        lambda: Store(tmp_path),
        lambda: Reader(text).count(),
        lambda: Reader(tmp_path / "missing.db").count(),
    ):
        with pytest.raises(StoreError, match=str(tmp_path)):
            use()
    assert text.read_text().startswith("not a database")


def test_readers_do_not_wait_for_the_writer(store: Store) -> None:
    """While a request is being inserted, questions are answered from what was there before."""
    store.add(received(turn()))
    store._connection.execute("BEGIN IMMEDIATE")
    store._connection.execute("DELETE FROM turn")
    assert store.reader.count() == 1
    store._connection.execute("ROLLBACK")


def test_copied_file_can_be_read(store: Store, tmp_path: Path) -> None:
    """After the store is closed, the one file is everything."""
    store.add(received(turn()))
    store.close()
    copy = tmp_path / "elsewhere" / "copy.db"
    copy.parent.mkdir()
    shutil.copy(store.path, copy)
    assert Reader(copy).count() == 1


@pytest.fixture
def fresh_settings() -> Iterator[None]:
    """Settings that are read from the environment of the test, and again after it."""
    voicespan_settings.reset(Settings())
    yield
    voicespan_settings.reset()


@pytest.mark.usefixtures("fresh_settings")
def test_default_database_is_in_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable decides, then the desktop's convention, then the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_database() == tmp_path / ".local/state/voicespan/voicespan.db"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_database() == Path("/var/state/voicespan/voicespan.db")
    voicespan_settings.reset(Settings(db="~/my.db"))
    assert default_database() == tmp_path / "my.db"


def test_many_threads_store_at_once(store: Store) -> None:
    """One store takes requests from several threads; each is there when `add` returns."""
    batches = [[turn() for _ in range(3)] for _ in range(24)]
    random.shuffle(batches)

    def write(part: int) -> None:
        for batch in batches[part::4]:
            store.add(received(*batch))
            assert store.reader.turn(batch[0].hex) is not None

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.reader.count() == 72


def rows_of_version_1(store: Store) -> list[tuple[object, ...]]:
    """The table `span` as it was before the spans of a trace that came together were one row."""
    found: list[tuple[object, ...]] = []
    for trace_id, source, received_s, body in store.reader.ask(
        "SELECT trace_id, source, received_s, body FROM part ORDER BY id", []
    ):
        for span in unpack(body):
            times = span.start_time_unix_nano, span.end_time_unix_nano
            sent = span.SerializeToString()
            found.append((len(found) + 1, trace_id, span.span_id, span.name, *times, source, received_s, sent))
    return found


def test_database_of_version_1_is_migrated(tmp_path: Path) -> None:
    """What the first version stored is there as if this one had: turns with shares, their runs, other traces."""
    path = tmp_path / "turns.db"
    whole, other = turn(4, session="a"), Trace()
    other.add("POST /token", 0, 50, scope="http")
    with Store() as store:
        store.add(received(whole))
        store.add(received(other))
        expected = store.reader.turn(whole.hex)
        assert expected is not None
        spans = rows_of_version_1(store)
        sources = store.reader.ask(
            "SELECT id, digest, service, scope, resource, instrumentation, used_s FROM source", []
        )
        listed = traces(store.reader, 10)
    with contextlib.closing(sqlite3.connect(path)) as old:
        for statement in schema._VERSION_1:
            old.execute(statement)
        old.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        old.execute("PRAGMA user_version = 1")
        old.executemany("INSERT INTO source VALUES (?, ?, ?, ?, ?, ?, ?)", sources)
        old.executemany("INSERT INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", spans)
        columns = [row[1] for row in old.execute("PRAGMA table_info(turn)")]
        values = expected._asdict() | {
            "trace_id": whole.trace_id,
            "shares": json.dumps(expected.shares),
            "attributes": json.dumps(expected.attributes),
        }
        marks = ",".join("?" * len(columns))
        old.execute(f"INSERT INTO turn VALUES ({marks})", [values[name] for name in columns])
        old.commit()
    with Store(path) as store:
        found = store.reader.turn(whole.hex)
        assert found is not None
        assert found._replace(run=None) == expected._replace(run=None)
        assert found.culprit == "small-chat"  # which the first version did not store
        assert store.reader.ask("SELECT service, version FROM run WHERE id = ?", [found.run]) == [
            ("voice-agent", "1.2")
        ]
        assert [span.span_id for span in store.reader.spans(whole.hex)] != []
        assert traces(store.reader, 10) == listed
        store.add(received(turn(5)))
        assert store.reader.count() == 2


def test_new_and_migrated_databases_are_alike(tmp_path: Path) -> None:
    """A database that was brought up to date has the tables and indexes of a new one."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with contextlib.closing(sqlite3.connect(old)) as connection:
        for statement in schema._VERSION_1:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
    layouts = []
    for path in (old, new):
        with Store(path) as store:
            layouts.append(store.reader.ask("SELECT type, name, sql FROM sqlite_master ORDER BY name", []))
    assert layouts[0] == layouts[1]


def logs(*records: LogRecord, service: str = "voice-agent") -> list[ReceivedLog]:
    """These log records, decoded."""
    return decode_logs("application/x-protobuf", log_request(*records, service=service).SerializeToString()).logs


def test_logs_are_kept_beside_their_trace(store: Store) -> None:
    """The log records of a trace are in order of time, with all that was sent; those that come twice are there once."""
    trace, other = turn(1), turn(2)
    span_id = trace.spans[5][2].span_id
    late = log(trace, "second", {"n": [1, {"x": None}]}, severity_number=17, span_id=span_id)
    late.time_unix_nano += 5
    batch = logs(late, log(trace, "first", severity_number=9), log(other, "elsewhere"))
    store.add_logs(batch)
    store.add_logs(batch[:2])
    store.add_logs([])
    found = store.reader.logs(trace.hex, 10)
    assert [(each.body, each.level, each.service) for each in found] == [
        ("first", "INFO", "voice-agent"), ("second", "ERROR", "voice-agent"),
    ]  # fmt: skip
    assert (found[1].span_id, found[1].attributes) == (span_id.hex(), {"n": [1, {"x": None}]})
    assert found[0].span_id is None
    assert found[1].time_ns == trace.onset_ns + 5
    assert [each.body for each in store.reader.logs(trace.hex, 1)] == ["first"]
    assert store.reader.count_logs(trace.hex) == 2
    store.add_logs(logs(log(trace, "first", severity_number=9), service="another"))
    assert store.reader.count_logs(trace.hex) == 3


def test_content_is_kept_by_side(store: Store) -> None:
    """What each side said is there with its audio; a later text replaces an earlier one, and leaves the audio."""
    trace = turn()
    store.add(received(trace))
    store.add_content(trace.trace_id, "user", "helo", b"\1\0" * 8, 8000)
    store.add_content(trace.trace_id, "user", "hello")
    store.add_content(trace.trace_id, "agent", "hi")
    store.add_content(trace.trace_id, "agent", None, b"\2\0", 8000)
    assert store.reader.content([trace.hex, "00" * 16]) == {
        trace.hex: {"user": {"text": "hello", "audio": True}, "agent": {"text": "hi", "audio": True}},
        "00" * 16: {},
    }
    assert store.reader.audio(trace.hex, "user") == (b"\1\0" * 8, 8000)
    assert store.reader.audio(trace.hex, "agent") == (b"\2\0", 8000)
    assert store.reader.audio("00" * 16, "agent") is None


def test_all_of_a_trace_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the age a trace goes with its logs and what was said, whichever came first; what has no trace goes too."""
    now = time.time()
    with Store(tmp_path / "turns.db", retention=Retention(max_age_s=3600)) as store:
        old, orphan, young, plain_trace = turn(1), turn(2), turn(3), Trace()
        plain_trace.add("GET", 0, 10, scope="http")
        monkeypatch.setattr(time, "time", lambda: now - 7200)
        store.add(received(old, plain_trace))
        store.add_logs(logs(log(orphan, "its trace never came")))
        monkeypatch.setattr(time, "time", lambda: now - 60)
        store.add_logs(logs(log(old, "late")))
        store.add_content(old.trace_id, "user", "late")
        store.add(received(young))
        store.add_logs(logs(log(young, "stays")))
        store.add_content(young.trace_id, "user", "stays")
        monkeypatch.setattr(time, "time", lambda: now)
        assert store.tidy() == SPANS + 1
        assert [rows(store.path, table) for table in ("turn", "trace", "log", "content")] == [1, 0, 1, 1]
        assert store.reader.logs(young.hex, 10)[0].body == "stays"
        monkeypatch.setattr(time, "time", lambda: now + 7200)
        store.tidy()
        tables = ("turn", "trace", "part", "log", "content", "source", "run")
        assert [rows(store.path, table) for table in tables] == [0] * 7


def test_logs_and_content_count_for_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of log records, or of audio, of traces that never come goes before the turns that came later."""
    monkeypatch.setattr(store_module, "_TIDY_EVERY_S", 1e9)
    limit = 1 << 20
    with Store(tmp_path / "turns.db", retention=Retention(max_bytes=limit)) as store:
        store.add_content(os.urandom(16), "user", None, bytes(limit), 8000)
        store.add_logs(logs(*(log(Trace(), "x" * 1000) for _ in range(1500))))
        later = time.time() + 10
        monkeypatch.setattr(time, "time", lambda: later)
        newest = turn()
        store.add(received(newest))
        store.tidy()
        assert used_bytes(store._connection) <= limit
        assert [rows(store.path, table) for table in ("turn", "content")] == [1, 0]


def test_no_more_is_forgotten_than_needs_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns with audio are large: the oldest go, only as many as the size asks for, and each with all of it."""
    monkeypatch.setattr(store_module, "_TIDY_EVERY_S", 1e9)
    limit = 4 << 20
    with Store(tmp_path / "turns.db", retention=Retention(max_bytes=limit)) as store:
        traces_ = [turn(index) for index in range(100)]
        for trace in traces_:
            store.add(received(trace))
            store.add_content(trace.trace_id, "user", "hello", bytes(50_000), 8000)
        store.tidy()
        assert limit * 0.85 < used_bytes(store._connection) <= limit
        kept = store.reader.count()
        assert stored_spans(store.path) == kept * SPANS
        assert rows(store.path, "content") == kept
        assert {row.trace_id for row in store.reader.turns(TurnQuery(limit=200))} == {
            trace.hex for trace in traces_[-kept:]
        }


def test_runs_are_starts_or_names(store: Store) -> None:
    """Each start of a service is a run of its own, a name joins starts; a worker has one of its own."""
    kinds: list[dict[str, str]] = [
        {"service.instance.id": "a"}, {"service.instance.id": "b"}, {"service.instance.id": "a"},
        {"service.instance.id": "c", "voicespan.run": "n"}, {"service.instance.id": "d", "voicespan.run": "n"}, {},
    ]  # fmt: skip
    found = []
    for kind in kinds:
        trace = turn()
        store.add(decode_protobuf(request(*trace.spans, resource=kind).SerializeToString()).spans)
        row = store.reader.turn(trace.hex)
        assert row is not None
        found.append(row.run)
    assert found[0] == found[2]
    assert found[3] == found[4]
    assert len(set(found)) == 4
    named = store.reader.ask("SELECT service, name, instance, version FROM run WHERE id = ?", [found[3]])
    assert named == [("voice-agent", "n", "d", "1.2")]


def test_full_disk_is_said_and_survived(tmp_path: Path) -> None:
    """Where there is no room nothing is stored by halves; when there is room again, storing goes on."""
    path = tmp_path / "turns.db"
    with Store(path) as store:
        store.add(received(turn()))
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        stored = 1
        for _ in range(2):
            with pytest.raises(StoreError, match="full"):
                for _ in range(100):
                    store.add(received(turn()))
                    stored += 1
            with pytest.raises(StoreError, match="full"):
                store.add_logs(logs(*(log(Trace(), "x" * 5000) for _ in range(9))))
            with pytest.raises(StoreError, match="full"):
                store.add_content(os.urandom(16), "user", None, bytes(50_000), 8000)
            assert [rows(path, table) for table in ("turn", "log", "content")] == [stored, 0, 0]
            assert stored_spans(path) == stored * SPANS
            assert figures.figures(store.reader, TurnQuery())["turns"] == stored
        store._connection.execute("PRAGMA max_page_count = 1000000")
        store.add(received(turn()))
        store.add_logs(logs(log(turn(), "x")))
        assert (rows(path, "turn"), rows(path, "log")) == (stored + 1, 1)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


FILLER = textwrap.dedent("""
    import resource, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from tests.local.test_store import received
    from tests.local.otlp import turn
    from voicespan.local.schema import StoreError
    from voicespan.local.store import Store

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Store(Path(sys.argv[1])) as store:
        def fill(limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            stored = 0
            try:
                while stored < 400:
                    store.add(received(turn()))
                    stored += 1
            except StoreError as error:
                print(error)
            return stored

        print(fill(600_000) + fill(600_000) + fill(1_200_000) + fill(resource.RLIM_INFINITY))
""")


def test_disk_that_fills_up_while_it_is_written(tmp_path: Path) -> None:
    """The system itself refuses to write, at whatever step: what was stored is there, whole, and storing goes on."""
    path = tmp_path / "turns.db"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", FILLER, path, root], capture_output=True, text=True, check=True)
    *errors, stored = done.stdout.splitlines()
    assert len(errors) == 3, done.stdout
    assert all(re.search(r"cannot store spans .*(full|disk I/O)", error) for error in errors), errors
    assert rows(path, "turn") == int(stored) > 400
    assert stored_spans(path) == int(stored) * SPANS
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_is_stored_is_said_to_be_though_tidying_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender is not asked to send again what is there: tidying up is tried again later."""
    monkeypatch.setattr(store_module, "_TIDY_EVERY_S", -1.0)

    def fails(*_: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "forget", fails)
        assert len(store.add(received(turn()))) == 1
    assert rows(store.path, "turn") == 1


HOLDER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from voicespan.local.store import Store

    with Store(Path(sys.argv[1])) as store:
        print(store.others(), flush=True)
        sys.stdin.readline()
""")


def test_second_writer_is_known(tmp_path: Path) -> None:
    """Each of two processes that write to one file knows of the other, until it ends, also by kill -9."""
    path = tmp_path / "turns.db"
    with Store(path) as store:
        assert store.others() == []
        for end in ("", "kill"):
            command = [sys.executable, "-c", HOLDER, str(path)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
                assert other.stdin is not None
                assert other.stdout is not None
                assert other.stdout.readline() == f"[{os.getpid()}]\n"
                assert store.others() == [other.pid]
                if end:
                    other.send_signal(signal.SIGKILL)
                else:
                    other.stdin.write("\n")
            assert store.others() == []
    assert [file.name for file in tmp_path.iterdir()] == ["turns.db"]


OTHER = Trace(onset_ns=START_NS)
ROOT = OTHER.add("POST /token", 10, 50, service="web", scope="http")
for child in range(3):
    OTHER.add(f"child {child}", 5 * child, 60 + child, ROOT, service="deep", scope="http")
OTHER.last().status.code = Status.STATUS_CODE_ERROR


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(4)), st.sets(st.integers(1, 3)), st.lists(st.integers(0, 3)))
def test_other_traces_are_listed(order: list[int], cuts: set[int], repeats: list[int]) -> None:
    """A trace that is no turn is listed with its root's name and all of its spans, in whatever order they came."""
    bounds = [0, *sorted(cuts), 4]
    batches = [[OTHER.spans[position] for position in order[a:b]] for a, b in itertools.pairwise(bounds)]
    batches.append([OTHER.spans[position] for position in repeats])
    with Store() as store:
        for batch in batches:
            store.add(decode_protobuf(request(*batch).SerializeToString()).spans)
        assert traces(store.reader, 10) == {
            "matching": 1,
            "traces": [
                {
                    "trace_id": OTHER.hex, "service": "web", "name": "POST /token", "start_s": START_NS / 1e9,
                    "duration_s": 0.062, "spans": 4, "error": True, "complete": True,
                }
            ],
        }  # fmt: skip


def test_newest_other_traces_come_first(store: Store) -> None:
    """The list holds the newest traces and counts all."""
    made = [Trace() for _ in range(5)]
    for trace in made:
        trace.add("GET", 0, 1, scope="http")
    store.add(received(*made))
    found = traces(store.reader, 3)
    assert found["matching"] == 5
    assert [each["trace_id"] for each in found["traces"]] == [trace.hex for trace in made[:1:-1]]


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(SPANS)), st.sets(st.integers(1, SPANS - 1), max_size=6))
def test_turn_is_no_other_trace(order: list[int], cuts: set[int]) -> None:
    """A trace is listed among the others only as long as nothing says that it is a turn."""
    bounds = [0, *sorted(cuts), SPANS]
    with Store() as store:
        for a, b in itertools.pairwise(bounds):
            batch = [WHOLE.spans[position] for position in order[a:b]]
            store.add(decode_protobuf(request(*batch).SerializeToString()).spans)
            assert rows(store.path, "turn") + rows(store.path, "trace") == 1
        assert rows(store.path, "turn") == 1


def test_turn_that_turns_out_to_be_none_is_listed_whole(store: Store) -> None:
    """What looked like a turn before its root came is an other trace afterwards, with what was known before."""
    trace = Trace()
    root = trace.add("POST /token", 0, 50, scope="http")
    trace.add("token.mint", 1, 60, root)
    store.add(received(trace, only=lambda name: name == "token.mint"))
    assert traces(store.reader, 10)["matching"] == 0
    store.add(received(trace, only=lambda name: name != "token.mint"))
    (found,) = traces(store.reader, 10)["traces"]
    assert (found["name"], found["spans"], found["duration_s"]) == ("POST /token", 2, 0.06)


@pytest.mark.parametrize("name", [":memory:", "memory"])
def test_memory_is_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database named `:memory:` leaves no file, neither here nor where temporary files are."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)
    with Store(Path(name)) as store:
        store.add(received(turn()))
        assert store.in_memory
        assert store.reader.count() == 1
        assert list(temporary.iterdir()) == [store.path.parent]
    assert list(tmp_path.iterdir()) == [temporary]
    assert list(temporary.iterdir()) == []
    with Store(tmp_path / "turns.db") as in_file:
        assert not in_file.in_memory


def test_what_killed_viewers_left_in_memory_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next store in memory removes what a killed process left; what is in use, or is no database, stays."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = tmp_path / "voicespan-notes"
    other.mkdir()
    script = (
        "from voicespan.local.store import Store; import time; s = Store(); print(s.path, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip()).parent
        with Store():
            assert left.exists()  # its process lives
        process.kill()
    assert left.exists()
    with Store() as store:
        assert sorted(tmp_path.iterdir()) == sorted([other, store.path.parent])


def test_clock_that_was_set_back_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives after the clock was set back by hours stays, with its source, when older things are forgotten."""
    now = time.time()
    with Store(tmp_path / "turns.db", retention=Retention(max_age_s=3600)) as store:
        early, late = turn(), turn()
        monkeypatch.setattr(time, "time", lambda: now)
        store.add(received(early))
        monkeypatch.setattr(time, "time", lambda: now - 20_000)
        late.add("tool", 0, 1, late.spans[0][2].span_id, service="set-back")
        store.add(received(late))
        store.add_logs(logs(log(late, "x"), service="set-back-too"))
    with Store(tmp_path / "turns.db") as store:
        assert store.tidy() == 0
        store.add(received(turn()))
        assert len(store.reader.spans(late.hex)) == SPANS + 1
        assert [line.service for line in store.reader.logs(late.hex, 9)] == ["set-back-too"]
        monkeypatch.setattr(time, "time", lambda: now + 3700)
        store.add(received(turn()))
        assert store.tidy() == 3 * SPANS + 1  # by the time of what came before them they are old
        assert rows(store.path, "source") == 4


def test_sources_stay_as_long_as_anything_has_them(tmp_path: Path) -> None:
    """However wrong the times of arrival in a file are, no source goes that a span or a log record still needs."""
    with Store(tmp_path / "turns.db", retention=Retention(max_age_s=None, max_bytes=None)) as store:
        first, second = turn(), Trace()
        store.add(received(first))
        second.add("voice.turn", 0, 1, service="needed")
        store.add(received(second))
        store.add_logs(logs(log(second, "x"), service="needed-too"))
        with store._writing("times"):
            store._connection.execute("UPDATE source SET used_s = 5")
            store._connection.execute("UPDATE part SET received_s = 5 WHERE trace_id = ?", [first.trace_id])
        store.retention = Retention(max_age_s=3600)
        assert store.tidy() == SPANS
        assert [span.service for span in store.reader.spans(second.hex)] == ["needed"]
        assert [line.service for line in store.reader.logs(second.hex, 9)] == ["needed-too"]
        assert rows(store.path, "source") == 2


def test_limits_belong_to_the_file(tmp_path: Path) -> None:
    """Who opens a file without limits of his own keeps to those that it has; some of them can be changed alone."""
    path = tmp_path / "turns.db"
    week, other = 7 * 86_400, Retention(max_age_s=None, max_bytes=5 << 30)
    with Store(path) as store:
        assert store.retention == Retention()
    with Store(path, retention={"max_age_s": week}) as store:
        assert store.retention == Retention(max_age_s=week)
        with Store(path) as second:
            assert second.retention == Retention(max_age_s=week)
            second.retention = other
        store.tidy()
        assert store.retention == other
    with Store(path, retention={"max_bytes": 1 << 20}) as store:
        assert store.retention == Retention(max_age_s=None, max_bytes=1 << 20)


def test_disk_without_room_to_tidy_can_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store opens though nothing can be written, says so, and gives what is there; a damaged file does not open."""
    path = tmp_path / "turns.db"
    with Store(path) as store:
        store.add(received(turn()))
        assert store.complaint is None

    def full(*_: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store_module, "forget", full)
    with Store(path, retention={"max_age_s": 9000}) as store:
        assert "disk is full" in str(store.complaint)
        assert store.reader.count() == 1

    def damaged(*_: object) -> int:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(store_module, "forget", damaged)
    with pytest.raises(StoreError, match="malformed"):
        Store(path)


def test_ids_of_runs_are_not_given_again(store: Store) -> None:
    """A run that is forgotten leaves its id unused: an address that names it shows nothing, and no other run."""
    (first,) = store.add(received(turn()))
    store.retention = Retention(max_age_s=-1)
    assert store.tidy() == SPANS
    assert rows(store.path, "run") == 0
    (second,) = store.add(received(turn()))
    assert first.run is not None
    assert second.run is not None
    assert second.run > first.run
