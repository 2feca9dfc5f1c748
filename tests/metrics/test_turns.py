"""What a turn tells beside its spans: values that were computed by hand, in the context of their stage."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import names as n
from voicespan.sessions import Session

if TYPE_CHECKING:
    from voicespan.turn import Turn

    from .conftest import Meters, Recorder


def asked(recorder: Recorder, session: Session) -> Turn:
    """A question of 800 ms; its onset is known after 32 ms, its end after 200."""
    recorder.fixed.advance(s=1)
    onset_ns = recorder.fixed.now_ns
    recorder.fixed.advance(ms=32)
    turn = session.user_turn(at=onset_ns)
    recorder.fixed.advance(ms=768)
    end_ns = recorder.fixed.now_ns
    recorder.fixed.advance(ms=200)
    turn.speech_ended(at=end_ns)
    turn.transcript()
    turn.committed()
    return turn


def answered(recorder: Recorder, turn: Turn, *, model: str = "small") -> None:
    """A reply: first token after 300 ms, ten more in 500 ms; two seconds of audio, made in 600 ms."""
    with turn.llm(model=model, provider="openai") as llm:
        recorder.fixed.advance(ms=300)
        llm.token()
        recorder.fixed.advance(ms=500)
        llm.token(10)
        llm.usage(input_tokens=120, output_tokens=11)
    with turn.tts(voice="sam", model="cosy", text="Yes, of course.") as tts:
        recorder.fixed.advance(ms=150)
        tts.audio(1.0)
        recorder.fixed.advance(ms=450)
        tts.audio(1.0)
    turn.audio_sent(2.0)
    recorder.fixed.advance(ms=40)
    turn.audio_heard()
    recorder.fixed.advance(s=5)
    turn.end()


def point(meters: Meters, name: str) -> Any:
    return meters.only(name)


@pytest.mark.covers("C-M21", "B-M08", "B-M12", "B-M02", "B-M03", "F-R09")
def test_a_plain_turn(meters: Meters, recorder: Recorder) -> None:
    """Real-time factor, token rate, tokens and the GenAI durations are those of the stages, with their trace."""
    session = Session(recorder, "call-1")
    turn = asked(recorder, session)
    answered(recorder, turn)
    recorder.drain()
    found = meters.collect()
    expected = {
        n.METRIC_VOICE_TTS_REAL_TIME_FACTOR: (0.3, {n.GEN_AI_REQUEST_MODEL: "cosy"}),
        n.METRIC_VOICE_LLM_TOKEN_RATE: (20.0, {n.GEN_AI_REQUEST_MODEL: "small"}),
        n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION: (0.8, None),
        n.METRIC_GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK: (0.3, None),
    }
    chat = {n.GEN_AI_OPERATION_NAME: "chat", n.GEN_AI_PROVIDER_NAME: "openai", n.GEN_AI_REQUEST_MODEL: "small"}
    for name, (value, attributes) in expected.items():
        (one,) = found[name].data.data_points
        assert one.sum == pytest.approx(value), name
        assert one.attributes == (attributes or chat), name
        (exemplar,) = one.exemplars
        assert exemplar.trace_id == turn.trace_id, name
        assert exemplar.span_id, name
    tokens = {
        one.attributes[n.GEN_AI_TOKEN_TYPE]: one.sum
        for one in found[n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE].data.data_points
    }
    assert tokens == {"input": 120, "output": 11}


def test_tokens_that_nobody_heard_are_told_apart(meters: Meters, recorder: Recorder) -> None:
    """The tokens of a generation that was discarded carry a label, those of the one that was heard do not."""
    session = Session(recorder, "call-1")
    turn = asked(recorder, session)
    with turn.llm(model="small", provider="openai") as early:
        recorder.fixed.advance(ms=100)
        early.token(3)
        early.usage(input_tokens=100, output_tokens=3)
        early.discarded()
    answered(recorder, turn)
    recorder.drain()
    found = {
        (one.attributes[n.GEN_AI_TOKEN_TYPE], one.attributes.get(n.VOICE_GENERATION_DISCARDED)): one.sum
        for one in meters.points(n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE)
    }
    assert found == {("input", True): 100, ("output", True): 3, ("input", None): 120, ("output", None): 11}


@pytest.mark.covers("C-M12", "C-M13")
def test_the_detector_is_counted_and_timed(meters: Meters, recorder: Recorder) -> None:
    """Each begin and end of speech counts, with the time from the real moment to the detector's word."""
    session = Session(recorder, "call-1")
    turn = asked(recorder, session)
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_VAD_EVENTS) == {}  # with the turn, on the recorder's thread
    answered(recorder, turn)
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_VAD_EVENTS) == {("speech_start",): 1, ("speech_end",): 1}
    sums = {one.attributes[n.VOICE_VAD_EVENT]: one.sum for one in meters.points(n.METRIC_VOICE_VAD_DETECTION_DURATION)}
    assert sums == {"speech_start": pytest.approx(0.032), "speech_end": pytest.approx(0.2)}


def test_a_cough_counts_for_the_detector_only(meters: Meters, recorder: Recorder) -> None:
    """Speech that was no utterance makes no turn, but the detector has said so."""
    session = Session(recorder, "call-1")
    turn = session.user_turn()
    turn.speech_ended()
    turn.dismissed()
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_VAD_EVENTS) == {("speech_start",): 1, ("speech_end",): 1}
    assert meters.points(n.METRIC_VOICE_VAD_DETECTION_DURATION) == []  # when it really was is not known


def test_turns_that_are_not_sampled_count_all_the_same(meters: Meters, recorder: Recorder) -> None:
    """Sampling takes traces away, not measurements; what was measured points at no trace that nobody has."""
    recorder.mint = lambda session_id: (1, 2, False)  # type: ignore[method-assign]
    session = Session(recorder, "call-1")
    answered(recorder, asked(recorder, session))
    recorder.drain()
    one = meters.only(n.METRIC_VOICE_LLM_TOKEN_RATE)
    assert one.count == 1
    assert list(one.exemplars) == []


def test_without_a_token_count_none_is_told(meters: Meters, recorder: Recorder) -> None:
    """Tokens are those that the provider bills; chunks are no tokens."""
    turn = asked(recorder, Session(recorder, "call-1"))
    with turn.llm(model="small") as llm:
        llm.token()
    turn.end()
    recorder.drain()
    assert meters.points(n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE) == []
    assert meters.points(n.METRIC_VOICE_LLM_TOKEN_RATE) == []
    assert meters.only(n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION).count == 1


@pytest.mark.covers("B-Q06", "C-M04")
def test_a_failed_turn_is_an_error_of_its_session(meters: Meters, recorder: Recorder) -> None:
    """The failure counts with its class, its stage is timed all the same, and the exemplar is its trace."""
    turn = asked(recorder, Session(recorder, "call-1"))
    with pytest.raises(TimeoutError), turn.llm(model="small", provider="openai"):
        recorder.fixed.advance(ms=700)
        raise TimeoutError
    turn.end()
    recorder.drain()
    assert meters.values(n.METRIC_VOICE_SESSION_ERRORS) == {("TimeoutError",): 1}
    duration = meters.only(n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION)
    assert duration.attributes[n.ERROR_TYPE] == "TimeoutError"
    assert duration.sum == pytest.approx(0.7)


@pytest.mark.parametrize("who", ["framework", "client"])
def test_what_somebody_else_records_is_not_recorded_twice(
    meters: Meters, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Where a framework, or the instrumentation of the provider's client, has the GenAI metrics, voicespan has none."""
    session = Session(recorder, "call-1")
    if who == "framework":
        session.gen_ai_metrics = False
    else:
        instrumentor = SimpleNamespace(is_instrumented_by_opentelemetry=True)
        module = SimpleNamespace(OpenAIInstrumentor=lambda: instrumentor)
        monkeypatch.setitem(__import__("sys").modules, "opentelemetry.instrumentation.openai_v2", module)
    answered(recorder, asked(recorder, session))
    recorder.drain()
    assert meters.points(n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE) == []
    assert meters.points(n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION) == []
    assert meters.only(n.METRIC_VOICE_LLM_TOKEN_RATE).count == 1


def test_a_late_tool_breaks_nothing(meters: Meters, recorder: Recorder) -> None:
    """What comes after its turn is measured no second time."""
    session = Session(recorder, "call-1")
    turn = asked(recorder, session)
    tool = turn.tool("slow", background=True)
    answered(recorder, turn)
    session.end()
    recorder.drain()
    tool.end()
    recorder.drain()
    assert meters.only(n.METRIC_VOICE_LLM_TOKEN_RATE).count == 1
