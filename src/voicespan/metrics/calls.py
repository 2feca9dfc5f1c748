"""Sessions as metrics: begun, open, ended, failed, and whether the caller was answered in time on average.

All but the number of open ones is recorded by the recorder's thread, in the order in which it happened.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from voicespan import names as n
from voicespan import settings
from voicespan.metrics.instruments import record
from voicespan.metrics.labels import labels
from voicespan.sdk.shutdown import leaving

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.finished import FinishedTurn
    from voicespan.metrics.labels import Value
    from voicespan.sessions import Session

_NOBODY_WAITED = frozenset({"no_speech", "suppressed"})


class Tally:
    """What the turns of one session have shown so far."""

    __slots__ = ("answered", "errors", "silence_s", "unanswered")

    def __init__(self) -> None:
        self.answered = self.unanswered = self.errors = 0
        self.silence_s = 0.0
        """Sum of the heard silences."""

    def add(self, turn: FinishedTurn) -> None:
        """Take a turn in; a silence in which nobody waited does not count."""
        silence = turn.response
        if turn.outcome in ("error", "timeout"):
            self.errors += 1
        if silence is None:
            return
        if silence.name == n.SPAN_RESPONSE:
            self.answered += 1
            self.silence_s += silence.duration_ns / 1e9
        elif silence.attributes.get(n.VOICE_TURN_NO_REPLY_REASON) not in _NOBODY_WAITED:
            self.unanswered += 1

    def met(self, target_s: float) -> bool | None:
        """Whether the caller was answered each time, and on average within the target; None when nobody asked."""
        if self.unanswered or self.errors:
            return False
        return self.silence_s / self.answered <= target_s if self.answered else None


class Calls:
    """The sessions of this process."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin without sessions: those of its parent are not the child's."""
        self._open: weakref.WeakSet[Session] = weakref.WeakSet()
        self._seen: set[tuple[tuple[str, Value], ...]] = set()

    def opened(self, session: Session) -> None:
        """Count a session as open, on the thread that opens it."""
        self._open.add(session)
        self._seen.add(_key(session))

    def begun(self, session: Session) -> None:
        """Count a session as begun."""
        record(n.METRIC_VOICE_SESSION_STARTED, 1, _labels(session))

    def ended(self, session: Session, tally: Tally, failure: str | None, *, had_media: bool) -> None:
        """Count the end of a session; `failure` is the class of the error that ended it."""
        reason = session.end_reason or "normal"
        record(n.METRIC_VOICE_SESSION_ENDED, 1, {**_labels(session), n.VOICE_SESSION_END_REASON: reason})
        if reason in ("error", "timeout"):
            kind = failure or ("timeout" if reason == "timeout" else "session_error")
            if not tally.errors:
                record(n.METRIC_VOICE_SESSION_ERRORS, 1, {n.ERROR_TYPE: kind})
            if not had_media:
                where: dict[str, Value | None] = {n.VOICE_TRANSPORT: session.transport, n.ERROR_TYPE: kind}
                record(n.METRIC_VOICE_SESSION_SETUP_FAILURES, 1, where)
            tally.errors += 1
        met = tally.met(settings.current().latency_target_ms / 1000)
        if met is not None:
            outcome = {n.VOICE_LATENCY_TARGET_OUTCOME: "met" if met else "missed"}
            record(n.METRIC_VOICE_SESSION_LATENCY_TARGET, 1, outcome)

    def observed(self) -> Iterable[Observation]:
        """Return how many sessions are open, for each set of labels that there was; none at the process's end."""
        counts = dict.fromkeys(self._seen, 0)
        for session in () if leaving() else list(self._open):
            if session.open:
                key = _key(session)
                counts[key] = counts.get(key, 0) + 1
        self._seen.update(counts)
        return [Observation(count, dict(key)) for key, count in counts.items()]


def _labels(session: Session) -> dict[str, Value | None]:
    return {n.VOICE_TRANSPORT: session.transport, n.GEN_AI_REQUEST_MODEL: session.model}


def _key(session: Session) -> tuple[tuple[str, Value], ...]:
    return tuple(labels.of({**_labels(session), n.VOICE_TTS_ADAPTER: session.adapter}).items())


calls = Calls()
