"""Turns against other turns: a run and another, or one time and another; and whether a change is more than noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from voicespan.local import difference
from voicespan.local.columns import ANSWERED_NS
from voicespan.local.figures import LATENCIES, OBJECTIVE_NS, percentile, within
from voicespan.local.row import SHARE_COLUMNS
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from voicespan.local.columns import Ordered, Selection
    from voicespan.local.difference import Difference
    from voicespan.local.query import TurnQuery
    from voicespan.local.reader import Reader

_PERCENTILES = (50, 95)
_UNKNOWN = {"change_s": None, "low_s": None, "high_s": None, "clear": False}


def earlier(query: TurnQuery, against: str) -> TurnQuery:
    """Return the query for what is compared with: the same filters, another run or time.

    Raises:
        ValueError: `against` is neither `run:ID` nor `SINCE..UNTIL` in seconds of Unix time.

    """
    rest = replace(query, run=None, since_ns=None, until_ns=None)
    kind, _, run = against.partition(":")
    since, dots, until = against.partition("..")
    try:
        if kind == "run":
            return replace(rest, run=int(run))
        if dots:
            return replace(rest, since_ns=_nanoseconds(since), until_ns=_nanoseconds(until))
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"against={against!r} is neither run:ID nor SINCE..UNTIL (Unix time in seconds, either may be empty)"
    )


def _nanoseconds(seconds: str) -> int | None:
    return round(float(seconds) * NS_PER_S) if seconds else None


def compare(reader: Reader, now: TurnQuery, before: TurnQuery, objective_ns: int = OBJECTIVE_NS) -> dict[str, Any]:
    """Return latencies, shares of the heard silence and rates of both, and their differences.

    A difference is None where one side has fewer turns than `least` says.
    """
    with reader.columns.current() as columns:
        sides = columns.select(now), columns.select(before)
        answered = sides[0].where("answered"), sides[1].where("answered")
        return {
            "now": _size(sides[0]),
            "before": _size(sides[1]),
            "least": difference.LEAST,
            "latencies": {stage: found for stage, column in LATENCIES.items() if (found := _latency(sides, column))},
            "shares": {stage: found for stage, column in SHARE_COLUMNS.items() if (found := _share(answered, column))},
            "rates": {
                "within_objective": _rate(*(within(turns, objective_ns) for turns in sides)),
                "unanswered": _rate(*(_part(turns, "unanswered") for turns in sides)),
                "interrupted": _rate(*(_part(turns, "interrupted") for turns in sides)),
                "errors": _rate(*(_part(turns, "failed") for turns in sides)),
            },
        }


def _size(turns: Selection) -> dict[str, int]:
    return {"turns": len(turns), "answered": len(turns.order(ANSWERED_NS))}


def _latency(sides: tuple[Selection, Selection], column: str) -> dict[str, Any] | None:
    now, before = (turns.ordered(column) for turns in sides)
    if not now and not before:
        return None
    changes = {f"p{percent}": difference.of_percentiles(now, before, percent) for percent in _PERCENTILES}
    return {
        "now": _percentiles(now),
        "before": _percentiles(before),
        **{name: _lengths(change) for name, change in changes.items()},
    }


def _percentiles(ordered: Ordered) -> dict[str, float | None]:
    found = {f"p{percent}_s": percentile(ordered, percent) / NS_PER_S if ordered else None for percent in _PERCENTILES}
    return {"turns": len(ordered), **found}


def _share(answered: tuple[Selection, Selection], column: str) -> dict[str, Any] | None:
    now, before = (list(turns.numbers(column)) for turns in answered)
    if not any(now) and not any(before):
        return None
    change = _lengths(difference.of_means(now, before)) or {
        "change_s": None,
        "low_s": None,
        "high_s": None,
        "clear": False,
    }
    means = (sum(values) / len(values) / NS_PER_S if values else None for values in (now, before))
    return {**dict(zip(("now_s", "before_s"), means, strict=True)), **change}


def _part(turns: Selection, flag: str) -> tuple[int, int]:
    return turns.count(flag), len(turns)


def _rate(now: tuple[int, int], before: tuple[int, int]) -> dict[str, Any]:
    found = difference.of_rates(now, before)
    return {
        "now": now[0] / now[1] if now[1] else None,
        "before": before[0] / before[1] if before[1] else None,
        "change": found and found.change,
        "low": found and found.low,
        "high": found and found.high,
        "clear": found is not None and found.clear,
    }


def _lengths(found: Difference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    limits = {f"{name}_s": value / NS_PER_S for name, value in found._asdict().items()}
    return {**limits, "clear": found.clear}
