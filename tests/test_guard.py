from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from voicespan import diagnostics

if TYPE_CHECKING:
    from voicespan.testing import VoiceRecorder

WRONG: list[Any] = [None, -1, 1.5, "now", 2**80, True, [1]]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_times_never_raise(voice: VoiceRecorder, wrong: Any) -> None:
    """Any object may be passed as a time; the service goes on and the turn is reported."""
    session = voice.session()
    session.media_up(at=wrong)
    turn = session.user_turn(at=wrong)
    for mark in (
        turn.speech_ended, turn.transcript, turn.committed, turn.audio_heard, turn.audio_stopped, turn.audio_cleared,
        turn.audio_paused, turn.audio_resumed, turn.interrupted,
    ):  # fmt: skip
        mark(at=wrong)
    with turn.llm() as llm:
        llm.token(at=wrong)
        llm.sentence(at=wrong)
        llm.end(at=wrong)
    turn.audio_sent(wrong)
    turn.barge_in(wrong, at=wrong)
    turn.end(at=wrong)
    session.hung_up(at=wrong)
    assert len(voice.turns) == 1


def test_refused_time_is_counted_and_said_once(voice: VoiceRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """A time in the future or from another clock is refused: counted each time, said once."""
    turn = voice.session().user_turn()
    for _ in range(3):
        turn.audio_heard(at=voice.clock.now_ns + 10**12)
    assert diagnostics.counters.snapshot()["mark.refused"] == 3
    assert capsys.readouterr().err.count("audio_heard") == 1


def test_marks_after_the_end_are_dropped_and_counted(voice: VoiceRecorder) -> None:
    """A turn that is over takes nothing more and says how much came late."""
    session = voice.session()
    turn = session.user_turn()
    llm = turn.llm()
    turn.committed()
    session.end()
    before = voice.turns[0]
    turn.transcript()
    turn.audio_sent(0.02)
    turn.set("late", "yes")
    llm.token()
    llm.set("late", "yes")
    assert voice.turns == [before]
    assert "late" not in before.root.attributes
    assert diagnostics.counters.snapshot()["mark.late"] == 5


def test_turn_of_an_ended_session_is_inert(voice: VoiceRecorder) -> None:
    """Speech after the end of its session gives a turn that takes every mark and reports nothing."""
    session = voice.session()
    session.end()
    turn = session.user_turn()
    turn.committed()
    with turn.tts() as tts:
        tts.audio(0.02)
        turn.audio_sent(0.02)
    turn.end()
    assert voice.settle(5) == []


def test_exceptions_of_the_service_pass_through(voice: VoiceRecorder) -> None:
    """What the service raises inside a stage arrives where it would have arrived without us."""
    turn = voice.session().user_turn()
    with pytest.raises(KeyError, match="theirs"), turn.tool("lookup"):
        raise KeyError("theirs")


def test_open_turns_of_a_session_are_bounded(voice: VoiceRecorder) -> None:
    """A session that opens turns without end closes the oldest."""
    session = voice.session()
    for _ in range(500):
        session.agent_turn("say")
    assert len(voice.turns) >= 500 - 32


def test_stages_and_events_of_a_turn_are_bounded(voice: VoiceRecorder) -> None:
    """A turn that never ends keeps a bounded number of stages and events."""
    session = voice.session()
    turn = session.user_turn()
    turn.committed()
    for _ in range(5_000):
        with turn.tool("loop"):
            turn.event("again")
    session.end()
    assert len(voice.turns[0].spans) < 300
    assert len(voice.turns[0].root.events) < 200
