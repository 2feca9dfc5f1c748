"""Calls to an `AgentSession` between providers of our own, and the turns that voicespan makes of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import diagnostics, emit, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from voicespan.finished import FinishedTurn

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

from livekit.agents import Agent, AgentSession

from .world import Answer, Call, Detector, Line, Model, Recognizer, Voice


class Turns:
    """The finished turns, by the order in which they ended."""

    def __init__(self) -> None:
        self.found: list[FinishedTurn] = []

    async def wait(self, count: int, timeout_s: float = 15) -> list[FinishedTurn]:
        """Wait for so many."""
        async with asyncio.timeout(timeout_s):
            while len(self.found) < count:  # noqa: ASYNC110 - they come from another thread
                await asyncio.sleep(0.02)
        return sorted(self.found, key=lambda turn: turn.spans[0].start_ns)


@pytest.fixture(scope="session", autouse=True)
def hooked() -> None:
    """Put the hooks in place, as the entry point does."""
    from voicespan.integrations.livekit import LiveKitInstrumentor

    LiveKitInstrumentor().instrument(skip_dep_check=True)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """Record the turns of this test; nothing of ours may have failed."""
    diagnostics.forget()
    settings.reset()
    made = Turns()
    recorder = emit.BackgroundRecorder()
    recorder.watch = made.found.append
    monkeypatch.setattr(emit, "_recorder", recorder)
    yield made
    recorder.shut_down()
    counted = diagnostics.counters.snapshot()
    assert "internal_error" not in counted, counted
    assert "mark.refused" not in counted, counted


@asynccontextmanager
async def calling(
    *answers: Answer,
    agent: Agent | None = None,
    voice: dict[str, Any] | None = None,
    ears: dict[str, Any] | None = None,
    detector: dict[str, Any] | None = None,
    pause: bool = True,
    **options: Any,
) -> AsyncIterator[tuple[Call, AgentSession[None]]]:
    """Start an `AgentSession` on a line of its own; hang up at the end."""
    call = Call()
    if not pause:
        call.line.task.cancel()
        call.line = Line(call.truth, pause=False)
    options.setdefault("turn_handling", {"endpointing": {"min_delay": 0.45}, "turn_detection": "vad"})
    session: AgentSession[None] = AgentSession(
        stt=Recognizer(call.truth, call.caller, **(ears or {})),
        vad=Detector(**(detector or {})),
        llm=Model(call.truth, *answers),
        tts=Voice(call.truth, **(voice or {})),
        aec_warmup_duration=None,
        user_away_timeout=None,
        **options,
    )
    session.input.audio = call.caller
    session.output.audio = call.line
    await session.start(agent or Agent(instructions="be brief"))
    try:
        yield call, session
    finally:
        await session.aclose()
        await call.close()
