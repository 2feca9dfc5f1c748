"""What was said of a turn afterwards: the feedback of its user, or the verdict of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from voicespan import names as n

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.local.log import Log
    from voicespan.local.span import Value


class Score(NamedTuple):
    """One verdict under one name; `time_ns` is Unix time in nanoseconds."""

    name: str
    value: float | None
    label: str | None
    explanation: str | None
    """Why; it is kept only where what is said is kept."""
    time_ns: int
    service: str


def scores_of(logs: Iterable[Log]) -> list[Score]:
    """Return the scores among log records, in order of name; of several under one name the last."""
    found: dict[str, Score] = {}
    for log in sorted(logs, key=lambda each: each.time_ns):
        said = log.attributes
        name = _text(said.get(n.GEN_AI_EVALUATION_NAME))
        if name is not None:
            found[name] = Score(
                name,
                _number(said.get(n.GEN_AI_EVALUATION_SCORE_VALUE)),
                _text(said.get(n.GEN_AI_EVALUATION_SCORE_LABEL)),
                _text(said.get(n.GEN_AI_EVALUATION_EXPLANATION)),
                log.time_ns,
                log.service,
            )
    return [found[name] for name in sorted(found)]


def _number(value: Value) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) and value else None
