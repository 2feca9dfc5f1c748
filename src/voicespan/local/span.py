"""A span as the local store gives it back: plain data, the shape that every view reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voicespan.finished import FinishedSpan, FinishedTurn

SCOPE = "voicespan"
"""The instrumentation scope of the spans that make a turn."""

Value = str | bool | int | float | None | list["Value"] | dict[str, "Value"]
Attributes = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at one moment; `time_ns` is Unix time in nanoseconds."""

    name: str
    time_ns: int
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to a span of another trace."""

    trace_id: str
    span_id: str
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One span of any service. Ids are lower-case hex, times Unix time in nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int
    service: str = ""
    scope: str = SCOPE
    kind: str = "internal"
    error: str | None = None
    """The status message of a failed span (may be empty); None when the span did not fail."""
    attributes: Attributes = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    links: tuple[Link, ...] = ()


def spans_of(turn: FinishedTurn, *, service: str = "") -> list[Span]:
    """Return the spans of a turn that this process finished, as if they had come through the store."""
    return [_span_of(turn.trace_id, span, service) for span in turn.spans]


def _span_of(trace_id: int, span: FinishedSpan, service: str) -> Span:
    return Span(
        trace_id=f"{trace_id:032x}",
        span_id=f"{span.span_id:016x}",
        parent_id=None if span.parent_id is None else f"{span.parent_id:016x}",
        name=span.name,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        service=service,
        kind=span.kind,
        error=span.error,
        attributes=_plain(span.attributes),
        events=tuple(Event(event.name, event.time_ns, _plain(event.attributes)) for event in span.events),
        links=tuple(
            Link(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}", _plain(link.attributes))
            for link in span.links
        ),
    )


def _plain(attributes: Mapping[str, str | bool | float | tuple[str, ...]]) -> dict[str, Value]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in attributes.items()}
