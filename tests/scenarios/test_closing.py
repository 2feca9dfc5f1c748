"""A turn ends when it is over, though it is not looked at all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voicespan import settings
from voicespan.testing import VoiceRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.turn import Turn


def told_silent(turn: Turn) -> Callable[[], object]:
    """The agent has said all, and only the client's report is waited for."""
    with turn.tts() as voice:
        voice.audio(0.1)
    turn.audio_sent(0.1)
    turn.audio_heard()
    turn.end()
    return turn.audio_stopped


def stage_over(turn: Turn) -> Callable[[], object]:
    """What was sent is played out, and the synthesis has not ended."""
    voice = turn.tts()
    turn.audio_sent(0.1)
    turn.end()
    return voice.end


def stage_let_go(turn: Turn) -> Callable[[], object]:
    """The same, and nobody ends it."""
    voice = turn.tts()
    turn.audio_sent(0.1)
    turn.end()
    return voice.dropped


def tool_outlives(turn: Turn) -> Callable[[], object]:
    """A tool runs when all is said, and the turn need not wait for it."""
    tool = turn.tool("book_table")
    turn.audio_sent(0.1)
    turn.end()
    return tool.outlives


def tool_fails(turn: Turn) -> Callable[[], object]:
    """Nothing was said for long, and what runs beside it fails."""
    tool = turn.tool("book_table", background=True)
    turn.session.recorder.clock.advance(s=12)  # type: ignore[attr-defined]
    return lambda: tool.fail("unavailable")


@pytest.mark.parametrize("case", [told_silent, stage_over, stage_let_go, tool_outlives, tool_fails])
def test_a_mark_that_ends_a_turn_is_seen_at_once(case: Callable[[Turn], Callable[[], object]]) -> None:
    """A turn that has just been looked at is looked at again when a mark may have ended it."""
    voice = VoiceRecorder()
    session = voice.session()
    session.reports = case is told_silent
    turn = session.user_turn()
    turn.committed()
    mark = case(turn)
    voice.clock.advance(s=0.5)
    voice.settle()
    assert turn.open
    assert turn.look_ns > voice.clock.now_ns
    mark()
    voice.settle()
    assert not turn.open


def test_the_time_limit_is_kept_to() -> None:
    """A turn that nothing but its time limit ends is looked at when that comes, not up to a second later."""
    voice = VoiceRecorder()
    turn = voice.session().user_turn()
    turn.committed()
    limit_s = settings.current().turn_max_s
    for left_s in (20, 10, 0.5):
        voice.clock.advance(s=turn.record.onset_ns / 1e9 + limit_s - left_s - voice.clock.now_ns / 1e9)
        turn.event("still.here")
        voice.settle()
        assert turn.open
    voice.clock.advance(s=0.5)
    voice.settle()
    assert not turn.open
