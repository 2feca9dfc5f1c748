"""The hooks: how the integration gets into a bot, and what it says where it can't."""

from __future__ import annotations

import contextvars
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pipecat")

from opentelemetry import trace
from pipecat import bus
from pipecat.frames import frames as f
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketOutputTransport
from pipecat.workers.runner import WorkerRunner

from voicespan import diagnostics, hooked
from voicespan.integrations import pipecat
from voicespan.integrations.hook import missing
from voicespan.integrations.pipecat import SETUP_FILE, SETUP_FILES, PipecatInstrumentor, attach, conversation, service
from voicespan.integrations.pipecat.setup import setup_pipeline_worker, setup_worker_runner
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver

from .phone import EXAMPLE, Call, Voice

if TYPE_CHECKING:
    from collections import OrderedDict

    from voicespan.testing import VoiceRecorder

    from .conftest import Turns

BOT_WITH_TRACING = """
import asyncio, functools, sys
sys.path.insert(0, {example!r})
import bot
bot.PipelineWorker = functools.partial(bot.PipelineWorker, enable_tracing=True, conversation_id="call-7")
asyncio.run(bot.main())
"""


@pytest.mark.alone
@pytest.mark.parametrize("own_tracing", [False, True], ids=["as it is", "with Pipecat's tracing"])
def test_an_unchanged_bot(tmp_path: Path, *, own_tracing: bool) -> None:
    """By environment variables alone the example sends its three turns: greeted, interrupted, answered."""
    program = Path(sys.executable).with_name("voicespan")
    script = ["-c", BOT_WITH_TRACING.format(example=str(EXAMPLE))] if own_tracing else [str(EXAMPLE / "bot.py")]
    with Receiver(port=0, database=tmp_path / "turns.db") as receiver:
        environ = os.environ | {"OTEL_SERVICE_NAME": "bot", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        command = [str(program), "run", "--", sys.executable, *script]
        done = subprocess.run(command, env=environ, check=True, timeout=50, capture_output=True, text=True)
        deadline = time.monotonic() + 10
        while len(turns := receiver.store.reader.turns(TurnQuery())) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
    turns = sorted(turns, key=lambda turn: turn.start_ns)
    assert [turn.outcome for turn in turns] == ["completed", "interrupted", "completed"]
    assert {turn.service for turn in turns} == {"bot"}
    assert "voicespan:" not in done.stderr
    if own_tracing:
        assert {turn.session_id for turn in turns} == {"call-7"}


def test_the_setup_files_of_the_bot_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bot's own setup files are called too; ours is named once, however often it is installed."""
    monkeypatch.setenv(SETUP_FILES, "own.py")
    instrumentor = PipecatInstrumentor()
    for _ in range(2):
        instrumentor._instrument()
    assert os.environ[SETUP_FILES].split(os.pathsep) == ["own.py", SETUP_FILE]
    instrumentor._uninstrument()
    assert os.environ[SETUP_FILES] == "own.py"


@pytest.mark.parametrize(
    ("version", "known"), [("1.14.0", True), ("1.20.3", True), ("1.13.9", False), ("2.0.0", False)]
)
def test_another_version(
    version: str, known: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], voice: VoiceRecorder
) -> None:
    """A version whose hooks are not known is left alone, with one line that names it."""
    monkeypatch.setenv(SETUP_FILES, "")
    monkeypatch.setattr(pipecat, "installed_version", lambda: version)
    PipecatInstrumentor()._instrument()
    assert (SETUP_FILE in os.environ[SETUP_FILES]) is known
    said = capsys.readouterr().err
    assert (said == "") is known
    assert known or f"pipecat-ai {version}" in said


async def test_a_frame_class_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], voice: VoiceRecorder
) -> None:
    """Where Pipecat has no such class any more, one line says so, and the pipeline runs on."""
    monkeypatch.delitem(sys.modules, "voicespan.integrations.pipecat.attach")
    monkeypatch.delattr(pipecat, "attach", raising=False)
    monkeypatch.delattr(f, "TTSSpeakFrame")
    await setup_pipeline_worker(None)
    await setup_worker_runner(None)
    said = capsys.readouterr().err
    assert said.count("voicespan:") == 1
    assert "pipecat" in said
    assert "TTSSpeakFrame" in said


async def test_an_attribute_that_has_moved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What this version's frames and workers no longer have is named at the import, once, and no pipeline has turns."""
    gone = type("Renamed", (f.Frame,), {})
    monkeypatch.setattr(f, "VADUserStoppedSpeakingFrame", gone)
    monkeypatch.setattr(bus, "BusBridgeProcessor", gone)
    monkeypatch.setenv(SETUP_FILES, "")
    hooked.forget()
    diagnostics.forget()
    attach.moved.cache_clear()
    try:
        PipecatInstrumentor()._instrument()  # Pipecat is imported already: this is where it would be
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("voicespan:")]
        worker = PipelineWorker(Pipeline(Call().processors()), enable_tracing=True)
        attach.attach(worker)
        hooked.explain()
        explained = capsys.readouterr().err
    finally:
        hooked.forget()
        attach.moved.cache_clear()
    assert explained.count("voicespan:") == 1
    assert "not hooked, since it has moved something: pipecat-ai" in explained
    assert "0 sessions" not in explained
    assert len(said) == 1
    assert f"pipecat-ai {pipecat.installed_version()} is not instrumented" in said[0]
    assert "VADUserStoppedSpeakingFrame.stop_secs" in said[0]
    assert "BusBridgeProcessor._bridge" in said[0]
    assert worker._enable_tracing is True


@pytest.mark.parametrize(
    ("module", "kind", "names"), attach.ATTRIBUTES, ids=[f"{kind}.{names[0]}" for _, kind, names in attach.ATTRIBUTES]
)
def test_each_attribute_is_looked_for(
    module: str, kind: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pipecat of today has every attribute that is relied on; each one is missed where it is gone."""
    assert missing([(module, kind, names)]) == []
    monkeypatch.setattr(importlib.import_module(module), kind, type(kind, (), {}))
    assert missing([(module, kind, names)]) == [f"{module}.{kind}.{name}" for name in names]


@pytest.mark.alone
async def test_a_hook_that_has_moved(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a method that is needed is gone, the call is held as ever, without turns and with one line."""
    monkeypatch.delattr(BaseOutputTransport, "write_transport_frame")
    call = Call()
    async with call.held():
        pass
    assert turns.all() == []
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("voicespan:")]
    assert len(said) == 1
    assert "Ear.write_transport_frame" in said[0]


def test_services_say_who_they_are() -> None:
    """Provider, model, voice and transport are read off the services; what nobody set is not made up."""
    model = OpenAILLMService(api_key="none", settings=OpenAILLMService.Settings(model="gpt-5-mini"))
    assert (service.provider(model), service.model(model), service.voice(model)) == ("openai", "gpt-5-mini", None)
    own = Voice(None)
    assert (service.provider(own), service.voice(own), service.language(own)) == (None, "anna", "en")
    assert service.model(object()) is None
    socket = FastAPIWebsocketOutputTransport.__new__(FastAPIWebsocketOutputTransport)
    assert service.transport(socket) == "websocket"
    assert service.transport(BaseOutputTransport(TransportParams())) is None


def test_a_long_call_does_not_grow(voice: VoiceRecorder) -> None:
    """What is remembered of frames, tools and syntheses is bounded."""
    call = conversation.Conversation(voice.session())
    watch = attach.Watch(call)
    call.generation_began("model", current=False)
    for number in range(2 * conversation.MAX_REMEMBERED):
        call.tool_called("model", f"call-{number}", "look", background=False, current=False)
        call.text_given("voice", f"context-{number}", "Yes.", None)
        assert watch.first(f.VADUserStartedSpeakingFrame())
    remembered: list[OrderedDict[Any, Any]] = [call._calls, call._voices]
    assert [len(each) for each in remembered] == [conversation.MAX_REMEMBERED] * 2
    assert len(watch._seen) <= attach.MAX_SEEN


class Output:
    """The two methods of an output transport."""

    def __init__(self) -> None:
        self.taken: list[f.Frame] = []

    async def write_audio_frame(self, frame: f.OutputAudioRawFrame) -> bool:
        self.taken.append(frame)
        return True

    async def write_transport_frame(self, frame: f.Frame) -> None:
        self.taken.append(frame)


async def test_a_frame_that_cannot_be_measured_is_sent(voice: VoiceRecorder) -> None:
    """A frame without a sample rate reaches the transport all the same."""
    output = Output()
    attach.Watch(conversation.Conversation(voice.session()))._watch_output(output)
    frame = f.TTSAudioRawFrame(bytes(640), 0, 1)
    assert [await output.write_audio_frame(frame) for _ in range(2)] == [True, True]
    assert output.taken == [frame, frame]
    diagnostics.forget()


async def test_a_transport_of_two_workers(voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a transport sends belongs to the worker that took it last, and is counted once."""
    output, sent = Output(), []
    for number in range(2):
        call = conversation.Conversation(voice.session(f"call-{number}"))
        monkeypatch.setattr(call, "audio_sent", lambda seconds, _at, number=number: sent.append((number, seconds)))
        attach.Watch(call)._watch_output(output)
    await output.write_audio_frame(f.TTSAudioRawFrame(bytes(640), 16_000, 1))
    assert sent == [(1, 0.02)]


def test_agents_belong_to_the_phone_of_their_bridge(voice: VoiceRecorder) -> None:
    """Of two callers on one bus each has the agents of its own bridge, in whatever order they come up."""

    class Bus:
        pass

    class Agent:
        active = True

        def __init__(self, name: str) -> None:
            self.name, self._bridged = name, (name,)

        def add_event_handler(self, *_: object) -> None:
            pass

    bus = Bus()
    workers = [Agent(name) for name in ("one", "two")]
    agents = [attach.Bridged(worker, bus) for worker in workers]
    assert [agent._watch() for agent in agents] == [None, None]
    phones: dict[str | None, attach.Watch] = {
        name: attach.Watch(conversation.Conversation(voice.session(name))) for name in ("one", "two")
    }
    attach._by_bus[bus] = {name: [phone] for name, phone in phones.items()}
    assert [agent._watch() for agent in agents] == [phones["one"], phones["two"]]
    assert [phones[name].conversation.agent for name in ("one", "two")] == ["one", "two"]
    phones["one"].conversation.session.end()
    again = attach.Watch(conversation.Conversation(voice.session("again")))
    attach._by_bus[bus]["one"] = [again]
    assert agents[0]._watch() is again


async def test_two_bridges_without_a_name(turns: Turns) -> None:
    """Of two phones on one bus whose bridges have no name, an agent is the last one's, and then the other's."""
    phones, runner = [], WorkerRunner(handle_sigint=False)
    for number in range(2):
        call = Call()
        link = bus.BusBridgeProcessor(bus=runner.bus, worker_name=f"phone-{number}")
        worker = PipelineWorker(Pipeline([call.line, link, call.ear]), name=f"phone-{number}")
        phones.append(worker)
    agent = PipelineWorker(Pipeline([Call().model]), name="agent", bridged=())
    for worker in (*phones, agent):
        worker._bus = runner.bus
    found = [attach._watch(worker, list(attach._leaves(worker.pipeline))) for worker in phones]
    watches = [watch for watch in found if watch is not None]
    assert len(watches) == 2
    bridged = attach._watch(agent, list(attach._leaves(agent.pipeline)))
    assert isinstance(bridged, attach.Bridged)
    assert bridged._watch() is watches[1]
    attach._end(watches[1], runner.bus)
    assert bridged._watch() is watches[0]
    attach._end(watches[0], runner.bus)
    assert attach._by_bus.get(runner.bus) == {}
    turns.all()


def test_what_another_task_has_ended_is_not_current_later(voice: VoiceRecorder) -> None:
    """A model whose end another task tells leaves nothing behind in its own task."""
    call = conversation.Conversation(voice.session())
    task = contextvars.copy_context()
    task.run(call.generation_began, "model", current=True)
    assert task.run(trace.get_current_span).get_span_context().is_valid
    call.model_stopped("model")  # from the task of the input
    call.works("model")
    assert task.run(trace.get_current_span).get_span_context().is_valid
    task.run(call.works, "model")
    assert not task.run(trace.get_current_span).get_span_context().is_valid


def test_text_that_is_empty_is_no_token(voice: VoiceRecorder) -> None:
    """A frame without a word, as some services send first, is not the first token."""
    model = Call().model
    call = conversation.Conversation(voice.session())
    watch = attach.Watch(call)
    call.generation_began(model, current=False)
    stage = call._generations[model].stage
    watch.pushes(model, f.LLMTextFrame(""))
    assert stage._record.first_ns is None
    watch.pushes(model, f.LLMTextFrame("Nine"))
    assert (stage._record.count, stage._record.first_ns is None) == (1, False)


def test_syntheses_that_are_forgotten_end(voice: VoiceRecorder) -> None:
    """A synthesis that never says its end does not hold its turn open when it is forgotten."""
    call = conversation.Conversation(voice.session())
    stages = [call.text_given("voice", f"context-{number}", "Yes.", None) for number in range(300)]
    assert [stage._record.open for stage in stages[:44]] == [False] * 44


async def test_processors_that_originate_nothing_are_not_heard(voice: VoiceRecorder) -> None:
    """The ends of a pipeline and filters pass on what others have pushed: they cost nothing."""
    filtered = IdentityFilter()
    pipeline = Pipeline([filtered, Call().model])
    attach.Watch(conversation.Conversation(voice.session())).add(list(attach._leaves(pipeline)))
    heard = [each for each in attach._leaves(pipeline) if each._event_handlers["on_before_push_frame"].handlers]
    assert [type(each).__name__ for each in heard] == ["Model"]
