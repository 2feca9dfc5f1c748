"""OpenTelemetry distribution for real-time voice AI: one trace per utterance, measured at the user's ear."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from voicespan.version import __version__

if TYPE_CHECKING:
    from voicespan.client.endpoint import client_reports
    from voicespan.distro import setup_tracing
    from voicespan.scores import score
    from voicespan.sessions import Session, current_session, current_turn, session
    from voicespan.stage import Asr, Llm, Realtime, Stage, Tool, Tts
    from voicespan.turn import Turn

__all__ = (
    "Asr",
    "Llm",
    "Realtime",
    "Session",
    "Stage",
    "Tool",
    "Tts",
    "Turn",
    "__version__",
    "client_reports",
    "current_session",
    "current_turn",
    "score",
    "session",
    "setup_tracing",
)

_ROOMS = {
    "voicespan.client.endpoint": ("client_reports",),
    "voicespan.distro": ("setup_tracing",),
    "voicespan.scores": ("score",),
    "voicespan.sessions": ("Session", "current_session", "current_turn", "session"),
    "voicespan.stage": ("Asr", "Llm", "Realtime", "Stage", "Tool", "Tts"),
    "voicespan.turn": ("Turn",),
}
_HOME = {name: module for module, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a service that only starts under voicespan pays for none of them."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
