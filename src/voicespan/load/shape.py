"""What simulated calls are like: how many, how often each has a turn, and how the time of a turn is divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from voicespan.sessions import Session

TURN_EVERY_S = 5.0
"""Speech, reply and pause of an ordinary call; `docs/sizing.md` counts with it."""
FRAME_S = 0.02
_SPEECH, _MODEL, _REPLY = 0.35, 0.1, 0.4
"""Shares of a turn's time; the rest is a pause."""
_VARIES = 0.25


@dataclass(frozen=True, slots=True)
class Shape:
    """So many calls at once, which together have `rate` turns a second, for so many seconds."""

    calls: int
    rate: float
    seconds: float

    @property
    def turn_s(self) -> float:
        """How long one turn of one call takes on average, in seconds."""
        return self.calls / self.rate


@dataclass(frozen=True, slots=True)
class Pace:
    """The lengths of one turn, in seconds."""

    speech_s: float
    model_s: float
    reply_s: float
    pause_s: float

    def rest(self, share: float) -> Pace:
        """Return what is left of the turn when this share of it is over."""
        over_s, left = share * (self.speech_s + self.model_s + self.reply_s + self.pause_s), []
        for length_s in (self.speech_s, self.model_s, self.reply_s, self.pause_s):
            left.append(max(0.0, length_s - over_s))
            over_s = max(0.0, over_s - length_s)
        return Pace(*left)

    @property
    def frames(self) -> int:
        """How many frames of audio the reply has."""
        return round(self.reply_s / FRAME_S)


def paces(shape: Shape, rng: random.Random) -> Pace:
    """Return the lengths of a call's next turn: they vary by a quarter, so that calls do not march in step."""
    whole = shape.turn_s * rng.uniform(1 - _VARIES, 1 + _VARIES)
    return Pace(whole * _SPEECH, whole * _MODEL, whole * _REPLY, whole * (1 - _SPEECH - _MODEL - _REPLY))


def spoken(session: Session, pace: Pace) -> Iterator[float]:
    """Hold one plain turn, step by step; yields how many seconds pass until the next step."""
    turn = session.user_turn()
    with turn.asr(model="asr-small") as asr:
        yield pace.speech_s
        turn.speech_ended()
        turn.committed()
        asr.final()
    with turn.llm(model="chat-small") as llm:
        yield pace.model_s
        llm.token()
        llm.sentence()
    with turn.tts(voice="sam") as tts:
        tts.text("It is sunny, and nine degrees.")
        for _ in range(pace.frames):
            tts.audio(FRAME_S)
            turn.audio_sent(FRAME_S)
            yield FRAME_S
    turn.end()
