"""16 kHz mono 16-bit sound as bytes: the format on every line of the demo."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

RATE = 16_000
FRAME_MS = 20
FRAME_SAMPLES = RATE * FRAME_MS // 1000
FRAME_BYTES = 2 * FRAME_SAMPLES
SILENCE = bytes(FRAME_BYTES)
AUDIBLE = 200
"""The least peak (of 32767) that counts as sound; the demo's line noise stays far below it."""


def seconds(pcm: bytes) -> float:
    """Return how long this sound lasts, in seconds."""
    return len(pcm) / (2 * RATE)


def silence(duration_s: float) -> bytes:
    """Return digital silence of this length."""
    return bytes(2 * round(duration_s * RATE))


def peak(pcm: bytes | memoryview) -> int:
    """Return the largest absolute sample, 0 for nothing."""
    samples = memoryview(pcm).cast("h")
    return max((max(samples), -min(samples))) if len(samples) else 0


def frames(pcm: bytes) -> Iterator[bytes]:
    """Cut into frames of 20 ms; the last one is filled up with silence."""
    for start in range(0, len(pcm), FRAME_BYTES):
        yield pcm[start : start + FRAME_BYTES].ljust(FRAME_BYTES, b"\0")


def resampled(pcm: bytes, rate: int) -> bytes:
    """Return the sound brought from `rate` to 16 kHz by linear interpolation.

    What folds back from above 8 kHz is inaudible in synthesized speech, and the recognizer does not mind it.
    """
    if rate == RATE:
        return pcm
    source = array("h", pcm)
    if not source:
        return b""
    source.append(source[-1])
    step = rate / RATE
    count = int((len(source) - 1) / step)
    result = array("h", bytes(2 * count))
    for index in range(count):
        position = index * step
        left = int(position)
        first = source[left]
        result[index] = int(first + (source[left + 1] - first) * (position - left))
    return result.tobytes()


def extent(pcm: bytes, *, threshold: int = AUDIBLE, window_ms: int = 5) -> tuple[int, int] | None:
    """Return the first and one past the last audible sample, exact to one window; None when all is silent."""
    window = RATE * window_ms // 1000
    view = memoryview(pcm)
    loud = [
        start for start in range(0, len(pcm) // 2, window) if peak(view[2 * start : 2 * (start + window)]) >= threshold
    ]
    return (loud[0], min(loud[-1] + window, len(pcm) // 2)) if loud else None


def trimmed(pcm: bytes) -> bytes:
    """Return the sound without the silence before and after it."""
    found = extent(pcm)
    return pcm[2 * found[0] : 2 * found[1]] if found else b""


def faded(pcm: bytes, duration_s: float) -> bytes:
    """Return the sound with its last seconds fading away, so that a cut does not click."""
    samples = array("h", pcm)
    count = min(round(duration_s * RATE), len(samples))
    for left in range(count):
        samples[len(samples) - 1 - left] = samples[len(samples) - 1 - left] * left // count
    return samples.tobytes()
