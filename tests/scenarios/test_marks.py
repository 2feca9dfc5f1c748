"""Marks: twice, late, from the future, after the end. None raises, none makes anything up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from voicespan import diagnostics

from .test_plain import PLAIN

if TYPE_CHECKING:
    from .timeline import Timeline


def counted() -> int:
    """Return how much wrong use has been counted."""
    return sum(diagnostics.counters.snapshot().values())


def test_the_first_mark_wins(at: Timeline) -> None:
    """Every mark given twice is the turn of the first ones."""
    turn = at.user_says(at.session())
    turn.committed(at=at(1352))
    turn.transcript(at=at(1354))
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1560))
        llm.token(at=at(1660))
        llm.sentence(at=at(1660))
        with turn.tts(voice="sam") as tts:
            tts.text("It is ", at=at(1660))
            llm.end(at=at(1660))
            llm.sentence(at=at(1700))
            llm.token(at=at(1700))
            llm.end(at=at(1700))
            tts.text("sunny.", at=at(1710))
            tts.audio(seconds=0.5, at=at(1800))
            turn.audio_sent(0.5, at=at(1810))
            tts.end(at=at(1800))
            tts.end(at=at(1820))
    [finished] = at.finish()
    at.expect(finished, PLAIN)


def test_the_client_s_marks_twice(at: Timeline) -> None:
    """A client that reports twice is believed once."""
    turn = at.user_says(at.session(measurement_point="client"))
    at.agent_says(turn)
    turn.audio_heard(at=at(1870))
    turn.audio_heard(at=at(1900))
    turn.audio_stopped(at=at(2400))
    turn.audio_stopped(at=at(2500))
    [finished] = at.finish()
    assert at.ms(finished["voice.response"].end_ns) == 1870
    assert at.ms(finished["playback"].end_ns) == 2400


def test_marks_after_the_end_are_dropped(at: Timeline) -> None:
    """A finished turn stays as it is, whatever still comes; each late mark is counted."""
    turn = at.user_says(at.session())
    at.agent_says(turn)
    [finished] = at.finish()
    before = counted()
    turn.committed()
    turn.transcript()
    turn.speech_ended()
    turn.audio_sent(0.5)
    turn.audio_heard()
    turn.audio_stopped()
    turn.interrupted()
    turn.failed("late")
    turn.handoff("late")
    turn.barge_in("server_cancel")
    turn.set("late", 1)
    turn.event("late")
    turn.end()
    with turn.llm(model="late") as llm:
        llm.token()
    with turn.tts(voice="late") as tts:
        tts.audio(seconds=1)
    assert at.finish() == [finished]
    assert counted() - before >= 10


def test_a_time_in_the_future_is_refused(at: Timeline) -> None:
    """A mark that has not happened yet is no mark, and the real one counts when it comes."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    at(1200)
    turn.speech_ended(at=at(1000))
    before = counted()
    turn.transcript(at=at.ns(5000))
    assert counted() == before + 1
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    at.expect(finished, PLAIN)


def test_a_decision_with_a_refused_time_is_taken_now(at: Timeline) -> None:
    """The decision itself is true even when its time cannot be: the turn is not lost."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    at(1300)
    turn.speech_ended(at=at(1000))
    turn.committed(at=at.ns(5000))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    assert at.ms(finished["vad.endpoint"].end_ns) == 1300


def test_a_time_of_another_clock_is_refused(at: Timeline) -> None:
    """Unix time is not the monotonic clock: such a mark is refused and counted."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    before = counted()
    turn.speech_ended(at=time.time_ns())
    assert counted() == before + 1
    at(1200)
    turn.speech_ended(at=at(1000))
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    at.expect(finished, PLAIN)


def test_marks_may_come_late(at: Timeline) -> None:
    """All marks back-dated and told in any order after the fact give the same turn.

    Everything is told at 1900, when the reply plays already.
    """
    session = at.session()
    at(1900)
    turn = session.user_turn(at=at(0))
    turn.speech_ended(at=at(1000))
    turn.transcript(at=at(1350))
    turn.committed(at=at(1300))
    turn.audio_sent(0.5, at=at(1810))
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn      0     2310
        vad             0     1300  voice.turn
        vad.endpoint    1000  1300  vad
        asr             0     1350  voice.turn
        asr.finalize    1000  1350  asr
        playback        1810  2310  voice.turn
        voice.response  1000  1810  voice.turn
    """,
    )
    assert at.shares(finished) == {"endpoint": 300, "asr": 50, "unattributed": 460}


def test_only_what_happened_is_reported(at: Timeline) -> None:
    """A request without a token has no first token, synthesis without audio no first audio, and nothing was heard."""
    session = at.session()
    turn = at.user_says(session)
    at(1360)
    with turn.llm(model="m-1"):
        at(1500)
    at(1510)
    with turn.tts(voice="sam") as tts:
        tts.text("It is", at=at(1520))
        at(1600)
    session.hung_up(at=at(1700))
    [finished] = at.finish()
    for name in (
        "llm.ttft",
        "llm.first_sentence",
        "tts.first_audio",
        "playback",
        "playback.start",
        "voice.response",
        "voice.answer",
        "barge_in",
    ):
        assert finished.get(name) is None, name
    assert "gen_ai.response.time_to_first_chunk" not in finished["llm"].attributes


def test_own_attributes_and_events(at: Timeline) -> None:
    """What the service adds stands on the span that it added it to."""
    turn = at.user_says(at.session(attributes={"tenant": "acme"}))
    turn.set("intent", "weather")
    at(1355)
    turn.event("routed", queue="a")
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.set("prompt.version", 3)
        llm.token(at=at(1560))
    at.voice_says(turn)
    [finished] = at.finish()
    assert finished.root.attributes["intent"] == "weather"
    assert finished.root.attributes["tenant"] == "acme"
    assert finished["llm"].attributes["prompt.version"] == 3
    [event] = [event for event in finished.root.events if event.name == "routed"]
    assert (at.ms(event.time_ns), event.attributes["queue"]) == (1355, "a")


@pytest.mark.covers("B-T06")
def test_eleven_marks_are_edges(at: Timeline) -> None:
    """The eleven time stamps of a pipeline are each the edge of a span."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    with turn.asr(model="a-1") as asr:
        asr.audio(at=at(90))
        at(1200)
        turn.speech_ended(at=at(1000))
        turn.committed(at=at(1300))
        asr.final(at=at(1350))
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1500))
    at(1510)
    with turn.tool("get_weather"):
        at(1900)
    at.agent_says(turn, request=1910, token=2100, sentence=2150, audio=2300, sent=2310)
    [finished] = at.finish()
    edges = {
        name: (at.ms(finished[name].start_ns), at.ms(finished[name].end_ns))
        for name in ("voice.turn", "asr", "execute_tool get_weather", "tts.first_audio", "voice.response")
    }
    assert edges["asr"] == (90, 1350)  # audio_start, transcript_end
    assert (
        at.ms(finished.all("llm")[1].start_ns),
        at.ms(finished.all("llm.ttft")[1].end_ns),
        at.ms(finished.all("llm")[1].end_ns),
    ) == (1910, 2100, 2150)  # llm_start, first and last_token_time
    assert edges["execute_tool get_weather"] == (1510, 1900)  # fnc_start, fnc_end
    assert edges["tts.first_audio"] == (2150, 2300)  # tts_start, first_audio_time
    assert edges["voice.turn"][0] == 0  # input_start
    assert edges["voice.response"][1] == 2310  # output_start
