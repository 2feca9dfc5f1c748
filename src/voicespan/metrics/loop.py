"""How late the event loops of this process run: a timer in each, ten times a second, counted in plain numbers."""

from __future__ import annotations

import sys
import time
import weakref
from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.guard import guarded
from voicespan.metrics import instruments
from voicespan.metrics.buckets import Buckets

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from opentelemetry.metrics import Observation

EVERY_S = 0.1
_watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_delays = Buckets(instruments.METRICS[n.METRIC_VOICE_EVENT_LOOP_DELAY].boundaries)


@guarded
def watch_loop() -> None:
    """Watch the loop that runs in this thread, if one does; once."""
    running = sys.modules.get("asyncio")  # who has not imported it runs no loop
    loop = running._get_running_loop() if running is not None else None  # noqa: SLF001 - raises nothing
    if loop is not None and loop not in _watched and instruments.wanted():
        _watched.add(loop)
        _wait(loop)


def _wait(loop: asyncio.AbstractEventLoop) -> None:
    due_ns = time.monotonic_ns() + round(EVERY_S * 1e9)
    loop.call_later(EVERY_S, _tick, weakref.ref(loop), due_ns)


@guarded
def _tick(watched: weakref.ref[asyncio.AbstractEventLoop], due_ns: int) -> None:
    _delays.add(max(0, time.monotonic_ns() - due_ns))
    loop = watched()
    if loop is not None and not loop.is_closed():
        _wait(loop)


def flush() -> Iterable[Observation]:
    """Hand what was counted since the last time to the histogram; there is nothing to observe."""
    instruments.record_batch(n.METRIC_VOICE_EVENT_LOOP_DELAY, _delays.take(), {})
    return ()


def start() -> None:
    """Begin without loops: the child of a fork has none that runs."""
    global _delays  # noqa: PLW0603
    _watched.clear()
    _delays = Buckets(instruments.METRICS[n.METRIC_VOICE_EVENT_LOOP_DELAY].boundaries)
