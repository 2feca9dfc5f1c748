"""What the services of a pipeline say about themselves: provider, model, voice, language, transport."""

from __future__ import annotations

from typing import Any

_SERVICES = "pipecat.services."
_TRANSPORTS = "pipecat.transports."
_TRANSPORT_OF = {"websocket": "websocket", "livekit": "livekit", "local": None, "base_output": None}
"""By the package of the transport's class; what is not named here carries media over WebRTC."""


def model(service: object) -> str | None:
    """Return the model of a service."""
    return _setting(service, "model")


def voice(service: object) -> str | None:
    """Return the voice of a synthesis."""
    return _setting(service, "voice")


def language(service: object) -> str | None:
    """Return the language that a recognizer or a synthesis is set to."""
    return _setting(service, "language")


def provider(service: object) -> str | None:
    """Return whose service it is, by the package that its class (or the class it extends) stands in."""
    return _package(service, _SERVICES)


def transport(output: object) -> str | None:
    """Return the value of `voice.transport` for an output transport."""
    package = _package(output, _TRANSPORTS)
    return None if package is None else _TRANSPORT_OF.get(package, "webrtc")


def _setting(service: object, name: str) -> str | None:
    """Return a setting that is a text: Pipecat has marks for those that nobody gave, and enumerations of texts."""
    found: Any = getattr(getattr(service, "settings", None), name, None)
    return str(getattr(found, "value", found)) if isinstance(found, str) else None


def _package(service: object, prefix: str) -> str | None:
    for kind in type(service).__mro__:
        if kind.__module__.startswith(prefix):
            name, *inside = kind.__module__.removeprefix(prefix).split(".")
            if inside or prefix == _TRANSPORTS:
                return name
            return None
    return None
