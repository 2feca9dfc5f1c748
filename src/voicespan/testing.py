"""For tests of voice services: a session on a fixed clock, with ids that count up and finished turns as plain data.

The pytest fixture `voice` is there as soon as voicespan is installed::

    def test_answers(voice):
        with voice.session() as session:
            turn = session.user_turn()
            voice.clock.advance(ms=800)
            ...
        assert voice.turns[0].outcome == "completed"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.finished import FinishedTurn
    from voicespan.record import StageRecord, TurnRecord
    from voicespan.sessions import Session
    from voicespan.turn import Turn

START_NS = 1_000_000_000_000
"""Monotonic time at which a fixed clock starts."""
EPOCH_NS = 1_800_000_000_000_000_000
"""Unix time at which a fixed clock starts."""


class FixedClock:
    """A clock that moves only when told to; both readings move together."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def advance(self, *, ms: float = 0, s: float = 0) -> int:
        """Move on, and return the monotonic time in nanoseconds."""
        self.now_ns += round(ms * 1e6 + s * 1e9)
        return self.now_ns

    def at(self, ms: float) -> int:
        """Return the monotonic time that lies `ms` milliseconds after the clock's start."""
        return START_NS + round(ms * 1e6)

    def to(self, ms: float) -> int:
        """Move to `ms` milliseconds after the clock's start; never back."""
        self.now_ns = max(self.now_ns, self.at(ms))
        return self.now_ns

    def monotonic_ns(self) -> int:
        """Return the fixed monotonic time."""
        return self.now_ns

    def time_ns(self) -> int:
        """Return the fixed Unix time."""
        return EPOCH_NS + self.now_ns - START_NS


class VoiceRecorder:
    """Records sessions without threads or exporters; what the fixture `voice` gives."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.enabled = True
        self.sampled = True
        self.turns: list[FinishedTurn] = []
        """The turns that were finished, in order."""
        self._open: list[Turn] = []
        self._last_id = 0

    def session(self, session_id: str | None = "session-1", **options: Any) -> Session:
        """Return a session on the fixed clock; options as for `voicespan.session`."""
        from voicespan.sessions import Session

        return Session(self, session_id, **options)

    def settle(self, s: float = 0) -> list[FinishedTurn]:
        """Move the clock on in steps of 100 ms, let turns that are over close, and return all finished turns."""
        for _ in range(max(1, round(s * 10))):
            self.clock.advance(s=0.1 if s else 0)
            for turn in list(self._open):
                if turn.look_ns <= self.clock.now_ns:  # as the recorder of a service looks
                    turn.session.close_if_due(turn, self.clock.now_ns)
        return self.turns

    # What sessions need

    def mint(self, session_id: str) -> tuple[int, int, bool]:
        """Return ids that count up."""
        self._last_id += 1
        return self._last_id << 64, self.new_span_id(), self.sampled

    def new_span_id(self) -> int:
        """Return the next id."""
        self._last_id += 1
        return self._last_id

    def opened(self, turn: Turn) -> None:
        """Remember the turn for `settle`."""
        self._open.append(turn)

    def closed(self, turn: Turn) -> None:
        """Finish the turn at once."""
        from voicespan.finish import finish

        if turn in self._open:
            self._open.remove(turn)
        if not turn.dropped:
            self.turns.append(finish(turn.record, self.new_span_id))

    def late(self, record: TurnRecord, stage: StageRecord) -> None:
        """Finish a tool that outlived its turn."""
        from voicespan.finish import finish_late

        self.turns.append(finish_late(record, stage, self.new_span_id))

    def set_up(self, session: Session, at_ns: int, failure: str | None) -> None:
        """Do nothing: only turns are kept."""

    def began(self, session: Session) -> None:
        """Do nothing: metrics are the service's."""

    def ended(self, session: Session, failure: str | None) -> None:
        """Do nothing: metrics are the service's."""


@pytest.fixture
def voice() -> Iterator[VoiceRecorder]:
    """Give a recorder with a fixed clock and counting ids; what voicespan said and counted is forgotten afterwards."""
    from voicespan import diagnostics, settings

    diagnostics.forget()
    settings.reset()
    yield VoiceRecorder()
    diagnostics.forget()
