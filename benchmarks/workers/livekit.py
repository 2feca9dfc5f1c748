"""Turns of a LiveKit AgentSession: speech as audio, a recognizer, a model and a voice that take no time.

HOW is `off`, `own` (LiveKit's spans to a plain SDK, as its documentation has it) or `ours` (voicespan's integration).
"""

from __future__ import annotations

import asyncio
from typing import Any

from workers.calls import telemetry, way
from workers.worker import Way, run

SPEECH_FRAMES, SILENCE_FRAMES = 30, 35
PLAYED_S = 0.1


def start(how: str) -> Way:
    flush = telemetry(how)
    if how == "ours":
        from voicespan.integrations.livekit import LiveKitInstrumentor

        LiveKitInstrumentor().instrument(skip_dep_check=True)
    from livekit import rtc
    from livekit.agents import Agent, AgentSession, llm
    from livekit.agents import telemetry as theirs
    from livekit.agents.voice import io
    from opentelemetry import trace
    from tests.integrations.livekit import world

    if how == "own":
        theirs.set_tracer_provider(trace.get_tracer_provider())

    class Caller(io.AudioInput):
        """Says what it has to say at once."""

        words = "how cold is it"

        def __init__(self) -> None:
            super().__init__(label="caller")
            self.frames: asyncio.Queue[bytes] = asyncio.Queue()

        async def __anext__(self) -> rtc.AudioFrame:
            return rtc.AudioFrame(await self.frames.get(), world.RATE, 1, world.FRAME)

    class Call:
        """One session."""

        async def begin(self) -> None:
            truth = world.Truth()
            self.truth, self.caller, self.line = truth, Caller(), world.Line(truth)
            recognizer: Any = world.Recognizer(truth, self.caller, delay_s=0.0)  # type: ignore[arg-type]
            self.session: AgentSession[None] = AgentSession(
                stt=recognizer,
                vad=world.Detector(),
                llm=world.Model(truth, world.Answer("It is nine degrees.", ttft_s=0.0, token_s=0.0)),
                tts=world.Voice(truth, seconds=PLAYED_S, ttfb_s=0.0),
                aec_warmup_duration=None,
                user_away_timeout=None,
                turn_handling={"endpointing": {"min_delay": 0.0}, "turn_detection": "vad"},
            )
            self.session.input.audio = self.caller
            self.session.output.audio = self.line
            await self.session.start(Agent(instructions="be brief"), record=False)

        async def turn(self) -> None:
            self.truth.times.clear()
            for sound, count in ((world.SPEECH, SPEECH_FRAMES), (world.SILENCE, SILENCE_FRAMES)):
                for _ in range(count):
                    self.caller.frames.put_nowait(sound)
                await asyncio.sleep(0.02)
            await self.truth.happened("played out")
            await asyncio.sleep(0.05)
            # A prompt that grows would make every turn dearer.
            await self.session.current_agent.update_chat_ctx(llm.ChatContext.empty())

    return way(Call, flush)


if __name__ == "__main__":
    run(start, "livekit-agents")
