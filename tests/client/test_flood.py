"""A flood of bad requests, and a call that goes on in the same process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response

import voicespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from starlette.types import Receive, Scope, Send

    from voicespan.client.endpoint import Taken

FLOOD = Path(__file__).with_name("flood.py")
FRAME_S = 0.02
T = TypeVar("T")
RATE, SECONDS = 1000, 2
ATTEMPTS = 3
"""The machine's load may come and go between the two of a pair."""


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

    async def over(self, work: Awaitable[T]) -> tuple[T, float]:
        """Wait for it; what it gives, and the mean lateness of the frames meanwhile, in seconds."""
        self.late_s.clear()
        given = await work
        return given, statistics.mean(self.late_s)


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse every request without looking at it: what a flood costs the server itself."""
    await Response(status_code=400, headers={"Connection": "close"})(scope, receive, send)


@contextlib.asynccontextmanager
async def serving(taken: list[Taken]) -> AsyncIterator[tuple[int, Any]]:
    """Serve the endpoint on this event loop; its port, and what holds its state."""
    app = FastAPI()
    reports = voicespan.client_reports(on_report=taken.append)
    app.mount("/api", reports)
    app.mount("/bare", bare)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], reports.routes[0].endpoint.__self__  # type: ignore[attr-defined]
    finally:
        server.should_exit = True
        await task


@pytest.mark.alone
async def test_a_flood_slows_no_call() -> None:
    """Frames of a call in the same process are hardly later than while an endpoint is flooded that only refuses.

    Paired, so that the machine's load cancels out. It fails where a request holds the event loop for some milliseconds.
    """
    taken: list[Taken] = []
    async with serving(taken) as (port, door):
        call = Call()
        task = asyncio.create_task(call.run())
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(FLOOD), str(port), str(RATE), str(SECONDS),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

        async def flood(path: str, address: str) -> dict[str, int]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{path} {address}\n".encode())
            answers: dict[str, int] = json.loads(await process.stdout.readline())
            return answers

        for attempt in range(2, 2 + ATTEMPTS):  # each from an address that has not asked before
            _, bare_s = await call.over(flood("/bare/metrics", f"127.0.0.{attempt}"))
            answers, late_s = await call.over(flood("/api/metrics", f"127.0.0.{attempt}"))
            if late_s < 2 * bare_s + 0.005:
                break
        task.cancel()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
    assert sum(answers.values()) == RATE * SECONDS
    assert answers.keys() <= {"400", "413", "429", "cut"}
    assert (taken, len(door._totals), len(door._clients), len(door._joining)) == ([], 0, 0, 0)
    assert late_s < 2 * bare_s + 0.005
