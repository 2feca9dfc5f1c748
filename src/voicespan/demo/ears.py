"""What the agent hears on one call: detector and recognizer on one thread, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

from voicespan import metrics
from voicespan.demo import truth
from voicespan.demo.detector import Activity, Detector
from voicespan.demo.recognizer import Recognizers
from voicespan.demo.scenarios import for_question

MODEL = "silero-vad"
"""What the detector's network is called; each call has one of its own."""
_LEAD_IN_FRAMES = 25
_ASK_EVERY_FRAMES = 3


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Someone speaks since `sample`."""

    sample: int


@dataclass(frozen=True, slots=True)
class SpeechLasts:
    """It is no cough."""


@dataclass(frozen=True, slots=True)
class WordsHeard:
    """It sounds like so many words."""

    count: int


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """There is silence since `sample`; it may still be a pause."""

    sample: int


@dataclass(frozen=True, slots=True)
class RecognitionFailed:
    """An attempt to recognize what was said has failed; another one follows."""

    error: Exception


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The speaker has finished; `text` is None when it was nothing that is understood, and `lasted` tells a cough."""

    text: str | None
    lasted: bool
    sound: bytes = field(default=b"", compare=False, repr=False)


Heard = SpeechStarted | SpeechLasts | WordsHeard | SpeechEnded | RecognitionFailed | TurnEnded


class Ears:
    """Turns the frames of a call into what was heard; used as a context manager, because it owns a thread."""

    def __init__(self, recognizers: Recognizers) -> None:
        self._recognizers = recognizers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ears")
        with metrics.model_load(MODEL):
            self._detector = Detector()
        self._lead_in: deque[bytes] = deque(maxlen=_LEAD_IN_FRAMES)
        self._speaking = False
        self._lasted = False
        self._frames = 0
        self._words = 0
        self._sound = bytearray()

    def __enter__(self) -> Self:
        self._recognizer = self._recognizers.take()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)  # waits for one frame at most, some milliseconds
        self._recognizers.give_back(self._recognizer)
        metrics.model_unloaded(MODEL)

    async def listen(self, frame: bytes) -> list[Heard]:
        """Take one frame and return what it made clear, oldest first."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._listen, frame)

    def _listen(self, frame: bytes) -> list[Heard]:
        if self._speaking:
            self._hear(frame)
        else:
            self._lead_in.append(frame)
        heard: list[Heard] = []
        for noticed in self._detector.listen(frame):
            match noticed.activity:
                case Activity.STARTED:
                    self._start()
                    heard.append(SpeechStarted(noticed.sample))
                case Activity.LASTING:
                    self._lasted = True
                    heard.append(SpeechLasts())
                case Activity.ENDED:
                    heard.append(SpeechEnded(noticed.sample))
                case Activity.FINISHED:
                    heard += self._finish()
        return heard + self._more_words()

    def _start(self) -> None:
        if self._speaking:  # goes on after a pause
            return
        self._speaking, self._lasted, self._words = True, False, 0
        self._sound.clear()
        self._recognizer.start()
        for frame in self._lead_in:
            self._hear(frame)
        self._lead_in.clear()

    def _hear(self, frame: bytes) -> None:
        self._recognizer.listen(frame)
        self._sound += frame

    def _more_words(self) -> list[Heard]:
        self._frames += 1
        if not (self._speaking and self._lasted) or self._frames % _ASK_EVERY_FRAMES:
            return []
        words, before = self._recognizer.words(), self._words
        self._words = max(words, before)
        return [WordsHeard(words)] if words > before else []

    def _finish(self) -> list[Heard]:
        decided_ns = time.monotonic_ns()
        self._speaking = False
        text = self._recognizer.finish()
        truth.note("turn_ended", text or "", at_ns=decided_ns)
        truth.note("transcript", text or "")
        fails = for_question(text or "").hearing_fails
        failed: list[Heard] = [RecognitionFailed(TimeoutError("the recognizer took too long")) for _ in range(fails)]
        return [*failed, TurnEnded(text, self._lasted, bytes(self._sound))]
