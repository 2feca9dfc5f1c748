"""What the user got: errors that cut and errors that were mended, hang-ups, silence on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.websockets import WebSocketDisconnect

from .timeline import passes_on

if TYPE_CHECKING:
    from .timeline import Timeline


def test_hang_up_in_the_silence(at: Timeline) -> None:
    """Who hangs up while the model thinks makes the number worse: the silence until then is voice.unanswered.

    1000 end · 1300 decision · 1360 request · 3000 hang-up
    """
    session = at.session(transport="sip")
    turn = at.user_says(session)
    at(1360)
    with turn.llm(model="m-1"):
        session.hung_up(at=at(3000))
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn        0     3000
        vad               0     1300  voice.turn
        vad.endpoint      1000  1300  vad
        asr               0     1350  voice.turn
        asr.finalize      1000  1350  asr
        llm               1360  3000  voice.turn
        voice.unanswered  1000  3000  voice.turn
    """,
    )
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "user_left")
    assert finished.root.error is None
    assert at.shares(finished) == {"endpoint": 300, "asr": 50, "unattributed": 10, "llm": 1640}
    unanswered = finished["voice.unanswered"].attributes
    assert (
        unanswered["voice.turn.bottleneck"],
        unanswered["voice.turn.outcome"],
        unanswered["voice.transport"],
        unanswered["gen_ai.request.model"],
        unanswered["voice.turn.initiator"],
    ) == ("llm", "no_reply", "sip", "m-1", "user")
    assert unanswered["voice.turn.no_reply.reason"] == "user_left"


def test_hang_up_before_any_decision(at: Timeline) -> None:
    """A caller who gives up because the endpointer never decides counts too.

    1000 end, told at 1200 · 5000 hang-up, nothing was committed
    """
    session = at.session()
    at(80)
    turn = session.user_turn(at=at(0))
    at(1200)
    turn.speech_ended(at=at(1000))
    session.hung_up(at=at(5000))
    [finished] = at.finish()
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "user_left")
    unanswered = finished["voice.unanswered"]
    assert (at.ms(unanswered.start_ns), at.ms(unanswered.end_ns)) == (1000, 5000)
    assert finished.get("vad.endpoint") is None


def test_hang_up_in_the_middle_of_a_sentence(at: Timeline) -> None:
    """Who hangs up while still speaking has not waited for anything."""
    session = at.session()
    at(80)
    session.user_turn(at=at(0))
    session.hung_up(at=at(600))
    [finished] = at.finish()
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "user_left")
    assert finished.response is None


def test_hang_up_after_a_filler(at: Timeline) -> None:
    """Who heard "one moment" and hung up before the answer got no reply, although the silence was broken."""
    session = at.session()
    turn = at.user_says(session)
    at(1360)
    with turn.llm(model="m-1"):
        at(1400)
        with turn.tts(voice="sam", filler=True) as filler:
            filler.text("One moment.", at=at(1400))
            filler.audio(seconds=0.4, at=at(1450))
            turn.audio_sent(0.4, at=at(1460))
        session.hung_up(at=at(9000))
    [finished] = at.finish()
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "user_left")
    assert at.ms(finished["voice.response"].end_ns) == 1460
    assert finished.get("voice.answer") is None
    assert finished.get("voice.unanswered") is None


def test_hang_up_while_the_agent_speaks(at: Timeline) -> None:
    """The reply was heard: a response, no barge-in, and playback ends with the call."""
    session = at.session()
    turn = at.user_says(session)
    at.agent_says(turn, seconds=3)
    session.hung_up(at=at(2500))
    [finished] = at.finish()
    assert (at.ms(finished["playback"].start_ns), at.ms(finished["playback"].end_ns)) == (1810, 2500)
    assert at.ms(finished["voice.response"].end_ns) == 1810
    assert finished.get("voice.unanswered") is None
    assert finished.get("barge_in") is None
    assert finished.root.error is None
    assert finished.outcome in {"completed", "interrupted"}
    assert at.ms(finished.root.end_ns) == 2500


def test_hang_up_of_a_greeting(at: Timeline) -> None:
    """Nobody spoke and nobody waited: a greeting that was never heard is no unanswered speech."""
    session = at.session()
    session.media_up(at=at(0))
    greeting = session.agent_turn(trigger="greeting")
    at(10)
    with greeting.tts(voice="sam") as tts:
        tts.text("Hello.", at=at(20))
        session.hung_up(at=at(100))
    [finished] = at.finish()
    assert finished.get("voice.unanswered") is None
    assert finished.get("voice.response") is None
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "user_left")


def test_the_last_of_several_attempts_decides(at: Timeline) -> None:
    """Where every attempt at a stage fails, the user waited until the last one failed, and its error is the turn's.

    1360 request · 2000 RuntimeError · 2000 other model · 5000 TimeoutError · 5100 the voice has nothing to say
    """
    turn = at.user_says(at.session())
    at(1360)
    with passes_on(RuntimeError), turn.llm(model="m-1"):
        at(2000)
        raise RuntimeError("refused")
    with passes_on(TimeoutError), turn.llm(model="m-2"):
        at(5000)
        raise TimeoutError
    with passes_on(ValueError), turn.tts(voice="sam"):
        at(5100)
        raise ValueError("no text")
    turn.end()
    [finished] = at.finish()
    assert finished.outcome == "error"
    assert finished.root.attributes["error.type"] == "TimeoutError"
    unanswered = finished["voice.unanswered"]
    assert (at.ms(unanswered.start_ns), at.ms(unanswered.end_ns)) == (1000, 5000)


@pytest.mark.covers("B-Q06", "F-R11")
def test_an_error_that_prevents_the_reply(at: Timeline) -> None:
    """A failed request is a span with its error, the exception reaches the service, the user got nothing.

    1360 request · 1500 ConnectionError
    """
    turn = at.user_says(at.session())
    at(1360)
    with passes_on(ConnectionError), turn.llm(model="m-1"):
        at(1500)
        raise ConnectionError("refused")
    turn.end(at=at(1500))
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn        0     1500
        vad               0     1300  voice.turn
        vad.endpoint      1000  1300  vad
        asr               0     1350  voice.turn
        asr.finalize      1000  1350  asr
        llm               1360  1500  voice.turn
        voice.unanswered  1000  1500  voice.turn
    """,
    )
    llm = finished["llm"]
    assert llm.error == "refused"
    assert llm.attributes["error.type"] == "ConnectionError"
    [exception] = llm.events
    assert exception.name == "exception"
    assert exception.attributes["exception.type"] == "ConnectionError"
    assert exception.attributes["exception.message"] == "refused"
    assert finished.outcome == "error"
    assert finished.root.error == "refused"
    assert finished.root.attributes["error.type"] == "ConnectionError"
    assert at.shares(finished) == {"endpoint": 300, "asr": 50, "unattributed": 10, "llm": 140}


def test_an_error_after_which_nothing_comes(at: Timeline) -> None:
    """Nobody has to end a turn whose request failed: the error ends the silence, whenever the turn is closed."""
    turn = at.user_says(at.session())
    at(1360)
    with passes_on(ConnectionError), turn.llm(model="m-1"):
        at(1500)
        raise ConnectionError("refused")
    [finished] = at.finish(within_s=59)
    assert finished.outcome == "error"
    assert at.ms(finished["voice.unanswered"].end_ns) == 1500
    assert at.ms(finished.root.end_ns) == 1500


def test_an_error_that_cuts_the_reply(at: Timeline) -> None:
    """A reply that breaks off is an error, although the user heard its beginning.

    1810 audio for 0.5 s · 2500 the synthesizer breaks
    """
    turn = at.user_says(at.session())
    at.model_says(turn)
    with passes_on(TimeoutError), turn.tts(voice="sam") as tts:
        tts.text("It is", at=at(1660))
        tts.audio(seconds=0.5, at=at(1800))
        turn.audio_sent(0.5, at=at(1810))
        at(2500)
        raise TimeoutError
    [finished] = at.finish()
    assert finished.outcome == "error"
    assert finished.root.error is not None
    assert at.ms(finished["voice.response"].end_ns) == 1810
    assert finished.get("voice.unanswered") is None
    assert finished["tts"].error is not None
    assert at.ms(finished.root.end_ns) == 2500


def test_a_failure_without_a_stage(at: Timeline) -> None:
    """failed() says that the turn failed, with the class of the failure."""
    turn = at.user_says(at.session())
    at(1500)
    turn.failed("worker_unavailable")
    turn.failed("other")
    turn.end(at=at(1500))
    [finished] = at.finish()
    assert finished.outcome == "error"
    assert finished.root.attributes["error.type"] == "worker_unavailable"
    assert finished.root.error is not None
    assert at.ms(finished["voice.unanswered"].end_ns) == 1500


@pytest.mark.covers("C-M16", "B-Q06")
def test_a_recognizer_that_fails(at: Timeline) -> None:
    """A recognizer's error is on asr; there is no transcript, and none is made up."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    with passes_on(TimeoutError), turn.asr(model="a-1") as asr:
        asr.audio(at=at(100))
        at(1200)
        turn.speech_ended(at=at(1000))
        turn.committed(at=at(1300))
        at(2000)
        raise TimeoutError
    turn.end(at=at(2000))
    [finished] = at.finish()
    assert (at.ms(finished["asr"].start_ns), at.ms(finished["asr"].end_ns)) == (100, 2000)
    assert finished["asr"].attributes["error.type"] == "TimeoutError"
    assert finished.get("asr.finalize") is None
    assert finished.outcome == "error"


def test_a_retry_mends_the_error(at: Timeline) -> None:
    """A failed request whose retry answers: the stage stays failed, the turn is completed and recovered.

    1360 request · 1500 ConnectionError · 1510 again · 1710 first token · 1810 sentence · 1950 frame · 1960 sent
    """
    turn = at.user_says(at.session())
    at(1360)
    with passes_on(ConnectionError), turn.llm(model="m-1"):
        at(1500)
        raise ConnectionError("refused")
    at.agent_says(turn, request=1510, token=1710, sentence=1810, audio=1950, sent=1960)
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn           0     2460
        vad                  0     1300  voice.turn
        vad.endpoint         1000  1300  vad
        asr                  0     1350  voice.turn
        asr.finalize         1000  1350  asr
        llm                  1360  1500  voice.turn
        llm                  1510  1810  voice.turn
        llm.ttft             1510  1710  llm@1510
        llm.first_sentence   1510  1810  llm@1510
        tts                  1810  1950  voice.turn
        tts.first_audio      1810  1950  tts
        playback             1960  2460  voice.turn
        voice.response       1000  1960  voice.turn
    """,
    )
    assert finished.outcome == "completed"
    assert finished.root.attributes["voice.turn.recovered"] is True
    assert finished.root.error is None
    assert [span.error is not None for span in finished.all("llm")] == [True, False]
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 20,
        "llm": 340,
        "sentence": 100,
        "tts": 140,
        "send": 10,
    }


def test_a_fall_back_voice_mends_the_error(at: Timeline) -> None:
    """When one synthesizer fails and another speaks, the wait for both is tts.

    1660 first voice · 1700 fails · 1700 second voice · 1850 frame · 1860 sent
    """
    turn = at.user_says(at.session())
    at.model_says(turn)
    with passes_on(ConnectionError), turn.tts(voice="sam") as tts:
        tts.text("It is sunny.", at=at(1660))
        at(1700)
        raise ConnectionError("refused")
    at.voice_says(turn, text=1700, audio=1850, sent=1860)
    [finished] = at.finish()
    assert finished.outcome == "completed"
    assert finished.root.attributes["voice.turn.recovered"] is True
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 10,
        "llm": 200,
        "sentence": 100,
        "tts": 190,
        "send": 10,
    }


def test_the_model_makes_good_what_a_tool_could_not(at: Timeline) -> None:
    """A tool that fails and a model that says so: the tool stays failed, the turn is completed and recovered."""
    turn = at.user_says(at.session())
    at.model_says(turn, sentence=1600)
    at(1610)
    with passes_on(ValueError), turn.tool("get_weather"):
        at(1700)
        raise ValueError("no such city")
    at.agent_says(turn, request=1710, token=1910, sentence=2010, audio=2100, sent=2110)
    [finished] = at.finish()
    tool = finished["execute_tool get_weather"]
    assert (at.ms(tool.start_ns), at.ms(tool.end_ns)) == (1610, 1700)
    assert tool.error is not None
    assert tool.attributes["error.type"] == "ValueError"
    assert finished.outcome == "completed"
    assert finished.root.attributes["voice.turn.recovered"] is True


def test_an_end_without_a_reply_is_no_decision(at: Timeline) -> None:
    """A pipeline that only ends the turn has not decided to be silent: no reason, so that the SLO counts it."""
    turn = at.user_says(at.session())
    at.model_says(turn)
    at(2500)
    turn.end(at=at(2000))
    [finished] = at.voice.turns
    assert finished.outcome == "no_reply"
    assert "voice.turn.no_reply.reason" not in finished.root.attributes
    assert "voice.turn.no_reply.reason" not in finished["voice.unanswered"].attributes
    assert at.ms(finished["voice.unanswered"].end_ns) == 2000
    assert finished.root.error is None


def test_silence_on_purpose(at: Timeline) -> None:
    """An agent that decides not to answer: no reply, reason suppressed, and the SLO can leave it out."""
    turn = at.user_says(at.session())
    at(1400)
    turn.suppressed()
    [finished] = at.finish()
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "suppressed")
    assert finished.root.error is None
    unanswered = finished["voice.unanswered"]
    assert (at.ms(unanswered.start_ns), at.ms(unanswered.end_ns)) == (1000, 1400)
    assert unanswered.attributes["voice.turn.no_reply.reason"] == "suppressed"


def test_a_decision_without_words(at: Timeline) -> None:
    """A recognizer that finds no words in a committed utterance: no reply, reason no_speech, no error."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    with turn.asr(model="a-1") as asr:
        asr.audio(at=at(100))
        at(1200)
        turn.speech_ended(at=at(1000))
        turn.committed(at=at(1300))
        at(1350)
    turn.end(at=at(1350))
    [finished] = at.finish()
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "no_speech")
    assert finished.root.error is None
    assert finished["asr"].error is None
    assert finished.get("asr.finalize") is None


def test_committed_noise(at: Timeline) -> None:
    """A committed utterance is a turn; when it turns out to be none, that is no reply, reason no_speech."""
    at(80)
    turn = at.session().user_turn(at=at(0))
    at(1200)
    turn.speech_ended(at=at(1000))
    turn.committed(at=at(1300))
    at(1350)
    turn.dismissed()
    [finished] = at.finish()
    assert (finished.outcome, finished.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "no_speech")
    assert finished.root.error is None


def test_an_exception_that_leaves_the_session(at: Timeline) -> None:
    """When the handler of the call breaks, the open turn is closed as an error, and the exception goes on."""
    with passes_on(RuntimeError), at.session() as session:
        at.user_says(session)
        at(2000)
        raise RuntimeError("broken")
    [finished] = at.voice.turns
    assert finished.outcome == "error"
    assert finished.root.error is not None
    assert at.ms(finished["voice.unanswered"].end_ns) == 2000


@pytest.mark.parametrize(
    "error", [WebSocketDisconnect(1006), ConnectionResetError()], ids=lambda error: type(error).__name__
)
def test_a_lost_connection_is_the_user_who_left(at: Timeline, error: Exception) -> None:
    """A handler that the caller's disconnection breaks leaves an utterance without an answer, not a failure."""
    with passes_on(type(error)), at.session() as session:
        at.user_says(session)
        at(2000)
        raise error
    [finished] = at.voice.turns
    assert finished.outcome == "no_reply"
    assert finished.root.attributes["voice.turn.no_reply.reason"] == "user_left"
    assert at.ms(finished["voice.unanswered"].end_ns) == 2000


def test_hanging_up_does_not_fail_the_stage_that_sends(at: Timeline) -> None:
    """A frame that cannot be sent because the caller has gone cancels the synthesis; what was heard was a reply."""
    with passes_on(WebSocketDisconnect), at.session() as session:
        turn = at.user_says(session)
        with turn.tts(text="Hello.") as tts:
            tts.audio(seconds=0.2, at=at(1800))
            turn.audio_sent(0.2, at=at(1810))
            at(1900)
            raise WebSocketDisconnect(1006)
    [finished] = at.voice.turns
    assert finished.outcome == "completed"
    assert finished["tts"].error is None
    assert finished["tts"].attributes["voice.stage.cancelled"] is True


def test_interrupted_comes_before_error(at: Timeline) -> None:
    """What the user did counts first: a synthesizer that breaks after the interruption changes nothing."""
    session = at.session()
    turn = at.user_says(session)
    at.model_says(turn)
    with passes_on(ConnectionError), turn.tts(voice="sam") as tts:
        tts.text("It is", at=at(1660))
        tts.audio(seconds=3, at=at(1800))
        turn.audio_sent(3, at=at(1810))
        at(2600)
        following = session.user_turn(at=at(2500))
        turn.audio_cleared(at=at(2600))
        at(2610)
        raise ConnectionError("reset")
    at(3700)
    following.speech_ended(at=at(3500))
    following.committed(at=at(3800))
    session.end()
    old = at.voice.turns[0]
    assert old.outcome == "interrupted"
    assert old.root.error is None
    assert old["tts"].error is not None
