"""The traces that are no turns: requests of a web framework outside of a call, other services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan.local.part import COUNT
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from voicespan.local.reader import Reader


def traces(reader: Reader, limit: int) -> dict[str, Any]:
    """Return the traces that are no turns, the newest first, and how many there are."""
    rows = reader.ask(
        "SELECT trace_id, service, name, start_ns, end_ns, error, rooted,"  # noqa: S608
        f" (SELECT {COUNT} FROM part WHERE part.trace_id = trace.trace_id)"
        " FROM trace ORDER BY start_ns DESC LIMIT ?",
        [limit],
    )
    return {
        "matching": reader.ask("SELECT count(*) FROM trace", [])[0][0],
        "traces": [
            {
                "trace_id": trace_id.hex(),
                "service": service,
                "name": name,
                "start_s": start_ns / NS_PER_S,
                "duration_s": (end_ns - start_ns) / NS_PER_S,
                "spans": spans,
                "error": bool(error),
                "complete": bool(rooted),
            }
            for trace_id, service, name, start_ns, end_ns, error, rooted, spans in rows
        ],
    }
