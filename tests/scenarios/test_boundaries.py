"""Where a turn begins and ends: resumed speech, coughs, speech that supersedes, text, digits, hand-over, time-out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .timeline import links

if TYPE_CHECKING:
    from voicespan.record import Input

    from .timeline import Timeline


def test_resumed_speech_is_the_same_turn(at: Timeline) -> None:
    """Speech before the commit belongs to the turn, and the silence counts from the last real end.

    0 onset · 500 end · 900 speaks again · 1500 end · 1800 decision · 1850 transcript · 2310 sent
    """
    session = at.session()
    at(80)
    turn = session.user_turn(at=at(0))
    at(700)
    turn.speech_ended(at=at(500))
    at(980)
    assert session.user_turn(at=at(900)) is turn
    at(1700)
    turn.speech_ended(at=at(1500))
    turn.committed(at=at(1800))
    turn.transcript(at=at(1850))
    at.agent_says(turn, request=1860, token=2060, sentence=2160, audio=2300, sent=2310)
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn           0     2810
        vad                  0     1800  voice.turn
        vad.endpoint         1500  1800  vad
        asr                  0     1850  voice.turn
        asr.finalize         1500  1850  asr
        llm                  1860  2160  voice.turn
        llm.ttft             1860  2060  llm
        llm.first_sentence   1860  2160  llm
        tts                  2160  2300  voice.turn
        tts.first_audio      2160  2300  tts
        playback             2310  2810  voice.turn
        voice.response       1500  2310  voice.turn
    """,
    )
    assert finished.root.attributes["voice.speech.segments"] == 2
    assert at.events(finished.root, only="voice.speech_resumed") == [("voice.speech_resumed", 900)]
    assert ("speech_end", 1500) in at.events(finished.root)


def test_three_segments(at: Timeline) -> None:
    """Every stretch of speech counts, and every resumption is an event."""
    session = at.session()
    for onset, end in ((0, 300), (500, 800), (1000, 1400)):
        at(onset + 80)
        turn = session.user_turn(at=at(onset))
        at(end + 100)
        turn.speech_ended(at=at(end))
    turn.committed(at=at(1700))
    turn.transcript(at=at(1750))
    at.agent_says(turn, request=1760, token=1800, sentence=1850, audio=1900, sent=1900)
    [finished] = at.finish()
    assert finished.root.attributes["voice.speech.segments"] == 3
    assert at.events(finished.root, only="voice.speech_resumed") == [
        ("voice.speech_resumed", 500),
        ("voice.speech_resumed", 1000),
    ]
    assert at.ms(finished["voice.response"].start_ns) == 1400


def test_the_same_onset_twice(at: Timeline) -> None:
    """Two reports of one onset are one stretch of speech."""
    session = at.session()
    at(80)
    turn = session.user_turn(at=at(0))
    at(100)
    assert session.user_turn(at=at(0)) is turn
    at(1200)
    turn.speech_ended(at=at(1000))
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    assert finished.root.attributes["voice.speech.segments"] == 1
    assert at.events(finished.root, only="voice.speech_resumed") == []


def test_cough_while_the_agent_speaks(at: Timeline) -> None:
    """A sound that is no utterance gives no turn, but an event on the turn that plays.

    1810 audio for 3 s · 2500 cough, dismissed at 2700 · 4810 played out
    """
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2580)
    cough = session.user_turn(at=at(2500))
    assert cough is not turn
    at(2700)
    cough.dismissed()
    [finished] = at.finish()
    assert at.events(finished.root, only="voice.user_overlap") == [("voice.user_overlap", 2500)]
    assert finished.outcome == "completed"
    assert at.ms(finished["playback"].end_ns) == 4810
    assert finished.get("barge_in") is None


def test_cough_that_nobody_dismisses(at: Timeline) -> None:
    """An onset that is never committed and never stops audio is an overlap, even when no one says so."""
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    at(2580)
    cough = session.user_turn(at=at(2500))
    at(2700)
    cough.speech_ended(at=at(2600))
    at.voice.settle(10)
    session.end()
    [finished] = at.finish()
    assert finished.trace_id == turn.trace_id
    assert at.events(finished.root, only="voice.user_overlap") == [("voice.user_overlap", 2500)]
    assert finished.outcome == "completed"


def test_cough_while_the_agent_is_silent(at: Timeline) -> None:
    """A cough into silence leaves no trace, and takes no number."""
    session = at.session()
    at(80)
    cough = session.user_turn(at=at(0))
    at(300)
    cough.dismissed()
    at.voice.settle(5)
    assert at.voice.turns == []
    turn = at.user_says(session, onset=10_000, end=11_000, commit=11_300, transcript=11_350)
    at.agent_says(turn, request=11_360, token=11_560, sentence=11_660, audio=11_800, sent=11_810)
    [finished] = at.finish()
    assert finished.root.attributes["voice.turn.index"] == 1
    assert links(finished) == []


def test_an_onset_that_nobody_follows_up(at: Timeline) -> None:
    """An onset into silence that is neither committed nor dismissed is no speech, and no time-out."""
    session = at.session()
    at(80)
    session.user_turn(at=at(0))
    [finished] = at.finish(within_s=65)
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "no_speech")
    assert finished.response is None


def test_cough_after_the_reply(at: Timeline) -> None:
    """A cough after the reply was played out overlaps nothing, even while the turn is still open.

    1810 audio for 0.5 s · 2310 played out · 3000 cough
    """
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn)
    at(3080)
    cough = session.user_turn(at=at(3000))
    at(3200)
    cough.dismissed()
    [finished] = at.finish()
    assert at.events(finished.root, only="voice.user_overlap") == []
    assert at.ms(finished.root.end_ns) == 2310


def test_cough_while_the_agent_thinks(at: Timeline) -> None:
    """A dismissed onset before any audio does not supersede the turn that thinks."""
    session = at.session()
    turn = at.user_says(session)
    at(1360)
    with turn.llm(model="m-1") as llm:
        at(1480)
        cough = session.user_turn(at=at(1400))
        llm.token(at=at(1560))
        cough.dismissed()
        llm.sentence(at=at(1660))
        llm.token(at=at(1660))
    at.voice_says(turn)
    [finished] = at.finish()
    assert finished.outcome == "completed"
    assert at.ms(finished["voice.response"].end_ns) == 1810
    assert at.events(finished.root, only="voice.user_overlap") == []


def test_speech_before_any_audio_supersedes(at: Timeline) -> None:
    """Speech after the commit and before any audio: the old turn has no reply, its silence ends with the new onset.

    1000 end · 1300 decision · 1360 request · 1500 onset of the next · 1580 request cancelled
    """
    session = at.session()
    turn = at.user_says(session)
    at(1360)
    with turn.llm(model="m-1") as llm:
        at(1580)
        following = session.user_turn(at=at(1500))
        llm.cancelled()
    at(2200)
    following.speech_ended(at=at(2000))
    following.committed(at=at(2300))
    following.transcript(at=at(2350))
    at.agent_says(following, request=2360, token=2560, sentence=2660, audio=2800, sent=2810)
    old, new = at.finish(count=2)
    at.expect(
        old,
        """
        voice.turn        0     *
        vad               0     1300  voice.turn
        vad.endpoint      1000  1300  vad
        asr               0     1350  voice.turn
        asr.finalize      1000  1350  asr
        llm               1360  1580  voice.turn
        voice.unanswered  1000  1500  voice.turn
    """,
    )
    assert (old.outcome, old.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "superseded")
    assert old.root.error is None
    assert old["llm"].error is None
    assert old["llm"].attributes["voice.stage.cancelled"] is True
    assert at.shares(old) == {"endpoint": 300, "asr": 50, "unattributed": 10, "llm": 140}
    assert new.outcome == "completed"
    assert links(new) == [("previous", old.trace_id)]


def test_speech_that_stops_nothing_is_a_new_turn(at: Timeline) -> None:
    """When the reply plays to its end although the user began to speak, the old turn is completed.

    1810 audio for 0.5 s · 2200 onset · 2310 played out · 3500 decision of the new turn
    """
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn)
    at(2280)
    following = session.user_turn(at=at(2200))
    at(3200)
    following.speech_ended(at=at(3000))
    following.committed(at=at(3500))
    following.transcript(at=at(3550))
    at.agent_says(following, request=3560, token=3760, sentence=3860, audio=4000, sent=4010)
    old, new = at.finish(count=2)
    assert (old.outcome, new.outcome) == ("completed", "completed")
    assert at.ms(old["playback"].end_ns) == 2310
    assert old.get("barge_in") is None
    assert old.get("voice.unanswered") is None
    assert links(new) == [("previous", old.trace_id)]
    assert at.ms(new.root.start_ns) == 2200


@pytest.mark.parametrize("kind", ["text", "dtmf"])
def test_text_and_digits_count_from_the_message(at: Timeline, kind: Input) -> None:
    """A typed message or a digit is committed at once: no vad, no asr, and the silence counts from it."""
    at(5)
    turn = at.session().user_turn(at=at(0), input=kind)
    at.agent_says(turn, request=10, token=210, sentence=310, audio=450, sent=460)
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn           0    960
        llm                  10   310  voice.turn
        llm.ttft             10   210  llm
        llm.first_sentence   10   310  llm
        tts                  310  450  voice.turn
        tts.first_audio      310  450  tts
        playback             460  960  voice.turn
        voice.response       0    460  voice.turn
    """,
    )
    assert finished.root.attributes["voice.turn.input"] == kind
    assert finished["voice.response"].attributes["voice.response.from"] == "message"
    assert at.shares(finished) == {"unattributed": 10, "llm": 200, "sentence": 100, "tts": 140, "send": 10}


def test_hand_over_stays_in_the_turn(at: Timeline) -> None:
    """Another agent takes over within the turn: one trace, and an event that names it."""
    turn = at.user_says(at.session())
    at(1355)
    turn.handoff("billing")
    at.agent_says(turn)
    [finished] = at.finish()
    [event] = [event for event in finished.root.events if event.name == "voice.handoff"]
    assert at.ms(event.time_ns) == 1355
    assert event.attributes["gen_ai.agent.name"] == "billing"
    assert finished.outcome == "completed"


def test_transfer_completes_the_turn(at: Timeline) -> None:
    """A transfer to a person ends the session while the agent says so; the turn is completed."""
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn)
    at(2000)
    session.end("transferred")
    [finished] = at.finish()
    assert finished.outcome == "completed"
    assert finished.root.error is None


def test_the_turn_ends_itself_when_it_is_played_out(at: Timeline) -> None:
    """Nothing is to be called at the end: the turn closes when committed, its stages closed and its audio played."""
    turn = at.user_says(at.session())
    at.agent_says(turn)
    at(2300)
    at.finish(count=0, within_s=0)
    [finished] = at.finish(within_s=3)
    assert at.ms(finished.root.end_ns) == 2310


def test_an_open_stage_keeps_the_turn_open(at: Timeline) -> None:
    """While the model still writes, silence between two sentences does not end the turn.

    1810 audio for 0.5 s · 2310 nothing to hear · 5000 second sentence · 5150 audio
    """
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1560))
        llm.sentence(at=at(1660))
        at.voice_says(turn)
        at(4000)
        at.finish(count=0, within_s=0)
        llm.token(at=at(5000))
    at.voice_says(turn, text=5000, audio=5150, sent=5150)
    [finished] = at.finish()
    assert len(finished.all("tts")) == 2
    assert at.shares(finished)["tts"] == 140
    assert at.ms(finished["voice.response"].end_ns) == 1810
    assert at.ms(finished.root.end_ns) == 5650


def test_explicit_end(at: Timeline) -> None:
    """end() closes the turn without waiting for what might still come."""
    turn = at.user_says(at.session(measurement_point="client"))
    at.agent_says(turn)
    turn.audio_heard(at=at(1870))
    turn.audio_stopped(at=at(2400))
    turn.end(at=at(2400))
    [finished] = at.voice.turns
    assert finished.outcome == "completed"
    assert at.ms(finished.root.end_ns) == 2400


def test_explicit_end_lets_the_reply_play_out(at: Timeline) -> None:
    """end() right after the last frame was sent does not cut what the user still hears."""
    turn = at.user_says(at.session())
    at.agent_says(turn)
    turn.end(at=at(1811))
    assert at.voice.turns == []
    [finished] = at.finish()
    assert finished.outcome == "completed"
    assert at.ms(finished["playback"].end_ns) == 2310


def test_idle_turn_times_out(at: Timeline) -> None:
    """A committed turn in which nothing goes on for 60 s ends as a time-out, and the whole silence counts.

    1000 end · 1300 decision · 1350 transcript · then nothing
    """
    at.user_says(at.session())
    at.finish(count=0, within_s=59.9)
    [finished] = at.finish(within_s=10)
    at.expect(
        finished,
        """
        voice.turn        0     61350
        vad               0     1300   voice.turn
        vad.endpoint      1000  1300   vad
        asr               0     1350   voice.turn
        asr.finalize      1000  1350   asr
        voice.unanswered  1000  61350  voice.turn
    """,
    )
    assert finished.outcome == "timeout"
    assert finished.root.error is not None
    assert finished.root.attributes["error.type"] == "timeout"
    assert at.shares(finished) == {"endpoint": 300, "asr": 50, "unattributed": 60_000}


def test_an_open_stage_is_not_idle_but_has_a_limit(at: Timeline) -> None:
    """A request that never returns holds the turn open for 600 s, no longer."""
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1"):
        at.finish(count=0, within_s=590)
        [finished] = at.finish(within_s=20)
    at.expect(
        finished,
        """
        voice.turn        0     600000
        vad               0     1300    voice.turn
        vad.endpoint      1000  1300    vad
        asr               0     1350    voice.turn
        asr.finalize      1000  1350    asr
        llm               1360  600000  voice.turn
        voice.unanswered  1000  600000  voice.turn
    """,
    )
    assert finished.outcome == "timeout"
    assert finished.root.error is not None
    assert finished["llm"].attributes["error.type"] == "timeout"
    assert at.voice.turns == [finished]


def test_the_limit_can_be_set(at: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """VOICESPAN_TURN_MAX_S shortens the hard limit."""
    monkeypatch.setenv("VOICESPAN_TURN_MAX_S", "30")
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1"):
        [finished] = at.finish(within_s=35)
    assert at.ms(finished.root.end_ns) == 30_000
    assert finished.outcome == "timeout"
