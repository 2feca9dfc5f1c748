"""Where the client is followed: its realtime connections, and its requests for text and speech."""

from __future__ import annotations

from typing import Any

from voicespan.integrations.hook import Args, Hook, Hooks, Kwargs, quiet
from voicespan.integrations.openai import REQUIREMENT, call
from voicespan.integrations.openai.conversation import PROVIDER, Conversation

# Realtime connections; each keeps its conversation with it


def _open(wrapped: Any, connection: Any, args: Args, kwargs: Kwargs) -> Any:
    result = wrapped(*args, **kwargs)
    with quiet("openai connect"):
        conversation = connection._voicespan = Conversation(PROVIDER)  # noqa: SLF001
        if conversation.own:
            HOOKS[_REALTIME].source().adopt(conversation.session)
    return result


def _received(wrapped: Any, connection: Any, args: Args, kwargs: Kwargs) -> Any:
    event = wrapped(*args, **kwargs)
    with quiet("openai event"):
        conversation = _of(connection)
        if conversation is not None:
            conversation.received(event)
    return event


def _sent(wrapped: Any, connection: Any, args: Args, kwargs: Kwargs) -> Any:
    with quiet("openai event"):
        conversation = _of(connection)
        if conversation is not None:
            conversation.sent(args[0] if args else kwargs["event"])
    return wrapped(*args, **kwargs)


async def _read(wrapped: Any, connection: Any, args: Args, kwargs: Kwargs) -> Any:
    try:
        return await wrapped(*args, **kwargs)
    except Exception as error:
        _lost(connection, error)
        raise


def _read_sync(wrapped: Any, connection: Any, args: Args, kwargs: Kwargs) -> Any:
    try:
        return wrapped(*args, **kwargs)
    except Exception as error:
        _lost(connection, error)
        raise


def _lost(connection: Any, error: Exception) -> None:
    """Take the end of the connection, unless the client makes a new one in its place."""
    with quiet("openai connection"):
        conversation = _of(connection)
        if conversation is not None and getattr(connection, "_on_reconnecting", None) is None:
            kind = type(error).__name__
            if kind.startswith("ConnectionClosed"):
                conversation.lost(None if kind == "ConnectionClosedOK" else error)


def _close(wrapped: Any, connection: Any, args: Args, kwargs: Kwargs) -> Any:
    with quiet("openai close"):
        conversation = _of(connection)
        if conversation is not None:
            conversation.lost(None)
    return wrapped(*args, **kwargs)


def _of(connection: Any) -> Conversation | None:
    return getattr(connection, "_voicespan", None)


_REALTIME = "openai.resources.realtime.realtime"
_CHAT = "openai.resources.chat.completions.completions"
_RESPONSES = "openai.resources.responses.responses"
_SPEECH = "openai.resources.audio.speech"

_STREAMING = "openai._streaming"

HOOKS: dict[str, Hooks] = {
    _REALTIME: Hooks(
        REQUIREMENT,
        # The client moves methods of its connections to a base class by and by; they are called all the same.
        Hook(_REALTIME, "AsyncRealtimeConnection.__init__", _open),
        Hook(_REALTIME, "AsyncRealtimeConnection.parse_event", _received, inherited=True),
        Hook(_REALTIME, "AsyncRealtimeConnection.recv_bytes", _read, inherited=True),
        Hook(_REALTIME, "AsyncRealtimeConnection.send", _sent, inherited=True),
        Hook(_REALTIME, "AsyncRealtimeConnection.close", _close, inherited=True),
        Hook(_REALTIME, "RealtimeConnection.__init__", _open),
        Hook(_REALTIME, "RealtimeConnection.parse_event", _received, inherited=True),
        Hook(_REALTIME, "RealtimeConnection.recv_bytes", _read_sync, inherited=True),
        Hook(_REALTIME, "RealtimeConnection.send", _sent, inherited=True),
        Hook(_REALTIME, "RealtimeConnection.close", _close, inherited=True),
        onset="speech_started event",
    ),
    _CHAT: Hooks(
        REQUIREMENT,
        Hook(_CHAT, "AsyncCompletions.create", call.generates_async),
        Hook(_CHAT, "AsyncCompletions.parse", call.generates_async),
        Hook(_CHAT, "Completions.create", call.generates),
        Hook(_CHAT, "Completions.parse", call.generates),
    ),
    _RESPONSES: Hooks(
        REQUIREMENT,
        Hook(_RESPONSES, "AsyncResponses.create", call.generates_async),
        Hook(_RESPONSES, "AsyncResponses.parse", call.generates_async),
        Hook(_RESPONSES, "Responses.create", call.generates),
        Hook(_RESPONSES, "Responses.parse", call.generates),
    ),
    _SPEECH: Hooks(
        REQUIREMENT,
        Hook(_SPEECH, "AsyncSpeech.create", call.speaks_async),
        Hook(_SPEECH, "Speech.create", call.speaks),
    ),
    _STREAMING: Hooks(
        REQUIREMENT,
        Hook(_STREAMING, "AsyncStream.close", call.closes),
        Hook(_STREAMING, "Stream.close", call.closes),
    ),
}
"""The hooks of each module: the client imports its parts when they are used, and so are they hooked."""
