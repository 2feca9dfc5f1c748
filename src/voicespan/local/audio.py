"""Audio that was said in a turn, as a file that every player knows."""

from __future__ import annotations

import struct

_SAMPLE_BYTES = 2
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def as_wav(pcm: bytes, sample_rate: int) -> bytes:
    """Return 16-bit mono PCM as a WAV file."""
    header = _HEADER.pack(
        b"RIFF", _HEADER.size - 8 + len(pcm), b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, sample_rate * _SAMPLE_BYTES, _SAMPLE_BYTES, 8 * _SAMPLE_BYTES,
        b"data", len(pcm),
    )  # fmt: skip
    return header + pcm
