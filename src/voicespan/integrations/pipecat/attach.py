"""Hearing of every frame that matters: handlers on the processors of a pipeline, called in the task that pushes.

Pipecat's observers are fed by a queue; its processors' own events are not, and a handler in the working task can also
make the stage current there, so that requests and log lines made inside belong to it.
"""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from pipecat.bus import BusBridgeProcessor
from pipecat.frames import frames as f
from pipecat.metrics.metrics import LLMUsageMetricsData
from pipecat.pipeline.pipeline import PipelineSink, PipelineSource
from pipecat.processors.aggregators.llm_response_universal import LLMUserAggregator
from pipecat.processors.filters.frame_filter import FrameFilter
from pipecat.processors.filters.function_filter import FunctionFilter
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.utils.errors import ErrorCategory

from voicespan import hooked, settings
from voicespan.context import Scope
from voicespan.diagnostics import say
from voicespan.emit import recorder
from voicespan.guard import guarded, swallowed
from voicespan.integrations.hook import missing
from voicespan.integrations.pipecat import DISTRIBUTION, installed_version, service, source
from voicespan.integrations.pipecat.conversation import Conversation
from voicespan.sessions import session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping

    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.frame_processor import FrameProcessor

    from voicespan.integrations.hook import Attributes
    from voicespan.metrics.audio import DropReason
    from voicespan.stage import Stage

    Handler = Callable[["Watch", Conversation, Any, Any], None]

MAX_SEEN = 512
"""Frames that are told once are remembered this long: every processor pushes a frame again."""
_BYTES_PER_SAMPLE = 2
_EVENTS = ("on_before_push_frame", "on_before_process_frame")
_ORIGINATE_NOTHING = (PipelineSource, PipelineSink, IdentityFilter, FrameFilter, FunctionFilter)
"""Processors that only pass on what others have pushed already, or will."""

_said: ContextVar[f.TTSSpeakFrame | None] = ContextVar("voicespan_pipecat_said", default=None)
"""In a synthesizer's task: the frame of the application that is being spoken."""

_by_bus: weakref.WeakKeyDictionary[Any, dict[str | None, list[Watch]]] = weakref.WeakKeyDictionary()
"""The conversations of the workers with a transport on a bus, by the name of the bridge to their agents.

Several with the same name, or without any, get what every agent says: it is told as the last one's that came up.
"""


_FRAMES = "pipecat.frames.frames"
ATTRIBUTES: tuple[Attributes, ...] = (
    ("pipecat.pipeline.worker", "PipelineWorker", ("_bridged", "_bus", "_conversation_id", "_enable_tracing")),
    ("pipecat.pipeline.worker", "PipelineWorker", ("active", "add_event_handler", "bridged", "name", "pipeline")),
    ("pipecat.pipeline.worker", "PipelineWorker", ("turn_trace_observer",)),
    ("pipecat.utils.tracing.turn_trace_observer", "TurnTraceObserver", ("_tracer",)),
    ("pipecat.bus", "BusBridgeProcessor", ("_bridge",)),
    ("pipecat.processors.frame_processor", "FrameProcessor", ("_event_handlers", "add_event_handler", "processors")),
    ("pipecat.services.tts_service", "TTSService", ("run_tts",)),
    ("pipecat.transports.base_output", "BaseOutputTransport", ("_params",)),
    ("pipecat.transports.base_output", "BaseOutputTransport", ("write_audio_frame", "write_transport_frame")),
    (_FRAMES, "Frame", ("broadcast_sibling_id", "id")),
    (_FRAMES, "VADUserStartedSpeakingFrame", ("start_secs",)),
    (_FRAMES, "VADUserStoppedSpeakingFrame", ("stop_secs",)),
    (_FRAMES, "TranscriptionFrame", ("text",)),
    (_FRAMES, "LLMTextFrame", ("text",)),
    (_FRAMES, "MetricsFrame", ("data",)),
    (_FRAMES, "FunctionCallInProgressFrame", ("cancel_on_interruption", "function_name", "tool_call_id")),
    (_FRAMES, "FunctionCallResultFrame", ("error", "properties", "tool_call_id")),
    (_FRAMES, "FunctionCallCancelFrame", ("tool_call_id",)),
    (_FRAMES, "TTSStartedFrame", ("context_id",)),
    (_FRAMES, "TTSStoppedFrame", ("context_id",)),
    (_FRAMES, "TTSAudioRawFrame", ("audio", "context_id", "num_channels", "sample_rate")),
    (_FRAMES, "LLMMessagesAppendFrame", ("messages", "run_llm")),
    (_FRAMES, "ErrorFrame", ("category", "exception", "processor")),
    ("pipecat.services.settings", "LLMSettings", ("model",)),
    ("pipecat.services.settings", "TTSSettings", ("language", "model", "voice")),
    ("pipecat.services.settings", "STTSettings", ("language", "model")),
)
"""Attributes of the framework's objects that are read or replaced here, by class."""


@cache
def moved() -> tuple[str, ...]:
    """Return what this version of Pipecat does not have of that; said once, since without it turns would be wrong."""
    gone = tuple(missing(ATTRIBUTES))
    if gone:
        _left_out(gone)
    return gone


def _left_out(gone: Iterable[str]) -> None:
    version = installed_version() or ""
    say(
        "pipecat.hooks",
        f"{DISTRIBUTION} {version} is not instrumented, and the service runs on without its turns: this version has no "
        f"{', '.join(gone)}",
    )
    hooked.moved(DISTRIBUTION, version)


def attach(worker: PipelineWorker) -> None:
    """Let the turns of a pipeline be told, when it is one that speaks. Never raises."""
    try:
        if moved():
            return
        processors = list(_leaves(worker.pipeline))
        gone = _missing(worker, processors)
        if gone:
            _left_out(gone)
            return
        watch = _watch(worker, processors)
        if watch is not None:
            _quiet(worker)
            watch.add(processors)
    except Exception as error:
        swallowed("pipecat", error)


def _leaves(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    for inner in processor.processors:
        if inner.processors:
            yield from _leaves(inner)
        else:
            yield inner


def _missing(worker: PipelineWorker, processors: list[FrameProcessor]) -> list[str]:
    """Return the names of hooks that the parts of this pipeline do not have."""
    wanted: list[tuple[object, tuple[str, ...]]] = [(worker, ("add_event_handler", "bridged"))]
    wanted += [(each, ("run_tts",)) for each in processors if isinstance(each, TTSService)]
    outputs = [each for each in processors if isinstance(each, BaseOutputTransport)]
    wanted += [(output, ("write_audio_frame", "write_transport_frame")) for output in outputs]
    found = [f"{type(owner).__name__}.{name}" for owner, names in wanted for name in names if not hasattr(owner, name)]
    events = getattr(processors[0], "_event_handlers", dict.fromkeys(_EVENTS)) if processors else _EVENTS
    return found + [f"event {name}" for name in _EVENTS if name not in events]


def _watch(worker: PipelineWorker, processors: list[FrameProcessor]) -> Watch | None:
    """Return the conversation that this pipeline takes part in; None for one that neither speaks nor is an agent."""
    bus = getattr(worker, "_bus", None)
    if worker.bridged:
        return Bridged(worker, bus) if bus is not None and recorder().enabled else None
    output = next((each for each in processors if isinstance(each, BaseOutputTransport)), None)
    if output is None or not getattr(getattr(output, "_params", None), "audio_out_enabled", True):
        return None  # it is not heard
    begun = session(getattr(worker, "_conversation_id", None), transport=service.transport(output))
    if not begun.recorder.enabled:
        return None
    source().adopt(begun)
    conversation = Conversation(begun)
    watch = Watch(conversation)
    if bus is not None:
        bridges = {each._bridge for each in processors if isinstance(each, BusBridgeProcessor)}  # noqa: SLF001
        for name in bridges or {None}:
            _by_bus.setdefault(bus, {}).setdefault(name, []).append(watch)
    Scope(begun, begun)  # inherited by every task of the pipeline: its processors are set up in children of this one
    worker.add_event_handler("on_pipeline_finished", lambda _worker, _frame: _end(watch, bus))
    return watch


@guarded
def _end(watch: Watch, bus: object) -> None:
    """The pipeline is over; a bus that outlives it forgets the conversation."""
    watch.conversation.end()
    bridges = _by_bus.get(bus, {})
    for name, found in list(bridges.items()):
        if watch in found:
            found.remove(watch)
        if not found:
            del bridges[name]


def _quiet(worker: PipelineWorker) -> None:
    """Switch Pipecat's own spans off: they stand beside the turn, one trace for the whole call, with its content."""
    if settings.current().framework_spans:
        return
    worker._enable_tracing = False  # noqa: SLF001 - read when the processors are set up, which comes next
    if worker.turn_trace_observer is not None:
        worker.turn_trace_observer._tracer = None  # noqa: SLF001
        say("pipecat.spans", "pipecat: its own spans are off; the turns have what they tell", level="debug")


class Watch:
    """Tells a conversation what the processors of its pipelines push and process."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._pushed = _Handlers(_PUSHED)
        self._processed = _Handlers(_PROCESSED)

    def add(self, processors: list[FrameProcessor]) -> None:
        """Listen to the processors of a pipeline."""
        for processor in processors:
            if not isinstance(processor, _ORIGINATE_NOTHING):
                processor.add_event_handler("on_before_push_frame", self.pushes)
            if isinstance(processor, LLMService | TTSService | BaseOutputTransport | LLMUserAggregator):
                processor.add_event_handler("on_before_process_frame", self.processes)
            if isinstance(processor, STTService):
                self.recognizes()
            elif isinstance(processor, TTSService):
                self._watch_voice(processor)
            elif isinstance(processor, BaseOutputTransport):
                self._watch_output(processor)
            elif isinstance(processor, BaseInputTransport):
                self._watch_input(processor)

    def recognizes(self) -> None:
        """There is a recognizer in one of the pipelines."""
        self.conversation.recognizes = True

    def pushes(self, processor: FrameProcessor, frame: f.Frame) -> None:
        """A processor is about to push a frame."""
        handler = self._pushed.of(frame)
        if handler is not None:
            try:
                handler(self, self.conversation, processor, frame)
            except Exception as error:
                swallowed(f"pipecat {type(frame).__name__}", error)

    def processes(self, processor: FrameProcessor, frame: f.Frame) -> None:
        """A service or the output transport is about to process a frame."""
        handler = self._processed.of(frame)
        try:
            if isinstance(processor, TTSService) and _said.get() is not None:
                _said.set(None)
            self.conversation.works(processor)
            if handler is not None:
                handler(self, self.conversation, processor, frame)
        except Exception as error:
            swallowed(f"pipecat {type(frame).__name__}", error)

    def requests(self, synthesizer: TTSService, context: str, text: str) -> Stage | None:
        """A synthesizer is given text."""
        try:
            return self.conversation.text_given(synthesizer, context, text, _said.get())
        except Exception as error:
            swallowed("pipecat text", error)
            return None

    def first(self, frame: f.Frame) -> bool:
        """Whether this frame is pushed for the first time: neither it nor its copy for the other direction was."""
        seen = self._seen
        if frame.id in seen:
            return False
        seen[frame.id] = None
        if frame.broadcast_sibling_id is not None:
            seen[frame.broadcast_sibling_id] = None
        while len(seen) > MAX_SEEN:
            seen.popitem(last=False)
        return True

    def _watch_voice(self, synthesizer: TTSService) -> None:
        """Take the moment at which text is given to a synthesizer; what it requests then is a part of the stage."""
        run = synthesizer.run_tts

        def run_tts(text: str, context_id: str, *more: Any, **named: Any) -> Any:
            stage = self.requests(synthesizer, context_id, text)
            made = run(text, context_id, *more, **named)
            return made if stage is None or not hasattr(made, "__anext__") else _inside(stage, made)

        synthesizer.run_tts = run_tts

    def _watch_input(self, transport: BaseInputTransport) -> None:
        """Count the frames of the user's audio as they come; while the transport is paused it drops them."""
        shared = getattr(transport, "_voicespan", None)
        if shared is not None:
            shared.append(self)
            return
        serves = transport._voicespan = [self]  # noqa: SLF001 - ours
        take = transport.push_audio_frame

        async def push_audio_frame(frame: f.InputAudioRawFrame) -> None:
            try:
                if transport._params.audio_in_enabled:  # noqa: SLF001
                    dropped: DropReason | None = "pause" if transport._paused else None  # noqa: SLF001
                    serves[-1].conversation.session.audio_in(frame.audio, _length_s(frame), dropped=dropped)
            except Exception as error:
                swallowed("pipecat audio", error)
            await take(frame)

        transport.push_audio_frame = push_audio_frame

    def _watch_output(self, output: BaseOutputTransport) -> None:
        """Take the moment at which the transport takes a frame: what it pushes afterwards, it pushes when it is done.

        The frames in its queue are made anew and do not say of which synthesis they are; the marks between them do.
        """
        shared = getattr(output, "_voicespan", None)
        if shared is not None:  # it serves another worker: what is sent now belongs to the call of this one
            shared.append(self)
            return
        serves = output._voicespan = [self]  # noqa: SLF001 - ours
        write, pass_on = output.write_audio_frame, output.write_transport_frame
        takes = False

        @guarded
        def sent(frame: f.OutputAudioRawFrame, at_ns: int) -> None:
            serves[-1].conversation.audio_sent(_length_s(frame), at_ns)

        @guarded
        def counted(frame: f.OutputAudioRawFrame, dropped: DropReason | None) -> None:
            serves[-1].conversation.session.audio_out(frame.audio, _length_s(frame), dropped=dropped)

        async def write_audio_frame(frame: f.OutputAudioRawFrame) -> bool:
            # Writing lasts as long as the transport paces it, and an interruption meanwhile must find the frame told:
            # while the transport takes what it is given, a frame is told at once, else when it was taken.
            nonlocal takes
            speech = isinstance(frame, f.TTSAudioRawFrame | f.SpeechOutputAudioRawFrame)
            began_ns, told = time.monotonic_ns(), speech and takes
            if told:
                sent(frame, began_ns)
            takes = False
            try:
                takes = bool(await write(frame))
            finally:
                counted(frame, dropped=None if takes else "error")
            if speech and takes and not told:
                sent(frame, began_ns)
            return takes

        async def write_transport_frame(frame: f.Frame) -> None:
            if isinstance(frame, f.TTSStartedFrame):
                serves[-1].conversation.session.audio_stops()  # what comes next is late for nothing before it
                guarded(serves[-1].conversation.voice_plays)(frame.context_id)
            await pass_on(frame)

        output.write_audio_frame = write_audio_frame
        output.write_transport_frame = write_transport_frame


class Bridged(Watch):
    """The same for an agent without a transport: it takes part in the conversation whose frames its bridge brings."""

    def __init__(self, worker: PipelineWorker, bus: object) -> None:
        self._worker = weakref.ref(worker)
        self._bus = weakref.ref(bus)
        self._names: tuple[str | None, ...] = worker._bridged or ()  # noqa: SLF001 - the public one only says whether
        self._recognizes = False
        self._found: Watch | None = None
        worker.add_event_handler("on_activated", lambda agent, _args: self._activated(agent))

    @guarded
    def _activated(self, agent: PipelineWorker) -> None:
        found = self._watch()
        if found is not None:
            found.conversation.activated(agent.name)

    def _watch(self) -> Watch | None:
        """Return whom to tell, found when there is something to tell: agents may be there before the caller is."""
        found, worker = self._found, self._worker()
        if found is None or found.conversation.session.end_reason is not None:
            there = _by_bus.get(self._bus(), {})
            names = [name for name in self._names if name in there] or ([] if self._names else [*reversed(there)])
            phones = there.get(names[0] if names else None)
            found = self._found = phones[-1] if phones else None
            if found is not None:
                if self._recognizes:
                    found.recognizes()
                if worker is not None and worker.active:
                    found.conversation.activated(worker.name)
        return found

    def recognizes(self) -> None:
        """There is a recognizer in the agent's pipeline."""
        self._recognizes = True

    def pushes(self, processor: FrameProcessor, frame: f.Frame) -> None:
        """A processor is about to push a frame."""
        if (found := self._watch()) is not None:
            found.pushes(processor, frame)

    def processes(self, processor: FrameProcessor, frame: f.Frame) -> None:
        """A service is about to process a frame."""
        if (found := self._watch()) is not None:
            found.processes(processor, frame)

    def requests(self, synthesizer: TTSService, context: str, text: str) -> Stage | None:
        """A synthesizer is given text."""
        found = self._watch()
        return None if found is None else found.requests(synthesizer, context, text)


async def _inside(stage: Stage, frames: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Let a synthesizer work inside its stage, step by step."""
    try:
        while True:
            scope = stage.step_begins()
            try:
                frame = await anext(frames)
            except StopAsyncIteration:
                return
            finally:
                stage.step_ends(scope)
            yield frame
    finally:
        await frames.aclose()


class _Handlers:
    """What to do with a frame, by its class; subclasses of a bot's own are found once and remembered."""

    def __init__(self, known: Mapping[type, Handler]) -> None:
        self._known = known
        self._found: dict[type, Handler | None] = {}

    def of(self, frame: f.Frame) -> Handler | None:
        """Return the handler of a frame, or None."""
        kind = type(frame)
        try:
            return self._found[kind]
        except KeyError:
            found = self._found[kind] = next((self._known[each] for each in kind.__mro__ if each in self._known), None)
            return found


# The user


def _speech_started(watch: Watch, conversation: Conversation, _: Any, frame: f.VADUserStartedSpeakingFrame) -> None:
    if watch.first(frame):
        conversation.speech_started(conversation.now_ns() - round(frame.start_secs * 1e9))


def _speech_ended(watch: Watch, conversation: Conversation, _: Any, frame: f.VADUserStoppedSpeakingFrame) -> None:
    if watch.first(frame):
        conversation.speech_ended(conversation.now_ns() - round(frame.stop_secs * 1e9))


def _turn_started(watch: Watch, conversation: Conversation, _: Any, frame: f.UserStartedSpeakingFrame) -> None:
    if watch.first(frame):
        conversation.turn_started()


def _turn_ended(watch: Watch, conversation: Conversation, _: Any, frame: f.UserStoppedSpeakingFrame) -> None:
    if watch.first(frame):
        conversation.turn_ended()


def _transcribed(watch: Watch, conversation: Conversation, source: Any, frame: f.TranscriptionFrame) -> None:
    if watch.first(frame) and frame.text.strip():
        conversation.transcribed(source, by_model=isinstance(source, LLMService))


def _partial(watch: Watch, conversation: Conversation, _: Any, frame: f.InterimTranscriptionFrame) -> None:
    if watch.first(frame):
        conversation.partial()


# The model and its tools


def _generation_began(
    watch: Watch, conversation: Conversation, source: Any, frame: f.LLMFullResponseStartFrame
) -> None:
    if watch.first(frame):
        conversation.generation_began(source, current=isinstance(source, LLMService))


def _token(_: Watch, conversation: Conversation, source: Any, frame: f.LLMTextFrame) -> None:
    if frame.text:
        conversation.token(source)


def _generation_ended(_: Watch, conversation: Conversation, source: Any, _frame: f.LLMFullResponseEndFrame) -> None:
    conversation.generation_ended(source)


def _measured(_: Watch, conversation: Conversation, source: Any, frame: f.MetricsFrame) -> None:
    for data in frame.data:
        if isinstance(data, LLMUsageMetricsData):
            conversation.tokens_used(source, data.value.prompt_tokens, data.value.completion_tokens)


def _tool_called(watch: Watch, conversation: Conversation, source: Any, frame: f.FunctionCallInProgressFrame) -> None:
    if watch.first(frame):
        background = not frame.cancel_on_interruption
        current = isinstance(source, LLMService)
        conversation.tool_called(
            source, frame.tool_call_id, frame.function_name, background=background, current=current
        )


def _tool_returned(watch: Watch, conversation: Conversation, _: Any, frame: f.FunctionCallResultFrame) -> None:
    final = frame.properties is None or frame.properties.is_final
    if final and watch.first(frame):
        conversation.tool_returned(frame.tool_call_id, frame.error)


def _tool_cancelled(watch: Watch, conversation: Conversation, _: Any, frame: f.FunctionCallCancelFrame) -> None:
    if watch.first(frame):
        conversation.tool_cancelled(frame.tool_call_id)


# The voice


def _voice_began(watch: Watch, conversation: Conversation, source: Any, frame: f.TTSStartedFrame) -> None:
    if not watch.first(frame):
        return
    if isinstance(source, LLMService):
        conversation.model_speaks(source)
    elif not isinstance(source, BaseOutputTransport):
        conversation.text_given(source, frame.context_id or source, None, None)


def _audio_made(watch: Watch, conversation: Conversation, source: Any, frame: f.TTSAudioRawFrame) -> None:
    if watch.first(frame) and not isinstance(source, BaseOutputTransport):  # which cuts the audio into frames anew
        if isinstance(source, LLMService):
            conversation.model_speaks(source)
        conversation.audio_made(source, frame.context_id or source, _length_s(frame))


def _voice_ended(_: Watch, conversation: Conversation, source: Any, frame: f.TTSStoppedFrame) -> None:
    conversation.voice_ended(source, frame.context_id or source)


def _said_by_application(_: Watch, _conversation: Conversation, source: Any, frame: f.TTSSpeakFrame) -> None:
    if isinstance(source, TTSService):
        _said.set(frame)


def _written(watch: Watch, conversation: Conversation, source: Any, frame: f.LLMMessagesAppendFrame) -> None:
    takes = isinstance(source, LLMService | LLMUserAggregator)
    if takes and frame.run_llm and watch.first(frame) and any(_of_user(message) for message in frame.messages):
        conversation.written()


def _of_user(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "user"


# The line, interruptions, failures


def _client_connected(watch: Watch, conversation: Conversation, _: Any, frame: f.ClientConnectedFrame) -> None:
    if watch.first(frame):
        conversation.connected(client=True)


def _output_ready(watch: Watch, conversation: Conversation, _: Any, frame: f.OutputTransportReadyFrame) -> None:
    if watch.first(frame):
        conversation.connected(client=False)


def _interrupted(watch: Watch, conversation: Conversation, source: Any, frame: f.InterruptionFrame) -> None:
    if watch.first(frame):
        conversation.interruption_decided()
    # A model or voice that is no service of Pipecat's has processed the frame that it pushes on.
    conversation.model_stopped(source)
    conversation.voice_stopped(source)


def _stopped(_: Watch, conversation: Conversation, source: Any, _frame: f.InterruptionFrame) -> None:
    if isinstance(source, BaseOutputTransport):
        conversation.output_stopped()
    else:
        conversation.model_stopped(source)
        conversation.voice_stopped(source)


def _withdrawn(_: Watch, conversation: Conversation, source: Any, _frame: f.EagerEndOfTurnCancelFrame) -> None:
    conversation.generation_withdrawn(source)


def _failed(watch: Watch, conversation: Conversation, source: Any, frame: f.ErrorFrame) -> None:
    if not watch.first(frame) or frame.category is ErrorCategory.APPLICATION:  # a tool's, which its result tells
        return
    culprit = frame.processor or source
    error = frame.exception or (frame.category.value if frame.category is not None else "error")
    if isinstance(culprit, STTService):
        conversation.recognition_failed(culprit, error)
    else:
        conversation.failed(culprit, error)


def _cancelled(_: Watch, conversation: Conversation, _source: Any, _frame: f.CancelFrame) -> None:
    conversation.cut()


def _length_s(frame: f.AudioRawFrame) -> float:
    rate: int = frame.sample_rate * frame.num_channels
    return len(frame.audio) / (_BYTES_PER_SAMPLE * rate)


_PUSHED: dict[type, Handler] = {
    f.VADUserStartedSpeakingFrame: _speech_started,
    f.VADUserStoppedSpeakingFrame: _speech_ended,
    f.UserStartedSpeakingFrame: _turn_started,
    f.UserStoppedSpeakingFrame: _turn_ended,
    f.TranscriptionFrame: _transcribed,
    f.InterimTranscriptionFrame: _partial,
    f.LLMFullResponseStartFrame: _generation_began,
    f.LLMTextFrame: _token,
    f.LLMFullResponseEndFrame: _generation_ended,
    f.MetricsFrame: _measured,
    f.FunctionCallInProgressFrame: _tool_called,
    f.FunctionCallResultFrame: _tool_returned,
    f.FunctionCallCancelFrame: _tool_cancelled,
    f.TTSStartedFrame: _voice_began,
    f.TTSAudioRawFrame: _audio_made,
    f.TTSStoppedFrame: _voice_ended,
    f.ClientConnectedFrame: _client_connected,
    f.OutputTransportReadyFrame: _output_ready,
    f.InterruptionFrame: _interrupted,
    f.ErrorFrame: _failed,
    f.CancelFrame: _cancelled,
}
_PROCESSED: dict[type, Handler] = {
    f.TTSSpeakFrame: _said_by_application,
    f.LLMMessagesAppendFrame: _written,
    f.InterruptionFrame: _stopped,
    f.EagerEndOfTurnCancelFrame: _withdrawn,
}
