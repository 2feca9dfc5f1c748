"""Frames of a call on the real framework are counted where they come and where they leave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("pipecat")

from voicespan.metrics.audio import flows

from .phone import Call

if TYPE_CHECKING:
    from pipecat.frames.frames import OutputAudioRawFrame

    from .conftest import Turns

pytestmark = pytest.mark.alone


@pytest.mark.covers("C-M23", "C-M24", "C-M25", "A-M20", "A-M21")
async def test_frames_are_counted_by_direction(turns: Turns) -> None:
    """Each frame that comes or leaves counts with its bytes; one that the paused transport drops counts as that."""
    flows.start()
    sizes: list[int] = []

    class Noting(type(Call().ear)):  # type: ignore[misc]
        async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
            sizes.append(len(frame.audio))
            taken: bool = await super().write_audio_frame(frame)
            return taken

    call = Call()
    call.ear = Noting(call.journal)
    async with call.held():
        await call.ask()
        call.line._paused = True
        await asyncio.sleep(0.2)
        call.line._paused = False
        received = call.line._voicespan[-1].conversation.session._received
    totals, drops = flows.totals(), flows.drops()
    assert totals["transmit"] == (len(sizes), sum(sizes))
    frames, size = totals["receive"]
    assert frames > 50
    assert size == frames * round(call.line.sample_rate * 0.02) * 2
    assert 5 <= drops["pause"] <= 15
    assert frames / 2 < sum(received.counts) <= frames


async def test_a_frame_that_the_transport_does_not_take_is_dropped(turns: Turns) -> None:
    """Where the transport refuses a frame, or fails with it, it is counted as dropped by an error, and not as sent."""
    flows.start()

    class Broken(type(Call().ear)):  # type: ignore[misc]
        async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
            self._journal.note("heard")
            if len(self._journal.all("heard")) % 2:
                raise OSError("broken")
            return False

    call = Call()
    call.ear = Broken(call.journal)
    async with call.held():
        await call.ask()
    assert "transmit" not in flows.totals()
    assert flows.drops()["error"] == len(call.journal.all("heard"))
