"""What the user hears: the playout clock, the client's report, gaps, and speech that the agent starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .timeline import Timeline


def test_without_acknowledgement_the_playout_clock_ends_it(at: Timeline) -> None:
    """No client reports: playback lasts from the first frame sent as long as the audio does, and says estimated."""
    turn = at.user_says(at.session())
    at.agent_says(turn, seconds=2.5)
    [finished] = at.finish()
    playback = finished["playback"]
    assert (at.ms(playback.start_ns), at.ms(playback.end_ns)) == (1810, 4310)
    assert playback.attributes["voice.playback.estimated"] is True
    assert playback.attributes["voice.playback.sent_s"] == pytest.approx(2.5)
    assert playback.attributes["voice.measurement.point"] == "server"
    assert finished["voice.response"].attributes["voice.measurement.point"] == "server"
    assert finished.get("playback.start") is None


@pytest.mark.covers("A-M11", "F-TR15")
def test_the_client_s_ear(at: Timeline) -> None:
    """With the client's report, the silence ends when the user hears, and the network has its share.

    1810 sent · 1870 heard · 2400 silent again
    """
    turn = at.user_says(at.session(measurement_point="client"))
    at.agent_says(turn)
    turn.audio_heard(at=at(1870))
    turn.audio_stopped(at=at(2400))
    [finished] = at.finish(within_s=3)
    at.expect(
        finished,
        """
        voice.turn           0     2400
        vad                  0     1300  voice.turn
        vad.endpoint         1000  1300  vad
        asr                  0     1350  voice.turn
        asr.finalize         1000  1350  asr
        llm                  1360  1660  voice.turn
        llm.ttft             1360  1560  llm
        llm.first_sentence   1360  1660  llm
        tts                  1660  1800  voice.turn
        tts.first_audio      1660  1800  tts
        playback             1810  2400  voice.turn
        playback.start       1810  1870  playback
        voice.response       1000  1870  voice.turn
    """,
    )
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 10,
        "llm": 200,
        "sentence": 100,
        "tts": 140,
        "send": 10,
        "network": 60,
    }
    assert "voice.playback.estimated" not in finished["playback"].attributes
    assert finished["voice.response"].attributes["voice.measurement.point"] == "client"
    assert finished["playback"].attributes["voice.measurement.point"] == "client"
    assert {"playback", "playback.start"} <= at.critical(finished)


def test_the_client_has_a_clock_of_its_own(at: Timeline) -> None:
    """The client's times are put on this machine's clock, and the bound of the error stands on the span.

    The client is 5000 ms ahead. It asks at its 5100 (here 100), gets the answer of 120 to 121 at its 5141: the round
    trip is 40 ms, the error at most 20 ms and 8.2 µs, by which two clocks may drift apart (200 ppm) in those 41 ms. It
    hears at its 6870, here 1870.
    """
    session = at.session(measurement_point="client")
    at(150)
    session.remote_clock.exchange(at.ns(5100), at.ns(120), at.ns(121), at.ns(5141))
    turn = at.user_says(session)
    at.agent_says(turn)
    at(1900)
    turn.audio_heard(at=session.remote_clock.local_ns(at.ns(6870)))
    turn.audio_stopped(at=at(2400))
    [finished] = at.finish()
    response = finished["voice.response"]
    assert at.ms(response.end_ns) == 1870
    assert response.attributes["voice.clock.offset_error_s"] == pytest.approx(0.0200082)


def test_a_gateway_is_no_ear(at: Timeline) -> None:
    """A report from the telephony leg is measured at the gateway, and says so."""
    turn = at.user_says(at.session(measurement_point="gateway"))
    at.agent_says(turn)
    turn.audio_heard(at=at(1870))
    turn.audio_stopped(at=at(2400))
    [finished] = at.finish()
    assert finished["voice.response"].attributes["voice.measurement.point"] == "gateway"


def test_a_client_that_never_reports_is_not_its_ear(at: Timeline) -> None:
    """Without a report the measure is the server's, whatever the session hoped for: points never mix in a series."""
    turn = at.user_says(at.session(measurement_point="client"))
    at.agent_says(turn)
    [finished] = at.finish()
    assert finished["voice.response"].attributes["voice.measurement.point"] == "server"
    assert finished["playback"].attributes["voice.measurement.point"] == "server"
    assert finished["playback"].attributes["voice.playback.estimated"] is True


@pytest.mark.parametrize(("second_ms", "gap"), [(2400, False), (2410, False), (2411, True), (2500, True)])
def test_a_gap_is_longer_than_100_ms(at: Timeline, second_ms: float, *, gap: bool) -> None:
    """Nothing to hear within a reply is a gap when it lasts more than 100 ms.

    1810 sent 0.5 s, heard until 2310 · the next 0.5 s at 2400, 2410, 2411, 2500
    """
    turn = at.user_says(at.session())
    at.model_says(turn)
    with turn.tts(voice="sam") as tts:
        tts.text("It is sunny.", at=at(1660))
        tts.audio(seconds=0.5, at=at(1800))
        turn.audio_sent(0.5, at=at(1810))
        tts.audio(seconds=0.5, at=at(second_ms))
        turn.audio_sent(0.5, at=at(second_ms))
    [finished] = at.finish()
    gaps = [(at.ms(span.start_ns), at.ms(span.end_ns)) for span in finished.all("playback.gap")]
    assert gaps == ([(2310, second_ms)] if gap else [])
    assert at.ms(finished["playback"].end_ns) == second_ms + 500
    assert finished.outcome == "completed"


def test_what_was_sent_had_been_made(at: Timeline) -> None:
    """A pipeline that only says what it sends still has a first audio: the first frame sent while a voice speaks."""
    turn = at.user_says(at.session())
    at.model_says(turn)
    with turn.tts(voice="sam") as tts:
        tts.text("It is sunny.", at=at(1660))
        turn.audio_sent(0.5, at=at(1810))
        turn.audio_sent(0.5, at=at(1900))
    [finished] = at.finish()
    assert (at.ms(finished["tts.first_audio"].start_ns), at.ms(finished["tts.first_audio"].end_ns)) == (1660, 1810)
    assert at.shares(finished)["tts"] == 150
    assert "send" not in at.shares(finished)


def test_frames_ahead_of_the_playout_clock(at: Timeline) -> None:
    """Frames are sent faster than they play: the end is where the audio ends, and there is no gap.

    Ten frames of 100 ms, one every 10 ms from 1810
    """
    turn = at.user_says(at.session())
    at.model_says(turn)
    with turn.tts(voice="sam") as tts:
        tts.text("It is sunny.", at=at(1660))
        for index in range(10):
            tts.audio(seconds=0.1, at=at(1800 + 10 * index))
            turn.audio_sent(0.1, at=at(1810 + 10 * index))
    [finished] = at.finish()
    assert at.ms(finished["playback"].end_ns) == 2810
    assert finished.get("playback.gap") is None
    assert finished["tts"].attributes["voice.audio.frame.count"] == 10
    assert finished["playback"].attributes["voice.playback.sent_s"] == pytest.approx(1.0)


def test_greeting(at: Timeline) -> None:
    """Speech that the agent starts has no vad, asr or response; the first one says how long media was silent.

    0 media up · 50 greeting begins · 60 text · 200 frame · 210 sent · 270 heard · 800 silent
    """
    session = at.session(measurement_point="client")
    session.media_up(at=at(0))
    at(50)
    turn = session.agent_turn(trigger="greeting")
    at.voice_says(turn, text=60, audio=200, sent=210)
    turn.audio_heard(at=at(270))
    turn.audio_stopped(at=at(800))
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn       50   800
        tts              60   200  voice.turn
        tts.first_audio  60   200  tts
        playback         210  800  voice.turn
        playback.start   210  270  playback
    """,
    )
    attributes = finished.root.attributes
    assert (attributes["voice.turn.initiator"], attributes["voice.turn.trigger"]) == ("agent", "greeting")
    assert attributes["voice.session.first_audio"] == pytest.approx(0.27)
    assert finished.outcome == "completed"
    assert finished.shares == {}


def test_the_agent_adds_something(at: Timeline) -> None:
    """A second thing that the agent says does not cut the first, which still plays.

    210 greeting for 5 s · 3000 one more thing, sent at 3200
    """
    session = at.session()
    session.media_up(at=at(0))
    greeting = session.agent_turn(trigger="greeting")
    at.voice_says(greeting, text=10, audio=200, sent=210, seconds=5)
    at(3000)
    more = session.agent_turn(trigger="say")
    at.voice_says(more, text=3010, audio=3190, sent=3200)
    turns = {turn.root.attributes["voice.turn.trigger"]: turn for turn in at.finish(count=2)}
    assert at.ms(turns["greeting"]["playback"].end_ns) == 5210
    assert [turn.outcome for turn in turns.values()] == ["completed", "completed"]


def test_only_the_first_agent_turn_is_the_first_audio(at: Timeline) -> None:
    """A later prompt ("are you still there?") is an agent turn too, without the measure of the first."""
    session = at.session()
    session.media_up(at=at(0))
    greeting = session.agent_turn(trigger="greeting")
    at.voice_says(greeting, text=10, audio=200, sent=210)
    at.finish(within_s=5)
    at(9000)
    prompt = session.agent_turn(trigger="no_input")
    at.voice_says(prompt, text=9010, audio=9200, sent=9210)
    first, second = at.finish(count=2)
    assert first.root.attributes["voice.session.first_audio"] == pytest.approx(0.21)
    assert second.root.attributes["voice.turn.trigger"] == "no_input"
    assert "voice.session.first_audio" not in second.root.attributes


def test_an_agent_that_speaks_second_has_no_first_audio(at: Timeline) -> None:
    """When the session's first audio was a reply, a later prompt is not it."""
    session = at.session()
    session.media_up(at=at(0))
    turn = at.user_says(session)
    at.agent_says(turn)
    at.finish(within_s=5)
    at(20_000)
    prompt = session.agent_turn(trigger="no_input")
    at.voice_says(prompt, text=20_010, audio=20_200, sent=20_210)
    _, second = at.finish(count=2)
    assert "voice.session.first_audio" not in second.root.attributes


def test_user_turns_have_no_first_audio(at: Timeline) -> None:
    """The first audio of a session is the agent's own; a reply is measured by the silence before it."""
    session = at.session()
    session.media_up(at=at(0))
    turn = at.user_says(session)
    at.agent_says(turn)
    [finished] = at.finish()
    assert "voice.session.first_audio" not in finished.root.attributes
