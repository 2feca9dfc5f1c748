"""A call in real time. What the caller does comes from a test; what really happens, and when, is in the journal."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

FRAME_S = 0.05


class Answer:
    """How the model answers once: after a while in words or with a call of the tool; or it fails."""

    def __init__(self, *, wait_s: float = 0.2, spoken_s: float = 0.5, tool: bool = False, fails: bool = False) -> None:
        self.wait_s, self.spoken_s, self.tool, self.fails = wait_s, spoken_s, tool, fails


class Bot:
    """Holds one call."""

    def __init__(self, call_id: str, *answers: Answer) -> None:
        self.call_id = call_id
        self.answers = list(answers)
        self.agent = "desk"
        self.journal: defaultdict[str, list[int]] = defaultdict(list)
        self.reply: asyncio.Task[None] | None = None
        self.flowing = asyncio.Event()
        self.playing = False
        self.late_s = 0.0

    def note(self, what: str) -> int:
        """Write down that something happens now."""
        self.journal[what].append(time.monotonic_ns())
        return self.journal[what][-1]

    async def pass_s(self, seconds: float) -> None:
        """Take time, and measure how late this machine is."""
        due_s = time.monotonic() + seconds
        await asyncio.sleep(seconds)
        self.late_s = max(self.late_s, time.monotonic() - due_s)

    async def hold(self, caller: Callable[[Bot], Awaitable[None]]) -> None:
        """Hold the call for as long as the caller is there."""
        self.flowing.set()
        await caller(self)

    # The caller

    async def say(self, seconds: float = 0.3) -> None:
        """Speak; the detector is certain of an onset after 60 ms, and of an end after 150."""
        began_ns = self.note("speech")
        await self.pass_s(0.06)
        self.on_speech(began_ns)
        self.interrupt()
        await self.pass_s(seconds)
        ended_ns = self.note("silence")
        await self.pass_s(0.15)
        self.on_silence(ended_ns)
        await self.decide()

    async def cough(self) -> None:
        """Make a sound that turns out to be no speech: the bot pauses, and goes on."""
        began_ns = self.note("speech")
        self.on_speech(began_ns)
        self.flowing.clear()
        self.pause()
        await self.pass_s(0.4)
        self.go_on()
        self.flowing.set()

    def interrupt(self) -> None:
        """Give up the answer, and what of it plays."""
        if self.reply is not None and not self.reply.done():
            self.reply.cancel()
            if self.playing:
                self.clear()
        self.playing = False

    async def listen(self) -> None:
        """Wait until the answer is over."""
        if self.reply is not None:
            await asyncio.wait([self.reply])

    # The detector and the decision

    def on_speech(self, at_ns: int) -> None:
        """Somebody speaks."""

    def on_silence(self, at_ns: int) -> None:
        """Nobody speaks any more."""

    async def decide(self) -> None:
        """Recognize, and begin to answer."""
        await self.recognize()
        self.reply = self.on_end_of_turn()

    async def recognize(self) -> str:
        """Return what was said."""
        await self.pass_s(0.1)
        self.note("transcript")
        return "how cold is it"

    def on_end_of_turn(self) -> asyncio.Task[None]:
        """Begin to answer."""
        self.note("decided")
        return asyncio.create_task(self.answer(self.answers.pop(0)))

    # The answer

    async def answer(self, answer: Answer) -> None:
        """Think, look things up, and speak."""
        self.note("request")
        words = [token async for token in self.think(answer)]
        if answer.tool:
            await self.look_up("Oslo")
            answer.tool = False
            await self.answer(answer)
            return
        async for frame in self.speak("".join(words), answer.spoken_s):
            await self.flowing.wait()
            self.note("frame" if self.playing else "heard")
            self.playing = True
            self.send(frame)
        self.playing = False
        self.note("played out")

    async def think(self, answer: Answer) -> AsyncIterator[str]:
        """Give tokens."""
        await self.pass_s(answer.wait_s)
        if answer.fails:
            raise ConnectionError("no model")
        self.note("token")
        yield "nine"
        await self.pass_s(0.05)
        yield "."

    async def look_up(self, place: str) -> str:
        """Take a fifth of a second."""
        self.note("tool")
        await self.pass_s(0.2)
        self.note("result")
        return place

    async def speak(self, text: str, seconds: float) -> AsyncIterator[float]:
        """Give frames in real time."""
        await self.pass_s(0.1)
        self.note("first audio")
        for _ in range(round(seconds / FRAME_S)):
            yield FRAME_S
            await self.pass_s(FRAME_S)

    def hand_over(self, agent: str) -> None:
        """Let another agent answer."""
        self.agent = agent

    def send(self, seconds: float) -> None:
        """Send a frame to the caller."""

    def clear(self) -> None:
        """Drop what the caller has not heard yet."""
        self.note("cleared")

    def pause(self) -> None:
        """Hold back what the caller has not heard yet."""
        self.note("paused")

    def go_on(self) -> None:
        """Go on with it."""
        self.note("resumed")
