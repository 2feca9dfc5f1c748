"""OpenTelemetry distribution for real-time voice AI: one trace per utterance, measured at the user's ear."""

from voicespan.sessions import Session, current_session, current_turn, session
from voicespan.stage import Asr, Llm, Realtime, Stage, Tool, Tts
from voicespan.turn import Turn
from voicespan.version import __version__

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
    "current_session",
    "current_turn",
    "session",
)
