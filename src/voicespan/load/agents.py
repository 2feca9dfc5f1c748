"""Calls through the reference agent: real speech, recognition and synthesis. An agent takes one call at a time."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Any

import psutil

from voicespan.load.result import Delays, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.load.shape import Shape

SCENARIOS = "greeting,plain"
_LOOK_EVERY_S = 0.5
_OVER_S = 60.0
"""How long the last conversation may go on when the time is over."""


class Agents:
    """So many agents, each with its own caller, one conversation after the other."""

    def __init__(self, shape: Shape, endpoint: str) -> None:
        self.shape, self.endpoint = shape, endpoint
        self.turns = 0
        self.heard = Delays()
        self.problems: dict[str, int] = {}
        self._cpu_s: dict[int, float] = {}
        self._memory_mb = 0.0

    async def run(self, progress: Callable[[dict[str, int]], None]) -> Result:
        """Hold conversations for as long as the shape says; return what came of them."""
        began_s = time.monotonic()
        until_s = began_s + self.shape.seconds
        watch = asyncio.create_task(self._watch(progress))
        await asyncio.gather(*(self._talk(number, until_s) for number in range(self.shape.calls)))
        watch.cancel()
        return Result(
            way="agent",
            calls=self.shape.calls,
            turns=self.turns,
            duration_s=round(time.monotonic() - began_s, 2),
            cpu_cores=round(sum(self._cpu_s.values()) / (time.monotonic() - began_s), 3),
            memory_mb=round(self._memory_mb, 1),
            heard_silence_ms=self.heard.summary(),
            problems=[f"{words} ({count} turns)" for words, count in sorted(self.problems.items())],
        )

    async def _talk(self, number: int, until_s: float) -> None:
        while time.monotonic() < until_s:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "voicespan", "demo", "--json", "--port", "0", "--db", ":memory:"),
                *("--otlp", self.endpoint, "--scenarios", SCENARIOS, "--seed", str(number)),
                stdout=PIPE,
                stderr=PIPE,
            )
            try:
                async with asyncio.timeout(max(0.0, until_s - time.monotonic()) + _OVER_S):
                    out, err = await process.communicate()
            except TimeoutError:
                process.terminate()
                await process.wait()
                self._problem("the conversation did not end in time")
                return
            if not self._take(out):
                self._problem((err.decode(errors="replace").strip().splitlines() or ["no turns"])[-1])
                return

    def _take(self, out: bytes) -> bool:
        try:
            found: list[dict[str, Any]] = json.loads(out)
        except ValueError:
            return False
        for each in found:
            self.turns += 1
            if each.get("response_s") is not None:
                self.heard.add(float(each["response_s"]))
            if problem := each.get("problem"):
                self._problem(str(problem))
        return True

    def _problem(self, words: str) -> None:
        self.problems[words] = self.problems.get(words, 0) + 1

    async def _watch(self, progress: Callable[[dict[str, int]], None]) -> None:
        me, looked = psutil.Process(), 0
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            memory = 0.0
            for child in me.children(recursive=True):
                try:
                    times, memory = child.cpu_times(), memory + child.memory_info().rss / 1e6
                except psutil.Error:
                    continue
                self._cpu_s[child.pid] = times.user + times.system
            self._memory_mb = max(self._memory_mb, memory)
            looked += 1
            if looked * _LOOK_EVERY_S % 1 == 0:
                progress({"turns": self.turns})
