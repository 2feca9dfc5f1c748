"""A telephone line, a recognizer, a model and a voice that need no account: they take their time, as real ones do.

Everything runs through Pipecat's own base classes in real time. What really happens is written into a journal, by the
monotonic clock.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADParams
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    OutputAudioRawFrame,
    StartFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import FunctionCallFromLLM, LLMService
from pipecat.services.settings import LLMSettings, STTSettings, TTSSettings
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.utils.time import time_now_iso8601

FRAME_S = 0.02
LOUD = b"\x00\x40"
SILENT = b"\x00\x00"


class Journal:
    """What really happened, and when."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []
        self._news = asyncio.Event()

    def note(self, what: str, at_ns: int | None = None) -> None:
        self.entries.append((what, time.monotonic_ns() if at_ns is None else at_ns))
        self._news.set()

    def all(self, what: str) -> list[int]:
        return [at for name, at in self.entries if name == what]

    async def wait(self, what: str, count: int = 1) -> None:
        """Wait until something has happened so many times."""
        while len(self.all(what)) < count:
            self._news.clear()
            await self._news.wait()


@dataclass
class Answer:
    """What the model does with one request."""

    text: str = "It is nine degrees in Oslo. "
    first_token_s: float = 0.3
    token_s: float = 0.01
    tool: str | None = None
    error: Exception | None = None


class Line(BaseInputTransport):
    """The caller's side of the line: silence, and noise where the caller speaks."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(TransportParams(audio_in_enabled=True))
        self._journal = journal
        self.late_s = 0.0
        """How late the machine was at most with a frame."""
        self._left = 0
        self._task: asyncio.Task | None = None

    def speak(self, seconds: float) -> None:
        """Let the caller speak from the next frame on."""
        self._left = round(seconds / FRAME_S)

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)
        self._task = self.create_task(self._listen())

    async def cleanup(self) -> None:
        await super().cleanup()
        if self._task:
            await self.cancel_task(self._task)

    async def _listen(self) -> None:
        due = time.monotonic()
        speaks = False
        while True:
            due += FRAME_S
            await asyncio.sleep(due - time.monotonic())
            self.late_s = max(self.late_s, time.monotonic() - due)
            if (self._left > 0) is not speaks:
                speaks = not speaks
                self._journal.note("speech" if speaks else "silence", round((due - FRAME_S) * 1e9))
            self._left -= speaks
            samples = round(self.sample_rate * FRAME_S)
            audio = (LOUD if speaks else SILENT) * samples
            await self.push_audio_frame(InputAudioRawFrame(audio, self.sample_rate, 1))


class Ear(BaseOutputTransport):
    """The way to the caller: takes audio as fast as it is played, as a WebSocket transport does."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(TransportParams(audio_out_enabled=True))
        self.ahead_s = FRAME_S
        """How much audio lies at the other end, unplayed, while this end goes on sending."""
        self._journal = journal
        self._free = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame):
            self._free = 0.0
            self._journal.note("cleared")

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        now = time.monotonic()
        if now > self._free + 0.1:
            self._journal.note("heard", round(now * 1e9))
        self._journal.note("frame", round(now * 1e9))
        self._free = max(self._free, now) + len(frame.audio) / (2 * frame.sample_rate)
        await asyncio.sleep(max(0.0, self._free - time.monotonic() - self.ahead_s))
        return True


class Loudness(VADAnalyzer):
    """A detector that takes noise for speech."""

    def __init__(self) -> None:
        super().__init__(params=VADParams(start_secs=0.2, stop_secs=0.2, min_volume=0.0))

    def num_frames_required(self) -> int:
        return round(self.sample_rate * FRAME_S)

    def voice_confidence(self, buffer: bytes) -> float:
        return float(buffer[:2] == LOUD)


class Recognizer(STTService):
    """Knows what was said, some time after the detector has found that it was said."""

    def __init__(self, journal: Journal, words: list[str] | None = None, delay_s: float = 0.1) -> None:
        super().__init__(ttfs_p99_latency=0.4, settings=STTSettings(model="ear-1", language="en"))
        self._journal = journal
        self.words = deque(words or [])
        self.delay_s = delay_s
        self.error: Exception | None = None

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        yield None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame):
            self.create_task(self._recognize())

    async def _recognize(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            self._journal.note("recognizer failed")
            await self.push_error("no recognition", exception=self.error)
            return
        text = self.words.popleft() if self.words else "How warm is it in Oslo?"
        if text:
            self._journal.note("transcript")
            await self.push_frame(TranscriptionFrame(text, "caller", time_now_iso8601(), finalized=True))


class Model(LLMService):
    """Gives the answers that it was given, token by token."""

    def __init__(self, journal: Journal, answers: list[Answer] | None = None, name: str = "words-1") -> None:
        settings = LLMSettings(
            model=name,
            system_instruction=None,
            temperature=None,
            max_tokens=None,
            top_p=None,
            top_k=None,
            frequency_penalty=None,
            presence_penalty=None,
            seed=None,
            filter_incomplete_user_turns=False,
            user_turn_completion_config=None,
        )
        super().__init__(settings=settings)
        self._journal = journal
        self.answers = deque(answers or [])

    def can_generate_metrics(self) -> bool:
        return True

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        try:
            self._journal.note("request")
            await self.push_frame(LLMFullResponseStartFrame())
            await self._answer(frame, self.answers.popleft() if self.answers else Answer())
        except Exception as error:
            self._journal.note("model failed")
            await self.push_error(f"Error during completion: {error}", exception=error)
        finally:
            await self.push_frame(LLMFullResponseEndFrame())

    async def _answer(self, frame: LLMContextFrame, answer: Answer) -> None:
        await asyncio.sleep(answer.first_token_s)
        if answer.error is not None:
            raise answer.error
        if answer.tool is not None:
            self._journal.note("last token")
            call = FunctionCallFromLLM(answer.tool, f"call-{time.monotonic_ns()}", {"city": "Oslo"}, frame.context)
            await self.run_function_calls([call])
            return
        self._journal.note("first token")
        for word in answer.text.split():
            await self._push_llm_text(f"{word} ")
            await asyncio.sleep(answer.token_s)
        self._journal.note("last token")
        await self.start_llm_usage_metrics(LLMTokenUsage(prompt_tokens=212, completion_tokens=9, total_tokens=221))


@dataclass
class Pace:
    """How fast the voice is, and how long it speaks for a piece of text."""

    first_audio_s: float = 0.15
    spoken_s: float = 1.2
    error: Exception | None = None
    given: list[str] = field(default_factory=list)


class Voice(TTSService):
    """Speaks noise."""

    def __init__(self, journal: Journal, pace: Pace | None = None) -> None:
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            settings=TTSSettings(model="voice-1", voice="anna", language="en"),
        )
        self._journal = journal
        self.pace = pace or Pace()

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        self.pace.given.append(text)
        self._journal.note("text")
        await asyncio.sleep(self.pace.first_audio_s)
        if self.pace.error is not None:
            self._journal.note("voice failed")
            raise self.pace.error
        self._journal.note("first audio")
        samples = round(self.sample_rate * 0.1)
        for _ in range(round(self.pace.spoken_s / 0.1)):
            yield TTSAudioRawFrame(LOUD * samples, self.sample_rate, 1, context_id=context_id)
            await asyncio.sleep(0.01)
        self._journal.note("last audio")
