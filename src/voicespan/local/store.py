"""Writing the local store: spans in, in any order and as often as they come; the rows of their turns kept right."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeVar

from voicespan import settings
from voicespan.local import row
from voicespan.local.decode import ReceivedSpan, Source
from voicespan.local.part import SPAN_ID_BYTES, pack, unpack
from voicespan.local.reader import Reader
from voicespan.local.retention import Retention, forget, last_arrival_s, read_limits, write_limits
from voicespan.local.run import keep_run, run_of
from voicespan.local.schema import StoreError, open_for_writing
from voicespan.local.span import may_tell
from voicespan.local.trace import forget_trace, keep_trace
from voicespan.local.turn import Turn, summarise
from voicespan.local.writers import TEMPORARY_NAME, TEMPORARY_PREFIX, Writer, remove_left_behind

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from types import TracebackType

    from voicespan.local.log import ReceivedLog

MEMORY = frozenset({":memory:", "memory"})
"""Names of a database that is gone when its viewer ends."""

_TIDY_EVERY_S = 1.0
_MAX_ROWS = 256

_INSERT_PARTS = "INSERT INTO part (trace_id, source, received_s, span_ids, body) VALUES "
_INSERT_TURNS = f"INSERT OR REPLACE INTO turn ({', '.join(row.COLUMNS)}) VALUES "  # noqa: S608
_INSERT_LOGS = (
    "INSERT OR IGNORE INTO log"
    " (trace_id, digest, span_id, time_ns, severity, body, attributes, source, received_s) VALUES "
)

Role = Literal["user", "agent"]
_T = TypeVar("_T")
_Received = TypeVar("_Received", ReceivedSpan, "ReceivedLog")

Listener = Callable[[list[Turn]], None]


def default_database() -> Path:
    """Return where turns are kept: VOICESPAN_DB, else `voicespan/voicespan.db` in the user's state directory.

    It may be one of the names in MEMORY.
    """
    named = settings.current().db
    if named:
        return Path(named).expanduser()
    state = os.environ.get("XDG_STATE_HOME", "").strip()
    return (Path(state) if state else Path.home() / ".local" / "state") / "voicespan" / "voicespan.db"


class Store:
    """The one writer of a database in this process. Other processes may write to the same file.

    Without a path, or with one of the names in MEMORY, the database is a temporary file that `close` removes; what
    processes that were killed left of theirs goes at the next start.

    `retention` are new limits of the file, all or some of them; it keeps to the ones that it has where none are given.

    Raises:
        StoreError: the database cannot be opened, or is of a newer version.

    """

    def __init__(
        self, path: Path | None = None, *, retention: Retention | Mapping[str, int | None] | None = None
    ) -> None:
        self._temporary = None
        if path is None or str(path) in MEMORY:
            remove_left_behind(Path(tempfile.gettempdir()))
            self._temporary = tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX)
            path = Path(self._temporary.name) / TEMPORARY_NAME
        self.path = path
        self.reader = Reader(self.path)
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._mourners: list[Callable[[int], None]] = []
        self._gone = 0
        self._connection = open_for_writing(self.path)
        self._writer = Writer(self.path)
        self._tidied = time.monotonic()
        self.complaint: str | None = None
        """What could not be done at the start, in one line; what is stored can be looked at all the same."""
        try:
            self._last_s = last_arrival_s(self._connection)
            self._retention = read_limits(self._connection)
            self._begin(retention)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, after the insertion that is under way."""
        self.reader.close()
        with self._lock:
            self._connection.close()
            self._writer.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _begin(self, retention: Retention | Mapping[str, int | None] | None) -> None:
        """Change the limits where that is asked for, and tidy; a disk without room for that may be full of turns."""
        changes = asdict(retention) if isinstance(retention, Retention) else retention or {}
        wanted = replace(self._retention, **changes)
        try:
            if wanted != self._retention:
                self.retention = wanted
            self.tidy()
        except StoreError as error:
            if not isinstance(error.__cause__, sqlite3.OperationalError):
                raise
            self.complaint = str(error)

    @property
    def retention(self) -> Retention:
        """The limits of the file: for every process that opens it, until one changes them."""
        return self._retention

    @retention.setter
    def retention(self, retention: Retention) -> None:
        self._retention = retention
        with self._writing("the limits"):
            write_limits(self._connection, retention)

    @property
    def in_memory(self) -> bool:
        """Whether everything is gone when this store is closed."""
        return self._temporary is not None

    def others(self) -> list[int]:
        """Return the processes that write to the same file besides this one: viewers that were started twice."""
        return self._writer.others()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the turns that change, after they are stored and in the storing thread.

        Return a function that ends this. The listener must be quick and must not raise.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def when_forgotten(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Call `listener` with the number of spans that were forgotten, each time; otherwise as `listen`."""
        self._mourners.append(listener)
        return lambda: self._mourners.remove(listener)

    def add(self, spans: Sequence[ReceivedSpan]) -> list[Turn]:
        """Store all of these spans or none, and return the turns that changed. A span that is there already is kept.

        Raises:
            StoreError: another process kept the database locked, the disk is full, or the file is damaged.

        """
        if not spans:
            return []
        with self._writing("spans"):
            turns = self._add_spans(spans, self._now_s())
        for listener in tuple(self._listeners):
            listener(turns)
        return turns

    def add_logs(self, logs: Sequence[ReceivedLog]) -> None:
        """Store all of these log records or none. One that is there already is kept: senders may repeat themselves.

        Raises:
            StoreError: as for `add`.

        """
        if logs:
            with self._writing("log records"):
                self._add_logs(logs, self._now_s())

    def add_content(
        self,
        trace_id: bytes,
        role: Role,
        text: str | None = None,
        audio: bytes | None = None,
        sample_rate: int | None = None,
    ) -> None:
        """Store what was said in a turn, audio as 16-bit mono PCM. It replaces what there is; None leaves it.

        Raises:
            StoreError: as for `add`.

        """
        with self._writing("content"):
            self._connection.execute(
                "INSERT INTO content (trace_id, role, received_s, sample_rate, text, audio) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (trace_id, role) DO UPDATE SET sample_rate = coalesce(excluded.sample_rate, sample_rate),"
                " text = coalesce(excluded.text, text), audio = coalesce(excluded.audio, audio)",
                [trace_id, role, self._now_s(), sample_rate, text, audio],
            )

    def tidy(self) -> int:
        """Forget what the retention does not keep; return how many spans went."""
        try:
            with self._lock:
                gone = self._forget()
        except sqlite3.Error as error:
            raise StoreError(f"cannot tidy {self.path}: {error}") from error
        finally:
            self._tell_forgotten()
        return gone

    def _forget(self) -> int:
        self._retention = read_limits(self._connection)  # another process may have changed them
        gone = forget(self._connection, self._retention, max(int(time.time()), self._last_s))
        self._gone += gone
        return gone

    def _tell_forgotten(self) -> None:
        with self._lock:
            gone, self._gone = self._gone, 0
        if gone:
            for mourner in tuple(self._mourners):
                mourner(gone)

    def _now_s(self) -> int:
        """Return the time of an arrival: none is before another, also where the clock was set back meanwhile."""
        self._last_s = max(int(time.time()), self._last_s)
        return self._last_s

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Make the block one transaction, alone in this process and among the processes; tidy after it when due."""
        connection = self._connection
        with self._lock:
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:  # SQLite itself rolls back when the disk is full
                        connection.execute("ROLLBACK")
                    raise
                self._tidy_when_due()
            except sqlite3.Error as error:
                raise StoreError(f"cannot store {what} in {self.path}: {error}") from error
        self._tell_forgotten()

    def _tidy_when_due(self) -> None:
        now = time.monotonic()
        if now - self._tidied > _TIDY_EVERY_S:
            self._tidied = now
            # What was stored is stored. Where there is no room, or another process is at it, the next time will do.
            with suppress(sqlite3.OperationalError):
                self._forget()

    def _add_spans(self, spans: Sequence[ReceivedSpan], now_s: int) -> list[Turn]:
        traces = _by_trace(spans)
        known = self._known(traces)
        for trace_id, span_ids in known.items():
            traces[trace_id] = {key: span for key, span in traces[trace_id].items() if key not in span_ids}
        parts = [
            (trace_id, source, list(part))
            for trace_id, of_trace in traces.items()
            for source, part in groupby(of_trace.values(), attrgetter("source"))
        ]
        senders = self._senders(spans, attrgetter("start_ns"), now_s, "part", len(parts))
        rows = [
            (trace_id, senders[source].id, now_s, b"".join([s.span_id for s in part]), pack([s.body for s in part]))
            for trace_id, source, part in parts
        ]
        self._insert(_INSERT_PARTS, rows)
        return self._turns(traces, known, senders)

    def _add_logs(self, logs: Sequence[ReceivedLog], now_s: int) -> None:
        senders = self._senders(logs, attrgetter("time_ns"), now_s, "log", len(logs))
        rows = []
        for log in logs:
            sender, attributes = senders[log.source].id, row.to_json(log.attributes)
            said = row.to_json([sender, log.time_ns, log.severity, log.body, attributes])
            digest = hashlib.sha256((log.span_id or b"") + said.encode("utf-8", "surrogatepass")).digest()[:16]
            rows.append(
                (log.trace_id, digest, log.span_id, log.time_ns, log.severity, log.body, attributes, sender, now_s)
            )
        self._insert(_INSERT_LOGS, rows)

    def _senders(
        self,
        items: Sequence[_Received],
        started_ns: Callable[[_Received], int],
        now_s: int,
        table: Literal["part", "log"],
        rows: int,
    ) -> dict[Source, _Sender]:
        """Return who sent these, as the database knows them; who is new comes in.

        They go into this table next, as so many rows.
        """
        senders = {}
        ((last,),) = self._connection.execute(f"SELECT ifnull(max(id), 0) + ? FROM {table}", [rows]).fetchall()  # noqa: S608
        for source in dict.fromkeys(item.source for item in items):
            identity, run = self._source(source, now_s, f"last_{table}", last)
            if run is None:
                first_ns = min(started_ns(item) for item in items if item.source == source)
                run = keep_run(self._connection, run_of(source.service, source.resource), first_ns)
                self._connection.execute("UPDATE source SET run = ? WHERE id = ?", [run, identity])
            senders[source] = _Sender(identity, run)
        return senders

    def _source(self, source: Source, now_s: int, column: str, last: int) -> tuple[int, int | None]:
        length = len(source.resource).to_bytes(8)
        digest = hashlib.sha256(length + source.resource + source.instrumentation).digest()[:16]
        ((identity, run),) = self._connection.execute(
            f"INSERT INTO source (digest, service, scope, resource, instrumentation, used_s, {column})"  # noqa: S608
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
            f" ON CONFLICT (digest) DO UPDATE SET used_s = max(used_s, excluded.used_s), {column} = excluded.{column}"
            " RETURNING id, run",
            [digest, source.service, source.scope, source.resource, source.instrumentation, now_s, last],
        ).fetchall()
        return identity, run

    def _known(self, traces: Iterable[bytes]) -> dict[bytes, set[bytes]]:
        """Return which of these traces have spans already, and their ids."""
        found: dict[bytes, set[bytes]] = {}
        for some in _powers_of_two(list(traces)):
            marks = ",".join("?" * len(some))
            statement = f"SELECT trace_id, span_ids FROM part WHERE trace_id IN ({marks})"  # noqa: S608
            for trace_id, span_ids in self._connection.execute(statement, some).fetchall():
                starts = range(0, len(span_ids), SPAN_ID_BYTES)
                found.setdefault(trace_id, set()).update(span_ids[start : start + SPAN_ID_BYTES] for start in starts)
        return found

    def _turns(
        self,
        traces: dict[bytes, dict[bytes, ReceivedSpan]],
        known: Container[bytes],
        senders: Mapping[Source, _Sender],
    ) -> list[Turn]:
        turns: list[Turn] = []
        of_senders = {source: sender.run for source, sender in senders.items()}
        for trace_id, spans in traces.items():
            if not any(span.parent_id is None or may_tell(span) for span in spans.values()):
                if spans:
                    keep_trace(self._connection, trace_id, spans.values())  # such spans change nothing in a turn's row
                continue
            seen: Iterable[ReceivedSpan] = spans.values()
            runs = of_senders
            if trace_id in known:
                seen, runs = self._stored(trace_id)
            turn = _summed_up(trace_id, seen, runs)
            if turn is not None:
                turns.append(turn)
                if trace_id in known:
                    forget_trace(self._connection, trace_id)
            else:
                if trace_id in known:
                    self._connection.execute("DELETE FROM turn WHERE trace_id = ?", [trace_id])
                keep_trace(self._connection, trace_id, seen)
        self._put(turns)
        return turns

    def _stored(self, trace_id: bytes) -> tuple[list[ReceivedSpan], dict[Source, int]]:
        """Return the spans of a trace as they came, in order of start, and the runs of their sources."""
        rows = self._connection.execute(
            "SELECT body, run, service, scope, resource, instrumentation"
            " FROM part JOIN source ON source.id = part.source WHERE trace_id = ? ORDER BY part.id",
            [trace_id],
        ).fetchall()
        runs = {Source(*of): run for _, run, *of in rows}
        spans = [ReceivedSpan(span, Source(*of), b"") for body, _, *of in rows for span in unpack(body)]
        return sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)), runs

    def _put(self, turns: Iterable[Turn]) -> None:
        self._insert(_INSERT_TURNS, [row.to_row(turn) for turn in turns])

    def _insert(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Insert rows with few statements.

        `executemany` gives up the interpreter lock at each row: when another thread of the process is busy, each row
        then waits 5 ms to get it back (387 rows a second measured, against 28,000 this way).
        """
        for some in _powers_of_two(rows):
            marks = ",".join(["(" + ",".join("?" * len(some[0])) + ")"] * len(some))
            self._connection.execute(statement + marks, [value for row in some for value in row])


class _Sender(NamedTuple):
    """A source in the database, and the run that it belongs to."""

    id: int
    run: int


def _summed_up(trace_id: bytes, spans: Iterable[ReceivedSpan], runs: Mapping[Source, int]) -> Turn | None:
    return summarise(trace_id.hex(), spans, lambda span: runs[span.source])


def _by_trace(spans: Sequence[ReceivedSpan]) -> dict[bytes, dict[bytes, ReceivedSpan]]:
    traces: dict[bytes, dict[bytes, ReceivedSpan]] = {}
    for span in spans:
        of_trace = traces.get(span.trace_id)
        if of_trace is None:
            of_trace = traces[span.trace_id] = {}
        of_trace.setdefault(span.span_id, span)
    return traces


def _powers_of_two(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Cut into pieces of few different lengths, so that few different statements are compiled, each once."""
    start = 0
    while start < len(rows):
        size = min(_MAX_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        yield rows[start : start + size]
        start += size
