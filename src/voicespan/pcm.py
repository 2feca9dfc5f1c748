"""Frames of audio as pipelines hand them about."""

from __future__ import annotations

_BYTES_PER_SAMPLE = 2


def samples(frame: object) -> float | None:
    """Return how many samples a frame of mono audio has; None for what is none.

    Bytes are 16-bit PCM. Arrays (numpy, torch, `array`) of numbers wider than a byte have one number for a sample.
    """
    if isinstance(frame, bytes | bytearray):
        return len(frame) / _BYTES_PER_SAMPLE
    size, item = getattr(frame, "nbytes", None), getattr(frame, "itemsize", None)
    if size is None and isinstance(item, int) and hasattr(frame, "__len__"):  # array.array
        return len(frame)
    if not isinstance(size, int) or not isinstance(item, int) or item < 1:
        return None
    return size / max(item, _BYTES_PER_SAMPLE)
