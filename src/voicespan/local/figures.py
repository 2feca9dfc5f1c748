"""Figures over many turns: percentiles, outcomes, where the silence goes, and the dots of the chart.

A percentile is the nearest rank: the smallest value that at least that share of the turns do not exceed. Heard silence
counts answered turns; those that nobody answered are counted apart, and against the objective.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.local.reader import SORT_COLUMNS
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voicespan.local.reader import Reader, TurnQuery

OBJECTIVE_NS = 600_000_000
"""The heard silence that a turn should stay within, unless the question names another."""

MAX_DOTS = 20_000
"""The newest turns that a chart shows; the rest is counted."""

LATENCIES = tuple(stage for stage in SORT_COLUMNS if stage not in ("start", "duration"))
"""What has percentiles: the heard silence and the latency of each stage."""

PERCENTILES = {"p50_s": 50, "p95_s": 95, "p99_s": 99}

_MIN_WINDOW = 20
_POINTS = 60
_UNCOUNTED = ("no_speech", "suppressed")  # nobody waited for an answer: no turn for the objective
_FAILED = ("error", "timeout")


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the nearest rank of values that are in order; there must be one."""
    return ordered[max(-(-percent * len(ordered) // 100) - 1, 0)]


def percentiles(values: Sequence[int]) -> dict[str, float | None]:
    """Return p50, p95 and p99 in seconds; None where there is no value."""
    ordered = sorted(values)
    return {name: percentile(ordered, share) / NS_PER_S if ordered else None for name, share in PERCENTILES.items()}


def figures(reader: Reader, query: TurnQuery, objective_ns: int = OBJECTIVE_NS) -> dict[str, Any]:
    """Return the key figures of the turns that the query selects; its order and limit do not matter."""
    head = ("unanswered", "outcome", "no_reply_reason", "session_id", "complete")
    rows = reader.columns(query, [*head, *(SORT_COLUMNS[stage] for stage in LATENCIES)])
    rows_by_column: list[Sequence[Any]] = [*zip(*rows, strict=True)] or [()] * (len(head) + len(LATENCIES))
    unanswered, outcomes, reasons, sessions, complete = rows_by_column[: len(head)]
    columns = dict(zip(LATENCIES, rows_by_column[len(head) :], strict=True))
    silences = columns["response"]
    answered = [ns for ns, none in zip(silences, unanswered, strict=True) if ns is not None and not none]
    columns["response"] = answered
    waits = [
        ns
        for ns, none, reason in zip(silences, unanswered, reasons, strict=True)
        if none and reason not in _UNCOUNTED and ns is not None and ns >= objective_ns
    ]
    good = sum(ns <= objective_ns for ns in answered)
    counted = len(answered) + len(waits)
    return {
        "turns": len(rows),
        "sessions": len(set(sessions) - {None}),
        "answered": len(answered),
        "unanswered": sum(unanswered),
        "interrupted": sum(outcome == "interrupted" for outcome in outcomes),
        "errors": sum(outcome in _FAILED for outcome in outcomes),
        "incomplete": len(rows) - sum(complete),
        "objective_s": objective_ns / NS_PER_S,
        "within_objective": good / counted if counted else None,
        **percentiles(answered),
        "stages": {
            stage: {"turns": len(values), **percentiles(values)}
            for stage, values in ((stage, _known(column)) for stage, column in columns.items())
            if values
        },
    }


def _known(column: Sequence[int | None]) -> list[int]:
    return [value for value in column if value is not None]


def silence(reader: Reader, query: TurnQuery) -> dict[str, Any]:
    """Return where the heard silence of all answered turns goes: mean and median of each stage, and its part."""
    where, parameters = query.where()
    condition = f"{where} {'AND' if where else 'WHERE'} response_ns IS NOT NULL AND NOT unanswered"
    # One string for all turns: parsing it at once takes half as long as parsing row by row.
    statement = f"SELECT count(*), sum(response_ns), group_concat(shares) FROM turn{condition}"  # noqa: S608
    ((turns, total_ns, texts),) = reader.ask(statement, parameters)
    if not turns:
        return {"turns": 0, "mean_s": None, "stages": {}}
    shares: list[dict[str, int]] = json.loads(f"[{texts}]")
    occurring = set().union(*shares)
    stages: dict[str, dict[str, float]] = {}
    for stage in (stage for stage in n.SHARE_STAGES if stage in occurring):
        values = sorted([turn.get(stage, 0) for turn in shares])
        stages[stage] = {
            "mean_s": sum(values) / turns / NS_PER_S,
            "median_s": percentile(values, 50) / NS_PER_S,
            "part": sum(values) / total_ns if total_ns else 0.0,
        }
    return {"turns": turns, "mean_s": total_ns / turns / NS_PER_S, "stages": stages}


def dots(reader: Reader, query: TurnQuery, stage: str = "response", newest: int = MAX_DOTS) -> dict[str, Any]:
    """Return one latency of every selected turn, as columns in order of time, and the percentile lines over them.

    Raises:
        ValueError: there is no such stage.

    """
    if stage not in LATENCIES:
        raise ValueError(f"of is one of {', '.join(LATENCIES)}")
    column = SORT_COLUMNS[stage]
    mark = (
        "CASE WHEN outcome IN ('error', 'timeout') THEN 3 WHEN unanswered THEN 2 WHEN outcome = 'interrupted' THEN 1"
        " ELSE 0 END"
    )
    rows = reader.columns(query, ["lower(hex(trace_id))", "start_ns", column, "unanswered", mark], newest=newest)
    total = reader.count_of(query) if len(rows) == newest else len(rows)
    known = [row for row in rows if row[2] is not None]
    counted = [(at, value) for _, at, value, none, _ in known if not (none and stage == "response")]
    return {
        "of": stage,
        "turns": total,
        "beyond": total - len(rows),
        "without": len(rows) - len(known),
        "marks": ["", "interrupted", "unanswered", "error"],
        "trace_id": [row[0] for row in known],
        "time_s": [row[1] / NS_PER_S for row in known],
        "value_s": [row[2] / NS_PER_S for row in known],
        "mark": [row[4] for row in known],
        "lines": _lines(counted),
    }


def _lines(points: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return percentiles of the last `window` turns, at no more than 60 moments."""
    window = max(_MIN_WINDOW, len(points) // 20)
    if not points:
        ends: list[int] = []
    elif len(points) <= window:
        ends = [len(points)]
    else:
        ends = sorted({window + (len(points) - window) * step // (_POINTS - 1) for step in range(_POINTS)})
    found = [percentiles([value for _, value in points[max(end - window, 0) : end]]) for end in ends]
    return {
        "window": min(window, len(points)),
        "time_s": [points[end - 1][0] / NS_PER_S for end in ends],
        **{name: [values[name] for values in found] for name in PERCENTILES},
    }


def choices(reader: Reader, query: TurnQuery) -> dict[str, list[dict[str, Any]]]:
    """Return the values of each filter that occur among the selected turns, the most frequent first."""
    filters = ("service", "model", "voice", "worker", "outcome")
    where, parameters = query.where()
    counts: dict[str, dict[str, int]] = {name: {} for name in filters}
    statement = f"SELECT {', '.join(filters)}, count(*) FROM turn{where} GROUP BY {', '.join(filters)}"  # noqa: S608
    for *values, count in reader.ask(statement, parameters):
        for name, value in zip(filters, values, strict=True):
            if value is not None:
                counts[name][value] = counts[name].get(value, 0) + count
    return {
        name: [{"value": value, "turns": turns} for value, turns in sorted(found.items(), key=lambda pair: -pair[1])]
        for name, found in counts.items()
    }
