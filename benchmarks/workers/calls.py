"""Many calls of a framework on one event loop, held as turns are asked for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workers.worker import Way

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
CALLS = 10
TURN_S = 20
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "pipecat")]


class Call(Protocol):
    """One call."""

    async def begin(self) -> None:
        """Let the framework start."""

    async def turn(self) -> None:
        """Speak, and return when the answer was heard."""


def telemetry(how: str) -> Callable[[], object]:
    """Start what HOW names (`own`: a plain SDK for the framework's spans; `ours`; `off`); return how to flush."""
    if how == "own":
        from workers import plain

        return plain.start("").flush
    if how == "ours":
        from workers import ours

        return ours.start("").flush
    return lambda: None


def way(make: Callable[[], Call], flush: Callable[[], object]) -> Way:
    """Begin all calls; turns are shared out among them."""
    loop = asyncio.new_event_loop()
    calls: list[Call] = []

    async def begin() -> None:
        for _ in range(CALLS):
            calls.append(make())
            await calls[-1].begin()

    async def some(call: Call, count: int) -> None:
        for _ in range(count):
            async with asyncio.timeout(TURN_S):
                await call.turn()

    async def hold(count: int) -> None:
        work: Any = (some(call, len(range(index, count, CALLS))) for index, call in enumerate(calls))
        await asyncio.gather(*work)

    loop.run_until_complete(begin())
    return Way(lambda count: loop.run_until_complete(hold(count)), flush)
