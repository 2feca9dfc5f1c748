"""Hearing of every frame that matters: handlers on the processors of a pipeline, called in the task that pushes.

Pipecat's observers are fed by a queue; its processors' own events are not, and a handler in the working task can also
make the stage current there, so that requests and log lines made inside belong to it.
"""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pipecat.frames import frames as f
from pipecat.metrics.metrics import LLMUsageMetricsData
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.utils.errors import ErrorCategory

from voicespan import settings
from voicespan.context import Scope
from voicespan.diagnostics import say
from voicespan.guard import guarded, swallowed
from voicespan.integrations.pipecat import installed_version, service, source
from voicespan.integrations.pipecat.conversation import Conversation
from voicespan.sessions import session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.frame_processor import FrameProcessor

    Handler = Callable[["Watch", Conversation, Any, Any], None]

MAX_SEEN = 512
"""Frames that are told once are remembered this long: every processor pushes a frame again."""
_BYTES_PER_SAMPLE = 2
_EVENTS = ("on_before_push_frame", "on_before_process_frame")

_said: ContextVar[f.TTSSpeakFrame | None] = ContextVar("voicespan_pipecat_said", default=None)
"""In a synthesizer's task: the frame of the application that is being spoken."""

_by_bus: weakref.WeakKeyDictionary[Any, Watch] = weakref.WeakKeyDictionary()
"""The conversation of the workers on a bus: the one with the transport, and the agents that it is bridged to."""


def attach(worker: PipelineWorker) -> None:
    """Let the turns of a pipeline be told, when it is one that speaks. Never raises."""
    try:
        processors = list(_leaves(worker.pipeline))
        missing = _missing(worker, processors)
        if missing:
            say("pipecat.hooks", f"pipecat: {installed_version()} has no {', '.join(missing)}: no turns from it")
            return
        watch = _watch(worker, processors)
        _quiet(worker)
        if watch is not None:
            _log_lines()
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
    """Return the names of hooks that this version does not have."""
    wanted: list[tuple[object, tuple[str, ...]]] = [(worker, ("add_event_handler", "bridged"))]
    outputs = [each for each in processors if isinstance(each, BaseOutputTransport)]
    wanted += [(output, ("write_audio_frame", "write_transport_frame")) for output in outputs]
    found = [f"{type(owner).__name__}.{name}" for owner, names in wanted for name in names if not hasattr(owner, name)]
    events = getattr(processors[0], "_event_handlers", dict.fromkeys(_EVENTS)) if processors else _EVENTS
    return found + [f"event {name}" for name in _EVENTS if name not in events]


def _watch(worker: PipelineWorker, processors: list[FrameProcessor]) -> Watch | None:
    """Return the conversation that this pipeline takes part in; None for one that neither speaks nor is an agent."""
    bus = getattr(worker, "_bus", None)
    if worker.bridged:
        watch = _by_bus.get(bus) if bus is not None else None
        if watch is not None:
            conversation = watch.conversation
            if worker.active:
                conversation.activated(worker.name)
            worker.add_event_handler("on_activated", lambda agent, _args: guarded(conversation.activated)(agent.name))
        return watch
    output = next((each for each in processors if isinstance(each, BaseOutputTransport)), None)
    if output is None:
        return None
    begun = session(getattr(worker, "_conversation_id", None), transport=service.transport(output))
    if not begun.recorder.enabled:
        return None
    source().adopt(begun)
    conversation = Conversation(begun)
    watch = Watch(conversation)
    if bus is not None:
        _by_bus[bus] = watch
    Scope(begun, begun)  # inherited by every task of the pipeline: its processors are set up in children of this one
    worker.add_event_handler("on_pipeline_finished", lambda _worker, _frame: guarded(conversation.end)())
    return watch


def _quiet(worker: PipelineWorker) -> None:
    """Switch Pipecat's own spans off: they stand beside the turn, one trace for the whole call, with its content."""
    worker._enable_tracing = False  # noqa: SLF001 - read when the processors are set up, which comes next
    if worker.turn_trace_observer is not None:
        worker.turn_trace_observer._tracer = None  # noqa: SLF001
        say("pipecat.spans", "pipecat: its own spans are off; the turns have what they tell", level="debug")


_sinks: list[int] = []


def _log_lines() -> None:
    """Pipecat and its bots write their log with loguru: where lines are JSON, those are too."""
    if settings.current().log_format == "json" and not _sinks:
        from loguru import logger

        from voicespan.logs import loguru_sink

        _sinks.append(logger.add(loguru_sink, catch=True))


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
            processor.add_event_handler("on_before_push_frame", self.pushes)
            if isinstance(processor, LLMService | TTSService | BaseOutputTransport):
                processor.add_event_handler("on_before_process_frame", self.processes)
            if isinstance(processor, STTService):
                self.conversation.recognizes = True
            elif isinstance(processor, TTSService):
                processor.add_event_handler("on_tts_request", self.requests)
            elif isinstance(processor, BaseOutputTransport):
                self._watch_output(processor)

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
            if handler is not None:
                handler(self, self.conversation, processor, frame)
        except Exception as error:
            swallowed(f"pipecat {type(frame).__name__}", error)

    async def requests(self, synthesizer: TTSService, context: str, text: str) -> None:
        """A synthesizer is given text; called in a task that has the context of the one that gives it."""
        try:
            self.conversation.text_given(synthesizer, context, text, _said.get())
        except Exception as error:
            swallowed("pipecat text", error)

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

    def _watch_output(self, output: BaseOutputTransport) -> None:
        """Take the moment at which the transport takes a frame: what it pushes afterwards, it pushes when it is done.

        The frames in its queue are made anew and do not say of which synthesis they are; the marks between them do.
        """
        write, pass_on = output.write_audio_frame, output.write_transport_frame
        conversation = self.conversation
        sent = guarded(conversation.audio_sent)
        takes = False

        async def write_audio_frame(frame: f.OutputAudioRawFrame) -> bool:
            # Writing lasts as long as the transport paces it, and an interruption meanwhile must find the frame told:
            # while the transport takes what it is given, a frame is told at once, else when it was taken.
            nonlocal takes
            speech = isinstance(frame, f.TTSAudioRawFrame | f.SpeechOutputAudioRawFrame)
            began_ns, told = time.monotonic_ns(), speech and takes
            if told:
                sent(_length_s(frame), began_ns)
            takes = bool(await write(frame))
            if speech and takes and not told:
                sent(_length_s(frame), began_ns)
            return takes

        async def write_transport_frame(frame: f.Frame) -> None:
            if isinstance(frame, f.TTSStartedFrame):
                guarded(conversation.voice_plays)(frame.context_id)
            await pass_on(frame)

        output.write_audio_frame = write_audio_frame
        output.write_transport_frame = write_transport_frame


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
        conversation.transcribed(source)


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
    if watch.first(frame):
        conversation.text_given(source, frame.context_id or source, None, None)


def _audio_made(watch: Watch, conversation: Conversation, source: Any, frame: f.TTSAudioRawFrame) -> None:
    if watch.first(frame) and not isinstance(source, BaseOutputTransport):  # which cuts the audio into frames anew
        conversation.audio_made(source, frame.context_id or source, _length_s(frame))


def _voice_ended(_: Watch, conversation: Conversation, source: Any, frame: f.TTSStoppedFrame) -> None:
    conversation.voice_ended(source, frame.context_id or source)


def _said_by_application(_: Watch, _conversation: Conversation, source: Any, frame: f.TTSSpeakFrame) -> None:
    if isinstance(source, TTSService):
        _said.set(frame)


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
    f.InterruptionFrame: _stopped,
    f.EagerEndOfTurnCancelFrame: _withdrawn,
}
