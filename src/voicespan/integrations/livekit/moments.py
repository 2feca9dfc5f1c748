"""Times of the framework, which reads two other clocks, as the monotonic nanoseconds that marks take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voicespan.clock import Clock


def of_wall(clock: Clock, seconds: float) -> int:
    """Return the time that a reading of `time.time()` stands for."""
    return clock.monotonic_ns() - (clock.time_ns() - round(seconds * 1e9))


def of_counter(clock: Clock, seconds: float) -> int:
    """Return the time that a reading of `time.perf_counter()` stands for."""
    return clock.monotonic_ns() - (time.perf_counter_ns() - round(seconds * 1e9))


def ago(clock: Clock, seconds: float) -> int:
    """Return the time that lies so many seconds back."""
    return clock.monotonic_ns() - round(max(0.0, seconds) * 1e9)
