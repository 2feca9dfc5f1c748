"""The row of a turn in the database: a column for each field, the shares of the silence in a column for each stage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from voicespan import names as n
from voicespan.local.decode import plain_span
from voicespan.local.turn import Turn, summarise

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

SHARE_COLUMNS = {stage: f"share_{stage}_ns" for stage in n.SHARE_STAGES}
"""The column of each part of the heard silence."""

_PLAIN = tuple(field for field in Turn._fields if field not in ("shares", "attributes"))
_TRACE_ID = _PLAIN.index("trace_id")
_FLAGS = tuple(_PLAIN.index(name) for name in ("complete", "unanswered"))

COLUMNS = (*_PLAIN, *SHARE_COLUMNS.values(), "attributes")
"""The columns, in the order of `to_row`."""

to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_row(turn: Turn) -> tuple[object, ...]:
    """Return the values of a turn's row."""
    shares = map(turn.shares.get, SHARE_COLUMNS)
    return (bytes.fromhex(turn.trace_id), *turn[1 : len(_PLAIN)], *shares, to_json(turn.attributes))


def from_row(row: Sequence[Any]) -> Turn:
    """Return the turn of a row."""
    values = list(row[: len(_PLAIN)])
    values[_TRACE_ID] = values[_TRACE_ID].hex()
    for position in _FLAGS:
        values[position] = bool(values[position])
    pairs = zip(SHARE_COLUMNS, row[len(_PLAIN) : -1], strict=True)
    shares = {stage: share_ns for stage, share_ns in pairs if share_ns is not None}
    return Turn._make([*values, shares, json.loads(row[-1])])


def find_turns(connection: sqlite3.Connection) -> None:
    """Fill in what a turn's row did not tell in older versions, where its spans do."""
    told = "failed IS NOT NULL OR culprit IS NOT NULL OR tool IS NOT NULL"
    rows = connection.execute(f"SELECT trace_id, run FROM turn WHERE NOT ({told})").fetchall()  # noqa: S608
    for trace_id, run in rows:
        spans = connection.execute(
            "SELECT body, service, scope FROM span JOIN source ON source.id = span.source WHERE trace_id = ?",
            [trace_id],
        )
        found = summarise(trace_id.hex(), [plain_span(OtlpSpan.FromString(body), *of) for body, *of in spans])
        if found is not None and (found.failed or found.culprit or found.tool):
            marks = ",".join("?" * len(COLUMNS))
            connection.execute(
                f"INSERT OR REPLACE INTO turn ({', '.join(COLUMNS)}) VALUES ({marks})",  # noqa: S608
                to_row(found._replace(run=run)),
            )
