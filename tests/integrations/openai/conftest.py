"""The real client libraries against servers of our own, and the turns that voicespan makes of it."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING

import pytest

from voicespan import diagnostics, emit, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.finished import FinishedTurn

pytest.importorskip("openai", reason="openai is not installed")
pytest.importorskip("websockets", reason="websockets is not installed")

SAID = ("how cold", "It is", "nine", "Oslo", "It ", "friendly assistant")
"""Words of prompts, replies, transcripts, and of a tool's arguments and result, in the calls of these tests."""


class Turns:
    """The finished turns, by the order in which they began."""

    def __init__(self, recorder: emit.BackgroundRecorder) -> None:
        self.found: list[FinishedTurn] = []
        self.recorder = recorder
        recorder.watch = self.found.append

    async def wait(self, count: int, timeout_s: float = 15) -> list[FinishedTurn]:
        """Wait for so many."""
        async with asyncio.timeout(timeout_s):
            while len(self.found) < count:  # noqa: ASYNC110 - they come from another thread
                await asyncio.sleep(0.02)
        return self.all()

    def all(self) -> list[FinishedTurn]:
        """Return those that are over."""
        self.recorder.drain()
        return sorted(self.found, key=lambda turn: turn.spans[0].start_ns)


@pytest.fixture(scope="session", autouse=True)
def hooked() -> None:
    """Put the hooks in place, as the entry points do."""
    from voicespan.integrations.openai import OpenAIInstrumentor
    from voicespan.integrations.openai_agents import OpenAIAgentsInstrumentor

    OpenAIInstrumentor().instrument(skip_dep_check=True)
    if importlib.util.find_spec("agents") is not None:
        OpenAIAgentsInstrumentor().instrument(skip_dep_check=True)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """Record the turns of this test; nothing of ours may have failed."""
    diagnostics.forget()
    settings.reset()
    recorder = emit.BackgroundRecorder()
    monkeypatch.setattr(emit, "_recorder", recorder)
    made = Turns(recorder)
    yield made
    recorder.shut_down()
    assert not [word for word in SAID if word in str(made.found)], "what was said is in a turn"
    counted = diagnostics.counters.snapshot()
    assert "internal_error" not in counted, counted
    assert "mark.refused" not in counted, counted
