"""Audio as the realtime protocol counts it: the length of what is sent in base64, and the clock of the user's audio."""

from __future__ import annotations

from collections import deque
from typing import Any

_BYTES_PER_S = {
    "audio/pcm": 48_000,
    "audio/pcmu": 8_000,
    "audio/pcma": 8_000,
    "pcm16": 48_000,
    "g711_ulaw": 8_000,
    "g711_alaw": 8_000,
}
"""The protocol's formats: 16 bits at 24 kHz, and G.711; the last three are names of its beta."""
PCM = "audio/pcm"


def bytes_per_s(audio_format: Any) -> int:
    """Return the data rate of a format, as its name or as the object that has it as `type`."""
    name = audio_format.get("type") if isinstance(audio_format, dict) else audio_format
    return _BYTES_PER_S.get(name if isinstance(name, str) else PCM, _BYTES_PER_S[PCM])


def bytes_of(base64: Any) -> int:
    """Return the number of bytes that a base64 text stands for, without decoding it."""
    if not isinstance(base64, str):
        return 0
    return len(base64) * 3 // 4 - base64.count("=", -2)


class _Piece:
    """A part of the audio that was sent at one pace: position plus skew is the time of recording."""

    __slots__ = ("end_ns", "skew_ns", "start_ns")

    def __init__(self, start_ns: int, end_ns: int, skew_ns: int) -> None:
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.skew_ns = skew_ns


class AudioClock:
    """When a sample of the user's audio was recorded, by its position in all that was sent.

    The protocol counts samples and not time. No sample is sent before it is recorded, and audio that is recorded
    without a break keeps its pace: of all chunks from a sample on, the one that was sent with the least delay tells its
    time best. So the pieces that are kept have a growing skew, and of steady audio there is one.
    """

    KEPT_NS = 60_000_000_000
    """Nobody asks for what lies further back."""
    STEADY_NS = 2_000_000
    BREAK_NS = 300_000_000
    """A pause between two chunks that is longer than this is a break in the audio, and not a late chunk."""

    def __init__(self) -> None:
        self.position_ns = 0
        """Length of all audio that was sent."""
        self._pieces: deque[_Piece] = deque()

    def sent(self, length_ns: int, now_ns: int) -> None:
        """Take a chunk that is being sent."""
        start_ns = self.position_ns
        self.position_ns = end_ns = start_ns + length_ns
        skew_ns = now_ns - end_ns
        pieces = self._pieces
        while pieces and pieces[-1].skew_ns >= skew_ns:
            start_ns = pieces.pop().start_ns
        if pieces and skew_ns - pieces[-1].skew_ns <= self.STEADY_NS:
            pieces[-1].end_ns = end_ns
        else:
            pieces.append(_Piece(start_ns, end_ns, skew_ns))
        while pieces[0].end_ns < end_ns - self.KEPT_NS:
            pieces.popleft()

    def time_of(self, position_ns: int) -> int | None:
        """Return when the sample at a position was recorded; None where that is not known."""
        for piece in self._pieces:
            if piece.end_ns >= position_ns:
                return max(position_ns, 0) + piece.skew_ns
        return None

    def run_since(self, position_ns: int) -> int | None:
        """Return when the unbroken audio began that was sent last, and no earlier than at a position."""
        start_ns, skew_ns = position_ns, None
        for piece in self._pieces:
            if skew_ns is not None and piece.skew_ns - skew_ns > self.BREAK_NS:
                start_ns = max(start_ns, piece.start_ns)
            skew_ns = piece.skew_ns
        return self.time_of(start_ns + 1) if start_ns < self.position_ns else None
