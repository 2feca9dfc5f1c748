"""A span as the local store gives it back: plain data, the shape that every view reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from voicespan import names as n

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.finished import FinishedSpan, FinishedTurn

SCOPE = "voicespan"
"""The instrumentation scope of the spans that voicespan makes of a turn."""

_NAMES_OF_A_TURN = frozenset({n.SPAN_TURN, n.SPAN_RESPONSE, n.SPAN_ANSWER, n.SPAN_UNANSWERED})
_NAMES = frozenset(span.name for span in n.SPANS)

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


class Named(Protocol):
    """What tells whose span it is."""

    @property
    def name(self) -> str:
        """Name of the span."""

    @property
    def scope(self) -> str:
        """Name of its instrumentation scope."""


def scopes_of(spans: Iterable[Named]) -> set[str]:
    """Return the instrumentation scopes whose spans make the turn of one trace.

    These are voicespan's own, and that of whoever says in this trace, with our names, what a turn is: a sender needs no
    voicespan for that. `llm` and the like alone may be anybody's.
    """
    return {SCOPE, *(span.scope for span in spans if span.name in _NAMES_OF_A_TURN)}


def may_tell(span: Named) -> bool:
    """Return whether a span may be one of those that make a turn, as far as it says itself."""
    return span.scope == SCOPE or span.name in _NAMES or span.name.startswith(n.SPAN_EXECUTE_TOOL)


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
