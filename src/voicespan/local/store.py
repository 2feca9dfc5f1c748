"""Writing the local store: spans in, in any order and as often as they come; the rows of their turns kept right."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from voicespan import settings
from voicespan.local.reader import Reader, read_spans
from voicespan.local.retention import Retention, forget
from voicespan.local.schema import StoreError, open_for_writing
from voicespan.local.span import SCOPE
from voicespan.local.turn import Turn, summarise

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from voicespan.local.decode import ReceivedSpan, Source

_TIDY_EVERY_S = 1.0
_MAX_ROWS = 256

_INSERT_SPANS = (
    "INSERT OR IGNORE INTO span (trace_id, span_id, name, start_ns, end_ns, source, received_s, body) VALUES "
)
_INSERT_TURNS = f"INSERT OR REPLACE INTO turn ({', '.join(Turn._fields)}) VALUES "  # noqa: S608

_T = TypeVar("_T")
_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

Listener = Callable[[list[Turn]], None]


def default_database() -> Path:
    """Return where turns are kept: VOICESPAN_DB, else `voicespan/voicespan.db` in the user's state directory."""
    named = settings.current().db
    if named:
        return Path(named).expanduser()
    state = os.environ.get("XDG_STATE_HOME", "").strip()
    return (Path(state) if state else Path.home() / ".local" / "state") / "voicespan" / "voicespan.db"


class Store:
    """The one writer of a database in this process. Other processes may write to the same file.

    Without a path the database is a temporary file that `close` removes.

    Raises:
        StoreError: the database cannot be opened, or is of a newer version.

    """

    def __init__(self, path: Path | None = None, *, retention: Retention | None = None) -> None:
        self._temporary = None
        if path is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="voicespan-")
            path = Path(self._temporary.name) / "voicespan.db"
        self.path = path
        self.retention = retention or Retention()
        self.reader = Reader(self.path)
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._connection = open_for_writing(self.path)
        self._tidied = time.monotonic()
        try:
            self.tidy()
        except StoreError:
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
        with self._lock:
            self._connection.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the turns that change, after they are stored and in the storing thread.

        Return a function that ends this. The listener must be quick and must not raise.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def add(self, spans: Sequence[ReceivedSpan]) -> list[Turn]:
        """Store all of these spans or none, and return the turns that changed. A span that is there already is kept.

        Raises:
            StoreError: another process kept the database locked, the disk is full, or the file is damaged.

        """
        if not spans:
            return []
        with self._lock:
            try:
                turns = self._add(spans, int(time.time()))
                self._tidy_when_due()
            except sqlite3.Error as error:
                raise StoreError(f"cannot store spans in {self.path}: {error}") from error
        for listener in tuple(self._listeners):
            listener(turns)
        return turns

    def tidy(self) -> int:
        """Forget what the retention does not keep; return how many spans went."""
        with self._lock:
            try:
                return forget(self._connection, self.retention, int(time.time()))
            except sqlite3.Error as error:
                raise StoreError(f"cannot tidy {self.path}: {error}") from error

    def _tidy_when_due(self) -> None:
        now = time.monotonic()
        if now - self._tidied > _TIDY_EVERY_S:
            self._tidied = now
            forget(self._connection, self.retention, int(time.time()))

    def _add(self, spans: Sequence[ReceivedSpan], now_s: int) -> list[Turn]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            traces = _by_trace(spans)
            known = self._known(traces)
            sources = {source: self._source(source, now_s) for source in {span.source for span in spans}}
            rows = [
                (s.trace_id, s.span_id, s.name, s.start_ns, s.end_ns, sources[s.source], now_s, s.body) for s in spans
            ]
            self._insert(_INSERT_SPANS, rows)
            turns = self._turns(traces, known)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return turns

    def _source(self, source: Source, now_s: int) -> int:
        length = len(source.resource).to_bytes(8)
        digest = hashlib.sha256(length + source.resource + source.instrumentation).digest()[:16]
        row = self._connection.execute(
            "INSERT INTO source (digest, service, scope, resource, instrumentation, used_s) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (digest) DO UPDATE SET used_s = max(used_s, excluded.used_s) RETURNING id",
            [digest, source.service, source.scope, source.resource, source.instrumentation, now_s],
        ).fetchall()
        return int(row[0][0])

    def _known(self, traces: Iterable[bytes]) -> set[bytes]:
        """Return which of these traces have spans already."""
        found: set[bytes] = set()
        for rows in _powers_of_two(list(traces)):
            marks = ",".join("?" * len(rows))
            statement = f"SELECT DISTINCT trace_id FROM span WHERE trace_id IN ({marks})"  # noqa: S608
            found.update(trace_id for (trace_id,) in self._connection.execute(statement, rows).fetchall())
        return found

    def _turns(self, traces: dict[bytes, dict[bytes, ReceivedSpan]], known: set[bytes]) -> list[Turn]:
        turns: list[Turn] = []
        for trace_id, spans in traces.items():
            new = spans.values()
            if not any(span.scope == SCOPE or span.parent_id is None for span in new):
                continue  # a span of another instrumentation below the root changes nothing in the row
            seen = read_spans(self._connection, trace_id) if trace_id in known else list(new)
            turn = summarise(trace_id.hex(), seen)
            if turn is not None:
                turns.append(turn)
            elif trace_id in known:
                self._connection.execute("DELETE FROM turn WHERE trace_id = ?", [trace_id])
        self._insert(_INSERT_TURNS, [_row(turn) for turn in turns])
        return turns

    def _insert(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Insert rows with few statements.

        `executemany` gives up the interpreter lock at each row: when another thread of the process is busy, each row
        then waits 5 ms to get it back (387 rows a second measured, against 28,000 this way).
        """
        for some in _powers_of_two(rows):
            marks = ",".join(["(" + ",".join("?" * len(some[0])) + ")"] * len(some))
            self._connection.execute(statement + marks, [value for row in some for value in row])


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


def _row(turn: Turn) -> tuple[object, ...]:
    return (
        bytes.fromhex(turn.trace_id),
        *turn[1:-2],
        _json(turn.shares),
        _json(turn.attributes),
    )
