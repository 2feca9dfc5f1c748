"""A call that a test makes: the example's service, line and server, and the truth to compare with."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI

EXAMPLE = Path(__file__).parents[3] / "examples" / "openai"
sys.path.insert(0, str(EXAMPLE))

from telephone import Answer, Journal, Line, Server  # noqa: E402

_spec = importlib.util.spec_from_file_location("openai_bot", EXAMPLE / "bot.py")  # other examples have a `bot` too
assert _spec is not None
assert _spec.loader is not None
bot: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bot)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from voicespan.finished import FinishedSpan, FinishedTurn

__all__ = ("Answer", "Call", "Journal", "Line", "Server", "bot", "names", "phases")

NEAR_MS = 30


class Call:
    """One call of the example's service, or of another one."""

    def __init__(self, *answers: Answer, **options: Any) -> None:
        self.journal = Journal()
        self.line = Line(self.journal)
        self.server = Server(self.journal, *answers, **options)

    @asynccontextmanager
    async def held(
        self, service: Callable[[Call], Awaitable[None]] | None = None, session: dict[str, Any] | None = None
    ) -> AsyncIterator[Call]:
        """Hold the call: the service runs inside the block, and the caller hangs up behind it."""
        async with self.server:
            task: asyncio.Task[None] = asyncio.ensure_future(
                service(self) if service is not None else self._serve(session)
            )
            await asyncio.sleep(0.5)  # the server takes 300 ms along from before an utterance
            try:
                yield self
            finally:
                if task.done():
                    task.result()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _serve(self, session: dict[str, Any] | None) -> None:
        await bot.call(self.client(), self.line, session, greet=False)

    def client(self) -> AsyncOpenAI:
        """Return a client of this call's server."""
        return AsyncOpenAI(api_key="none", websocket_base_url=self.server.url)

    async def speak(self, seconds: float = 0.8) -> None:
        """Let the caller speak, and return when he is silent."""
        count = len(self.journal.notes["silence"])
        self.line.speak(seconds)
        await self.journal.wait("silence", count + 1)

    async def ask(self, seconds: float = 0.8) -> None:
        """Let the caller speak, and return when the answer is heard."""
        heard = len(self.journal.notes["heard"])
        await self.speak(seconds)
        await self.journal.wait("heard", heard + 1)

    # The truth

    @property
    def tolerance_ms(self) -> float:
        """How far a time stamp may be from the truth: 30 ms, and what a busy machine was late with its own audio."""
        late_s: float = self.line.late_s
        return NEAR_MS + 2 * late_s * 1e3

    def assert_at(self, at_ns: int, what: str, index: int = 0) -> None:
        """A time stamp is when something happened."""
        late_ms = (at_ns - self.journal.notes[what][index]) / 1e6
        assert abs(late_ms) <= self.tolerance_ms, f"{late_ms:.0f} ms after: {what} {index}"

    def assert_span(self, span: FinishedSpan, begin: tuple[str, int] | str, end: tuple[str, int] | str) -> None:
        """A span lies between two things that happened."""
        for at_ns, what in ((span.start_ns, begin), (span.end_ns, end)):
            name, index = (what, 0) if isinstance(what, str) else what
            self.assert_at(at_ns, name, index)

    def assert_answered(self, turn: FinishedTurn, index: int = 0, heard: int | None = None) -> None:
        """Every milestone of a plain answer lies where it happened."""
        heard = index if heard is None else heard
        self.assert_at(turn.root.start_ns, "speech", index)
        self.assert_span(turn["vad"], ("speech", index), ("committed", index))
        self.assert_span(turn["vad.endpoint"], ("silence", index), ("committed", index))
        self.assert_span(turn["voice.response"], ("silence", index), ("heard", heard))
        self.assert_span(turn["realtime.first_audio"], ("request", heard), ("first audio", heard))


async def microphone(connection: Any, line: Line) -> None:
    """Send what the caller says."""
    async for frame in line.microphone():
        await connection.input_audio_buffer.append(audio=base64.b64encode(frame).decode())


def names(turn: FinishedTurn) -> set[str]:
    """Return the names of all spans."""
    return {span.name for span in turn.spans}


def phases(turn: FinishedTurn) -> dict[Any, FinishedSpan]:
    """Return the phases of a barge-in."""
    return {span.attributes["voice.barge_in.phase"]: span for span in turn.all("barge_in")}
