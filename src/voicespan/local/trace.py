"""The row that sums up a trace that is no turn, so that such traces can be listed without reading their spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from voicespan.local.decode import plain_span

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from voicespan.local.turn import SpanLike

# Spans come in any order and in pieces: what is known of a trace and what is new are put together, its root names it.
_KEEP = """
    INSERT INTO trace SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM turn WHERE trace_id = ?)
    ON CONFLICT (trace_id) DO UPDATE SET
        (name, service, rooted, named_ns) = (
            SELECT name, service, rooted, named_ns FROM (
                SELECT trace.name, trace.service, trace.rooted, trace.named_ns
                UNION ALL SELECT excluded.name, excluded.service, excluded.rooted, excluded.named_ns
            ) ORDER BY rooted DESC, named_ns LIMIT 1
        ),
        start_ns = min(start_ns, excluded.start_ns),
        end_ns = max(end_ns, excluded.end_ns),
        error = max(error, excluded.error)
"""


class Trace(NamedTuple):
    """What is known of a trace; its name and service are those of its root, else of its first span."""

    trace_id: bytes
    name: str
    service: str
    rooted: bool
    named_ns: int
    """When the span began that it is named after."""
    start_ns: int
    end_ns: int
    error: bool
    """Whether a span of it failed."""


def keep_trace(connection: sqlite3.Connection, trace_id: bytes, spans: Iterable[SpanLike]) -> None:
    """Take spans of a trace into its row; does nothing when the trace is a turn."""
    spans = list(spans)
    namer = min(spans, key=lambda span: (span.parent_id is not None, span.start_ns, -span.end_ns))
    row = Trace(
        trace_id=trace_id,
        name=namer.name,
        service=namer.service,
        rooted=namer.parent_id is None,
        named_ns=namer.start_ns,
        start_ns=min(span.start_ns for span in spans),
        end_ns=max(span.end_ns for span in spans),
        error=any(span.error is not None for span in spans),
    )
    connection.execute(_KEEP, [*row, trace_id])


def forget_trace(connection: sqlite3.Connection, trace_id: bytes) -> None:
    """Take the row of a trace away: it is a turn now."""
    connection.execute("DELETE FROM trace WHERE trace_id = ?", [trace_id])


def find_traces(connection: sqlite3.Connection) -> None:
    """Make the rows in a store that had none."""
    rows = connection.execute(
        "SELECT trace_id, body, service, scope FROM span JOIN source ON source.id = span.source"
        " WHERE trace_id NOT IN (SELECT trace_id FROM turn)"
    )
    for trace_id, body, service, scope in rows:
        keep_trace(connection, trace_id, [plain_span(OtlpSpan.FromString(body), service, scope)])
