"""Barge-in: what the user stops, how long each part of the stop takes, and what only looks like one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from .timeline import links, passes_on

if TYPE_CHECKING:
    from voicespan.finished import FinishedSpan, FinishedTurn

    from .timeline import Timeline


def phases(at: Timeline, turn: FinishedTurn) -> dict[str, tuple[float, float]]:
    """Return start and end of the barge-in by phase."""
    spans = {str(span.attributes["voice.barge_in.phase"]): span for span in turn.all("barge_in")}
    assert len(spans) == len(turn.all("barge_in"))
    return {phase: _interval(at, span) for phase, span in spans.items()}


def _interval(at: Timeline, span: FinishedSpan) -> tuple[float, float]:
    return at.ms(span.start_ns), at.ms(span.end_ns)


@pytest.mark.covers("A-M12", "A-M13", "A-M14", "C-M06", "F-TR16")
def test_every_phase(at: Timeline) -> None:
    """The phases start at the detection, the total at the real onset; each ends when its part is done.

    1810 audio for 3 s · 2500 onset, told at 2580 · 2600 taken for an interruption · 2620 silent · 2630 worker paused ·
    2640 cancel sent
    """
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2580)
    following = session.user_turn(at=at(2500))
    turn.interrupted(at=at(2600))
    turn.interrupted(at=at(2610))
    turn.audio_cleared(at=at(2620))
    turn.barge_in("playback_stop", at=at(2620))
    turn.barge_in("worker_pause", at=at(2630))
    turn.barge_in("server_cancel", at=at(2640))
    at(3700)
    following.speech_ended(at=at(3500))
    following.committed(at=at(3800))
    following.transcript(at=at(3850))
    at.agent_says(following, request=3860, token=4060, sentence=4160, audio=4300, sent=4310)
    old, new = at.finish(count=2)
    assert old.outcome == "interrupted"
    assert old.root.error is None
    assert phases(at, old) == {
        "playback_stop": (2600, 2620),
        "worker_pause": (2600, 2630),
        "server_cancel": (2600, 2640),
        "total": (2500, 2620),
    }
    total = next(span for span in old.all("barge_in") if span.attributes["voice.barge_in.phase"] == "total")
    assert total.attributes["voice.barge_in.detection_s"] == pytest.approx(0.1)
    assert total.attributes["voice.measurement.point"] == "server"
    assert _interval(at, old["playback"]) == (1810, 2620)
    assert old["playback"].attributes["voice.playback.interrupted"] is True
    assert old["playback"].attributes["voice.playback.sent_s"] == pytest.approx(3)
    assert old["playback"].attributes["voice.playback.heard_s"] == pytest.approx(0.81)
    assert _interval(at, old["voice.response"]) == (1000, 1810)
    assert at.ms(old.root.end_ns) == 2640
    assert new.outcome == "completed"
    assert at.ms(new.root.start_ns) == 2500
    assert set(links(new)) == {("interrupted", old.trace_id), ("previous", old.trace_id)}


def test_a_clear_while_an_onset_is_pending_is_a_barge_in(at: Timeline) -> None:
    """Without interrupted(), the detection is when the detector told of the onset.

    1810 audio for 3 s · 2500 onset, told at 2580 · 2600 cleared
    """
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2580)
    following = session.user_turn(at=at(2500))
    turn.audio_cleared(at=at(2600))
    at(3700)
    following.speech_ended(at=at(3500))
    following.committed(at=at(3800))
    at.finish(count=1, within_s=1)
    session.end()
    old = at.voice.turns[0]
    assert old.outcome == "interrupted"
    assert phases(at, old) == {"total": (2500, 2600), "playback_stop": (2580, 2600)}
    assert _interval(at, old["playback"]) == (1810, 2600)
    total = next(span for span in old.all("barge_in") if span.attributes["voice.barge_in.phase"] == "total")
    assert total.attributes["voice.barge_in.detection_s"] == pytest.approx(0.08)


@pytest.mark.covers("A-M14")
def test_the_client_says_when_it_was_silent(at: Timeline) -> None:
    """With a client, the interruption lasts until the user hears nothing more.

    1810 sent · 1870 heard · 2500 onset · 2600 detected, cleared · 2700 the client is silent
    """
    session = at.session(measurement_point="client")
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    turn.audio_heard(at=at(1870))
    at(2600)
    following = session.user_turn(at=at(2500))
    turn.interrupted(at=at(2600))
    turn.audio_cleared(at=at(2600))
    turn.audio_stopped(at=at(2700))
    at(3700)
    following.speech_ended(at=at(3500))
    following.committed(at=at(3800))
    session.end()
    old = at.voice.turns[0]
    assert old.outcome == "interrupted"
    assert phases(at, old)["total"] == (2500, 2700)
    assert {span.attributes["voice.measurement.point"] for span in old.all("barge_in")} == {"client"}
    assert _interval(at, old["playback"]) == (1810, 2700)
    assert "voice.playback.estimated" not in old["playback"].attributes
    assert _interval(at, old["voice.response"]) == (1000, 1870)
    assert at.ms(old.root.end_ns) == 2700


def test_the_client_stops_when_told_of_the_onset(at: Timeline) -> None:
    """A browser that stops by itself while the speech is pending needs no clear by the server.

    1870 heard, 3 s · 2500 onset, told at 2580 · 2640 the client is silent
    """
    session = at.session(measurement_point="client")
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    turn.audio_heard(at=at(1870))
    at(2580)
    following = session.user_turn(at=at(2500))
    turn.audio_stopped(at=at(2640))
    at(3700)
    following.speech_ended(at=at(3500))
    following.committed(at=at(3800))
    session.end()
    old = at.voice.turns[0]
    assert old.outcome == "interrupted"
    assert phases(at, old) == {"playback_stop": (2580, 2640), "total": (2500, 2640)}
    assert _interval(at, old["playback"]) == (1810, 2640)


def test_false_interruption(at: Timeline) -> None:
    """Audio is paused for a sound and goes on: an event and a gap, no barge-in, no new turn.

    1810 sent · 1870 heard · 2500 sound · 2600 paused · 3200 plays again · 5470 played out
    """
    session = at.session(measurement_point="client")
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    turn.audio_heard(at=at(1870))
    at(2580)
    sound = session.user_turn(at=at(2500))
    turn.audio_cleared(at=at(2600))
    at(3200)
    sound.dismissed()
    turn.audio_resumed(at=at(3200))
    turn.audio_stopped(at=at(5470))
    [finished] = at.finish()
    assert finished.outcome == "completed"
    assert [name for name, _ in at.events(finished.root, only="voice.false_interruption")] == [
        "voice.false_interruption"
    ]
    assert _interval(at, finished["playback.gap"]) == (2600, 3200)
    assert finished.get("barge_in") is None
    assert _interval(at, finished["playback"]) == (1810, 5470)
    assert "voice.playback.interrupted" not in finished["playback"].attributes
    assert finished["playback"].attributes["voice.playback.heard_s"] == pytest.approx(3)


def test_false_interruption_without_a_client(at: Timeline) -> None:
    """Without a client's report, what was left when the audio was paused plays from where it goes on.

    1810 audio for 3 s · 2600 paused, 2210 ms left · 3200 goes on · 5410 played out
    """
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2580)
    sound = session.user_turn(at=at(2500))
    turn.audio_paused(at=at(2600))
    turn.audio_resumed(at=at(3200))
    sound.dismissed()
    [finished] = at.finish()
    assert finished.outcome == "completed"
    assert _interval(at, finished["playback"]) == (1810, 5410)
    assert _interval(at, finished["playback.gap"]) == (2600, 3200)
    assert finished["playback"].attributes["voice.playback.estimated"] is True


def test_a_short_pause_is_no_gap(at: Timeline) -> None:
    """A pause of 90 ms is a false interruption, but nobody hears a gap."""
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2580)
    sound = session.user_turn(at=at(2500))
    turn.audio_paused(at=at(2600))
    turn.audio_resumed(at=at(2690))
    sound.dismissed()
    [finished] = at.finish()
    assert len(at.events(finished.root, only="voice.false_interruption")) == 1
    assert finished.get("playback.gap") is None
    assert at.ms(finished["playback"].end_ns) == 4900


def test_a_cleared_reply_is_sent_again(at: Timeline) -> None:
    """A server that has dropped the rest sends it anew when it goes on.

    1810 audio for 3 s · 2600 cleared · 3200 goes on, 2.2 s sent again · 5400 played out
    """
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2580)
    sound = session.user_turn(at=at(2500))
    turn.audio_cleared(at=at(2600))
    turn.audio_resumed(at=at(3200))
    turn.audio_sent(2.2, at=at(3200))
    sound.dismissed()
    [finished] = at.finish()
    assert finished.outcome == "completed"
    assert _interval(at, finished["playback"]) == (1810, 5400)
    assert _interval(at, finished["playback.gap"]) == (2600, 3200)


def test_the_client_stops_before_the_server_knows_why(at: Timeline) -> None:
    """A browser stops the audio itself; that it was the user's speech is told afterwards.

    1870 heard, 3 s · 2500 onset · 2600 the client is silent · 2700 the detector tells of the onset
    """
    session = at.session(measurement_point="client")
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    turn.audio_heard(at=at(1870))
    turn.audio_stopped(at=at(2600))
    at(2700)
    following = session.user_turn(at=at(2500))
    at(3700)
    following.speech_ended(at=at(3500))
    following.committed(at=at(3800))
    session.end()
    old = at.voice.turns[0]
    assert old.outcome == "interrupted"
    assert phases(at, old)["total"] == (2500, 2600)
    assert _interval(at, old["playback"]) == (1810, 2600)


def test_a_sound_that_stops_the_reply_for_good(at: Timeline) -> None:
    """A cough that makes the agent stop and not go on has interrupted it, but is no turn of its own."""
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2580)
    sound = session.user_turn(at=at(2500))
    turn.audio_cleared(at=at(2600))
    at(3200)
    sound.dismissed()
    [finished] = at.finish()
    assert finished.outcome == "interrupted"
    assert phases(at, finished)["total"] == (2500, 2600)
    assert at.events(finished.root, only="voice.false_interruption") == []


def test_resumed_before_the_sound_is_dismissed(at: Timeline) -> None:
    """The order of "no speech" and "go on" does not matter."""
    session = at.session(measurement_point="client")
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    turn.audio_heard(at=at(1870))
    at(2580)
    sound = session.user_turn(at=at(2500))
    turn.audio_cleared(at=at(2600))
    turn.audio_resumed(at=at(3200))
    sound.dismissed()
    turn.audio_stopped(at=at(5470))
    [finished] = at.finish()
    assert finished.outcome == "completed"
    assert len(at.events(finished.root, only="voice.false_interruption")) == 1
    assert at.events(finished.root, only="voice.user_overlap") == []
    assert _interval(at, finished["playback.gap"]) == (2600, 3200)
    assert finished.get("barge_in") is None


def test_no_interruption_without_audio(at: Timeline) -> None:
    """Who speaks while nothing plays interrupts nothing, whatever the pipeline calls it.

    1360 request · 1500 onset of the next · 1580 "interrupted", cleared
    """
    session = at.session()
    turn = at.user_says(session)
    at(1360)
    with turn.llm(model="m-1") as llm:
        at(1580)
        following = session.user_turn(at=at(1500))
        turn.interrupted(at=at(1580))
        turn.audio_cleared(at=at(1580))
        turn.barge_in("server_cancel", at=at(1600))
        llm.cancelled()
    at(2200)
    following.speech_ended(at=at(2000))
    following.committed(at=at(2300))
    session.end()
    old = at.voice.turns[0]
    assert old.get("barge_in") is None
    assert old.get("playback") is None
    assert (old.outcome, old.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "superseded")
    assert at.ms(old["voice.unanswered"].end_ns) == 1500


def test_cancelled_stages_are_no_errors(at: Timeline) -> None:
    """Work that the interruption cancels is cancelled, not failed, and the exception reaches the service.

    1660 synthesis begins · 1810 audio for 3 s · 2500 onset · 2600 cleared · 2610 both streams are cancelled
    """
    session = at.session()
    turn = at.user_says(session)
    at(1360)
    with passes_on(asyncio.CancelledError), turn.llm(model="m-1") as llm:
        llm.token(at=at(1560))
        llm.sentence(at=at(1660))
        with turn.tts(voice="sam") as tts:
            tts.text("It is", at=at(1660))
            tts.audio(seconds=3, at=at(1800))
            turn.audio_sent(3, at=at(1810))
            at(2600)
            following = session.user_turn(at=at(2500))
            turn.audio_cleared(at=at(2600))
            at(2610)
            raise asyncio.CancelledError
    at(3700)
    following.speech_ended(at=at(3500))
    following.committed(at=at(3800))
    session.end()
    old = at.voice.turns[0]
    assert old.outcome == "interrupted"
    assert "voice.turn.recovered" not in old.root.attributes
    for stage in ("llm", "tts"):
        assert old[stage].attributes["voice.stage.cancelled"] is True
        assert old[stage].error is None
        assert "error.type" not in old[stage].attributes
        assert old[stage].events == ()
    assert at.ms(old.root.end_ns) == 2610


def test_a_greeting_can_be_interrupted(at: Timeline) -> None:
    """Speech that the agent started is interrupted like a reply."""
    session = at.session()
    session.media_up(at=at(0))
    greeting = session.agent_turn(trigger="greeting")
    at.voice_says(greeting, text=10, audio=200, sent=210, seconds=5)
    at(1600)
    turn = session.user_turn(at=at(1500))
    greeting.audio_cleared(at=at(1620))
    at(2700)
    turn.speech_ended(at=at(2500))
    turn.committed(at=at(2800))
    turn.transcript(at=at(2850))
    at.agent_says(turn, request=2860, token=3060, sentence=3160, audio=3300, sent=3310)
    old, new = at.finish(count=2)
    assert old.outcome == "interrupted"
    assert phases(at, old)["total"] == (1500, 1620)
    assert ("interrupted", old.trace_id) in links(new)
    assert new.root.attributes["voice.turn.index"] == 2


def test_audio_after_an_interruption_is_not_counted(at: Timeline) -> None:
    """Frames that a slow worker still sends after the clear do not make the old turn play again."""
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2600)
    following = session.user_turn(at=at(2500))
    turn.interrupted(at=at(2600))
    turn.audio_cleared(at=at(2620))
    turn.audio_sent(0.5, at=at(2650))
    at(3700)
    following.speech_ended(at=at(3500))
    following.committed(at=at(3800))
    session.end()
    old = at.voice.turns[0]
    assert _interval(at, old["playback"]) == (1810, 2620)
    assert old.outcome == "interrupted"
