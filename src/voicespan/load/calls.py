"""A service of simulated calls on one event loop, which `voicespan load` starts under voicespan.

    python -m voicespan.load.calls CALLS RATE SECONDS

Writes JSON on stdout, one line a second while it runs and one at its end.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

import voicespan
from voicespan import emit
from voicespan.load.result import Cost, Delays, Result, peak_mb
from voicespan.load.shape import FRAME_S, Shape, paces, spoken
from voicespan.sdk.batch import DROPPED, SENT
from voicespan.sdk.export import BatchProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from voicespan.finished import FinishedTurn
    from voicespan.sdk.batch import Batcher

PULSE_S = 0.01
_WITHOUT_SHARE, _WITHOUT_MOST_S = 0.25, 5.0
_FLUSH_S = 20.0
_AT_ONCE_EVERY_S = 0.05
_BEGIN_FASTER = 5
"""So much faster than turns end do calls begin."""


@dataclass
class Calls:
    """All calls of the service, with telemetry or without."""

    shape: Shape
    delays: Delays = field(default_factory=Delays)
    cores: float = 0.0
    seconds: float = 0.0

    async def run(self, seconds: float, *, telemetry: bool) -> None:
        """Hold all calls for so long, then hang up; the cost is that of the time in which all of them are held."""
        began_s = time.monotonic()
        calls = await self._begin(self._call if telemetry else self._silent_call)
        cost = Cost()
        pulse = asyncio.create_task(self._pulse())
        await asyncio.sleep(seconds)
        self.cores = cost.cores()
        await _cancelled([pulse])
        await self._hang_up(calls)
        self.seconds = time.monotonic() - began_s

    async def _begin(self, hold: Callable[[int], Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
        """Begin the calls one after the other, faster than turns end: nobody is called a thousand times at once."""
        calls: list[asyncio.Task[None]] = []
        at_once = max(1, round(_BEGIN_FASTER * self.shape.rate * _AT_ONCE_EVERY_S))
        for first in range(0, self.shape.calls, at_once):
            numbers = range(first, min(first + at_once, self.shape.calls))
            calls += [asyncio.create_task(hold(number)) for number in numbers]
            await asyncio.sleep(_AT_ONCE_EVERY_S)
        return calls

    async def _hang_up(self, calls: list[asyncio.Task[None]]) -> None:
        """End the calls one after the other, about as fast as turns end: all at once is another matter."""
        at_once = max(1, round(self.shape.rate * _AT_ONCE_EVERY_S))
        for first in range(0, len(calls), at_once):
            await _cancelled(calls[first : first + at_once])
            await asyncio.sleep(_AT_ONCE_EVERY_S)

    async def _pulse(self) -> None:
        while True:
            due_s = time.monotonic() + PULSE_S
            await asyncio.sleep(PULSE_S)
            self.delays.add(max(0.0, time.monotonic() - due_s))

    async def _call(self, number: int) -> None:
        rng = random.Random(number)  # noqa: S311 - the lengths of turns need no secrecy
        pace = paces(self.shape, rng).rest(rng.random())  # as if it had gone on for a while
        with voicespan.session(id=f"load-{number}", transport="websocket") as session:
            while True:
                for wait_s in spoken(session, pace):
                    await asyncio.sleep(wait_s)
                await asyncio.sleep(pace.pause_s)
                pace = paces(self.shape, rng)

    async def _silent_call(self, number: int) -> None:
        """Wait as a call does, and do nothing else."""
        rng = random.Random(number)  # noqa: S311
        pace = paces(self.shape, rng).rest(rng.random())
        while True:
            await asyncio.sleep(pace.speech_s)
            await asyncio.sleep(pace.model_s)
            for _ in range(pace.frames):
                await asyncio.sleep(FRAME_S)
            await asyncio.sleep(pace.pause_s)
            pace = paces(self.shape, rng)


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Counting:
    """Counts what is made, and asks the queues what became of it."""

    def __init__(self) -> None:
        self.turns = self.spans = 0
        emit.recorder().watch = self._made
        tracers: Any = trace.get_tracer_provider()
        processors = getattr(getattr(tracers, "_active_span_processor", None), "_span_processors", ())
        self._batchers: list[Batcher[Any]] = [each.batcher for each in processors if isinstance(each, BatchProcessor)]

    def _made(self, turn: FinishedTurn) -> None:
        self.turns += 1
        self.spans += len(turn.spans)

    @property
    def sent(self) -> int:
        """Spans that were taken."""
        return sum(each.counts.get(SENT) for each in self._batchers)

    @property
    def lost(self) -> int:
        """Spans that are counted as lost so far."""
        return sum(sum(each.counts.snapshot().values()) - each.counts.get(SENT) for each in self._batchers)

    @property
    def reasons(self) -> list[str]:
        """Why something was not sent."""
        full = "the queue was full (OTEL_BSP_MAX_QUEUE_SIZE)"
        found = {full for each in self._batchers if each.counts.get(DROPPED)}
        return sorted(found | {each.reason for each in self._batchers if each.reason})


async def progress(counting: Counting) -> None:
    """Say each second how far it is."""
    while True:
        await asyncio.sleep(1)
        say({"turns": counting.turns, "spans": counting.spans, "sent": counting.sent, "lost": counting.lost})


def say(figures: dict[str, Any]) -> None:
    """Write a line for `voicespan load`."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


async def hold(shape: Shape, counting: Counting) -> Result:
    """Hold the calls, first without telemetry for a while."""
    without = Calls(shape)
    await without.run(min(shape.seconds * _WITHOUT_SHARE, _WITHOUT_MOST_S), telemetry=False)
    calls = Calls(shape)
    telling = asyncio.create_task(progress(counting))
    await calls.run(shape.seconds, telemetry=True)
    telling.cancel()
    tracers: Any = trace.get_tracer_provider()
    emit.recorder().drain()
    if hasattr(tracers, "force_flush"):
        await asyncio.to_thread(tracers.force_flush, int(_FLUSH_S * 1000))
    return Result(
        way="sdk",
        calls=shape.calls,
        turns=counting.turns,
        spans=counting.spans,
        sent=counting.sent,
        lost=counting.spans - counting.sent,
        duration_s=round(calls.seconds, 2),
        cpu_cores=round(calls.cores, 3),
        cpu_cores_without=round(without.cores, 3),
        memory_mb=round(peak_mb(), 1),
        loop_delay_ms=calls.delays.summary(),
        loop_delay_without_ms=without.delays.summary(),
        problems=counting.reasons,
    )


def main(calls: str, rate: str, seconds: str) -> None:
    """Hold the calls and write the result."""
    shape = Shape(int(calls), float(rate), float(seconds))
    say({"result": asyncio.run(hold(shape, Counting())).plain()})


if __name__ == "__main__":
    main(*sys.argv[1:])
