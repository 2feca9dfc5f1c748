"""What the store forgets: the oldest traces, by age and by size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

_CHUNK_SPANS = 5_000
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Limits of the store; None is no limit. The age counts from when a span arrived, not from when it happened."""

    max_age_s: int | None = 14 * _DAY_S
    max_bytes: int | None = 1 << 30


def forget(connection: sqlite3.Connection, retention: Retention, now_s: int) -> int:
    """Delete whole traces, the oldest first, until the limits hold; return how many spans went.

    Each step is a transaction of its own, so that other writers wait only briefly.
    """
    forgotten = 0
    while (newest := _newest_to_forget(connection, retention, now_s)) is not None:
        forgotten += _forget_until(connection, newest)
    if forgotten:
        connection.executescript("PRAGMA incremental_vacuum")  # `execute` would give back a single page
    return forgotten


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of what the database holds, without pages that are free for use again."""
    pages, free, size = (
        connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _newest_to_forget(connection: sqlite3.Connection, retention: Retention, now_s: int) -> int | None:
    """Return the row id up to which spans go in the next step; row ids grow in order of arrival."""
    oldest = connection.execute("SELECT id, received_s FROM span ORDER BY id LIMIT 1").fetchone()
    if oldest is None:
        return None
    too_old = retention.max_age_s is not None and oldest[1] < now_s - retention.max_age_s
    too_large = retention.max_bytes is not None and used_bytes(connection) > retention.max_bytes
    if too_large:
        return int(oldest[0]) + _CHUNK_SPANS
    if too_old:
        assert retention.max_age_s is not None
        row = connection.execute(
            "SELECT max(id) FROM (SELECT id, received_s FROM span ORDER BY id LIMIT ?) WHERE received_s < ?",
            [_CHUNK_SPANS, now_s - retention.max_age_s],
        ).fetchone()
        return int(row[0])
    return None


def _forget_until(connection: sqlite3.Connection, newest: int) -> int:
    connection.execute("BEGIN IMMEDIATE")
    try:
        traces = "SELECT DISTINCT trace_id FROM span WHERE id <= ?"
        connection.execute(f"DELETE FROM turn WHERE trace_id IN ({traces})", [newest])  # noqa: S608
        # The later spans of these traces go too: half a trace would look like an incomplete turn.
        removed = connection.execute(f"DELETE FROM span WHERE trace_id IN ({traces})", [newest]).rowcount  # noqa: S608
        connection.execute(
            "DELETE FROM source WHERE used_s < coalesce((SELECT received_s FROM span ORDER BY id LIMIT 1), used_s + 1)"
        )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return removed
