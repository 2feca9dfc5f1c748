"""Detection of speech."""

import enum

QUIET_FRAMES = 20


class Event(enum.Enum):
    """What a frame has shown."""

    NOTHING = "nothing"
    STARTED = "started"
    ENDED = "ended"


class Detector:
    """Takes 400 ms of quiet for the end of what the caller says."""

    def __init__(self) -> None:
        self.speaking = False
        self.quiet = 0

    def process(self, frame: bytes) -> Event:
        """Look at a frame of 20 ms."""
        loud = any(frame)
        self.quiet = 0 if loud else self.quiet + 1
        if loud and not self.speaking:
            self.speaking = True
            return Event.STARTED
        if self.speaking and self.quiet == QUIET_FRAMES:
            self.speaking = False
            return Event.ENDED
        return Event.NOTHING

    @property
    def silence_s(self) -> float:
        """How long it has been quiet."""
        return self.quiet * 0.02
