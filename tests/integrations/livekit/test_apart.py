"""The framework's own spans, logs and labels, and where they go."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from livekit.agents import Agent, RunContext, function_tool, telemetry
from livekit.agents.telemetry import otel_metrics, traces
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from voicespan import diagnostics
from voicespan.integrations.hook import Hook, Hooks
from voicespan.integrations.livekit import REQUIREMENT, apart, hooks

from .conftest import Turns, calling
from .world import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan
    from tests.integrations.leaving import Leaving

pytestmark = pytest.mark.alone


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Keep spans."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    """A provider that somebody else exports with."""
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


@pytest.fixture
def restored() -> Iterator[None]:
    """Leave the framework's tracer as it was."""
    before = telemetry.tracer._tracer_provider
    yield
    telemetry.tracer.set_provider(before)


class Curious(Agent):
    """Looks things up, with a span of another library around it."""

    def __init__(self, provider: TracerProvider) -> None:
        super().__init__(instructions="be brief")
        self.tracer = provider.get_tracer("http-library")

    @function_tool
    async def look(self, context: RunContext[None]) -> str:
        """Look it up."""
        trace.get_current_span().set_attribute("customer.tier", "gold")
        with self.tracer.start_as_current_span("GET"):
            await asyncio.sleep(0.01)
        return "nine"

    async def llm_node(self, chat_ctx: Any, tools: Any, model_settings: Any) -> Any:
        """Ask the model, as the framework does."""
        with self.tracer.start_as_current_span("POST"):
            pass
        async for chunk in Agent.default.llm_node(self, chat_ctx, tools, model_settings):
            yield chunk


def by_name(spans: tuple[ReadableSpan, ...]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


async def test_children_of_other_libraries(
    turns: Turns, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """A request inside a tool or a request to the model is a child of that stage, and attributes land on the stage."""
    answers = Answer(call=("look", {})), Answer("It is nine.")
    async with calling(*answers, agent=Curious(provider)) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        (turn,) = await turns.wait(1)
    found = by_name(exporter.get_finished_spans())
    for name, stage in (("GET", turn["execute_tool look"]), ("POST", turn.all("llm")[1])):
        parent = found[name].parent
        assert parent is not None
        assert (parent.trace_id, parent.span_id) == (turn.trace_id, stage.span_id), name
    assert turn["execute_tool look"].attributes["customer.tier"] == "gold"
    words = ("nine", "cold", "brief")
    texts = [str(value) for span in turn.spans for value in span.attributes.values()]
    assert not [text for text in texts if any(word in text for word in words)]


@pytest.mark.usefixtures("restored")
async def test_its_spans_for_another_reader(
    turns: Turns, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """A provider that the service gives to LiveKit gets its tree whole and none of ours; our turn stays the same."""
    telemetry.set_tracer_provider(provider)
    other = TracerProvider(shutdown_on_exit=False)
    answers = Answer(call=("look", {})), Answer("It is nine.")
    async with calling(*answers, agent=Curious(other)) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        (turn,) = await turns.wait(1)
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans if span.context is not None}
    parents = {(span.name, names.get(span.parent.span_id) if span.parent else None) for span in spans}
    assert parents >= {
        ("agent_session", None), ("user_turn", "agent_session"), ("agent_turn", "agent_session"),
        ("llm_node", "agent_turn"), ("llm_request", "llm_node"), ("llm_request_run", "llm_request"),
        ("tts_node", "agent_turn"), ("tts_request", "tts_node"), ("function_tool", "agent_turn"),
    }  # fmt: skip
    assert len({span.context.trace_id for span in spans if span.context is not None}) == 1
    assert turn.trace_id not in {span.context.trace_id for span in spans if span.context is not None}
    assert turn.outcome == "completed"


@pytest.mark.usefixtures("restored")
async def test_what_its_spans_say_does_not_leave(turns: Turns, leaving: Leaving) -> None:
    """Where LiveKit's spans pass our exporters, prompts, replies and a tool's words stay here, unless wanted."""
    telemetry.set_tracer_provider(leaving.tracers)
    answers = Answer(call=("look", {})), Answer("It is nine.")
    async with calling(*answers, agent=Curious(TracerProvider(shutdown_on_exit=False))) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        await turns.wait(1)
    words = {"It is nine", "how cold is it", "be brief"}
    assert {"user_turn", "agent_turn", "llm_request", "tts_request", "function_tool"} <= leaving.names()
    assert {word for word in words if word in leaving.text()} == set()
    assert {word for word in words if word in leaving.text(wanted=True)} == words


@pytest.mark.usefixtures("restored")
def test_our_provider_is_not_adopted(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiveKit Cloud finds neither our tracer provider nor our logger provider to attach its exporters to."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    telemetry.set_tracer_provider(provider)
    # What the Cloud's set-up asks before it makes a provider of its own.
    assert isinstance(telemetry.tracer._tracer_provider, trace.NoOpTracerProvider)
    ours = LoggerProvider(shutdown_on_exit=False)
    monkeypatch.setattr("opentelemetry._logs._internal._LOGGER_PROVIDER", ours)
    cloud: Any = traces
    assert not isinstance(cloud.get_logger_provider(), LoggerProvider)
    cloud.set_logger_provider(LoggerProvider(shutdown_on_exit=False))
    from opentelemetry._logs import get_logger_provider

    assert get_logger_provider() is ours


def test_its_measurements_have_no_ids_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a job, what LiveKit measures carries neither room nor job, which would be a series for every call."""
    job = SimpleNamespace(id="job-7", room=SimpleNamespace(sid="room-7"))
    context = SimpleNamespace(job=job, _telemetry_state=None)
    monkeypatch.setattr("livekit.agents.job.get_job_context", lambda **_: context)
    assert otel_metrics._job_attrs() == {}
    assert otel_metrics._job_attrs.__wrapped__() == {"room_id": "room-7", "job_id": "job-7"}  # type: ignore[attr-defined]


@pytest.mark.usefixtures("restored")
async def test_a_hook_that_has_moved(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A version without one of the functions is named in one line, nothing is hooked, and calls work."""
    hooks.remove()
    diagnostics.forget()  # the same line is said once a minute
    moved = Hook("livekit.agents.voice.agent_activity", "AgentActivity.on_end_of_turm", apart.job_attributes)
    monkeypatch.setattr(hooks, "HOOKS", Hooks(REQUIREMENT, *hooks.HOOKS.hooks, moved))
    hooks.install()
    said = capsys.readouterr().err.splitlines()
    try:
        assert len(said) == 1
        assert "livekit-agents 1." in said[0]
        assert "voice.agent_activity.AgentActivity.on_end_of_turm" in said[0]
        async with calling(Answer("It is nine.")) as (call, _):
            await call.caller.speak(0.4, "how cold is it")
            await call.truth.happened("heard")
    finally:
        monkeypatch.undo()
        hooks.install()


@pytest.mark.usefixtures("restored")
def test_a_parameter_or_attribute_that_has_moved(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook whose parameter has another name, and an attribute that is gone, are hooks that have moved."""
    diagnostics.forget()
    hooks.remove()
    onset = Hook(
        "livekit.agents.voice.agent_activity",
        "AgentActivity.on_start_of_speech",
        apart.job_attributes,
        ("began_at",),
    )
    read = ("livekit.agents.voice.speech_handle", "SpeechHandle", ("_errors", "_error"))
    monkeypatch.setattr(hooks, "HOOKS", Hooks(REQUIREMENT, *hooks.HOOKS.hooks, onset, attributes=[read]))
    hooks.install()
    (said,) = capsys.readouterr().err.splitlines()
    monkeypatch.undo()
    hooks.install()
    assert "on_start_of_speech(began_at), livekit.agents.voice.speech_handle.SpeechHandle" in said
    assert said.endswith("SpeechHandle._errors")


@pytest.mark.usefixtures("restored")
def test_a_version_that_is_not_known(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next major version is hooked where everything is in place, and said not to be known."""
    diagnostics.forget()
    hooks.remove()
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.0.1")
    hooks.install()
    assert "livekit-agents 2.0.1 is not known" in capsys.readouterr().err
    assert hooks.HOOKS._installed


async def test_nothing_of_ours_reaches_the_service(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When everything of ours raises, the call is held all the same."""

    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    for name in ("onset", "silence", "transcript", "committed", "turn_for", "adopt", "recognizes", "turn_of_task"):
        monkeypatch.setattr(f"voicespan.integrations.livekit.conversation.Conversation.{name}", broken)
    monkeypatch.setattr("voicespan.integrations.livekit.conversation.Scope", broken)
    for name in ("reply_of", "current_reply", "stopped", "done"):
        monkeypatch.setattr(f"voicespan.integrations.livekit.conversation.{name}", broken)
    with caplog.at_level(logging.ERROR):
        async with calling(Answer("It is nine.")) as (call, _):
            await call.caller.speak(0.4, "how cold is it")
            await call.truth.happened("played out")
    assert caplog.records == []
    assert diagnostics.counters.get("internal_error") > 5
    diagnostics.forget()


def test_nothing_is_left_to_import() -> None:
    """What the first session needs is there with the hooks: a job's event loop does not wait for files."""
    script = "import sys, voicespan.integrations.livekit.hooks; print('voicespan.emit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
