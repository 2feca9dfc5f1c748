"""What the store forgets: the oldest traces, by age and by size; with its spans goes all that belongs to a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from voicespan.local.part import COUNT

if TYPE_CHECKING:
    import sqlite3

_CHUNK_ROWS = 1_000
_FEW_ROWS = 50
"""Where there is audio a trace may be as large as thousands of others: then less is forgotten at once."""
_DAY_S = 86_400
_ARRIVALS = ("log", "content", "part")  # row ids grow in order of arrival in each


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Limits of the store; None is no limit. The age counts from when something arrived, not from when it happened."""

    max_age_s: int | None = 14 * _DAY_S
    max_bytes: int | None = 1 << 30


def forget(connection: sqlite3.Connection, retention: Retention, now_s: int) -> int:
    """Delete whole traces, the oldest first, until the limits hold; return how many spans went.

    Each step is a transaction of its own, so that other writers wait only briefly.
    """
    forgotten = 0
    changes = connection.total_changes
    while (step := _next_step(connection, retention, now_s)) is not None:
        forgotten += _forget(connection, step)
    if connection.total_changes > changes:
        connection.executescript("PRAGMA incremental_vacuum")  # `execute` would give back a single page
    return forgotten


def read_limits(connection: sqlite3.Connection) -> Retention:
    """Return the limits that the database is kept to."""
    row = connection.execute("SELECT max_age_s, max_bytes FROM retention").fetchone()
    return Retention() if row is None else Retention(max_age_s=row[0], max_bytes=row[1])


def write_limits(connection: sqlite3.Connection, retention: Retention) -> None:
    """Change the limits that the database is kept to, by whoever opens it."""
    connection.execute(
        "INSERT OR REPLACE INTO retention (id, max_age_s, max_bytes) VALUES (1, ?, ?)",
        [retention.max_age_s, retention.max_bytes],
    )


def last_arrival_s(connection: sqlite3.Connection) -> int:
    """Return when the last of what the database holds arrived; 0 when it is empty."""
    last = (connection.execute(f"SELECT received_s FROM {table} ORDER BY id DESC LIMIT 1") for table in _ARRIVALS)  # noqa: S608
    return max((received_s for rows in last for (received_s,) in rows), default=0)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of what the database holds, without pages that are free for use again."""
    pages, free, size = (
        connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


class _Step(NamedTuple):
    """Forget the traces of what came into this table up to this row."""

    table: str
    newest: int


def _next_step(connection: sqlite3.Connection, retention: Retention, now_s: int) -> _Step | None:
    oldest = [
        (received_s, table, identity)
        for table in _ARRIVALS
        for identity, received_s in connection.execute(f"SELECT id, received_s FROM {table} ORDER BY id LIMIT 1")  # noqa: S608
    ]
    if not oldest:
        return None
    received_s, table, first = min(oldest)
    if retention.max_bytes is not None and used_bytes(connection) > retention.max_bytes:
        audible = any(of == "content" for _, of, _ in oldest)
        return _Step(table, first + (0 if table == "content" else _FEW_ROWS if audible else _CHUNK_ROWS))
    if retention.max_age_s is not None and received_s < now_s - retention.max_age_s:
        ((newest,),) = connection.execute(
            f"SELECT max(id) FROM (SELECT id, received_s FROM {table} ORDER BY id LIMIT ?) WHERE received_s < ?",  # noqa: S608
            [_CHUNK_ROWS, now_s - retention.max_age_s],
        )
        return _Step(table, newest)
    return None


def _forget(connection: sqlite3.Connection, step: _Step) -> int:
    """Delete whole traces, also what arrived later of them: half a trace would look like an incomplete turn."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        traces = f"SELECT DISTINCT trace_id FROM {step.table} WHERE id <= ?"  # noqa: S608
        others = (table for table in _ARRIVALS if table != step.table)
        ((spans,),) = connection.execute(f"SELECT {COUNT} FROM part WHERE trace_id IN ({traces})", [step.newest])  # noqa: S608
        for table in ("turn", "trace", *others, step.table):
            connection.execute(f"DELETE FROM {table} WHERE trace_id IN ({traces})", [step.newest])  # noqa: S608
        connection.execute(
            "DELETE FROM source WHERE last_part < (SELECT ifnull(min(id), 9e18) FROM part)"
            " AND last_log < (SELECT ifnull(min(id), 9e18) FROM log)"
        )
        connection.execute("DELETE FROM run WHERE id NOT IN (SELECT run FROM source WHERE run IS NOT NULL)")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return int(spans)
