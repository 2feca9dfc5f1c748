"""The sessions of many turns: one line for each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan.local.columns import ANSWERED_NS, NONE
from voicespan.local.figures import percentile
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voicespan.local.columns import Columns
    from voicespan.local.query import TurnQuery
    from voicespan.local.reader import Reader


def sessions(reader: Reader, query: TurnQuery) -> dict[str, Any]:
    """Return the sessions of the turns that the query selects, the newest first; their figures are of these turns."""
    with reader.columns.current() as columns:
        order = columns.select(query).order("start_ns")
        of = columns.labels["session_id"]
        starts = columns.numbers["start_ns"]
        firsts = {of[position]: position for position in reversed(order)}
        firsts.pop(None, None)
        newest = sorted(firsts, key=lambda session: starts[firsts[session]], reverse=True)[: query.limit]
        turns: dict[str, list[int]] = {session: [] for session in newest}
        for position in order:
            if of[position] in turns:
                turns[of[position]].append(position)
        return {
            "matching": len(firsts),
            "sessions": [_session(columns, session, positions) for session, positions in turns.items()],
        }


def _session(columns: Columns, session: str, positions: Sequence[int]) -> dict[str, Any]:
    starts, durations = columns.numbers["start_ns"], columns.numbers["duration_ns"]
    answered, responses = columns.numbers[ANSWERED_NS], columns.numbers["response_ns"]
    silences = sorted(answered[position] for position in positions if answered[position] != NONE)
    worst = max(positions, key=responses.__getitem__)
    waited = responses[worst] != NONE
    flags = {name: sum(map(columns.flags[name].__getitem__, positions)) for name in columns.flags}
    return {
        "session_id": session,
        "service": columns.labels["service"][positions[0]],
        "start_s": starts[positions[0]] / NS_PER_S,
        "end_s": max(starts[position] + durations[position] for position in positions) / NS_PER_S,
        "turns": len(positions),
        "unanswered": flags["unanswered"],
        "interrupted": flags["interrupted"],
        "errors": flags["failed"],
        "incomplete": len(positions) - flags["complete"],
        "p50_s": percentile(silences, 50) / NS_PER_S if silences else None,
        "worst_s": responses[worst] / NS_PER_S if waited else None,
        "worst_trace_id": columns.trace_ids[worst].hex() if waited else None,
    }
