"""A flood of bad requests, and a call that goes on in the same process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from fastapi import FastAPI

import voicespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from voicespan.client.endpoint import Taken

FLOOD = Path(__file__).with_name("flood.py")
FRAME_S = 0.02
RATE, SECONDS = 1000, 3


class Call:
    """Frames in both directions, one each 20 ms, on the event loop that serves the endpoint."""

    def __init__(self) -> None:
        self.late_s: list[float] = []

    async def run(self) -> None:
        """Note how late each frame is."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        with voicespan.session(sample_rate=16_000) as session:
            while True:
                due = max(due, loop.time() - FRAME_S) + FRAME_S
                await asyncio.sleep(due - loop.time())
                self.late_s.append(loop.time() - due)
                session.audio_in(bytes(640))
                session.audio_out(bytes(640))

    async def over(self, work: Any) -> float:
        """Return the median lateness of the frames while this goes on, in seconds."""
        self.late_s.clear()
        await work
        return statistics.median(self.late_s)


@contextlib.asynccontextmanager
async def serving(taken: list[Taken]) -> AsyncIterator[tuple[int, Any]]:
    """Serve the endpoint on this event loop; its port, and what holds its state."""
    app = FastAPI()
    reports = voicespan.client_reports(on_report=taken.append)
    app.mount("/api", reports)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1], reports.routes[0].endpoint.__self__  # type: ignore[attr-defined]
    server.should_exit = True
    await task


@pytest.mark.e2e
async def test_a_flood_slows_no_call() -> None:
    """While a thousand bad requests come in a second, frames of a call in the same process are late by less than one.

    The bound is wide: it fails where a request holds the event loop for some milliseconds.
    """
    taken: list[Taken] = []
    async with serving(taken) as (port, door):
        call = Call()
        task = asyncio.create_task(call.run())
        flood = await asyncio.create_subprocess_exec(
            sys.executable, str(FLOOD), str(port), str(RATE), str(SECONDS),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        quiet_s = await call.over(asyncio.sleep(1))
        flooded_s = await call.over(told := asyncio.ensure_future(flood.communicate(b"go\n")))
        task.cancel()
    answered = json.loads(told.result()[0])
    assert answered["sent"] == RATE * SECONDS
    assert answered["answers"].keys() <= {"400", "413", "429", "cut"}
    assert (taken, len(door._totals), len(door._clients), len(door._joining)) == ([], 0, 0, 0)
    assert flooded_s - quiet_s < FRAME_S
