"""Frames of an unmodified `AgentSession` are counted where they come and where they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

from voicespan.integrations.livekit import conversation
from voicespan.metrics.audio import flows

from .conftest import calling
from .world import FRAME, Answer

if TYPE_CHECKING:
    from .conftest import Turns

pytestmark = pytest.mark.alone


@pytest.mark.covers("C-M23", "C-M24", "D-M13")
async def test_frames_are_counted_by_direction(turns: Turns) -> None:
    """Each frame counts with its bytes; audio that is given ahead of time, or after a pause, is not late."""
    flows.start()
    async with calling(Answer("It is nine degrees.")) as (call, session):
        await call.caller.speak(0.8, "how cold is it")
        await turns.wait(1)
        talk = conversation.of(session)
        assert talk is not None
        received, sent = talk.session._received, talk.session._sent
        assert received is not None
        assert sent is not None
        assert sent.due_ns == 0  # the reply is played out: the next one is late for nothing
    frames, size = flows.totals()["receive"]
    assert frames > 100
    assert size == frames * 2 * FRAME
    assert sum(received.counts) >= frames - 2
    assert sum(received.counts[:3]) > frames / 2
    frames, size = flows.totals()["transmit"]
    assert (frames, size) == (sent.frames, sent.bytes)
    assert size > 0
    assert sum(sent.counts[1:]) == 0
