"""The runs that there are turns of, with their figures: what can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan.local.columns import ANSWERED_NS
from voicespan.local.figures import summary
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from voicespan.local.query import TurnQuery
    from voicespan.local.reader import Reader

MAX_RUNS = 200
"""The newest runs are given."""


def runs(reader: Reader, query: TurnQuery) -> dict[str, Any]:
    """Return the runs of the turns that the query selects, the newest first; their figures are of these turns."""
    known = reader.ask("SELECT id, service, name, version, environment, started_ns FROM run", [])
    with reader.columns.current() as columns:
        turns = columns.select(query)
        of, starts, answered = columns.labels["run"], columns.numbers["start_ns"], columns.numbers[ANSWERED_NS]
        first = {of[position]: starts[position] for position in reversed(columns.order("start_ns"))}
        last = {of[position]: starts[position] for position in turns.order("start_ns")}
        counts, unanswered = turns.occurring("run"), turns.where("unanswered").occurring("run")
        silences: dict[int | None, list[int]] = {run: [] for run in first}
        for position in turns.order(ANSWERED_NS):
            silences[of[position]].append(answered[position])
    found = []
    for identity, service, name, version, environment, started_ns in known:
        if identity in counts:
            silence = summary(silences[identity])
            found.append(
                {
                    "id": identity,
                    "name": name,
                    "service": service,
                    "version": version,
                    "environment": environment,
                    "label": name,
                    "started_s": min(started_ns, first[identity]) / NS_PER_S,
                    "last_s": last[identity] / NS_PER_S,
                    "turns": counts[identity],
                    "answered": silence["turns"],
                    "unanswered": unanswered[identity],
                    "p50_s": silence["p50_s"],
                    "p95_s": silence["p95_s"],
                }
            )
    found.sort(key=lambda run: run["started_s"], reverse=True)
    return {"runs": found[:MAX_RUNS]}
