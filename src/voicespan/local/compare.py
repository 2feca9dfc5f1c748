"""Turns against other turns: a run and another, or one time and another; and whether a change is more than noise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from voicespan.local import difference
from voicespan.local.columns import ANSWERED_NS, ANSWERED_SHARES
from voicespan.local.difference import Difference, Moments, clear
from voicespan.local.figures import LATENCIES, OBJECTIVE_NS, percentile, within
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voicespan.local.columns import Ordered, Selection
    from voicespan.local.difference import Test
    from voicespan.local.query import TurnQuery
    from voicespan.local.reader import Reader

    _Sides = tuple[Selection, Selection]

_PERCENTILES = (50, 95, 99)
_UNKNOWN = {"change": None, "low": None, "high": None, "clear": False}
_Key = TypeVar("_Key")


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

    A difference is None where one side has fewer turns than `least` says. `clear` are those of a group (latencies,
    shares, rates) that are more than chance, all of the group taken together.
    """
    with reader.columns.current() as columns:
        return _compared((columns.select(now), columns.select(before)), objective_ns)


def compared(now: tuple[Reader, TurnQuery], before: tuple[Reader, TurnQuery], objective_ns: int) -> dict[str, Any]:
    """Do as `compare` with turns that two readers know."""
    with now[0].columns.current() as columns, before[0].columns.current() as others:
        return _compared((columns.select(now[1]), others.select(before[1])), objective_ns)


def _compared(sides: _Sides, objective_ns: int) -> dict[str, Any]:
    answered = sides[0].where("answered"), sides[1].where("answered")
    return {
        "now": _size(sides[0]),
        "before": _size(sides[1]),
        "least": difference.LEAST,
        "latencies": _latencies(sides),
        "shares": _shares(answered),
        "rates": _rates(sides, objective_ns),
    }


def _size(turns: Selection) -> dict[str, int]:
    return {"turns": len(turns), "answered": len(turns.order(ANSWERED_NS))}


def _latencies(sides: _Sides) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    tests = {}
    for stage, column in LATENCIES.items():
        now, before = (turns.ordered(column) for turns in sides)
        if not now and not before:
            continue
        found[stage] = {"now": _percentiles(now), "before": _percentiles(before)}
        for percent in _PERCENTILES:
            tests[stage, f"p{percent}"] = partial(difference.of_percentiles, now, before, percent)
    for (stage, name), change in _told(tests).items():
        found[stage][name] = change and _in_seconds(change)
    return found


def _percentiles(ordered: Ordered) -> dict[str, float | None]:
    found = {f"p{percent}_s": percentile(ordered, percent) / NS_PER_S if ordered else None for percent in _PERCENTILES}
    return {"turns": len(ordered), **found}


def _shares(answered: _Sides) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    tests = {}
    for stage, column in ANSWERED_SHARES.items():
        now, before = (list(turns.numbers(column)) for turns in answered)
        if any(now) or any(before):
            means = (sum(values) / len(values) / NS_PER_S if values else None for values in (now, before))
            found[stage] = dict(zip(("now_s", "before_s"), means, strict=True))
            tests[stage] = partial(difference.of_means, Moments.of(now), Moments.of(before))
    for stage, change in _told(tests).items():
        found[stage] |= _in_seconds(change or _UNKNOWN)
    return found


def _rates(sides: _Sides, objective_ns: int) -> dict[str, dict[str, Any]]:
    flags = {"unanswered": "unanswered", "interrupted": "interrupted", "errors": "failed"}
    parts = {"within_objective": [within(turns, objective_ns) for turns in sides]}
    parts |= {name: [(turns.count(flag), len(turns)) for turns in sides] for name, flag in flags.items()}
    told = _told({name: partial(difference.of_rates, now, before) for name, (now, before) in parts.items()})
    return {
        name: {
            **{
                side: part / whole if whole else None
                for side, (part, whole) in zip(("now", "before"), both, strict=True)
            },
            **(told[name] or _UNKNOWN),
        }
        for name, both in parts.items()
    }


def _told(tests: Mapping[_Key, Callable[..., Difference | None]]) -> dict[_Key, dict[str, Any] | None]:
    """Return each difference with its interval of 95 %, and whether it is clear among all of these."""
    differences = {key: test() for key, test in tests.items()}
    known = {key: test for key, test in tests.items() if differences[key] is not None}
    news = clear(cast("Mapping[_Key, Test]", known))
    return {key: found and {**found._asdict(), "clear": key in news} for key, found in differences.items()}


def _in_seconds(change: Mapping[str, Any]) -> dict[str, Any]:
    limits = {f"{name}_s": change[name] for name in Difference._fields}
    return {
        **{name: None if value is None else value / NS_PER_S for name, value in limits.items()},
        "clear": change["clear"],
    }
