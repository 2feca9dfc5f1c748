"""Audio that was said in a turn: as a file that every player knows, in parts, and as peaks that can be drawn."""

from __future__ import annotations

import re
import struct
import sys
from array import array
from itertools import pairwise

SAMPLE_BYTES = 2
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_FULL_SCALE = 1 << 15

PEAKS = 200
"""How many peaks stand for what one side said in a turn."""

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def as_wav(pcm: bytes, sample_rate: int) -> bytes:
    """Return 16-bit mono PCM as a WAV file."""
    header = _HEADER.pack(
        b"RIFF", _HEADER.size - 8 + len(pcm), b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, sample_rate * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES,
        b"data", len(pcm),
    )  # fmt: skip
    return header + pcm


def part_of(header: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last that a Range header asks for; None where that is not one part.

    Raises:
        ValueError: the part lies outside of the file.

    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        start, end = max(size - int(found[2]), 0), size
    else:
        start, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None  # no range at all, by RFC 9110
    if start >= end:
        raise ValueError(f"there are {size} bytes, and none of {header!r}")
    return start, end


def peaks(pcm: bytes) -> list[float]:
    """Return how loud each of 200 equal stretches of 16-bit mono PCM gets, from 0 to 1; of fewer samples, each."""
    samples = array("h", pcm[: len(pcm) // SAMPLE_BYTES * SAMPLE_BYTES])
    if sys.byteorder == "big":
        samples.byteswap()
    count = min(PEAKS, len(samples))
    bounds = [number * len(samples) // count for number in range(count + 1)] if count else []
    stretches = (samples[start:end] for start, end in pairwise(bounds))
    extremes = ((max(stretch), min(stretch)) for stretch in stretches)
    return [round(max(high, -low) / _FULL_SCALE, 4) for high, low in extremes]
