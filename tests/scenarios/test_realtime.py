"""A speech-to-speech model: what it waits for, and what accounts for the silence before it speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from voicespan.testing import VoiceRecorder
    from voicespan.turn import Turn

MS = 1_000_000


def asked(voice: VoiceRecorder) -> Turn:
    """Speech from 0 to 1000 ms, committed at 1400."""
    clock = voice.clock
    turn = voice.session().user_turn(at=clock.at(0))
    clock.to(1400)
    turn.speech_ended(clock.at(1000))
    turn.committed()
    return turn


def test_a_stage_that_is_known_afterwards(voice: VoiceRecorder) -> None:
    """A response that is heard of late begins when it was asked for."""
    turn, clock = asked(voice), voice.clock
    clock.to(1450)
    realtime = turn.realtime(model="m", at=clock.at(1400))
    clock.to(1700)
    realtime.audio(1.0)
    turn.audio_sent(1.0)
    realtime.end()
    turn.end()
    (finished,) = voice.settle(2)
    assert finished["realtime.first_audio"].duration_ns == 300 * MS
    assert finished.shares == {"endpoint": pytest.approx(0.4), "realtime": pytest.approx(0.3), "unattributed": 0}


def test_the_transcript_is_made_beside_it(voice: VoiceRecorder) -> None:
    """The model hears for itself: a transcript that comes before its answer takes no share of the silence."""
    turn, clock = asked(voice), voice.clock
    realtime = turn.realtime()
    clock.to(1600)
    turn.transcript()
    clock.to(1700)
    realtime.audio(1.0)
    turn.audio_sent(1.0)
    realtime.end()
    turn.end()
    (finished,) = voice.settle(2)
    assert "asr" not in finished.shares
    assert finished.shares["realtime"] == pytest.approx(0.3)


def test_a_tool_between_two_responses(voice: VoiceRecorder) -> None:
    """A response that only calls a tool has its share, and so has the tool; the second response has the rest."""
    turn, clock = asked(voice), voice.clock
    first = turn.realtime()
    clock.to(1600)
    first.end()
    tool = turn.tool("get_weather")
    clock.to(1900)
    tool.end()
    second = turn.realtime()
    clock.to(2100)
    second.audio(1.0)
    turn.audio_sent(1.0)
    second.end()
    turn.end()
    (finished,) = voice.settle(2)
    assert finished.shares == {
        "endpoint": pytest.approx(0.4), "realtime": pytest.approx(0.4), "tool": pytest.approx(0.3), "unattributed": 0,
    }  # fmt: skip
    assert [span.attributes.get("voice.critical_path") for span in finished.all("realtime")] == [True, True]


def test_the_id_of_a_session_that_is_told_late(voice: VoiceRecorder) -> None:
    """An id that the other side tells counts for the turns that are open; once one is over it is too late."""
    session = voice.session(None, id_follows=True)
    first = session.agent_turn("greeting")
    session.identified("sess_1")
    first.end()
    voice.settle(0.2)
    session.identified("sess_2")
    second = session.agent_turn()
    second.end()
    assert [turn.session_id for turn in voice.settle(0.2)] == ["sess_1", "sess_1"]
