"""Sessions are counted when they begin and end, are open meanwhile, fail, and meet their target or not."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from voicespan import names as n
from voicespan import settings
from voicespan.sessions import Session
from voicespan.settings import Settings

if TYPE_CHECKING:
    from .conftest import Meters, Recorder


def talk(recorder: Recorder, session: Session, *silences_ms: float) -> None:
    """Hold a conversation; the user waits so long for each answer."""
    for silence_ms in silences_ms:
        turn = session.user_turn()
        recorder.fixed.advance(ms=500)
        turn.speech_ended(at=recorder.fixed.now_ns)
        turn.committed()
        recorder.fixed.advance(ms=silence_ms)
        with turn.tts() as tts:
            tts.audio(0.1)
        turn.audio_sent(0.1)
        recorder.fixed.advance(ms=200)
        turn.end()
        recorder.drain()


@pytest.mark.covers("C-M01", "C-M02", "C-M03", "C-M17", "C-U01", "D-M09", "D-M11")
def test_sessions_are_counted_and_open_meanwhile(meters: Meters, recorder: Recorder) -> None:
    """Begun, ended with the reason, and open now: by transport, model and engine."""
    first = Session(recorder, "a", transport="websocket", model="m", adapter="cosyvoice2")
    second = Session(recorder, "b", transport="sip")
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_SESSION_STARTED) == {("m", "websocket"): 1, ("sip",): 1}
    assert meters.values(n.METRIC_VOICE_SESSION_ACTIVE) == {("m", "websocket", "cosyvoice2"): 1, ("sip",): 1}
    first.end()
    first.end("error")
    second.hung_up()
    recorder.drain()
    ended = {tuple(sorted(p.attributes.values())): p.value for p in meters.points(n.METRIC_VOICE_SESSION_ENDED)}
    assert ended == {("m", "normal", "websocket"): 1, ("client_disconnect", "sip"): 1}
    assert meters.values(n.METRIC_VOICE_SESSION_ACTIVE) == {("m", "websocket", "cosyvoice2"): 0, ("sip",): 0}


def test_a_session_that_is_forgotten_is_open_no_more(meters: Meters, recorder: Recorder) -> None:
    """A session without an end does not count for ever."""
    session = Session(recorder, "a", transport="sip")
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_SESSION_ACTIVE) == {("sip",): 1}
    del session
    gc.collect()
    assert meters.values(n.METRIC_VOICE_SESSION_ACTIVE) == {("sip",): 0}


@pytest.mark.covers("D-M10")
def test_a_session_without_media_that_fails_is_a_failed_set_up(meters: Meters, recorder: Recorder) -> None:
    """Only a failure before anything was heard or said counts as one, with its class."""
    Session(recorder, "a", transport="sip").end("error", error="invalid_token")
    with pytest.raises(ConnectionError), Session(recorder, "b", transport="sip"):
        raise ConnectionError
    Session(recorder, "c", transport="sip").end()
    Session(recorder, "d", transport="sip").hung_up()
    up = Session(recorder, "e", transport="sip")
    up.media_up()
    up.end("error", error="internal")
    recorder.drain()
    failures = {(p.attributes[n.ERROR_TYPE],): p.value for p in meters.points(n.METRIC_VOICE_SESSION_SETUP_FAILURES)}
    assert failures == {("invalid_token",): 1, ("ConnectionError",): 1}
    errors = meters.values(n.METRIC_VOICE_SESSION_ERRORS)
    assert errors == {("invalid_token",): 1, ("ConnectionError",): 1, ("internal",): 1}


def test_a_failure_that_a_turn_tells_counts_once(meters: Meters, recorder: Recorder) -> None:
    """A session that ends by the error of its turn is one error, not two."""
    with pytest.raises(ValueError, match="broken"), Session(recorder, "a") as session:
        session.user_turn().committed()
        raise ValueError("broken")
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_SESSION_ERRORS) == {("ValueError",): 1}


@pytest.mark.covers("D-M07", "D-M08", "D-S03", "D-Q01", "D-Q02")
@pytest.mark.parametrize(
    ("silences_ms", "outcome"),
    [((590,), "met"), ((610,), "missed"), ((200, 900), "met"), ((300, 1000), "missed"), ((), None)],
)
def test_a_session_meets_its_target_on_average(
    meters: Meters, recorder: Recorder, silences_ms: tuple[float, ...], outcome: str | None
) -> None:
    """The heard silences of a session are within 600 ms on average, or it has missed its target."""
    session = Session(recorder, "a")
    talk(recorder, session, *silences_ms)
    session.end()
    recorder.drain()
    expected = {} if outcome is None else {(outcome,): 1}
    assert meters.values(n.METRIC_VOICE_SESSION_LATENCY_TARGET) == expected


@pytest.mark.covers("D-Q02")
@pytest.mark.parametrize("how", ["unanswered", "failed", "no set-up"])
def test_who_got_no_answer_was_not_answered_in_time(meters: Meters, recorder: Recorder, how: str) -> None:
    """One utterance without an answer, a failure, or a call that never began: the target is missed."""
    session = Session(recorder, "a")
    if how == "no set-up":
        session.end("error", error="internal")
    else:
        talk(recorder, session, 100)
        turn = session.user_turn()
        recorder.fixed.advance(ms=500)
        turn.speech_ended(at=recorder.fixed.now_ns)
        turn.committed()
        recorder.fixed.advance(s=2)
        if how == "failed":
            turn.failed("internal")
        session.hung_up()
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_SESSION_LATENCY_TARGET) == {("missed",): 1}


def test_a_question_that_was_not_meant_to_be_answered_does_not_count(meters: Meters, recorder: Recorder) -> None:
    """Nobody waited for what the agent has suppressed."""
    session = Session(recorder, "a")
    talk(recorder, session, 100)
    turn = session.user_turn()
    recorder.fixed.advance(ms=500)
    turn.speech_ended(at=recorder.fixed.now_ns)
    turn.committed()
    recorder.fixed.advance(s=2)
    turn.suppressed()
    session.end()
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_SESSION_LATENCY_TARGET) == {("met",): 1}


def test_the_target_can_be_set(meters: Meters, recorder: Recorder) -> None:
    """VOICESPAN_LATENCY_TARGET_MS says what is in time."""
    settings.reset(Settings(latency_target_ms=1000))
    session = Session(recorder, "a")
    talk(recorder, session, 950)
    session.end()
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_SESSION_LATENCY_TARGET) == {("met",): 1}
