"""The same turn through voicespan's marks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from workers.twelve import FRAMES

if TYPE_CHECKING:
    from voicespan.sessions import Session


def our_turn(session: Session) -> None:
    """Hold one plain turn."""
    turn = session.user_turn()
    turn.speech_ended(at=time.monotonic_ns())
    turn.transcript()
    turn.committed()
    with turn.llm(model="small") as llm:
        llm.token()
        llm.token()
        llm.token()
    with turn.tts(voice="amy") as tts:
        tts.audio(0.02)
        for _ in range(FRAMES):
            turn.audio_sent(0.0)
    turn.end()
