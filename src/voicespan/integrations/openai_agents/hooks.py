"""Where the SDK is followed: realtime models and sessions, the client's player, and voice pipelines."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import wrapt

from voicespan.integrations.hook import Args, Hook, Hooks, Kwargs, quiet
from voicespan.integrations.openai.conversation import PROVIDER, Conversation
from voicespan.integrations.openai_agents import REQUIREMENT
from voicespan.integrations.openai_agents.pipeline import PIPELINES, SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from voicespan.turn import Turn


def _of(holder: Any) -> Conversation | None:
    return getattr(holder, "_voicespan", None)


# Realtime: the model keeps the conversation of its connection


class _Listener:
    """Hears what the model tells its listeners; first of all each event as it came from the server."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation

    async def on_event(self, event: Any) -> None:
        """Take an event of the model."""
        with quiet("openai-agents event"):
            if event.type == "raw_server_event":
                self.conversation.received(event.data)
            elif event.type == "exception" and "onnection" in (event.context or ""):
                self.conversation.lost(event.exception)
            elif event.type == "connection_status" and event.status == "disconnected":
                self.conversation.lost(None)


async def _connect(wrapped: Any, model: Any, args: Args, kwargs: Kwargs) -> Any:
    conversation = None
    with quiet("openai-agents connect"):
        options = args[0] if args else kwargs["options"]
        tracker = options.get("playback_tracker")
        conversation = Conversation(PROVIDER, "server" if tracker is None else "client")
        model._voicespan = conversation  # noqa: SLF001
        if conversation.own:
            HOOKS["agents.realtime"].source().adopt(conversation.session)
        if tracker is not None:
            tracker._voicespan = conversation  # noqa: SLF001
        model.add_listener(_Listener(conversation))
    try:
        return await wrapped(*args, **kwargs)
    except BaseException as error:
        if conversation is not None:
            with quiet("openai-agents connect"):
                _leave(model, error)
        raise


async def _close(wrapped: Any, model: Any, args: Args, kwargs: Kwargs) -> Any:
    try:
        return await wrapped(*args, **kwargs)
    finally:
        with quiet("openai-agents close"):
            _leave(model, None)


def _leave(model: Any, error: BaseException | None) -> None:
    conversation = _of(model)
    if conversation is None:
        return
    model._voicespan = None  # noqa: SLF001
    for listener in list(getattr(model, "_listeners", ())):
        if isinstance(listener, _Listener) and listener.conversation is conversation:
            model.remove_listener(listener)
    conversation.lost(error)


def _sent(wrapped: Any, model: Any, args: Args, kwargs: Kwargs) -> Any:
    with quiet("openai-agents event"):
        conversation = _of(model)
        if conversation is not None:
            conversation.sent(args[0] if args else kwargs["event"])
    return wrapped(*args, **kwargs)


async def _sent_if(wrapped: Any, model: Any, args: Args, kwargs: Kwargs) -> Any:
    was_sent = await wrapped(*args, **kwargs)
    with quiet("openai-agents event"):
        conversation = _of(model)
        if was_sent and conversation is not None:
            conversation.sent(args[0] if args else kwargs["event"])
    return was_sent


async def _execute(wrapped: Any, session: Any, args: Args, kwargs: Kwargs) -> Any:
    """Make a tool current while the SDK executes it; it ends when its result is sent to the model."""
    tool = None
    with quiet("openai-agents tool"):
        conversation = _of(getattr(session, "_model", None))
        event = args[0] if args else kwargs["event"]
        tool = None if conversation is None else conversation.tool(event.call_id)
    if tool is None:
        return await wrapped(*args, **kwargs)
    scope = tool.step_begins()
    try:
        return await wrapped(*args, **kwargs)
    except BaseException as error:
        tool.step_failed(error)
        raise
    finally:
        tool.step_ends(scope)


def _tells(wrapped: Any, session: Any, args: Args, kwargs: Kwargs) -> Any:
    with quiet("openai-agents hand-over"):
        event = args[0] if args else kwargs["event"]
        if event.type == "handoff":
            conversation = _of(getattr(session, "_model", None))
            if conversation is not None:
                conversation.handed_over(str(event.to_agent.name))
    return wrapped(*args, **kwargs)


def _played(wrapped: Any, tracker: Any, args: Args, kwargs: Kwargs) -> Any:
    with quiet("openai-agents playback"):
        conversation = _of(tracker)
        if conversation is not None:
            told = dict(zip(("item_id", "item_content_index", "ms"), args, strict=False)) | kwargs
            conversation.played(told["item_id"], told["ms"] / 1e3)
    return wrapped(*args, **kwargs)


# Voice pipelines: tracing tells the stages, these what the user hears and says


async def _begin_reply(wrapped: Any, result: Any, args: Args, kwargs: Kwargs) -> Any:
    before = getattr(result, "_tracing_span", None)
    found = await wrapped(*args, **kwargs)
    with quiet("openai-agents reply"):
        span = getattr(result, "_tracing_span", None)
        if span is not None and span is not before:
            turn = PIPELINES.turn_of(span.trace_id)
            if turn is not None:
                result.__dict__.setdefault("_voicespan", deque()).append(turn)
    return found


def _play(wrapped: Any, result: Any, args: Args, kwargs: Kwargs) -> Any:
    return _playing(wrapped(*args, **kwargs), result)


async def _playing(source: Any, result: Any) -> AsyncIterator[Any]:
    """Give the stream of audio to the service, and take note of what leaves for the user."""
    turn: Turn | None = None
    try:
        async for event in source:
            with quiet("openai-agents audio"):
                turn = _take_audio(event, turn, result)
            yield event
    finally:
        await source.aclose()
        with quiet("openai-agents audio"):
            PIPELINES.consumed(turn)


def _take_audio(event: Any, turn: Turn | None, result: Any) -> Turn | None:
    if event.type == "voice_stream_event_audio":
        if turn is not None and event.data is not None:
            turn.audio_sent(len(event.data) / SAMPLE_RATE)
    elif event.type == "voice_stream_event_lifecycle":
        waiting = getattr(result, "_voicespan", None)
        if event.event == "turn_started" and waiting:
            return waiting.popleft()  # type: ignore[no-any-return]
        if event.event == "turn_ended" and turn is not None:
            turn.end()
    return turn


class _Ears(wrapt.ObjectProxy):  # type: ignore[type-arg,misc,unused-ignore]
    """The socket of a transcription, whose messages are looked at in both directions."""

    def __init__(self, socket: Any, conversation: Conversation) -> None:
        super().__init__(socket)
        self._self_conversation = conversation

    async def send(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a message."""
        import json

        with quiet("openai-agents event"):
            self._self_conversation.sent(json.loads(message))
        return await self.__wrapped__.send(message, *args, **kwargs)

    async def __aiter__(self) -> AsyncIterator[Any]:
        import json

        async for message in self.__wrapped__:
            with quiet("openai-agents event"):
                self._self_conversation.received(json.loads(message))
            yield message


def _hear(wrapped: Any, _transcription: Any, args: Args, kwargs: Kwargs) -> Any:
    with quiet("openai-agents transcription"):
        socket = args[0] if args else kwargs["ws"]
        conversation = PIPELINES.listens()
        if conversation is not None:
            return wrapped(_Ears(socket, conversation))
    return wrapped(*args, **kwargs)


_MODEL = "agents.realtime.openai_realtime"
_SESSION = "agents.realtime.session"
_RESULT = "agents.voice.result"

HOOKS: dict[str, Hooks] = {
    "agents.realtime": Hooks(
        REQUIREMENT,
        Hook(_MODEL, "OpenAIRealtimeWebSocketModel.connect", _connect),
        Hook(_MODEL, "OpenAIRealtimeWebSocketModel.close", _close),
        Hook(_MODEL, "OpenAIRealtimeWebSocketModel._send_raw_message", _sent),
        Hook(_MODEL, "OpenAIRealtimeWebSocketModel._send_raw_message_if", _sent_if),
        Hook(_SESSION, "RealtimeSession._handle_tool_call", _execute),
        Hook(_SESSION, "RealtimeSession._put_event", _tells),
        Hook("agents.realtime.model", "RealtimePlaybackTracker.on_play_ms", _played),
        onset="speech_started event",
    ),
    "agents.voice": Hooks(
        REQUIREMENT,
        Hook(_RESULT, "StreamedAudioResult._start_turn", _begin_reply),
        Hook(_RESULT, "StreamedAudioResult.stream", _play),
        Hook("agents.voice.models.openai_stt", "OpenAISTTTranscriptionSession._setup_connection", _hear),
        onset="speech_started event",
    ),
}


def install(module: str) -> None:
    """Put the hooks of a module in place; pipelines are told by the SDK's own tracing, whose exporter stays."""
    if HOOKS[module].install() and module == "agents.voice":
        from agents import add_trace_processor

        if not PIPELINES.active:
            add_trace_processor(PIPELINES)
        PIPELINES.active = True


def remove() -> None:
    """Take every hook away again."""
    for group in HOOKS.values():
        group.remove()
    PIPELINES.silence()
