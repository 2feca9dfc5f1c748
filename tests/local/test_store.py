from __future__ import annotations

import contextlib
import itertools
import random
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

from voicespan import settings as voicespan_settings
from voicespan.local import schema
from voicespan.local import store as store_module
from voicespan.local.decode import ReceivedSpan, decode_protobuf
from voicespan.local.reader import Reader, TurnQuery, UnknownTurnError
from voicespan.local.retention import Retention, used_bytes
from voicespan.local.schema import StoreError
from voicespan.local.store import Store, default_database

from .otlp import Trace, pairs, request, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from voicespan.local.turn import Turn
from voicespan.settings import Settings


def received(*traces: Trace, only: Callable[[str], bool] = lambda name: True) -> list[ReceivedSpan]:
    """The spans of these traces, decoded; `only` those with such a name."""
    spans = [item for trace in traces for item in trace.spans if only(item[2].name)]
    return decode_protobuf(request(*spans).SerializeToString()).spans


def rows(path: Path, table: str = "span") -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


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
EXPECTED_ROW = EXPECTED.reader.turn(WHOLE.hex)
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
        assert store.reader.turn(WHOLE.hex) == EXPECTED_ROW
        assert rows(store.path) == SPANS


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
    assert (rows(store.path), rows(store.path, "turn")) == (SPANS, 1)
    store.add(received(turn()))
    assert rows(store.path, "turn") == 2


def test_locked_database_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that another process keeps locked is an error of the store, and nothing is stored."""
    store._connection.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.add(received(turn()))
    assert rows(store.path) == 0
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
    assert rows(path) == len(found) * SPANS
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
        assert rows(store.path) == SPANS
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
        assert rows(store.path) == rows(store.path, "turn") * SPANS > 0
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
    """What callers said is nobody else's business: file and write-ahead log are readable to their owner only."""
    store.add(received(turn()))
    files = list(store.path.parent.iterdir())
    assert len(files) == 3
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
