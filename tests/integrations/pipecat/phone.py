"""A call that a test makes: the real framework, the example's simulated services, and the truth to compare with."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.utils.tracing.service_decorators import traced_llm, traced_tts
from pipecat.workers.runner import WorkerRunner

EXAMPLE = Path(__file__).parents[3] / "examples" / "pipecat"
sys.path.insert(0, str(EXAMPLE))

from simulated import Answer, Ear, Journal, Line, Loudness, Model, Pace, Recognizer, Voice  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from pipecat.frames.frames import Frame, LLMContextFrame
    from pipecat.processors.frame_processor import FrameProcessor

    from voicespan.finished import FinishedSpan, FinishedTurn

__all__ = ("Answer", "Call", "DecoratedModel", "DecoratedVoice", "Journal", "Model", "Pace", "Voice", "ms")


class DecoratedModel(Model):  # type: ignore[misc]
    """A model with Pipecat's decorator, as its own services have it."""

    async def _answer(self, frame: LLMContextFrame, answer: Answer) -> None:
        await self._process_context(frame.context, frame, answer)

    @traced_llm  # type: ignore[untyped-decorator]
    async def _process_context(self, _context: LLMContext, frame: LLMContextFrame, answer: Answer) -> None:
        await super()._answer(frame, answer)


class DecoratedVoice(Voice):  # type: ignore[misc]
    """A voice with Pipecat's decorator."""

    @traced_tts  # type: ignore[untyped-decorator]
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        async for frame in super().run_tts(text, context_id):
            yield frame


def ms(nanoseconds: float) -> float:
    """Return milliseconds."""
    return nanoseconds / 1e6


class Call:
    """One call with the bot."""

    def __init__(
        self,
        answers: list[Answer] | None = None,
        *,
        pace: Pace | None = None,
        words: list[str] | None = None,
        start: list[Any] | None = None,
        endpointing_s: float = 0.3,
        params: PipelineParams | None = None,
        **options: Any,
    ) -> None:
        self.journal = Journal()
        self.line, self.ear = Line(self.journal), Ear(self.journal)
        self.recognizer = Recognizer(self.journal, words)
        self.model = Model(self.journal, answers)
        self.voice = Voice(self.journal, pace)
        strategies = UserTurnStrategies(
            start=start or [VADUserTurnStartStrategy()],
            stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=endpointing_s)],
        )
        self.context = LLMContextAggregatorPair(
            LLMContext(),
            user_params=LLMUserAggregatorParams(
                user_turn_strategies=strategies, vad_analyzer=Loudness(), user_turn_stop_timeout=1.5
            ),
        )
        self.params = params or PipelineParams(enable_metrics=True, enable_usage_metrics=True)
        self.options = options
        self.worker: PipelineWorker
        self.offset_ns = time.time_ns() - time.monotonic_ns()

    def processors(self) -> list[FrameProcessor]:
        """Return the pipeline."""
        user, assistant = self.context.user(), self.context.assistant()
        return [self.line, self.recognizer, user, self.model, self.voice, self.ear, assistant]

    @asynccontextmanager
    async def held(
        self,
        *others: PipelineWorker,
        runner: WorkerRunner | None = None,
        kind: type[PipelineWorker] = PipelineWorker,
    ) -> AsyncIterator[Call]:
        """Hold the call: it is up inside the block, and ended in an orderly way behind it."""
        self.worker = kind(Pipeline(self.processors()), params=self.params, idle_timeout_secs=None, **self.options)
        runner = runner or WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker, *others)
        running = asyncio.create_task(runner.run())
        await asyncio.sleep(0.3)
        try:
            yield self
        finally:
            if not self.worker.has_finished():
                await self.worker.stop_when_done()
            await asyncio.wait_for(running, 20)

    async def ask(self, seconds: float = 0.8) -> None:
        """Let the caller speak, and return when the answer is heard."""
        heard = len(self.journal.all("heard"))
        self.line.speak(seconds)
        async with asyncio.timeout(15):
            await self.journal.wait("heard", heard + 1)

    @property
    def tolerance_ms(self) -> float:
        """How far a time stamp may be from the truth: 30 ms, and what a busy machine was late with its own audio."""
        late_s: float = self.line.late_s
        return 30 + 2 * late_s * 1e3

    def differs_ms(self, at_unix_ns: int, what: str, index: int = 0) -> float:
        """Return how far a time stamp is from what the journal says."""
        return ms(at_unix_ns - self.offset_ns - self.journal.all(what)[index])

    def assert_begins(self, span: FinishedSpan, what: str, index: int = 0) -> None:
        """The span begins when this happened."""
        late_ms = self.differs_ms(span.start_ns, what, index)
        assert abs(late_ms) < self.tolerance_ms, f"{span.name} begins {late_ms:.0f} ms after: {what}"

    def assert_ends(self, span: FinishedSpan, what: str, index: int = 0) -> None:
        """The span ends when this happened."""
        late_ms = self.differs_ms(span.end_ns, what, index)
        assert abs(late_ms) < self.tolerance_ms, f"{span.name} ends {late_ms:.0f} ms after: {what}"

    def assert_plain(self, turn: FinishedTurn, index: int = 0, request: int = 0) -> None:
        """Every milestone of a plain answer lies where it happened; `request` is the one that was answered in words."""
        self.assert_begins(turn.root, "speech", index)
        self.assert_begins(turn["vad"], "speech", index)
        self.assert_begins(turn["vad.endpoint"], "silence", index)
        self.assert_begins(turn["asr.finalize"], "silence", index)
        self.assert_ends(turn["asr.finalize"], "transcript", index)
        ttft = turn["llm.ttft"]
        self.assert_begins(ttft, "request", request)
        self.assert_ends(ttft, "first token", index)
        self.assert_begins(turn["tts"], "text", index)
        self.assert_ends(turn["tts.first_audio"], "first audio", index)
        self.assert_begins(turn["playback"], "heard", index)
        self.assert_begins(turn["voice.response"], "silence", index)
        self.assert_ends(turn["voice.response"], "heard", index)
