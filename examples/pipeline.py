"""A pipeline of one's own, as small as it can be: three questions, answered by stand-ins that take their time.

In one terminal `voicespan ui`, in another:

    OTEL_SERVICE_NAME=bot voicespan run -- python examples/pipeline.py
    voicespan turns

The stand-ins sleep where a real pipeline waits for a detector, a model and a synthesizer; the marks are the same. The
agent of `voicespan demo` (src/voicespan/demo/orchestrator.py) does all of it with real speech.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import voicespan

SAMPLE_RATE = 16_000
FRAME_S = 0.02


async def tokens(question: str, *, first_after_s: float) -> AsyncIterator[str]:
    """Stand for a language model that streams."""
    await asyncio.sleep(first_after_s)
    for word in f"You asked: {question}".split():
        yield word
        await asyncio.sleep(0.01)


async def frames(text: str) -> AsyncIterator[bytes]:
    """Stand for a synthesizer that streams 20 ms of 16-bit mono PCM at a time."""
    await asyncio.sleep(0.08)
    for _ in range(5 * len(text.split())):
        yield bytes(round(2 * SAMPLE_RATE * FRAME_S))


async def hear(session: voicespan.Session) -> voicespan.Turn:
    """Stand for a detector: it knows the real end of speech a little later."""
    turn = session.user_turn()
    await asyncio.sleep(0.3)  # the user speaks
    end_ns = time.monotonic_ns()
    await asyncio.sleep(0.15)  # the detector makes sure
    turn.speech_ended(at=end_ns)
    turn.transcript()
    turn.committed()
    return turn


async def answer(turn: voicespan.Turn, question: str, *, first_after_s: float) -> None:
    """Think, then speak."""
    with turn.llm(model="stand-in") as llm:
        text = " ".join([token async for token in llm.stream(tokens(question, first_after_s=first_after_s))])
    with turn.tts(voice="stand-in", text=text, sample_rate=SAMPLE_RATE) as tts:
        async for _ in tts.stream(frames(text)):
            turn.audio_sent(FRAME_S)
    turn.end()


async def main() -> None:
    """Hold one call."""
    with voicespan.session(transport="websocket") as session:
        for question, first_after_s in (("what time is it", 0.2), ("tell me a story", 0.9), ("thank you", 0.2)):
            turn = await hear(session)
            await answer(turn, question, first_after_s=first_after_s)
            await asyncio.sleep(1)  # the reply plays


if __name__ == "__main__":
    asyncio.run(main())
