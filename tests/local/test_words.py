"""The sentence that names the cause, for turns of every kind, marked by the public interface and read from spans."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from voicespan.local.decode import decode_protobuf
from voicespan.local.intake import Intake
from voicespan.local.query import TurnQuery
from voicespan.local.span import spans_of
from voicespan.local.store import Store
from voicespan.local.transfer import Imported, take_bytes
from voicespan.local.turn import Turn as Row
from voicespan.local.turn import summarise
from voicespan.local.words import cause

from .otlp import request, turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan import Session, Turn
    from voicespan.testing import VoiceRecorder


class Call:
    """A call whose service takes the times that the test says; all in seconds."""

    def __init__(self, voice: VoiceRecorder) -> None:
        self.voice = voice
        self.session: Session = voice.session()

    def wait(self, length_s: float) -> None:
        self.voice.clock.advance(s=length_s)

    def ask(self, *, decision_s: float = 0.1, transcript: bool = True) -> Turn:
        """A second of speech, the decision, and the transcript at once."""
        turn = self.session.user_turn()
        self.wait(1)
        turn.speech_ended(at=self.voice.clock.now_ns)
        self.wait(decision_s)
        turn.committed()
        if transcript:
            turn.transcript()
        return turn

    def think(self, turn: Turn, length_s: float = 0.1, model: str = "gpt-x", *, token: bool = True) -> None:
        """A request to a model; its first token is its first sentence, after this time."""
        with turn.llm(model=model) as llm:
            self.wait(length_s)
            if token:
                llm.token()
                llm.sentence()

    def speak(self, turn: Turn, length_s: float = 0.1, *, filler: bool = False, audio_s: float = 1.0) -> None:
        """A synthesis with its first sound after this time, sent at once."""
        with turn.tts(voice="amy", text="Yes.", filler=filler) as tts:
            tts.worker("tts-0")
            self.wait(length_s)
            tts.audio(audio_s)
            turn.audio_sent(audio_s)

    def row(self, number: int = 0) -> Row:
        """What the store keeps of a turn when all is over."""
        self.voice.settle(s=65)
        found = summarise("ab" * 16, spans_of(self.voice.turns[number], service="bot"))
        assert found is not None
        return found


@pytest.fixture
def call(voice: VoiceRecorder) -> Call:
    """A call of this test."""
    return Call(voice)


def slow_decision(call: Call) -> None:
    turn = call.ask(decision_s=1.5)
    call.think(turn)
    call.speak(turn)


def slow_recognizer(call: Call) -> None:
    turn = call.ask(transcript=False)
    with turn.asr(model="vosk") as asr:
        call.wait(1.5)
        asr.final()
    call.think(turn)
    call.speak(turn)


def slow_model(call: Call) -> None:
    turn = call.ask()
    call.think(turn, 1.5)
    call.speak(turn)


def slow_first_of_two_models(call: Call) -> None:
    """The first model hangs until it is given up, another one answers at once."""
    turn = call.ask()
    with turn.llm(model="big") as llm:
        call.wait(1.5)
        llm.fail("TimeoutError")
    call.think(turn, 0.2, "small")
    call.speak(turn)


def slow_first_of_two_requests(call: Call) -> None:
    """The model that routes takes its time; the one that answers streams for long, but is spoken at once."""
    turn = call.ask()
    call.think(turn, 1.5, "router", token=False)
    with turn.llm(model="writer") as llm:
        call.wait(0.2)
        llm.token()
        llm.sentence()
        call.speak(turn)
        call.wait(5)
        llm.token()


def refused_once(call: Call) -> None:
    turn = call.ask(decision_s=0.5)
    with turn.llm(model="gpt-x") as llm:
        llm.fail("openai.InternalServerError")
    call.think(turn, 0.2)
    call.speak(turn)


def slow_tool(call: Call) -> None:
    turn = call.ask()
    call.think(turn, token=False)
    with turn.tool("get_time"):
        call.wait(0.2)
    with turn.tool("get_weather"):
        call.wait(1.5)
    call.think(turn)
    call.speak(turn)


def broken_tool(call: Call) -> None:
    turn = call.ask()
    with turn.tool("get_weather") as tool:
        call.wait(1.5)
        tool.fail("KeyError")
    call.think(turn)
    call.speak(turn)


def filler_over_a_tool(call: Call) -> None:
    turn = call.ask()
    with turn.tool("get_weather"):
        call.speak(turn, 0.4, filler=True, audio_s=0.5)
        call.wait(1.5)
    call.think(turn)
    call.speak(turn)


def slow_sentence(call: Call) -> None:
    turn = call.ask()
    with turn.llm(model="gpt-x") as llm:
        call.wait(0.1)
        llm.token()
        call.wait(1.5)
        llm.sentence()
    call.speak(turn)


def slow_voice(call: Call) -> None:
    turn = call.ask()
    call.think(turn)
    call.speak(turn, 1.5)


def slow_to_send(call: Call) -> None:
    turn = call.ask()
    with turn.tts(voice="amy", text="Yes.") as tts:
        call.wait(0.1)
        tts.audio(1.0)
        call.wait(1.5)
        turn.audio_sent(1.0)


def slow_network(call: Call) -> None:
    turn = call.ask()
    call.speak(turn)
    call.wait(1.5)
    turn.audio_heard()


def slow_realtime(call: Call) -> None:
    turn = call.ask()
    with turn.realtime(model="gpt-realtime") as realtime:
        call.wait(1.5)
        realtime.audio(1.0)
        turn.audio_sent(1.0)


def nobody_works(call: Call) -> None:
    turn = call.ask()
    call.wait(1.5)
    call.speak(turn)


def two_halves(call: Call) -> None:
    turn = call.ask(decision_s=0.4)
    call.think(turn, 0.3)
    call.speak(turn, 0.3)


ANSWERED = [
    (slow_decision, "The user waited 1.70 s: 1.50 s (88 %) for the turn decision (endpoint)."),
    (slow_recognizer, "The user waited 1.80 s: 1.50 s (83 %) for the recognizer vosk (asr)."),
    (slow_model, "The user waited 1.70 s: 1.50 s (88 %) for the model gpt-x (llm)."),
    (
        slow_first_of_two_models,
        (
            "The user waited 1.90 s: 1.70 s (89 %) for the model big and 1 more (llm). On the way the model big failed "
            "(TimeoutError); another attempt succeeded."
        ),
    ),
    (slow_first_of_two_requests, "The user waited 1.90 s: 1.70 s (89 %) for the model router and 1 more (llm)."),
    (
        refused_once,
        (
            "The user waited 0.80 s: 0.50 s (62 %) for the turn decision (endpoint). On the way the model gpt-x failed "
            "(openai.InternalServerError); another attempt succeeded."
        ),
    ),
    (slow_tool, "The user waited 2.10 s: 1.70 s (81 %) for the tool get_weather and 1 more."),
    (
        broken_tool,
        (
            "The user waited 1.80 s: 1.50 s (83 %) for the tool get_weather. On the way the tool get_weather failed "
            "(KeyError); the reply came all the same."
        ),
    ),
    (
        filler_over_a_tool,
        (
            "The user waited 0.50 s: 0.40 s (80 %) for the voice amy on tts-0 (tts). That was a filler: the answer "
            "came after 2.20 s; the tool get_weather took 1.90 s of it."
        ),
    ),
    (slow_sentence, "The user waited 1.80 s: 1.50 s (83 %) for a whole sentence of the model gpt-x (sentence)."),
    (slow_voice, "The user waited 1.70 s: 1.50 s (88 %) for the voice amy on tts-0 (tts)."),
    (slow_to_send, "The user waited 1.70 s: 1.50 s (88 %) for audio to leave the server (send)."),
    (slow_network, "The user waited 1.70 s: 1.50 s (88 %) for audio to reach the ear (network)."),
    (slow_realtime, "The user waited 1.60 s: 1.50 s (94 %) for the realtime model gpt-realtime."),
    (nobody_works, "The user waited 1.70 s: 1.50 s (88 %) that no stage explains."),
    (
        two_halves,
        "The user waited 1.00 s: 0.40 s (40 %) for the turn decision (endpoint) and 0.30 s (30 %) for the voice (tts).",
    ),
]


@pytest.mark.parametrize(("happens", "sentence"), ANSWERED)
def test_the_cause_of_a_wait(call: Call, happens: Callable[[Call], None], sentence: str) -> None:
    """The sentence names what took most of the silence, by its model, tool or voice, and what failed on the way."""
    happens(call)
    assert cause(call.row()) == sentence


def test_a_sender_that_marks_no_critical_path() -> None:
    """Of several requests of another sender the longest is blamed."""
    trace = turn()
    trace.add("llm", 2400, 9000, trace.spans[0][2].span_id, gen_ai__request__model="big")
    row = summarise(trace.hex, decode_protobuf(request(*trace.spans).SerializeToString()).spans)
    assert row is not None
    assert (row.bottleneck, row.culprit) == ("llm", "big")


def fails_to_speak(call: Call) -> None:
    turn = call.ask(decision_s=0.5)
    call.think(turn)
    with turn.tts(voice="amy", text="Yes.") as tts:
        call.wait(0.1)
        tts.fail("INTERNAL")
    turn.end()


def fails_after_all_attempts(call: Call) -> None:
    turn = call.ask()
    for model in ("big", "small"):
        with turn.llm(model=model) as llm:
            call.wait(2 if model == "big" else 5)
            llm.fail("TimeoutError")
    turn.end()


def fails_outside_the_stages(call: Call) -> None:
    call.ask().failed("worker_unavailable")


def ends_without_a_reply(call: Call) -> None:
    turn = call.ask()
    call.think(turn, 0.3)
    turn.end()


def hangs_up_on_the_model(call: Call) -> None:
    turn = call.ask()
    turn.llm(model="gpt-x")
    call.wait(3)
    call.session.hung_up()


def hangs_up_on_the_voice(call: Call) -> None:
    turn = call.ask()
    call.think(turn)
    turn.tts(voice="amy", text="Yes.").worker("tts-0")
    call.wait(3)
    call.session.hung_up()


def speaks_again(call: Call) -> None:
    turn = call.ask()
    turn.llm(model="gpt-x").token()
    call.wait(2)
    call.ask()


def times_out(call: Call) -> None:
    turn = call.ask()
    call.think(turn)


def is_not_answered_on_purpose(call: Call) -> None:
    call.ask().suppressed()


def says_nothing(call: Call) -> None:
    turn = call.ask(transcript=False)
    with turn.asr(model="vosk"):
        call.wait(0.2)
    turn.end()


def only_breathes(call: Call) -> None:
    call.session.user_turn()
    call.session.hung_up()


UNANSWERED = [
    (fails_to_speak, "The user waited 0.70 s and heard nothing, because the voice amy failed (INTERNAL)."),
    (
        fails_after_all_attempts,
        (
            "The user waited 7.10 s and heard nothing, because the model small failed (TimeoutError): 7.00 s (99 %) "
            "for the model small and 1 more (llm)."
        ),
    ),
    (
        fails_outside_the_stages,
        "The user waited 0.10 s and heard nothing, because the turn failed (worker_unavailable).",
    ),
    (
        ends_without_a_reply,
        (
            "The user waited 0.40 s and heard nothing, because the turn ended without a reply: 0.30 s (75 %) for the "
            "model gpt-x (llm)."
        ),
    ),
    (
        hangs_up_on_the_model,
        "The user left after 3.10 s of silence: 3.00 s (97 %) for the model gpt-x (llm), which gave no token.",
    ),
    (hangs_up_on_the_voice, "The user left after 3.20 s of silence: 3.00 s (94 %) for the voice amy on tts-0 (tts)."),
    (
        speaks_again,
        (
            "The user spoke again after 2.10 s of silence: 2.00 s (95 %) for a whole sentence of the model gpt-x "
            "(sentence)."
        ),
    ),
    (
        times_out,
        (
            "The user waited 60.20 s and heard nothing, because the turn timed out: 60.00 s (100 %) that no stage "
            "explains."
        ),
    ),
    (is_not_answered_on_purpose, "The agent chose not to answer."),
    (says_nothing, "Nothing was said: no words were found in what was heard."),
    (only_breathes, "The user left before anything was heard."),
]


@pytest.mark.parametrize(("happens", "sentence"), UNANSWERED)
def test_the_cause_of_a_silence(call: Call, happens: Callable[[Call], None], sentence: str) -> None:
    """Where nothing was heard the sentence says what ended the wait: a failure, the user, or a decision."""
    happens(call)
    assert cause(call.row()) == sentence


def test_an_interruption(call: Call) -> None:
    """Who was interrupted is told, with the time until the agent was silent."""
    turn = call.ask()
    call.speak(turn, 1.5, audio_s=5.0)
    call.wait(1)
    onset_ns = call.voice.clock.now_ns
    call.wait(0.2)
    interrupting = call.session.user_turn(at=onset_ns)
    turn.interrupted()
    call.wait(0.1)
    turn.audio_cleared()
    interrupting.speech_ended(at=call.voice.clock.now_ns)
    interrupting.committed()
    assert cause(call.row()) == (
        "The user waited 1.60 s: 1.50 s (94 %) for the voice amy on tts-0 (tts). Then the user interrupted the reply; "
        "it was silent after 0.30 s."
    )


def test_a_reply_that_is_cut_off(call: Call) -> None:
    """A failure after the first sound is told as what cut the reply off."""
    turn = call.ask()
    with turn.tts(voice="amy", text="Yes.") as tts:
        call.wait(1.5)
        tts.audio(0.02)
        turn.audio_sent(0.02)
        tts.fail("UNAVAILABLE")
    turn.end()
    assert cause(call.row()) == (
        "The user waited 1.60 s: 1.50 s (94 %) for the voice amy (tts). Then the voice amy failed (UNAVAILABLE) and "
        "cut the reply off."
    )


def test_a_filler_without_an_answer(call: Call) -> None:
    """Who heard a filler and hung up got no answer, and the sentence says so."""
    turn = call.ask()
    call.speak(turn, 0.4, filler=True, audio_s=0.5)
    turn.tool("get_weather")
    call.wait(5)
    call.session.hung_up()
    assert cause(call.row()) == (
        "The user waited 0.50 s: 0.40 s (80 %) for the voice amy on tts-0 (tts). Then the user left without an answer."
    )


def greets(call: Call) -> None:
    call.session.media_up()
    turn = call.session.agent_turn(trigger="greeting")
    call.speak(turn, 0.3)


def announces(call: Call) -> None:
    call.speak(call.session.agent_turn())


def fails_to_greet(call: Call) -> None:
    turn = call.session.agent_turn(trigger="greeting")
    with turn.tts(voice="amy", text="Hello.") as tts:
        tts.fail("INTERNAL")
    turn.end()


def greets_nobody(call: Call) -> None:
    turn = call.session.agent_turn(trigger="greeting")
    turn.tts(voice="amy", text="Hello.")
    call.session.hung_up()


@pytest.mark.parametrize(
    ("happens", "sentence"),
    [
        (greets, "The agent spoke by itself (greeting), 0.30 s after the media was up."),
        (announces, "The agent spoke by itself (an announcement)."),
        (fails_to_greet, "The agent was to speak by itself (greeting), but the voice amy failed (INTERNAL)."),
        (greets_nobody, "The agent was to speak by itself (greeting), but the user left."),
    ],
)
def test_the_agents_own_turns(call: Call, happens: Callable[[Call], None], sentence: str) -> None:
    """What the agent says of its own accord has a trigger and no wait; where it was not heard, why."""
    happens(call)
    assert cause(call.row()) == sentence


DEMO = [
    "The agent spoke by itself (greeting), 0.16 s after the media was up.",
    "The user waited 1.04 s: 0.37 s (35 %) for the turn decision (endpoint) and 0.32 s (31 %) for the model (llm).",
    (
        "The user waited 0.98 s: 0.38 s (39 %) for the turn decision (endpoint) and 0.34 s (35 %) for the voice "
        "(tts). That was a filler: the answer came after 2.39 s; the tool get_weather took 1.20 s of it."
    ),
    "The user waited 1.89 s: 1.23 s (65 %) for the model stand-in (llm).",
    "The user waited 1.97 s: 1.16 s (59 %) for the voice en-us on tts-espeak@0 (tts).",
    "The user waited 0.96 s: 0.45 s (47 %) for the turn decision (endpoint) and 0.23 s (24 %) for the model (llm).",
    (
        "The user waited 0.94 s: 0.37 s (39 %) for the turn decision (endpoint) and 0.23 s (25 %) for the model "
        "(llm). Then the user interrupted the reply; it was silent after 0.31 s."
    ),
    (
        "The user waited 0.96 s: 0.36 s (38 %) for the turn decision (endpoint) and 0.32 s (33 %) for the model "
        "(llm). On the way the model stand-in failed (openai.InternalServerError); another attempt succeeded."
    ),
    "The user waited 0.82 s and heard nothing, because the voice en-us on tts-espeak@0 failed (INTERNAL).",
    "The user left after 1.22 s of silence: 0.86 s (70 %) for the model stand-in (llm), which gave no token.",
]
"""What happened in each turn of the recorded demo, in order, with the lengths of its raw spans."""


def test_the_cause_of_every_turn_of_the_demo(tmp_path: Path) -> None:
    """Slow stages, a filler over a tool, an interruption, a retry, a failure: each turn is told as what it was."""
    file = io.BytesIO(gzip.decompress(Path(__file__).with_name("demo.json.gz").read_bytes()))
    with Store(tmp_path / "x.db") as store:
        intake = Intake(store)
        take_bytes(file, intake, Imported())
        intake.close()
        assert [cause(turn) for turn in store.reader.turns(TurnQuery(ascending=True))] == DEMO
