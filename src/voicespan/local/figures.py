"""Figures over many turns: percentiles, outcomes, where the silence goes, and the dots of the chart.

A percentile is the nearest rank: the smallest value that at least that share of the turns do not exceed. Heard silence
counts answered turns; those that nobody answered are counted apart, and against the objective.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from itertools import compress
from typing import TYPE_CHECKING, Any

from voicespan.local.columns import ANSWERED_NS, ANSWERED_SHARES, MARKS, NONE
from voicespan.local.query import SORT_COLUMNS
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voicespan.local.columns import Selection
    from voicespan.local.query import TurnQuery
    from voicespan.local.reader import Reader

OBJECTIVE_NS = 600_000_000
"""The heard silence that a turn should stay within, unless the question names another."""

MAX_DOTS = 20_000
"""How many turns a chart shows; of more, fast ones are left out evenly, and counted."""

LATENCIES = {stage: column for stage, column in SORT_COLUMNS.items() if stage not in ("start", "duration")}
LATENCIES["response"] = ANSWERED_NS
"""What has percentiles, and its column: the heard silence of answered turns, and the latency of each stage."""

PERCENTILES = {"p50_s": 50, "p95_s": 95, "p99_s": 99}

_MIN_WINDOW = 20
_POINTS = 60
_NOTABLE = frozenset({MARKS.index("unanswered"), MARKS.index("error")})
_SLOW_PART = 20  # of so many turns, the slowest one is always shown


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the nearest rank of values that are in order; there must be one."""
    return ordered[max(-(-percent * len(ordered) // 100) - 1, 0)]


def summary(ordered: Sequence[int]) -> dict[str, Any]:
    """Return how many values these are, and p50, p95 and p99 in seconds, None without any; they are in order."""
    found = {name: percentile(ordered, share) / NS_PER_S if ordered else None for name, share in PERCENTILES.items()}
    return {"turns": len(ordered), **found}


def figures(reader: Reader, query: TurnQuery, objective_ns: int = OBJECTIVE_NS) -> dict[str, Any]:
    """Return the key figures of the turns that the query selects; its order and limit do not matter."""
    with reader.columns.current() as columns:
        turns = columns.select(query)
        stages = {stage: summary(turns.ordered(column)) for stage, column in LATENCIES.items()}
        good, counted = within(turns, objective_ns)
        response = stages["response"]
        return {
            "turns": len(turns),
            "sessions": len(turns.occurring("session_id")),
            "answered": response["turns"],
            "unanswered": turns.count("unanswered"),
            "interrupted": turns.count("interrupted"),
            "errors": turns.count("failed"),
            "incomplete": len(turns) - turns.count("complete"),
            "objective_s": objective_ns / NS_PER_S,
            "within_objective": good / counted if counted else None,
            **{name: response[name] for name in PERCENTILES},
            "stages": {stage: found for stage, found in stages.items() if found["turns"]},
        }


def within(turns: Selection, objective_ns: int) -> tuple[int, int]:
    """Return how many of the turns were within the objective, and how many count: too long a wait for nothing does."""
    answered = turns.ordered(ANSWERED_NS)
    waits = turns.where("unanswered").where("excused", is_set=False).ordered("response_ns")
    in_vain = len(waits) - bisect_left(waits, objective_ns)
    return bisect_right(answered, objective_ns), len(answered) + in_vain


def silence(reader: Reader, query: TurnQuery) -> dict[str, Any]:
    """Return where the heard silence of all answered turns goes: mean and median of each stage, and its part."""
    with reader.columns.current() as columns:
        turns = columns.select(query)
        answered = turns.where("answered")
        count, whole_ns = len(answered), sum(answered.numbers(ANSWERED_NS))
        stages = {}
        for stage, column in ANSWERED_SHARES.items():
            total_ns = sum(answered.numbers(column))
            if total_ns:
                stages[stage] = {
                    "mean_s": total_ns / count / NS_PER_S,
                    "median_s": percentile(turns.ordered(column), 50) / NS_PER_S,
                    "part": total_ns / whole_ns if whole_ns else 0.0,
                }
    return {"turns": count, "mean_s": whole_ns / count / NS_PER_S if count else None, "stages": stages}


def dots(reader: Reader, query: TurnQuery, stage: str = "response", most: int = MAX_DOTS) -> str:
    """Return one latency of every selected turn, as columns in order of time, and the percentile lines over them.

    Where there are more turns than `most`, those that failed, that nobody answered or that are slow are there all the
    same; of the others some are, evenly over the time. The lines are those of all turns.

    It is JSON already: 20,000 numbers become text far quicker as whole nanoseconds, `640000000e-9`, than as floats.

    Raises:
        ValueError: there is no such stage.

    """
    if stage not in LATENCIES:
        raise ValueError(f"of is one of {', '.join(LATENCIES)}")
    with reader.columns.current() as columns:
        turns = columns.select(query).order("start_ns")
        values, starts = columns.numbers[SORT_COLUMNS[stage]], columns.numbers["start_ns"]
        in_lines, marks = columns.numbers[LATENCIES[stage]], columns.flags["mark"]
        known = [position for position in turns if values[position] != NONE]
        shown = _thinned(known, values, marks, most)
        counted = [position for position in known if in_lines[position] != NONE]
        facts = {
            "of": stage,
            "turns": len(turns),
            "thinned": len(known) - len(shown),
            "without": len(turns) - len(known),
            "marks": MARKS,
            "lines": _lines([starts[position] for position in counted], [in_lines[position] for position in counted]),
        }
        lists = {
            "trace_id": _array([columns.trace_ids[position].hex() for position in shown], '"', '"'),
            "time_s": _array(list(map(str, map(starts.__getitem__, shown))), after="e-9"),
            "value_s": _array(list(map(str, map(values.__getitem__, shown))), after="e-9"),
            "mark": _array(list(map(str, map(marks.__getitem__, shown)))),
        }
    texts = {name: json.dumps(value) for name, value in facts.items()} | lists
    return f"{{{','.join(f'{json.dumps(name)}:{text}' for name, text in texts.items())}}}"


def _thinned(known: list[int], values: Sequence[int], marks: Sequence[int], most: int) -> list[int]:
    """Return those of these positions that are shown, in the same order."""
    if len(known) <= most:
        return known
    slow = min(len(known) // _SLOW_PART, most // 2)
    limit_ns = sorted(map(values.__getitem__, known))[-slow - 1]
    is_notable = [values[position] > limit_ns or marks[position] in _NOTABLE for position in known]
    notable = list(compress(known, is_notable))
    kept = set(_evenly(notable, most))
    kept.update(
        _evenly([position for position, is_one in zip(known, is_notable, strict=True) if not is_one], most - len(kept))
    )
    return [position for position in known if position in kept]


def _evenly(items: Sequence[int], most: int) -> Sequence[int]:
    return items if len(items) <= most else [items[number * len(items) // most] for number in range(most)]


def _array(texts: Sequence[str], before: str = "", after: str = "") -> str:
    """Return a JSON array of texts, with something before and after each."""
    return f"[{before}{f'{after},{before}'.join(texts)}{after}]" if texts else "[]"


def _lines(starts_ns: Sequence[int], values: Sequence[int]) -> dict[str, Any]:
    """Return percentiles of the last `window` turns, at no more than 60 moments."""
    count = len(values)
    window = max(_MIN_WINDOW, count // 20)
    if not count:
        ends: list[int] = []
    elif count <= window:
        ends = [count]
    else:
        ends = sorted({window + (count - window) * step // (_POINTS - 1) for step in range(_POINTS)})
    found = [summary(sorted(values[max(end - window, 0) : end])) for end in ends]
    return {
        "window": min(window, count),
        "time_s": [starts_ns[end - 1] / NS_PER_S for end in ends],
        **{name: [line[name] for line in found] for name in PERCENTILES},
    }


def choices(reader: Reader, query: TurnQuery) -> dict[str, list[dict[str, Any]]]:
    """Return the values of each filter that occur among the selected turns, the most frequent first."""
    with reader.columns.current() as columns:
        turns = columns.select(query)
        return {
            name: [{"value": value, "turns": count} for value, count in turns.occurring(name).most_common()]
            for name in ("service", "model", "voice", "worker", "outcome")
        }
