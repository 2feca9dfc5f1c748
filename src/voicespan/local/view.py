"""How turns and spans leave the store: as JSON with seconds; and the query that asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan.local.content import without_content
from voicespan.local.query import TurnQuery
from voicespan.local.span import scopes_of
from voicespan.local.stages import MILESTONES, stage_of
from voicespan.local.turn import NS_PER_S
from voicespan.local.words import cause, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voicespan.local.log import Log
    from voicespan.local.score import Score
    from voicespan.local.span import Event, Link, Span
    from voicespan.local.turn import Turn

_TEXTS = ("session", "outcome", "service", "model", "voice", "worker", "search", "stage", "sort")
_PARAMETERS = frozenset({*_TEXTS, "slower_than_ms", "over_ms", "since_s", "until_s", "run", "order", "limit"})
_ORDERS = ("desc", "asc")
_NS_PER_MS = 1_000_000


def query(parameters: Mapping[str, str]) -> TurnQuery:
    """Read a query from the parameters of an address.

    Raises:
        ValueError: a parameter is unknown, or its value impossible.

    """
    unknown = sorted(set(parameters) - _PARAMETERS)
    if unknown:
        raise ValueError(f"no parameter {unknown[0]!r}: there are {', '.join(sorted(_PARAMETERS))}")
    values: dict[str, Any] = {key: parameters[key] for key in _TEXTS if parameters.get(key)}
    if parameters.get("order", "desc") not in _ORDERS:
        raise ValueError("order is desc or asc")
    values["ascending"] = parameters.get("order") == "asc"
    numbers = {"slower_than_ms": ("slower_than_ns", _NS_PER_MS), "over_ms": ("over_ns", _NS_PER_MS)}
    numbers |= {"since_s": ("since_ns", NS_PER_S)}
    numbers |= {"until_s": ("until_ns", NS_PER_S), "limit": ("limit", 1), "run": ("run", 1)}
    for key, (name, factor) in numbers.items():
        if parameters.get(key):
            values[name] = _scaled(key, parameters[key], factor)
    return TurnQuery(**values)


def turn(row: Turn, *, content: bool = True) -> dict[str, Any]:
    """Return a turn for JSON: every length and time in seconds, and one sentence that says why the user waited.

    Without `content`, the attributes of its root span are given less what was said.
    """
    values = {_second_name(key): _seconds(key, value) for key, value in row._asdict().items()}
    if not content:
        values["attributes"] = without_content(row.attributes)
    values["cause"] = cause(row)
    values["shares"] = {stage: share_ns / NS_PER_S for stage, share_ns in row.shares.items()}
    return values


def trace(
    trace_id: str, row: Turn | None, spans: Sequence[Span], scores: Sequence[Score] = (), *, content: bool = True
) -> dict[str, Any]:
    """Return a trace for JSON: its turn, or null when it is none, its scores, and its spans in order of start."""
    scopes = scopes_of(spans)
    found = [_span(span, own=span.scope in scopes) for span in spans]
    return {
        "trace_id": trace_id,
        "turn": turn(row, content=content) if row else None,
        "scores": [_score(score) for score in scores],
        "spans": found,
    }


def _score(score: Score) -> dict[str, Any]:
    values = {_second_name(key): _seconds(key, value) for key, value in score._asdict().items()}
    return {**values, "words": verdict(score)}


def logs(found: Sequence[Log]) -> list[dict[str, Any]]:
    """Return log records for JSON."""
    return [
        {
            "time_s": log.time_ns / NS_PER_S,
            "severity": log.severity,
            "level": log.level,
            "body": log.body,
            "attributes": dict(log.attributes),
            "span_id": log.span_id,
            "service": log.service,
        }
        for log in found
    ]


def _span(span: Span, *, own: bool) -> dict[str, Any]:
    return {
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": span.name,
        "service": span.service,
        "scope": span.scope,
        "kind": span.kind,
        "stage": stage_of(span.name) if own else None,
        "milestone": span.name in MILESTONES,
        "start_s": span.start_ns / NS_PER_S,
        "duration_s": (span.end_ns - span.start_ns) / NS_PER_S,
        "error": span.error,
        "attributes": dict(span.attributes),
        "events": [_event(event) for event in span.events],
        "links": [_link(link) for link in span.links],
    }


def _event(event: Event) -> dict[str, Any]:
    return {"name": event.name, "time_s": event.time_ns / NS_PER_S, "attributes": dict(event.attributes)}


def _link(link: Link) -> dict[str, Any]:
    return {"trace_id": link.trace_id, "span_id": link.span_id, "attributes": dict(link.attributes)}


def _second_name(name: str) -> str:
    return f"{name.removesuffix('_ns')}_s" if name.endswith("_ns") else name


def _seconds(name: str, value: Any) -> Any:
    return value / NS_PER_S if name.endswith("_ns") and value is not None else value


def _scaled(key: str, text: str, factor: int) -> int:
    try:
        value = round(float(text) * factor)
    except (ValueError, OverflowError):
        raise ValueError(f"{key}={text!r} is not a number") from None
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{key}={text!r} is too large")
    return value


def number(parameters: Mapping[str, str], key: str, default: int, factor: int) -> int:
    """Return a parameter, times a factor, as a whole number.

    Raises:
        ValueError: it is not a number, or too large.

    """
    return _scaled(key, parameters[key], factor) if parameters.get(key) else default
