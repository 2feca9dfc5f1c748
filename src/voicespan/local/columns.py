"""The turns as columns in memory: what figures over many turns are made of, kept in step with the database.

A question about 20,000 turns would otherwise read 20,000 rows each time. Here each row is read once, when it is new or
has changed, and a column that percentiles are asked of keeps its turns in order.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from itertools import compress, repeat
from operator import and_, eq, ge, gt, lt
from typing import TYPE_CHECKING, Any, TypeVar, overload

from voicespan.local.query import CONDITIONS, FAILED, INCOMPLETE, SORT_COLUMNS, UNANSWERED, search_key
from voicespan.local.row import SHARE_COLUMNS
from voicespan.local.schema import StoreError, open_for_reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from voicespan.local.query import TurnQuery

_T = TypeVar("_T")

NONE = -1
"""In a column of numbers: the turn has no such value."""

ANSWERED_NS = "answered_ns"
"""The column of the heard silence of answered turns alone."""

ANSWERED_SHARES = {stage: f"answered_{column}" for stage, column in SHARE_COLUMNS.items()}
"""The columns of the shares of answered turns alone, 0 where a stage has none."""

_ANSWERED = "response_ns IS NOT NULL AND NOT unanswered"
_NUMBERS = {
    **{column: f"ifnull({column}, {NONE})" for column in SORT_COLUMNS.values()},
    ANSWERED_NS: f"CASE WHEN {_ANSWERED} THEN response_ns ELSE {NONE} END",
    **{
        ANSWERED_SHARES[stage]: f"CASE WHEN {_ANSWERED} THEN ifnull({column}, 0) ELSE {NONE} END"
        for stage, column in SHARE_COLUMNS.items()
    },
}
_FLAGS = {
    "answered": _ANSWERED,
    "unanswered": "unanswered",
    "complete": "complete",
    "interrupted": "outcome IS 'interrupted'",
    "failed": f"ifnull({CONDITIONS[FAILED]}, 0)",
    "excused": "ifnull(no_reply_reason IN ('no_speech', 'suppressed'), 0)",  # nobody waited for an answer
}
MARKS = ("", "interrupted", "unanswered", "error")
"""What a dot is marked with; the flag `mark` is one of these, the worst where several are true."""
_FLAGS["mark"] = f"CASE WHEN {CONDITIONS[FAILED]} THEN 3 WHEN unanswered THEN 2 ELSE outcome IS 'interrupted' END"

_LABELS = ("session_id", "service", "run", "model", "voice", "worker", "outcome")
_ROWS = (
    f"SELECT id, trace_id, {', '.join([*_NUMBERS.values(), *_FLAGS.values(), *_LABELS])} FROM turn"  # noqa: S608
    " WHERE id > ? ORDER BY id"
)
_CHUNK = 2_000
_FEW = 64
_SPARSE = 16  # of so many turns, one: to sort that one is less work than to look at all
_OPPOSITE = bytes.maketrans(b"\0\1", b"\1\0")


class Columns:
    """The columns of all turns; a turn has the same position in each.

    They are as the database is, and stay so, within `current`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self.version = 0
        """Grows with each change."""
        self._clear()

    def _clear(self) -> None:
        self.trace_ids: list[bytes] = []
        self.numbers = {name: array("q") for name in _NUMBERS}
        self.flags = {name: bytearray() for name in _FLAGS}
        self.labels: dict[str, list[Any]] = {name: [] for name in _LABELS}
        self._distinct: dict[Any, Any] = {}
        self._positions: dict[bytes, int] = {}
        self._orders: dict[str, list[int]] = {}
        self._last_id = 0
        self._seen: int | None = None

    def close(self) -> None:
        """Let go of the database and of what was read."""
        with self._lock:
            self._clear()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def current(self) -> Iterator[Columns]:
        """Give the columns as the database is now. Other questions wait meanwhile.

        Raises:
            StoreError: there is no database that can be read.

        """
        with self._lock:
            if self._connection is None:
                self._connection = open_for_reading(self._path)
            try:
                self._refresh(self._connection)
            except sqlite3.Error as error:
                self._clear()
                raise StoreError(f"cannot read {self._path}: {error}") from error
            yield self

    def select(self, query: TurnQuery) -> Selection:
        """Return the turns that the query selects; its order and limit do not matter."""
        mask: Iterable[bool] | None = None
        for condition in self._conditions(query):
            mask = condition if mask is None else map(and_, mask, condition)
        return Selection(self, None if mask is None else bytes(mask))

    def order(self, name: str) -> Sequence[int]:
        """Return the positions of the turns that have this number, in its order."""
        order = self._orders.get(name)
        if order is None:
            values = self.numbers[name]
            known = [position for position, value in enumerate(values) if value != NONE]
            order = self._orders[name] = sorted(known, key=values.__getitem__)
        return order

    def _conditions(self, query: TurnQuery) -> Iterator[Iterable[bool]]:
        """Yield, for each condition of the query, whether each turn meets it; the same as TurnQuery.where."""
        labels = {
            "session_id": query.session,
            "service": query.service,
            "run": query.run,
            "model": query.model,
            "voice": query.voice,
            "worker": query.worker,
            "outcome": query.plain_outcome,
        }
        for name, label in labels.items():
            if label is not None:
                yield map(eq, self.labels[name], repeat(label))
        if query.outcome == INCOMPLETE:
            yield map(lt, self.flags["complete"], repeat(1))
        if query.outcome in (UNANSWERED, FAILED):
            yield map(eq, self.flags[query.outcome], repeat(1))
        for compare, name, bound in (
            (gt, "response_ns", query.slower_than_ns),
            (gt, SORT_COLUMNS[query.stage], query.over_ns),
            (ge, "start_ns", query.since_ns),
            (lt, "start_ns", query.until_ns),
        ):
            if bound is not None:
                yield map(compare, self.numbers[name], repeat(max(bound, NONE)))
        if query.search:
            yield self._found(search_key(query.search))

    def _found(self, key: str) -> Iterable[bool]:
        sessions = self.labels["session_id"]
        found = {session for session in set(sessions) if session and key in search_key(session)}
        for session, trace_id in zip(sessions, self.trace_ids, strict=True):
            yield session in found or trace_id.hex().startswith(key)

    def _refresh(self, connection: sqlite3.Connection) -> None:
        if _data_version(connection) == self._seen:
            return
        connection.execute("BEGIN")
        try:
            before = self._last_id
            cursor = connection.execute(_ROWS, [before])
            while rows := cursor.fetchmany(_CHUNK):
                self._take(rows)
            ((turns,),) = connection.execute("SELECT count(*) FROM turn")
            forgotten = turns != len(self.trace_ids)
            if forgotten:
                self._keep({trace_id for (trace_id,) in connection.execute("SELECT trace_id FROM turn")})
            self.version += forgotten or self._last_id > before
            self._seen = _data_version(connection)
        finally:
            connection.execute("COMMIT")

    def _take(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take in rows that are new, or that come in place of older ones."""
        if len(rows) > max(len(self.trace_ids) // 100, _FEW):
            self._orders.clear()  # to sort anew is less work than to put so many in their places
        positions, first = self._positions, len(self.trace_ids)
        for row in rows:
            if row[1] in positions:
                self._change(positions[row[1]], row[2:])
        new = [row[1:] for row in rows if row[1] not in positions]
        of_labels = len(_NUMBERS) + len(_FLAGS) + 1
        for place, values in enumerate(zip(*new, strict=True)):
            few = values if place < of_labels else map(self._distinct.setdefault, values, values)
            self._columns()[place].extend(few)
        for position in range(first, len(self.trace_ids)):
            positions[self.trace_ids[position]] = position
            self._put(position)
        self._last_id = rows[-1][0]

    def _columns(self) -> list[Any]:
        """Return the columns in the order of a row."""
        return [self.trace_ids, *self.numbers.values(), *self.flags.values(), *self.labels.values()]

    def _change(self, position: int, values: Sequence[Any]) -> None:
        for name, order in self._orders.items():
            if self.numbers[name][position] != NONE:
                del order[self._place(name, position)]
        for column, value in zip(self._columns()[1:], values, strict=True):
            column[position] = value
        self._put(position)

    def _put(self, position: int) -> None:
        """Put a turn into the orders that there are."""
        for name, order in self._orders.items():
            if self.numbers[name][position] != NONE:
                order.insert(self._place(name, position), position)

    def _place(self, name: str, position: int) -> int:
        """Return where in an order this position is or belongs: by the value, then by itself."""
        order, values = self._orders[name], self.numbers[name]
        first = bisect_left(order, values[position], key=values.__getitem__)
        last = bisect_right(order, values[position], first, key=values.__getitem__)
        return bisect_left(order, position, first, last)

    def _keep(self, trace_ids: set[bytes]) -> None:
        """Forget all turns but these."""
        kept = [trace_id in trace_ids for trace_id in self.trace_ids]
        for numbers in self.numbers.values():
            numbers[:] = array("q", compress(numbers, kept))
        for flags in self.flags.values():
            flags[:] = bytes(compress(flags, kept))
        for labels in (self.trace_ids, *self.labels.values()):
            labels[:] = compress(labels, kept)
        self._positions = {trace_id: position for position, trace_id in enumerate(self.trace_ids)}
        self._orders.clear()


class Selection:
    """Some of the turns."""

    def __init__(self, columns: Columns, mask: bytes | None) -> None:
        self.columns = columns
        self._mask = mask
        self._orders: dict[str, Sequence[int]] = {}

    def __len__(self) -> int:
        """Return how many turns these are."""
        return len(self.columns.trace_ids) if self._mask is None else self._mask.count(1)

    def where(self, flag: str, *, is_set: bool = True) -> Selection:
        """Return those of the turns that have a flag, or have it not."""
        flags = bytes(self.columns.flags[flag])
        wanted = flags if is_set else flags.translate(_OPPOSITE)
        return Selection(self.columns, wanted if self._mask is None else _both(self._mask, wanted))

    def count(self, flag: str) -> int:
        """Return how many of the turns have a flag."""
        return len(self.where(flag))

    def numbers(self, name: str) -> Iterable[int]:
        """Return a column of numbers; NONE where a turn has no value."""
        return self._only(self.columns.numbers[name])

    def labels(self, name: str) -> Iterable[Any]:
        """Return a column of labels; None where a turn has none."""
        return self._only(self.columns.labels[name])

    def occurring(self, name: str) -> Counter[Any]:
        """Return how often each label of a column occurs."""
        counts = Counter(self.labels(name))
        del counts[None]
        return counts

    def order(self, name: str) -> Sequence[int]:
        """Return the positions of those of the turns that have this number, in its order."""
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = self._ordered(self.columns.order(name), self.columns.numbers[name])
        return order

    def ordered(self, name: str) -> Ordered:
        """Return the values of a column of numbers, in order."""
        return Ordered(self.columns.numbers[name], self.order(name))

    def _ordered(self, order: Sequence[int], values: Sequence[int]) -> Sequence[int]:
        mask = self._mask
        if mask is None:
            return order
        if len(self) * _SPARSE > len(order):
            return [position for position in order if mask[position]]
        known = (position for position in self._only(range(len(mask))) if values[position] != NONE)
        return sorted(known, key=values.__getitem__)

    def _only(self, column: Iterable[_T]) -> Iterable[_T]:
        return column if self._mask is None else compress(column, self._mask)


class Ordered(Sequence[int]):
    """Values in order, each looked up when it is asked for: a percentile needs a few of them."""

    def __init__(self, values: Sequence[int], order: Sequence[int]) -> None:
        self._values = values
        self._order = order

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        """Yield all of them."""
        return map(self._values.__getitem__, self._order)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: int | slice) -> int | list[int]:
        """Return one of them, or several."""
        if isinstance(index, slice):
            return list(map(self._values.__getitem__, self._order[index]))
        return self._values[self._order[index]]


def _both(mask: bytes, other: bytes) -> bytes:
    """Return what is set in both masks; as whole numbers they are compared far quicker than byte by byte."""
    return (int.from_bytes(mask) & int.from_bytes(other)).to_bytes(len(mask))


def _data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes whenever another connection, of any process, has written."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])
