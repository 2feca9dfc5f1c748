"""Reading the local store: lists of turns, one turn, its spans. Each question uses a connection of its own."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from voicespan.local.decode import TRACE_ID_BYTES, plain_span
from voicespan.local.schema import open_for_reading
from voicespan.local.turn import Turn

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from voicespan.local.span import Span

INCOMPLETE = "incomplete"
"""In a query, the outcome of turns whose root span has not arrived."""

UNANSWERED = "unanswered"
"""In a query, the outcome of turns whose user waited and heard nothing."""

_NO_OUTCOMES = {INCOMPLETE: "NOT complete", UNANSWERED: "unanswered"}

SORT_COLUMNS = {
    "start": "start_ns",
    "response": "response_ns",
    "duration": "duration_ns",
    "answer": "answer_ns",
    "endpoint": "endpoint_ns",
    "asr": "asr_ns",
    "llm": "llm_ttft_ns",
    "sentence": "sentence_ns",
    "tool": "tool_ns",
    "tts": "tts_first_audio_ns",
    "realtime": "realtime_first_audio_ns",
    "network": "playback_start_ns",
}
"""What a list of turns can be sorted by; the largest comes first."""

MAX_LIMIT = 20_000
_TRACE_DIGITS = 2 * TRACE_ID_BYTES
_COLUMNS = ", ".join(Turn._fields)
_TRACE_ID = Turn._fields.index("trace_id")
_FLAGS = tuple(Turn._fields.index(name) for name in ("complete", "unanswered"))
_JSON = tuple(Turn._fields.index(name) for name in ("shares", "attributes"))


class UnknownTurnError(LookupError):
    """No trace, or more than one, begins with these digits; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnQuery:
    """Which turns, in which order. Times are Unix time in nanoseconds.

    Raises:
        ValueError: `sort` or `limit` is not possible.

    """

    session: str | None = None
    outcome: str | None = None
    """An outcome of the turn model, or `incomplete`."""
    service: str | None = None
    model: str | None = None
    voice: str | None = None
    worker: str | None = None
    search: str | None = None
    """Only turns whose session contains this, or whose trace id begins with it."""
    slower_than_ns: int | None = None
    """Only turns whose heard silence was longer."""
    stage: str = "response"
    """What `over_ns` is about: a key of SORT_COLUMNS."""
    over_ns: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    sort: str = "start"
    ascending: bool = False
    limit: int = 50

    def __post_init__(self) -> None:
        if self.sort not in SORT_COLUMNS:
            raise ValueError(f"sort is one of {', '.join(SORT_COLUMNS)}")
        if self.stage not in SORT_COLUMNS:
            raise ValueError(f"stage is one of {', '.join(SORT_COLUMNS)}")
        if not 0 < self.limit <= MAX_LIMIT:
            raise ValueError(f"limit is a number from 1 to {MAX_LIMIT}")

    def sql(self) -> tuple[str, list[object]]:
        """Return the statement and its parameters."""
        where, parameters = self.where()
        direction = "ASC" if self.ascending else "DESC"
        order = f" ORDER BY {SORT_COLUMNS[self.sort]} {direction} NULLS LAST, start_ns DESC LIMIT ?"
        return f"SELECT {_COLUMNS} FROM turn{where}{order}", [*parameters, self.limit]  # noqa: S608

    def where(self) -> tuple[str, list[object]]:
        """Return the condition alone, empty when every turn is asked for, and its parameters."""
        conditions: list[str] = []
        parameters: list[object] = []
        for condition, value in (
            ("session_id = ?", self.session),
            ("service = ?", self.service),
            ("model = ?", self.model),
            ("voice = ?", self.voice),
            ("worker = ?", self.worker),
            ("response_ns > ?", self.slower_than_ns),
            (f"{SORT_COLUMNS[self.stage]} > ?", self.over_ns),
            ("start_ns >= ?", self.since_ns),
            ("start_ns < ?", self.until_ns),
            ("outcome = ?", None if self.outcome in _NO_OUTCOMES else self.outcome),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        if self.outcome in _NO_OUTCOMES:
            conditions.append(_NO_OUTCOMES[self.outcome])
        if self.search:
            conditions.append("(instr(lower(session_id), ?) OR instr(lower(hex(trace_id)), ?) = 1)")
            parameters.extend([self.search.lower()] * 2)
        return (f" WHERE {' AND '.join(conditions)}" if conditions else ""), parameters


class Reader:
    """Answers questions about a database, also while a receiver in this or another process writes to it.

    Every method raises StoreError when there is no database that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def turns(self, query: TurnQuery) -> list[Turn]:
        """Return the turns that the query asks for."""
        with self._connection() as connection:
            return [_turn(row) for row in connection.execute(*query.sql())]

    def columns(self, query: TurnQuery, columns: Sequence[str], *, newest: int | None = None) -> list[tuple[Any, ...]]:
        """Return these columns of all turns that the query selects, or of its `newest`, in order of time."""
        where, parameters = query.where()
        order = " ORDER BY start_ns DESC LIMIT ?" if newest is not None else ""
        statement = f"SELECT {', '.join(columns)} FROM turn{where}{order}"  # noqa: S608 - no value stands in it
        rows = self.ask(statement, parameters + ([newest] if newest is not None else []))
        return rows[::-1] if newest is not None else rows

    def ask(self, statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        """Return what a statement finds."""
        with self._connection() as connection:
            return connection.execute(statement, parameters).fetchall()

    def count_of(self, query: TurnQuery) -> int:
        """Return how many turns the query selects, whatever its limit."""
        return int(self.columns(query, ["count(*)"])[0][0])

    def neighbours(self, turn: Turn) -> dict[str, str | None]:
        """Return the trace ids of the `previous` and the `next` turn of the same session."""
        found: dict[str, str | None] = {"previous": None, "next": None}
        with self._connection() as connection:
            for name, comparison, order in (("previous", "<", "DESC"), ("next", ">", "ASC")):
                row = connection.execute(
                    f"SELECT lower(hex(trace_id)) FROM turn WHERE session_id = ? AND start_ns {comparison} ?"  # noqa: S608
                    f" ORDER BY start_ns {order} LIMIT 1",
                    [turn.session_id, turn.start_ns],
                ).fetchone()
                found[name] = row[0] if row else None
        return found

    def turn(self, trace_id: str) -> Turn | None:
        """Return the turn of this trace; None when the store has none."""
        with self._connection() as connection:
            statement = f"SELECT {_COLUMNS} FROM turn WHERE trace_id = ?"  # noqa: S608
            row = connection.execute(statement, [bytes.fromhex(trace_id)]).fetchone()
            return _turn(row) if row else None

    def spans(self, trace_id: str) -> list[Span]:
        """Return the spans of this trace in order of start; none when the store does not know it."""
        with self._connection() as connection:
            return read_spans(connection, bytes.fromhex(trace_id))

    def find(self, prefix: str) -> str:
        """Return the trace id that begins with these hex digits; of the newest turn for `last`.

        Raises:
            UnknownTurnError: there is none, or more than one.

        """
        with self._connection() as connection:
            if prefix == "last":
                return _last(connection)
            return _only(connection, prefix.lower())

    def count(self) -> int:
        """Return how many turns the store holds."""
        with self._connection() as connection:
            return int(connection.execute("SELECT count(*) FROM turn").fetchone()[0])

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = open_for_reading(self.path)
        try:
            yield connection
        finally:
            connection.close()


def read_spans(connection: sqlite3.Connection, trace_id: bytes) -> list[Span]:
    """Return the spans of a trace in order of start, parents before their children where both start together."""
    rows = connection.execute(
        "SELECT body, service, scope FROM span JOIN source ON source.id = span.source"
        " WHERE trace_id = ? ORDER BY start_ns, end_ns DESC",
        [trace_id],
    )
    return [plain_span(OtlpSpan.FromString(body), service, scope) for body, service, scope in rows]


def _turn(row: tuple[Any, ...]) -> Turn:
    values = list(row)
    values[_TRACE_ID] = values[_TRACE_ID].hex()
    for column in _FLAGS:
        values[column] = bool(values[column])
    for column in _JSON:
        values[column] = json.loads(values[column])
    return Turn._make(values)


def _last(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT trace_id FROM turn ORDER BY start_ns DESC LIMIT 1").fetchone()
    if row is None:
        raise UnknownTurnError("there is no turn yet")
    return str(row[0].hex())


def _only(connection: sqlite3.Connection, prefix: str) -> str:
    if not 0 < len(prefix) <= _TRACE_DIGITS or set(prefix) - set("0123456789abcdef"):
        raise UnknownTurnError(f"{prefix!r} is not the beginning of a trace id (hex digits, at most {_TRACE_DIGITS})")
    bounds = [bytes.fromhex(prefix.ljust(_TRACE_DIGITS, fill)) for fill in "0f"]
    found = connection.execute(
        "SELECT DISTINCT trace_id FROM span WHERE trace_id BETWEEN ? AND ? LIMIT 3", bounds
    ).fetchall()
    if not found:
        raise UnknownTurnError(f"no trace begins with {prefix!r}")
    if len(found) > 1:
        shown = ", ".join(trace_id.hex()[: len(prefix) + 6] for (trace_id,) in found[:2])
        raise UnknownTurnError(f"more than one trace begins with {prefix!r}: {shown}, ...")
    return str(found[0][0].hex())
