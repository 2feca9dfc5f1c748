"""The caller's microphone: what is said, frame by frame, on the faint noise that every line has."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voicespan.demo import pcm

if TYPE_CHECKING:
    from voicespan.demo.recording import Recording

_NOISE = 12


@dataclass(slots=True)
class Utterance:
    """What the caller said, as positions in the recording, and the trace that the agent gave it."""

    name: str
    begin: int = -1
    end: int = -1
    traceparent: str | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Microphone:
    """Gives the sound of one slot of 20 ms after the other, and writes it into the recording."""

    def __init__(self, recording: Recording, seed: int = 0) -> None:
        self.utterances: list[Utterance] = []
        self.speaking: Utterance | None = None
        self._recording = recording
        self._waiting: deque[bytes] = deque()
        self._noise = _noise_frames(seed)

    @property
    def slots(self) -> int:
        """How many slots are over."""
        return len(self._recording.said) // pcm.FRAME_BYTES

    def say(self, name: str, sound: bytes) -> Utterance:
        """Begin to make this sound; the utterance's `done` is set when it is over."""
        utterance = Utterance(name)
        self._waiting.extend(pcm.frames(sound))
        self.speaking = utterance
        self.utterances.append(utterance)
        return utterance

    def captured(self) -> bytes:
        """Return the sound of the slot that is just over."""
        begin = len(self._recording.said) // 2
        if self._waiting:
            frame = self._waiting.popleft()
            if self.speaking is not None:
                self.speaking.begin = begin if self.speaking.begin < 0 else self.speaking.begin
                self.speaking.end = begin + pcm.FRAME_SAMPLES
        else:
            if self.speaking is not None:
                self.speaking.done.set()
                self.speaking = None
            frame = self._noise[self.slots % len(self._noise)]
        self._recording.said += frame
        return frame


def _noise_frames(seed: int) -> list[bytes]:
    """A second of the faint noise that every line has."""
    generator = random.Random(seed)  # noqa: S311 - sound, no secret
    return [
        array("h", (generator.randint(-_NOISE, _NOISE) for _ in range(pcm.FRAME_SAMPLES))).tobytes() for _ in range(50)
    ]
