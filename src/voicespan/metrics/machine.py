"""What the process and its machine use, and the heartbeat; psutil tells what the standard library does not."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from voicespan import names as n
from voicespan.sdk.shutdown import leaving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_SHORTEST_S = 1.0
"""Two readers that collect at once get the same share, and not that of the microsecond between them."""


class Share:
    """A share of time since the last collection, from counts that only grow."""

    def __init__(self, read: Callable[[], tuple[float, float]]) -> None:
        """`read` gives the time used and the time there was, in seconds."""
        self._read = read
        self._before: tuple[float, float] | None = None
        self._last: float | None = None

    def start(self) -> None:
        """Begin with this moment, also in the child of a fork, whose times begin anew."""
        with suppress(Exception):
            self._before, self._last = self._read(), None

    def __call__(self) -> Iterable[Observation]:
        """Return the share from 0 to 1; nothing before there was any time."""
        used, there = self._read()
        if self._before is None:
            self._before = used, there
        passed = there - self._before[1]
        if passed >= _SHORTEST_S or (self._last is None and passed > 0):
            self._last = min(1.0, max(0.0, (used - self._before[0]) / passed))
            self._before = used, there
        return [] if self._last is None else [Observation(self._last)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _process_time() -> tuple[float, float]:
    return time.process_time(), time.monotonic() * _cores()


def _psutil() -> Any:
    """Return the module, imported when it is first needed: it takes a moment, and not at the start of a service."""
    import psutil

    return psutil


def _machine_time() -> tuple[float, float]:
    times = _psutil().cpu_times()
    there = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)  # both are part of user time
    return there - times.idle - getattr(times, "iowait", 0), there


def _cpu_time() -> Iterable[Observation]:
    return [Observation(time.process_time())]


def _memory() -> Iterable[Observation]:
    return [Observation(_psutil().Process().memory_info().rss)]


def _machine_memory() -> Iterable[Observation]:
    memory = _psutil().virtual_memory()
    return [Observation(memory.total - memory.available)]


def _alive() -> Iterable[Observation]:
    """1; at the end 0, as a goodbye, unless it is an exception that ends the process."""
    crashed = isinstance(getattr(sys, "last_value", None), Exception)
    return [Observation(0 if leaving() and not crashed else 1)]


_process_share = Share(_process_time)
_machine_share = Share(_machine_time)


def start() -> None:
    """Begin to measure shares of time with this moment."""
    _process_share.start()
    if find_spec("psutil") is not None:  # on a thread: to import it takes some milliseconds of the service's start
        threading.Thread(target=_machine_share.start, name="voicespan-machine", daemon=True).start()


def observed() -> dict[str, Any]:
    """Return what is to be read at each collection, by metric."""
    found: dict[str, Any] = {
        n.METRIC_VOICE_SERVICE_UP: _alive,
        n.METRIC_PROCESS_CPU_TIME: _cpu_time,
        n.METRIC_PROCESS_CPU_UTILIZATION: _process_share,
    }
    if find_spec("psutil") is not None:
        found |= {
            n.METRIC_PROCESS_MEMORY_USAGE: _memory,
            n.METRIC_SYSTEM_CPU_UTILIZATION: _machine_share,
            n.METRIC_SYSTEM_MEMORY_USAGE: _machine_memory,
        }
    return found
