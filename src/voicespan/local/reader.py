"""Reading the local store: lists of turns, one turn, its spans. Each question uses a connection of its own."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

from voicespan import names as n
from voicespan.local.columns import Columns
from voicespan.local.content import EVENT_NAME, stored_log_without, strip_span
from voicespan.local.decode import TRACE_ID_BYTES, plain_span
from voicespan.local.log import WARNING, Log
from voicespan.local.part import COUNT, first_spans, unpack
from voicespan.local.query import TurnQuery
from voicespan.local.row import COLUMNS, from_row
from voicespan.local.schema import open_for_reading
from voicespan.local.score import scores_of
from voicespan.local.span import SCOPE, scopes_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

    from voicespan.local.score import Score
    from voicespan.local.span import Span
    from voicespan.local.turn import Turn

_TRACE_DIGITS = 2 * TRACE_ID_BYTES
_COLUMNS = ", ".join(COLUMNS)
_MAX_MARKS = 10_000
_ALL = -1
_NAMES = frozenset(span.name for span in n.SPANS)


_LOGS = (
    "SELECT span_id, time_ns, severity, body, service, attributes"
    " FROM log JOIN source ON source.id = log.source WHERE trace_id = ?"
)
_MAX_SCORES = 100
_LATE_NS = 2_000_000_000  # an onset may be known to be later than the end of what it interrupted: clocks differ


class Said(TypedDict):
    """What one side said in a turn."""

    text: str | None
    audio: bool


class UnknownTurnError(LookupError):
    """No trace, or more than one, begins with these digits; the message says which."""


class Reader:
    """Answers questions about a database, also while a receiver in this or another process writes to it.

    Every method raises StoreError when there is no database that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns = Columns(path)

    def close(self) -> None:
        """Let go of what is kept between questions."""
        self.columns.close()

    def turns(self, query: TurnQuery) -> list[Turn]:
        """Return the turns that the query asks for."""
        with self._connection() as connection:
            return [from_row(row) for row in connection.execute(*query.sql())]

    def ask(self, statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        """Return what a statement finds."""
        with self._connection() as connection:
            return connection.execute(statement, parameters).fetchall()

    def count_of(self, query: TurnQuery) -> int:
        """Return how many turns the query selects, whatever its limit."""
        where, parameters = query.where()
        return int(self.ask(f"SELECT count(*) FROM turn{where}", parameters)[0][0])  # noqa: S608

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
            return from_row(row) if row else None

    def spans(self, trace_id: str, *, content: bool = True, most: int = _ALL) -> list[Span]:
        """Return the spans of this trace in order of start; without `content`, less what was said.

        There are none when the store does not know it. Of more than `most`, the first ones are left that make a turn,
        then the first of the others.
        """
        with self._connection() as connection:
            return read_spans(connection, bytes.fromhex(trace_id), content=content, most=most)

    def count_spans(self, trace_id: str) -> int:
        """Return how many spans of this trace there are."""
        return int(self.ask(f"SELECT {COUNT} FROM part WHERE trace_id = ?", [bytes.fromhex(trace_id)])[0][0])  # noqa: S608

    def spans_named(self, trace_ids: Sequence[str], names: Sequence[str]) -> dict[str, list[Span]]:
        """Return, for each of these traces, the spans of these names that make a turn, in order of start."""
        found: dict[str, list[Span]] = {trace_id: [] for trace_id in trace_ids}
        statement = (
            "SELECT body, service, scope FROM part JOIN source ON source.id = part.source"  # noqa: S608
            f" WHERE trace_id IN ({_marks(trace_ids)}) ORDER BY part.id"
        )
        for body, service, scope in self.ask(statement, [*map(bytes.fromhex, trace_ids)]):
            for message in unpack(body):
                if message.name in names:
                    found[message.trace_id.hex()].append(plain_span(message, service, scope))
        return {trace_id: _telling(sorted(spans, key=_begin)) for trace_id, spans in found.items()}

    def interrupted_by(self, turn: Turn) -> str | None:
        """Return the trace id of the turn of the same session that began in this one and interrupted it."""
        if turn.session_id is None:
            return None
        end_ns = turn.start_ns + turn.duration_ns + _LATE_NS
        query = TurnQuery(session=turn.session_id, since_ns=turn.start_ns, until_ns=end_ns, ascending=True)
        later = [row.trace_id for row in self.turns(query)]
        roots = (span for spans in self.spans_named(later, [n.SPAN_TURN]).values() for span in spans)
        return next((root.trace_id for root in roots if interrupted(root) == turn.trace_id), None)

    def logs(self, trace_id: str, limit: int, *, content: bool = True) -> list[Log]:
        """Return the first log records of this trace, in order of time; without `content`, less what was said."""
        rows = self.ask(f"{_LOGS} ORDER BY time_ns, log.id LIMIT ?", [bytes.fromhex(trace_id), limit])
        return self._logs(trace_id, rows, content=content)

    def scores(self, trace_id: str, *, content: bool = True) -> list[Score]:
        """Return what was said of this trace afterwards, the last under each name; without `content`, not why."""
        statement = f"{_LOGS} AND instr(attributes, ?) ORDER BY time_ns DESC, log.id DESC LIMIT {_MAX_SCORES}"
        rows = self.ask(statement, [bytes.fromhex(trace_id), n.EVENT_EVALUATION_RESULT])
        found = self._logs(trace_id, rows[::-1], content=content)
        return scores_of(log for log in found if log.attributes.get(EVENT_NAME) == n.EVENT_EVALUATION_RESULT)

    def _logs(self, trace_id: str, rows: Sequence[tuple[Any, ...]], *, content: bool) -> list[Log]:
        found = []
        for span_id, time_ns, severity, said, service, text in rows:
            body, attributes = said, json.loads(text)
            if not content:
                body, attributes = stored_log_without(body, attributes)
            span = span_id.hex() if span_id else None
            found.append(Log(trace_id, span, time_ns, severity, body, service, attributes))
        return found

    def count_logs(self, trace_id: str) -> int:
        """Return how many log records of this trace there are."""
        return int(self.ask("SELECT count(*) FROM log WHERE trace_id = ?", [bytes.fromhex(trace_id)])[0][0])

    def log_counts(self, trace_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return, for those of these traces that have any, how many log records there are, and warnings among them."""
        found = {}
        for start in range(0, len(trace_ids), _MAX_MARKS):
            some = [bytes.fromhex(trace_id) for trace_id in trace_ids[start : start + _MAX_MARKS]]
            statement = (
                f"SELECT trace_id, count(*), sum(severity >= {WARNING}) FROM log"  # noqa: S608
                f" WHERE trace_id IN ({_marks(some)}) GROUP BY trace_id"
            )
            found.update({trace_id.hex(): (lines, warnings) for trace_id, lines, warnings in self.ask(statement, some)})
        return found

    def content(self, trace_ids: Sequence[str]) -> dict[str, dict[str, Said]]:
        """Return, for each of these traces, what was said by whom, and whether there is audio of it."""
        found: dict[str, dict[str, Said]] = {trace_id: {} for trace_id in trace_ids}
        statement = (
            f"SELECT trace_id, role, text, audio IS NOT NULL FROM content WHERE trace_id IN ({_marks(trace_ids)})"  # noqa: S608
        )
        for trace_id, role, text, audio in self.ask(statement, [*map(bytes.fromhex, trace_ids)]):
            found[trace_id.hex()][role] = {"text": text, "audio": bool(audio)}
        return found

    def audio(self, trace_id: str, role: str) -> tuple[bytes, int] | None:
        """Return what one side said in a turn as 16-bit mono PCM, and its sample rate; None where nothing is kept."""
        rows = self.ask(
            "SELECT audio, sample_rate FROM content"
            " WHERE trace_id = ? AND role = ? AND audio IS NOT NULL AND sample_rate IS NOT NULL",
            [bytes.fromhex(trace_id), role],
        )
        return rows[0] if rows else None

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


def interrupted(root: Span) -> str | None:
    """Return the trace id of the turn that this one interrupted, which the link of its root span names."""
    interrupts = (link for link in root.links if link.attributes.get(n.VOICE_LINK_TYPE) == "interrupted")
    return next((link.trace_id for link in interrupts), None)


def _telling(spans: Sequence[Span]) -> list[Span]:
    scopes = scopes_of(spans)
    return [span for span in spans if span.scope in scopes]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def read_spans(
    connection: sqlite3.Connection, trace_id: bytes, *, content: bool = True, most: int = _ALL
) -> list[Span]:
    """Return the spans of a trace in order of start, parents before their children where both start together."""
    rows = connection.execute(
        "SELECT body, service, scope FROM part JOIN source ON source.id = part.source"
        " WHERE trace_id = ? ORDER BY part.id",
        [trace_id],
    )
    parts = ((body, (service, scope)) for body, service, scope in rows)
    if most == _ALL:
        messages = [(message, of) for body, of in parts for message in unpack(body)]
    else:
        messages = first_spans(parts, most, _telling_first)
    if not content:
        for message, _ in messages:
            strip_span(message)
    return sorted((plain_span(message, *of) for message, of in messages), key=_begin)


def _telling_first(message: OtlpSpan, of: tuple[str, str]) -> tuple[bool, int]:
    return of[1] != SCOPE and message.name not in _NAMES, message.start_time_unix_nano


def _begin(span: Span) -> tuple[int, int]:
    return span.start_ns, -span.end_ns


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
        "SELECT * FROM (SELECT DISTINCT trace_id FROM part WHERE trace_id BETWEEN ? AND ? LIMIT 3)"
        " UNION SELECT * FROM (SELECT DISTINCT trace_id FROM log WHERE trace_id BETWEEN ? AND ? LIMIT 3)",
        bounds * 2,
    ).fetchall()
    if not found:
        raise UnknownTurnError(f"no trace begins with {prefix!r}")
    if len(found) > 1:
        shown = ", ".join(trace_id.hex()[: len(prefix) + 6] for (trace_id,) in found[:2])
        raise UnknownTurnError(f"more than one trace begins with {prefix!r}: {shown}, ...")
    return str(found[0][0].hex())
