"""Turns of a Pipecat pipeline: speech as audio, a recognizer, a model and a voice that take no time.

HOW is `off`, `own` (Pipecat's tracing, as its documentation switches it on) or `ours` (voicespan's integration).
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator  # noqa: TC003 - Pipecat looks at annotations
from typing import Any

from workers.calls import telemetry, way
from workers.worker import Way, run

warnings.simplefilter("ignore", DeprecationWarning)

from loguru import logger  # noqa: E402

logger.remove()

from pipecat.frames.frames import (  # noqa: E402
    BotStoppedSpeakingFrame,
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    OutputAudioRawFrame,
    StartFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # noqa: E402
from pipecat.pipeline.worker import PipelineParams, PipelineWorker  # noqa: E402
from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: E402
from pipecat.processors.aggregators.llm_response_universal import (  # noqa: E402
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection  # noqa: E402
from pipecat.transports.base_input import BaseInputTransport  # noqa: E402
from pipecat.transports.base_transport import TransportParams  # noqa: E402
from pipecat.turns.user_start import VADUserTurnStartStrategy  # noqa: E402
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy  # noqa: E402
from pipecat.turns.user_turn_strategies import UserTurnStrategies  # noqa: E402
from pipecat.utils.time import time_now_iso8601  # noqa: E402
from pipecat.utils.tracing.service_decorators import traced_llm, traced_stt, traced_tts  # noqa: E402
from pipecat.workers.runner import WorkerRunner  # noqa: E402
from simulated import LOUD, SILENT, Answer, Ear, Journal, Loudness, Model, Pace, Recognizer, Voice  # noqa: E402

FRAME_S = 0.02
SPEECH_FRAMES = 15
"""As the detector's hangover has them too."""


class Feed(BaseInputTransport):
    """The caller: says what it has to say at once."""

    def __init__(self) -> None:
        super().__init__(TransportParams(audio_in_enabled=True))

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def speak(self) -> None:
        samples = round(self.sample_rate * FRAME_S)
        for sound in (LOUD, SILENT):
            for _ in range(SPEECH_FRAMES):
                await self.push_audio_frame(InputAudioRawFrame(sound * samples, self.sample_rate, 1))


class Heard(Ear):
    """The way to the caller, without waiting until it is played; says when the bot has ended."""

    def __init__(self) -> None:
        super().__init__(Journal())
        self.ended = asyncio.Event()

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        return True

    async def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        await super().push_frame(frame, direction)
        if isinstance(frame, BotStoppedSpeakingFrame) and direction is FrameDirection.DOWNSTREAM:
            self.ended.set()


class TracedRecognizer(Recognizer):
    """With Pipecat's decorator, as its own services have it."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super(Recognizer, self).process_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame):
            await self._handle_transcription("How warm is it in Oslo?", is_final=True)

    @traced_stt
    async def _handle_transcription(self, transcript: str, is_final: bool, language: str | None = None) -> None:
        frame = TranscriptionFrame(transcript, "caller", time_now_iso8601(), finalized=is_final)
        await self.push_frame(frame)


class TracedModel(Model):
    """The same of a model."""

    async def _answer(self, frame: LLMContextFrame, answer: Answer) -> None:
        await self._process_context(frame.context, frame, answer)

    @traced_llm
    async def _process_context(self, _context: LLMContext, frame: LLMContextFrame, answer: Answer) -> None:
        await super()._answer(frame, answer)


class TracedVoice(Voice):
    """The same of a voice."""

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        async for frame in super().run_tts(text, context_id):
            yield frame


class Call:
    """One pipeline."""

    def __init__(self, *, tracing: bool) -> None:
        journal = Journal()
        self.feed, self.ear = Feed(), Heard()
        strategies = UserTurnStrategies(
            start=[VADUserTurnStartStrategy()], stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.01)]
        )
        pair = LLMContextAggregatorPair(
            LLMContext(), user_params=LLMUserAggregatorParams(user_turn_strategies=strategies, vad_analyzer=Loudness())
        )
        self.context = pair
        self.model = TracedModel(journal)
        voice = TracedVoice(journal, Pace(first_audio_s=0.0, spoken_s=0.2))
        parts = [self.feed, TracedRecognizer(journal), pair.user(), self.model, voice, self.ear, pair.assistant()]
        self.worker = PipelineWorker(
            Pipeline(parts),
            params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
            idle_timeout_secs=None,
            enable_tracing=tracing,
        )
        self._running: asyncio.Task[None]

    async def begin(self) -> None:
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        self._running = asyncio.create_task(runner.run())
        await asyncio.sleep(0.2)

    async def turn(self) -> None:
        self.ear.ended.clear()
        self.model.answers.append(Answer(first_token_s=0.0, token_s=0.0))
        await self.feed.speak()
        await self.ear.ended.wait()
        self.context.user().context.set_messages([])  # a prompt that grows would make every turn dearer


def start(how: str) -> Way:
    flush = telemetry(how)
    if how == "ours":
        from voicespan.integrations.pipecat import PipecatInstrumentor

        PipecatInstrumentor().instrument(skip_dep_check=True)
    make: Any = lambda: Call(tracing=how == "own")  # noqa: E731
    return way(make, flush)


if __name__ == "__main__":
    run(start, "pipecat-ai")
