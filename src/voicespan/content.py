"""What is said in open turns, where that is wanted: in memory only, bounded, until the turn is over."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from voicespan import diagnostics

if TYPE_CHECKING:
    from voicespan.turn import Turn

MAX_TEXT_BYTES = 64 << 10
"""How much text is kept of one side of a turn, in UTF-8."""
MAX_AUDIO_BYTES = 10 << 20
"""How much audio is kept of one side of a turn: almost four minutes at 24 kHz."""
MAX_BYTES = 64 << 20
"""How much is kept of all open turns."""

_PCM_FORMATS = ("h", "b", "B", "c")

Role = Literal["user", "agent"]


@dataclass(slots=True)
class Said:
    """What one side has said in a turn; the audio is 16-bit mono PCM."""

    text: bytearray = field(default_factory=bytearray)
    audio: bytearray = field(default_factory=bytearray)
    sample_rate: int | None = None


class Utterance(NamedTuple):
    """What one side has said in a turn that is over."""

    trace_id: int
    role: Role
    said: Said


class Content:
    """What was said, by turn and side; from any thread. While `wanted` is False nothing is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[Turn, dict[Role, Said]] = {}
        self._bytes = 0
        self._wanted = True

    @property
    def wanted(self) -> bool:
        """Whether anything is taken; setting it to False forgets what there is."""
        return self._wanted

    @wanted.setter
    def wanted(self, value: bool) -> None:
        with self._lock:
            self._wanted = value
            if not value:
                self._turns.clear()
                self._bytes = 0

    def add(self, turn: Turn, role: Role, text: str, audio: object, sample_rate: int | None) -> None:
        """Append to what one side says in this turn; what is beyond the bounds is left out and counted."""
        pcm = _pcm(audio)
        with self._lock:
            if not self._wanted:
                return
            said = self._turns.setdefault(turn, {}).setdefault(role, Said())
            self._append(said.text, text.encode(errors="replace"), MAX_TEXT_BYTES)
            if pcm and self._rate_fits(said, sample_rate):
                self._append(said.audio, pcm, MAX_AUDIO_BYTES)

    def take(self) -> list[Utterance]:
        """Return what was said in turns that are over, and forget it; of what was no utterance nothing is returned."""
        with self._lock:
            over = [turn for turn in self._turns if not turn.open]
            sides = [(turn, self._turns.pop(turn)) for turn in over]
            found = [Utterance(turn.trace_id, role, said) for turn, by_role in sides for role, said in by_role.items()]
            self._bytes -= sum(len(each.said.text) + len(each.said.audio) for each in found)
        dropped = {turn.trace_id for turn, _ in sides if turn.dropped or not turn.record.sampled}
        return [each for each in found if each.trace_id not in dropped]

    def _append(self, kept: bytearray, more: bytes, limit: int) -> None:
        room = max(0, min(limit - len(kept), MAX_BYTES - self._bytes))
        if len(more) > room:
            diagnostics.counters.add("content.over_limit")
        kept += more[:room]
        self._bytes += min(len(more), room)

    @staticmethod
    def _rate_fits(said: Said, sample_rate: int | None) -> bool:
        """Whether the audio has the sample rate of what is there already; the first one counts."""
        if said.sample_rate is None:
            said.sample_rate = sample_rate
        if said.sample_rate is not None and sample_rate in (None, said.sample_rate):
            return True
        diagnostics.counters.add("content.refused")
        why = "without its sample_rate" if said.sample_rate is None else "of another sample rate than before"
        diagnostics.say("content.refused", f"audio {why} is not kept")
        return False


def _pcm(audio: object) -> bytes:
    """The bytes of 16-bit samples in any buffer: bytes, or an array of 16-bit integers.

    Raises:
        TypeError: it is no buffer, or one of other numbers.

    """
    if audio is None:
        return b""
    view = memoryview(audio)  # type: ignore[arg-type]
    if view.format.lstrip("<=@") not in _PCM_FORMATS:
        raise TypeError("audio is not 16-bit PCM")
    return view.tobytes()
