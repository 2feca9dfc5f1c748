"""What runs inside a call: requests and log lines belong to the stage that made them, and Pipecat's spans are off."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pipecat")

from loguru import logger
from opentelemetry import trace
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker

from voicespan import emit, logs, settings
from voicespan.integrations.pipecat import attach

from .phone import Answer, Call, DecoratedModel, DecoratedVoice

if TYPE_CHECKING:
    from pipecat.services.llm_service import FunctionCallParams
    from tests.integrations.leaving import Leaving

    from .conftest import Turns

pytestmark = pytest.mark.alone


def here() -> tuple[int, int]:
    """Return the trace and span that a request made now would become a child of."""
    context = trace.get_current_span().get_span_context()
    return context.trace_id, context.span_id


async def test_requests_are_children_of_their_stage(turns: Turns) -> None:
    """A request of the model, of a tool or of the voice is a child of that stage."""
    seen: dict[str, tuple[int, int]] = {}

    async def look(params: FunctionCallParams) -> None:
        await asyncio.sleep(0.05)
        seen["tool"] = here()
        await params.result_callback({"seen": True})

    call = Call([Answer(tool="look"), Answer()])
    call.model.register_function("look", look)
    answer, speak = call.model._answer, call.voice.run_tts

    async def answer_and_look(*args: Any) -> None:
        seen.setdefault("model", here())
        await answer(*args)

    async def speak_and_look(*args: Any) -> Any:
        seen["voice"] = here()
        async for frame in speak(*args):
            yield frame

    call.model._answer, call.voice.run_tts = answer_and_look, speak_and_look
    async with call.held():
        await call.ask()
    (turn,) = turns.all()
    assert seen["model"] == (turn.trace_id, turn.all("llm")[0].span_id)
    assert seen["tool"] == (turn.trace_id, turn["execute_tool look"].span_id)
    assert seen["voice"] == (turn.trace_id, turn["tts"].span_id)


async def test_log_lines_have_the_trace_of_their_turn(turns: Turns, capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON lines switched on, what Pipecat and the bot log with loguru in a turn carries its trace id."""
    settings.reset(settings.Settings(log_format="json"))
    sink = logger.add(logs.loguru_sink)
    try:
        async with Call().held() as call:
            await call.ask()
    finally:
        logger.remove(sink)
        settings.reset()
    (turn,) = turns.all()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    spoken = [line for line in lines if "Generating TTS" in line["message"]]
    assert [line["trace_id"] for line in spoken] == [f"{turn.trace_id:032x}"]


async def test_pipecats_own_spans_are_off(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bot that switches Pipecat's tracing on makes no span of Pipecat's, which would carry the prompt."""
    made: list[str] = []
    tracer = trace.NoOpTracer()

    class Counting(trace.NoOpTracer):
        def start_span(self, name: str, *args: Any, **kwargs: Any) -> trace.Span:
            made.append(name)
            return tracer.start_span(name, *args, **kwargs)

    monkeypatch.setattr(trace, "get_tracer", lambda *_args, **_kwargs: Counting())
    async with Call(enable_tracing=True, conversation_id="call-7").held() as call:
        await call.ask()
    (turn,) = turns.all()
    assert made == []
    assert turn.session_id == "call-7"


async def test_a_turn_without_a_word_of_content(turns: Turns) -> None:
    """Neither question nor answer nor result of a tool is in any span."""
    async with Call([Answer("A secret answer. ")], words=["A secret question"]).held() as call:
        await call.ask()
    (turn,) = turns.all()
    told = [(span.attributes, [event.attributes for event in span.events]) for span in turn.spans]
    assert "secret" not in str(told)


async def test_what_its_own_spans_say_does_not_leave(
    turns: Turns, leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left on, Pipecat's spans leave without the words that it writes onto them, unless content is wanted."""
    settings.reset(settings.Settings(framework_spans=True))
    monkeypatch.setattr(trace, "get_tracer", lambda *_args, **_kwargs: leaving.tracers.get_tracer("pipecat"))
    call = Call([Answer("A secret answer. ")], words=["A secret question"], enable_tracing=True)
    call.model, call.voice = DecoratedModel(call.journal, [Answer("A secret answer. ")]), DecoratedVoice(call.journal)
    try:
        async with call.held():
            await call.ask()
    finally:
        settings.reset()
    assert len(turns.all()) == 1
    assert {"conversation", "turn", "llm", "tts"} <= leaving.names()
    assert "secret" not in leaving.text()
    for word in ("secret question", "secret answer"):
        assert word in leaving.text(wanted=True)


async def test_pipecats_own_spans_can_be_left_on(turns: Turns) -> None:
    """A setting leaves Pipecat's tracing as the bot sets it; a pipeline that has no turns keeps it in any case."""
    settings.reset(settings.Settings(framework_spans=True))
    try:
        async with Call(enable_tracing=True).held() as call:
            pass
        assert call.worker._enable_tracing is True
    finally:
        settings.reset()
    silent = PipelineWorker(Pipeline([Call().model]), enable_tracing=True)
    attach.attach(silent)
    assert silent._enable_tracing is True
    deaf = Call()
    deaf.ear._params.audio_out_enabled = False
    unheard = PipelineWorker(Pipeline(deaf.processors()), enable_tracing=True)
    attach.attach(unheard)
    assert unheard._enable_tracing is True
    emit.recorder().enabled = False
    for pipeline, bridged in ((Call().processors(), None), ([Call().model], ())):
        off = PipelineWorker(Pipeline(pipeline), enable_tracing=True, bridged=bridged)
        attach.attach(off)
        assert off._enable_tracing is True
