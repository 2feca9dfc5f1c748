"""A finished turn as plain data: what the turn model gives, what every exporter, view and test reads.

Nobody changes it once the turn is finished. It is not frozen for one reason: making something frozen takes three times
as long, and every turn makes a dozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

AttributeValue = str | bool | int | float | tuple[str, ...]
Attributes = Mapping[str, AttributeValue]
Kind = Literal["internal", "client", "server"]


class SpanContext(NamedTuple):
    """The identity of a span, in this process or another: `trace_id` is a 128-bit, `span_id` a 64-bit integer."""

    trace_id: int
    span_id: int


@dataclass(slots=True)
class Event:
    """Something that happened at one moment; `time_ns` is Unix time in nanoseconds."""

    name: str
    time_ns: int
    attributes: Attributes = field(default_factory=dict)


class Link(NamedTuple):
    """A reference to a span of another trace; `voice.link.type` among the attributes says which relation."""

    context: SpanContext
    attributes: Attributes = MappingProxyType({})


@dataclass(slots=True)
class FinishedSpan:
    """One span of a finished turn. Times are Unix time in nanoseconds; `parent_id` is None for the root."""

    name: str
    span_id: int
    parent_id: int | None
    start_ns: int
    end_ns: int
    kind: Kind = "internal"
    error: str | None = None
    """The status message of a failed span (may be empty); None when the span did not fail."""
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    events: Sequence[Event] = ()
    links: Sequence[Link] = ()

    @property
    def duration_ns(self) -> int:
        """Length in nanoseconds, never negative."""
        return self.end_ns - self.start_ns


@dataclass(slots=True)
class FinishedTurn:
    """One utterance: the root span `voice.turn` first, then its descendants in order of start.

    A span that outlives its turn (a tool) comes later in a `FinishedTurn` of the same trace that has `late=True`
    and no root.
    """

    trace_id: int
    session_id: str
    spans: tuple[FinishedSpan, ...]
    sampled: bool = True
    late: bool = False

    @property
    def root(self) -> FinishedSpan:
        """The span `voice.turn`."""
        return self.spans[0]

    def all(self, name: str) -> list[FinishedSpan]:
        """Every span with this name, in order of start."""
        return [span for span in self.spans if span.name == name]

    def get(self, name: str) -> FinishedSpan | None:
        """Return the first span with this name, or None."""
        return next((span for span in self.spans if span.name == name), None)

    def __getitem__(self, name: str) -> FinishedSpan:
        """Return the only span with this name.

        Raises:
            KeyError: no span, or more than one, has this name.

        """
        found = self.all(name)
        if len(found) != 1:
            raise KeyError(f"{len(found)} spans named {name!r}; the turn has {[span.name for span in self.spans]}")
        return found[0]

    @property
    def outcome(self) -> str:
        """`voice.turn.outcome` of the root."""
        return str(self.root.attributes["voice.turn.outcome"])

    @property
    def response(self) -> FinishedSpan | None:
        """The silence that the user heard: `voice.response`, else `voice.unanswered`, else None."""
        return self.get("voice.response") or self.get("voice.unanswered")

    @property
    def shares(self) -> dict[str, float]:
        """Seconds of the heard silence by stage, with `unattributed`; empty without a response."""
        prefix = "voice.response.share."
        span = self.response
        attributes = span.attributes if span else {}
        return {
            key[len(prefix) :]: value
            for key, value in attributes.items()
            if key.startswith(prefix) and isinstance(value, float)
        }
