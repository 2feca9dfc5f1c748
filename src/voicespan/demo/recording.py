"""A call as it sounded to the caller: both directions on one clock, and the silences that can be measured in it."""

from __future__ import annotations

import wave
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from voicespan.demo import pcm

_PAUSE_SAMPLES = pcm.RATE * 3 // 10
"""A pause in the agent's speech that is longer than this is silence, not a gap between words."""


@dataclass(slots=True)
class Recording:
    """The caller's microphone and speaker, in slots of 20 ms that happened at the same time."""

    said: bytearray = field(default_factory=bytearray)
    heard: bytearray = field(default_factory=bytearray)

    def last_sound(self, begin: int, end: int) -> int:
        """Return one past the last sample in which the caller was audible there, `end` when it was not."""
        spoken = pcm.extent(bytes(self.said[2 * begin : 2 * end]))
        return begin + spoken[1] if spoken else end

    def silence_after(self, begin: int, end: int, until: int) -> float | None:
        """Return the seconds from the last sound that the caller made in these samples to the agent's first after it.

        None when the agent was not heard before the sample `until`.
        """
        silent_from = self.last_sound(begin, end)
        answered = pcm.extent(bytes(self.heard[2 * silent_from : 2 * until]))
        return answered[0] / pcm.RATE if answered else None

    def answer_after(self, begin: int, end: int, until: int) -> float | None:
        """Return the seconds from the caller's last sound in these samples to what came after the agent's first pause.

        That is the answer, where a filler came first. None when nothing came after a pause before the sample `until`.
        """
        silence_s = self.silence_after(begin, end, until)
        if silence_s is None:
            return None
        spoken = self.last_sound(begin, end)
        first = spoken + round(silence_s * pcm.RATE)
        paused = first + self._sounding(first)
        answered = pcm.extent(bytes(self.heard[2 * paused : 2 * until]))
        return (paused + answered[0] - spoken) / pcm.RATE if answered else None

    def sound_after(self, begin: int, end: int) -> float | None:
        """Return how many seconds the agent was still heard after the caller had begun to speak in these samples.

        None when the agent was silent then, or the caller made no sound.
        """
        spoken = pcm.extent(bytes(self.said[2 * begin : 2 * end]))
        if spoken is None:
            return None
        return self._sounding(begin + spoken[0]) / pcm.RATE or None

    def _sounding(self, start: int) -> int:
        """Return for how many samples the agent is heard from `start` on, until the first pause."""
        heard, last, window = bytes(self.heard[2 * start :]), 0, pcm.FRAME_SAMPLES // 4
        for begin in range(0, len(heard) // 2, window):
            if pcm.peak(heard[2 * begin : 2 * (begin + window)]) >= pcm.AUDIBLE:
                last = begin + window
            elif begin - last > _PAUSE_SAMPLES:
                break
        return last

    def write(self, path: Path) -> None:
        """Write a WAV file: the caller on the left, the agent on the right."""
        length = max(len(self.said), len(self.heard))
        both = array("h", bytes(2 * length))
        both[0::2] = array("h", bytes(self.said.ljust(length, b"\0")))
        both[1::2] = array("h", bytes(self.heard.ljust(length, b"\0")))
        with wave.open(str(path), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(pcm.RATE)
            file.writeframes(both.tobytes())
