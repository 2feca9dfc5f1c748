"""A turn in progress, as its service tells it (`voicespan.progress`); read with suspicion, for anybody may send it."""

from __future__ import annotations

import string
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_TEXT = 200
_MAX_ITEMS = 64
_MAX_NUMBER = 1e12
_HEX_DIGITS = frozenset(string.hexdigits.lower())
_TRACE_ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class OpenStage:
    """One operation of the turn; times are Unix time in seconds."""

    component: str
    label: str | None
    """The model, the tool, or the voice."""
    start_s: float
    handed_s: float | None
    """llm: first chunk handed to the synthesizer; tts: first text received."""
    first_s: float | None
    """First token, first sound, or final transcript."""
    end_s: float | None
    error: str | None
    filler: bool
    aside: bool
    """The turn does not wait for it: in the background, or discarded."""

    @classmethod
    def read(cls, told: object) -> Self:
        """Read a stage.

        Raises:
            ValueError: it is none.

        """
        fields = _fields(told)
        return cls(
            component=_text(fields, "component") or "stage",
            label=_text(fields, "label"),
            start_s=_moment(fields, "start_s") or 0.0,
            handed_s=_moment(fields, "handed_s"),
            first_s=_moment(fields, "first_s"),
            end_s=_moment(fields, "end_s"),
            error=_text(fields, "error"),
            filler=fields.get("filler") is True,
            aside=fields.get("aside") is True,
        )

    @property
    def name(self) -> str:
        """What it is called in a sentence: the stage and its model, tool or voice."""
        return f"{self.component} {self.label}" if self.label else self.component


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn that is not over; times are Unix time in seconds, by the clock of its service."""

    trace_id: str
    session_id: str | None
    turn_index: int | None
    initiator: str | None
    trigger: str | None
    input: str | None
    start_s: float
    filler: bool
    """What was sent so far only bridges the wait."""
    marks: dict[str, float]
    stages: tuple[OpenStage, ...]

    @classmethod
    def read(cls, told: object) -> Self:
        """Read a turn.

        Raises:
            ValueError: it is none.

        """
        fields = _fields(told)
        trace_id = _text(fields, "trace_id") or ""
        if len(trace_id) != _TRACE_ID_DIGITS or not _HEX_DIGITS.issuperset(trace_id):
            raise ValueError("a turn has no trace_id of 32 lower-case hex digits")
        index = fields.get("turn_index")
        start_s = _moment(fields, "start_s")
        if start_s is None:
            raise ValueError("a turn has no start_s")
        return cls(
            trace_id=trace_id,
            session_id=_text(fields, "session_id"),
            turn_index=index if type(index) is int and abs(index) < 1 << 53 else None,
            initiator=_text(fields, "initiator"),
            trigger=_text(fields, "trigger"),
            input=_text(fields, "input"),
            start_s=start_s,
            filler=fields.get("filler") is True,
            marks=dict(_mark(mark) for mark in _items(fields, "marks")),
            stages=tuple(OpenStage.read(stage) for stage in _items(fields, "stages")),
        )

    def plain(self) -> dict[str, Any]:
        """Return the turn for JSON."""
        marks = [{"name": name, "at_s": at_s} for name, at_s in self.marks.items()]
        return {**asdict(self), "marks": marks}


def _mark(told: object) -> tuple[str, float]:
    fields = _fields(told)
    name, at_s = _text(fields, "name"), _moment(fields, "at_s")
    if name is None or at_s is None:
        raise ValueError("a mark has no name or no at_s")
    return name, at_s


def _fields(told: object) -> Mapping[str, object]:
    if not isinstance(told, dict):
        raise ValueError(f"{type(told).__name__} where an object should be")  # noqa: TRY004 - of what came, not of code
    return told


def _items(fields: Mapping[str, object], key: str) -> list[object]:
    value = fields.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")  # noqa: TRY004
    return value[-_MAX_ITEMS:]


def _text(fields: Mapping[str, object], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    return text(value) or None


def _moment(fields: Mapping[str, object], key: str) -> float | None:
    return None if fields.get(key) is None else number(fields[key], key)


def text(value: str | None) -> str:
    """Return a text as it can be shown: cut, and without halves of characters, which JSON lets through."""
    return (value or "")[:_MAX_TEXT].encode(errors="replace").decode()


def number(value: object, what: str) -> float:
    """Return a number that time can be.

    Raises:
        ValueError: it is none.

    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MAX_NUMBER:
        raise ValueError(f"{what} is no time")
    return float(value)
