"""A service with calls on one event loop, which says in the end what became of them: JSON, the last line of its output.

python calls.py [TROUBLE]: something that goes wrong in the process itself, while the calls go on.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace

import voicespan
from voicespan import emit
from voicespan.diagnostics import counters
from voicespan.sdk.batch import SENT
from voicespan.sdk.export import BatchProcessor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opentelemetry.sdk.trace import TracerProvider

    from voicespan.finished import FinishedTurn
    from voicespan.sessions import Session

CALLS = 20
TURNS = 3
FRAMES = 8
FRAME_S = 0.02
HOUR_S = 3600


class Service:
    """Calls on one loop, its pulse, and what was made of them."""

    def __init__(self) -> None:
        self.frames = self.spans = self.turns = 0
        self.delays_ms: list[float] = []
        self.memory_mb = 0.0

    def finished(self, turn: FinishedTurn) -> None:
        """Count what is handed on to be sent."""
        self.turns += 1
        self.spans += len(turn.spans)

    async def pulse(self) -> None:
        """Measure how late the loop is."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            self.delays_ms.append((time.monotonic() - began - 0.005) * 1000)

    async def call(self, number: int) -> None:
        """Hold one call: the user speaks, and the reply is made and sent frame by frame."""
        with voicespan.session(id=f"call-{number}", transport="websocket") as session:
            for _ in range(TURNS):
                await self.turn(session)

    async def turn(self, session: Session) -> None:
        """Go through one turn."""
        turn = session.user_turn()
        await asyncio.sleep(FRAME_S)
        turn.speech_ended()
        turn.committed()
        turn.transcript()
        with turn.llm(model="m-1") as llm:
            llm.token()
            llm.sentence()
        with turn.tts(voice="sam") as tts:
            tts.text("It is sunny.")
            for _ in range(FRAMES):
                await asyncio.sleep(FRAME_S)
                tts.audio(FRAME_S)
                turn.audio_sent(FRAME_S)
                self.frames += 1
        turn.end()

    async def go_through(self, trouble: Callable[[], Awaitable[None]]) -> None:
        """Hold all calls while something goes wrong."""
        pulse = asyncio.create_task(self.pulse())
        await self.call(CALLS)
        self.frames, before = 0, resident_mb()
        self.delays_ms.clear()
        await asyncio.gather(*(self.call(number) for number in range(CALLS)), trouble())
        self.memory_mb = resident_mb() - before
        pulse.cancel()
        with suppress(asyncio.CancelledError):
            await pulse


def resident_mb() -> float:
    """Return the memory of this process that is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def nothing() -> None:
    """Let the calls alone."""


async def clock_jumps() -> None:
    """Set the time of day, as this process sees it, hours ahead and hours back, again and again."""
    time_s, time_ns = time.time, time.time_ns
    for hours in (5, -5, 0, 12, -12, 0):
        time.time = lambda: time_s() + hours * HOUR_S  # noqa: B023 - now, for as long as these hours last
        time.time_ns = lambda: time_ns() + hours * HOUR_S * 10**9  # noqa: B023
        await asyncio.sleep(0.08)
    time.time, time.time_ns = time_s, time_ns


async def turns_that_never_end() -> None:
    """Open ten thousand turns and forget them."""
    for number in range(10_000):
        voicespan.session(id=f"lost-{number}").user_turn().committed()
        if number % 50 == 0:
            await asyncio.sleep(0)


async def large_attributes() -> None:
    """Put a megabyte on each of twenty turns, and on a stage of them."""
    with voicespan.session(id="large") as session:
        for number in range(20):
            turn = session.user_turn()
            turn.set("app.prompt", f"{number}:".ljust(1_000_000, "x"))
            turn.committed()
            with turn.llm(model="m-1") as llm:
                llm.set("app.answer", f"{number}:".ljust(1_000_000, "y"))
            turn.end()
            await asyncio.sleep(0.01)


async def marks_in_any_order() -> None:
    """Report everything in wrong order, twice, from four threads at once, and after the end."""
    session = voicespan.session(id="wild")
    turns = [session.user_turn() for _ in range(4)]
    marks: tuple[Callable[[Any], object], ...] = (
        lambda turn: turn.audio_heard(),
        lambda turn: turn.audio_sent(0.02),
        lambda turn: turn.transcript(),
        lambda turn: turn.committed(at=time.monotonic_ns() + 10**12),
        lambda turn: turn.interrupted(),
        lambda turn: turn.speech_ended(at=-1),
        lambda turn: turn.committed(),
        lambda turn: turn.audio_stopped(at=time.time_ns()),
        lambda turn: turn.llm(model="m-1").end(),
        lambda turn: turn.tts(voice="sam").audio(0.02),
        lambda turn: turn.speech_ended(at="yesterday"),
    )

    def report(seed: int) -> None:
        for index in range(2_000):
            turn = turns[index % len(turns)]
            mark = marks[(index * (seed + 1) + seed) % len(marks)]
            mark(turn)
            mark(turn)
            if index % 500 == 499:
                turn.end()
                turns[index % len(turns)] = session.user_turn()
            if index % 20 == 0:
                time.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        for seed in range(4):
            group.create_task(asyncio.to_thread(report, seed))
    session.end()


async def shut_down_under_load() -> None:
    """Shut the provider down while all calls are in their turns."""
    await asyncio.sleep(0.2)
    await asyncio.to_thread(cast("TracerProvider", trace.get_tracer_provider()).shutdown)


async def many_at_once() -> None:
    """End more turns at once than the queue holds."""
    with voicespan.session(id="many") as session:
        for number in range(3_000):
            turn = session.user_turn(input="text")
            turn.committed()
            turn.end()
            if number % 50 == 0:
                await asyncio.sleep(0)


def main(trouble: str = "nothing") -> None:
    """Hold the calls, end as a process ends, and say what became of everything."""
    service = Service()
    emit.recorder().watch = service.finished
    tracers: Any = trace.get_tracer_provider()
    processors = tracers._active_span_processor._span_processors
    (batcher,) = [each.batcher for each in processors if isinstance(each, BatchProcessor)]
    asyncio.run(service.go_through(globals()[trouble]))
    threads = threading.active_count()
    began = time.monotonic()
    atexit._run_exitfuncs()  # as the interpreter does at its end, so that this line has the last word
    exit_s = time.monotonic() - began
    with emit.recorder()._emit_lock:  # a turn that was being written when time was up
        pass
    counts = batcher.counts.snapshot()
    print(
        json.dumps(
            {
                "frames": service.frames,
                "expected_frames": CALLS * TURNS * FRAMES,
                "block_ms": max(service.delays_ms),
                "memory_mb": service.memory_mb,
                "exit_s": exit_s,
                "threads": threads,
                "turns": service.turns,
                "spans": service.spans,
                "sent": counts.pop(SENT, 0),
                "unsent": batcher.unsent,
                "waiting": batcher._length + batcher._in_flight,
                "counts": counts,
                "counters": counters.snapshot(),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
