"""Speech detection."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Event(enum.Enum):
    """What a detector says of a frame."""

    SILENCE = 0
    START = 1
    END = 2


class Detector:
    """Tells when the user begins and ends to speak."""

    def on_speech(self) -> None:
        """Is called when the user begins to speak."""

    def on_silence(self, end_ns: int) -> None:
        """Is called when the user has fallen silent."""

    def process(self, frame: bytes) -> Event:
        """Say what a frame is."""
        return {b"s": Event.START, b"e": Event.END}.get(frame, Event.SILENCE)

    def events(self, frames: list[bytes]) -> Iterator[dict[str, object]]:
        """Give an event for each frame."""
        for frame in frames:
            yield {"type": self.process(frame), "frame": frame}
