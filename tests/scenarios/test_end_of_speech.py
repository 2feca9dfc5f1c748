"""From where the silence counts: the real end of speech, and what is done when nobody knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .timeline import Timeline


def test_the_last_end_before_the_commit_wins(at: Timeline) -> None:
    """A detector may correct itself until the turn decision; later corrections change nothing."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    at(900)
    turn.speech_ended(at=at(800))
    at(1200)
    turn.speech_ended(at=at(1000))
    turn.committed(at=at(1300))
    turn.speech_ended(at=at(1320))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    assert at.ms(finished["voice.response"].start_ns) == 1000
    assert at.ms(finished["vad.endpoint"].start_ns) == 1000
    assert at.ms(finished["asr.finalize"].start_ns) == 1000
    assert finished["voice.response"].attributes["voice.response.from"] == "speech_end"


def test_without_a_real_end_the_decision_counts(at: Timeline) -> None:
    """When no detector says when speech ended, the silence counts from the decision, and says so."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    response = finished["voice.response"]
    assert (at.ms(response.start_ns), at.ms(response.end_ns)) == (1300, 1810)
    assert response.attributes["voice.response.from"] == "decision"
    assert at.shares(finished) == {"asr": 50, "unattributed": 10, "llm": 200, "sentence": 100, "tts": 140, "send": 10}
    assert at.events(finished["vad"], only="vad.speech_end") == []
    assert at.events(finished.root, only="speech_end") == []


def test_the_detector_tells_after_the_decision(at: Timeline) -> None:
    """A model decides before the slow detector does: the real end that it tells of later still counts.

    1000 end · 1300 decision · 1500 the detector tells of the end
    """
    at(80)
    turn = at.session().user_turn(at=at(0))
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at(1500)
    turn.speech_ended(at=at(1000))
    at.agent_says(turn, request=1500, token=1560)
    [finished] = at.finish()
    assert at.ms(finished["voice.response"].start_ns) == 1000
    assert finished["voice.response"].attributes["voice.response.from"] == "speech_end"


@pytest.mark.parametrize(("hangover_ms", "start"), [(None, 1200), ("200", 1000)])
def test_a_detector_that_knows_only_its_decision(
    at: Timeline, monkeypatch: pytest.MonkeyPatch, hangover_ms: str | None, start: float
) -> None:
    """A detector that does not know when speech ended: its decision counts, less its hangover where that is known."""
    if hangover_ms is not None:
        monkeypatch.setenv("VOICESPAN_VAD_HANGOVER_MS", hangover_ms)
    at(80)
    turn = at.session().user_turn(at=at(0))
    at(1200)
    turn.speech_ended()
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    assert at.ms(finished["voice.response"].start_ns) == start
    assert finished["voice.response"].attributes["voice.response.from"] == "decision"
    assert (at.ms(finished["vad.endpoint"].start_ns), at.ms(finished["vad.endpoint"].end_ns)) == (start, 1300)
    assert at.events(finished["vad"]) == [("vad.speech_end", 1200)]


def test_an_endpointer_may_take_its_time(at: Timeline) -> None:
    """A decision seven seconds after the real end is still the decision on that speech."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    at(1200)
    turn.speech_ended(at=at(1000))
    at.finish(count=0, within_s=6)
    turn.committed(at=at(8000))
    turn.transcript(at=at(8050))
    at.agent_says(turn, request=8060, token=8100, sentence=8150, audio=8200, sent=8210)
    [finished] = at.finish()
    assert (at.ms(finished["vad.endpoint"].start_ns), at.ms(finished["vad.endpoint"].end_ns)) == (1000, 8000)
    assert at.shares(finished)["endpoint"] == 7000


def test_a_known_hangover_is_taken_off(at: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """With VOICESPAN_VAD_HANGOVER_MS the silence counts from that long before the decision."""
    monkeypatch.setenv("VOICESPAN_VAD_HANGOVER_MS", "200")
    at(80)
    turn = at.session().user_turn(at=at(0))
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    assert at.ms(finished["voice.response"].start_ns) == 1100
    assert finished["voice.response"].attributes["voice.response.from"] == "decision"
    endpoint = finished["vad.endpoint"]
    assert (at.ms(endpoint.start_ns), at.ms(endpoint.end_ns)) == (1100, 1300)
    assert at.shares(finished)["endpoint"] == 200


def test_the_hangover_is_not_taken_off_a_known_end(at: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real end of speech needs no correction."""
    monkeypatch.setenv("VOICESPAN_VAD_HANGOVER_MS", "200")
    turn = at.user_says(at.session())
    at.agent_says(turn)
    [finished] = at.finish()
    assert at.ms(finished["voice.response"].start_ns) == 1000


def test_transcript_before_the_end_of_speech(at: Timeline) -> None:
    """When the final transcript is there before speech ends, finalizing took no time."""
    turn = at.user_says(at.session(), transcript=900)
    at.agent_says(turn, request=1310)
    [finished] = at.finish()
    assert at.ms(finished["asr"].end_ns) == 900
    assert finished["asr.finalize"].duration_ns == 0
    assert "asr" not in at.shares(finished)
    assert "asr" not in at.critical(finished)


def test_transcript_between_end_and_decision(at: Timeline) -> None:
    """A transcript that comes while the endpointer waits is measured, but has no share: the wait covers it."""
    turn = at.user_says(at.session(), transcript=1150)
    at.agent_says(turn, request=1310)
    [finished] = at.finish()
    assert (at.ms(finished["asr.finalize"].start_ns), at.ms(finished["asr.finalize"].end_ns)) == (1000, 1150)
    assert at.shares(finished) == {
        "endpoint": 300,
        "unattributed": 10,
        "llm": 250,
        "sentence": 100,
        "tts": 140,
        "send": 10,
    }
    assert not {"asr", "asr.finalize"} & at.critical(finished)


def test_partial_transcripts(at: Timeline) -> None:
    """The first partial transcript is an event, the following ones change nothing."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    turn.transcript(at=at(600), final=False)
    turn.transcript(at=at(800), final=False)
    at(1200)
    turn.speech_ended(at=at(1000))
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    assert at.events(finished.root, only="first_transcript") == [("first_transcript", 600)]
    assert at.ms(finished["asr"].end_ns) == 1350
