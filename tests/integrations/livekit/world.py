"""A caller, a line and providers of our own making for an `AgentSession`, in real time, that note when they did what.

The truth is what they note: the moment at which a sound was made, a token was given or a frame was played. The
framework between them is the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, llm, stt, tts, vad
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS
from livekit.agents.voice import io

RATE = 16_000
FRAME_S = 0.01
FRAME = round(RATE * FRAME_S)
SPEECH = (b"\x00\x10" * 16 + b"\x00\xf0" * 16) * (FRAME // 32)
"""A tone of 500 Hz: what does not swing is no sound to a codec."""
SILENCE = b"\x00\x00" * FRAME


def loud(frame: rtc.AudioFrame) -> bool:
    """Return whether somebody speaks in this frame; the noise of a line is no speech."""
    return max(frame.data) > 200


class Truth:
    """Unix nanoseconds of everything that happened, by name, in order."""

    def __init__(self) -> None:
        self.times: dict[str, list[int]] = defaultdict(list)

    def note(self, name: str, late_s: float = 0.0) -> None:
        """Note what happens now, or has happened `late_s` ago: this process may have been kept from its work."""
        self.times[name].append(time.time_ns() - round(late_s * 1e9))

    def at(self, name: str, index: int = 0) -> int:
        return self.times[name][index]

    async def happened(self, name: str, timeout_s: float = 10) -> None:
        """Wait until it has."""
        async with asyncio.timeout(timeout_s):
            while name not in self.times:  # noqa: ASYNC110 - a plain list is what tests read
                await asyncio.sleep(0.02)


class Caller(io.AudioInput):
    """The user's microphone: frames of 10 ms in real time, loud while the script has it speak."""

    def __init__(self, truth: Truth) -> None:
        super().__init__(label="caller")
        self.truth = truth
        self.speaking = False
        self.words = ""
        self._spoke = False
        self._next_s: float | None = None

    async def __anext__(self) -> rtc.AudioFrame:
        loop = asyncio.get_running_loop()
        self._next_s = loop.time() if self._next_s is None else self._next_s + FRAME_S
        await asyncio.sleep(self._next_s - loop.time())
        if self.speaking is not self._spoke:
            self._spoke = self.speaking
            self.truth.note("speech" if self.speaking else "silence", loop.time() - self._next_s)
        return rtc.AudioFrame(SPEECH if self.speaking else SILENCE, RATE, 1, FRAME)

    async def speak(self, seconds: float, words: str = "") -> None:
        """Speak for so long; the recognizer understands these words."""
        self.words = words
        self.speaking = True
        await asyncio.sleep(seconds)
        self.speaking = False


class Detector(vad.VAD):
    """Decides by loudness: an onset after 50 ms of sound, an end after `hangover_s` of none."""

    def __init__(self, hangover_s: float = 0.3) -> None:
        super().__init__(capabilities=vad.VADCapabilities(update_interval=FRAME_S))
        self.hangover_s = hangover_s

    def stream(self) -> vad.VADStream:
        return _DetectorStream(self)


class _DetectorStream(vad.VADStream):
    async def _main_task(self) -> None:
        assert isinstance(self._vad, Detector)
        speaking, sound_s, silence_s, index = False, 0.0, 0.0, 0
        async for frame in self._input_ch:
            if not isinstance(frame, rtc.AudioFrame):
                continue
            index += 1
            spoken = loud(frame)
            sound_s, silence_s = (sound_s + FRAME_S, 0.0) if spoken else (sound_s, silence_s + FRAME_S)
            event = vad.VADEvent(
                vad.VADEventType.INFERENCE_DONE,
                samples_index=index * FRAME,
                timestamp=index * FRAME_S,
                speech_duration=sound_s if speaking else 0.0,
                silence_duration=silence_s,
                speaking=speaking,
                raw_accumulated_speech=sound_s if spoken else 0.0,
                raw_accumulated_silence=silence_s,
            )
            self._event_ch.send_nowait(event)
            kind = None
            if not speaking and spoken and sound_s > 0.045:
                speaking, kind = True, vad.VADEventType.START_OF_SPEECH
            elif speaking and silence_s >= self._vad.hangover_s - 1e-6:
                speaking, kind = False, vad.VADEventType.END_OF_SPEECH
            if kind is not None:
                self._event_ch.send_nowait(
                    vad.VADEvent(kind, index * FRAME, index * FRAME_S, sound_s, silence_s, speaking=speaking)
                )
            if not speaking and not spoken:
                sound_s = 0.0


class Recognizer(stt.STT[str]):
    """Gives the caller's words `delay_s` after they have ended; fails as often as it is told to."""

    def __init__(self, truth: Truth, caller: Caller, delay_s: float = 0.15, failures: int = 0) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=True))
        self.truth, self.caller, self.delay_s, self.failures = truth, caller, delay_s, failures

    @property
    def model(self) -> str:
        return "ears-1"

    @property
    def provider(self) -> str:
        return "deepgram"

    async def _recognize_impl(self, *args: Any, **kwargs: Any) -> stt.SpeechEvent:
        raise NotImplementedError

    def stream(self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS, **_: Any) -> stt.RecognizeStream:
        return _RecognizerStream(stt=self, conn_options=conn_options)


class _RecognizerStream(stt.RecognizeStream):
    async def _run(self) -> None:
        recognizer = self._stt
        assert isinstance(recognizer, Recognizer)
        spoken, count = False, 0
        async for frame in self._input_ch:
            if not isinstance(frame, rtc.AudioFrame):
                continue
            before, spoken = spoken, loud(frame)
            count += spoken
            if count == 20 and recognizer.failures:
                recognizer.failures -= 1
                raise APIConnectionError("the recognizer has gone")
            if before and not spoken and recognizer.caller.words:
                asyncio.get_running_loop().call_later(recognizer.delay_s, self._final, recognizer.caller.words)

    def _final(self, words: str) -> None:
        data = stt.SpeechData(language="en", text=words, confidence=1.0)  # type: ignore[arg-type]
        self._stt.truth.note("final")  # type: ignore[attr-defined]
        self._event_ch.send_nowait(stt.SpeechEvent(stt.SpeechEventType.FINAL_TRANSCRIPT, alternatives=[data]))


@dataclass
class Answer:
    """What the model does once: wait, then give words, then perhaps call a function."""

    words: str = ""
    ttft_s: float = 0.2
    token_s: float = 0.02
    call: tuple[str, dict[str, Any]] | None = None
    error: Exception | None = None


class Model(llm.LLM[str]):
    """Gives one answer after the other; the last one again when there are no more."""

    def __init__(self, truth: Truth, *answers: Answer) -> None:
        super().__init__()
        self.truth, self.answers, self.asked = truth, answers, 0

    @property
    def model(self) -> str:
        return "brain-1"

    @property
    def provider(self) -> str:
        return "openai"

    def next(self) -> Answer:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        **_: Any,
    ) -> llm.LLMStream:
        return _ModelStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class _ModelStream(llm.LLMStream):
    async def _run(self) -> None:
        model = self._llm
        assert isinstance(model, Model)
        answer, truth = model.next(), model.truth
        truth.note("request")
        await asyncio.sleep(answer.ttft_s)
        if answer.error is not None:
            truth.note("llm failed")
            raise answer.error
        for index, word in enumerate(answer.words.split()):
            if index:
                await asyncio.sleep(answer.token_s)
            truth.note("token" if index else "first token")
            self._give(llm.ChoiceDelta(role="assistant", content=word + " "))
        if answer.call is not None:
            truth.note("token" if answer.words else "first token")
            name, arguments = answer.call
            call = llm.FunctionToolCall(name=name, arguments=json.dumps(arguments), call_id=f"call-{model.asked}")
            self._give(llm.ChoiceDelta(role="assistant", tool_calls=[call]))
        truth.note("last token")
        count = len(answer.words.split())
        usage = llm.CompletionUsage(completion_tokens=count, prompt_tokens=7, total_tokens=7 + count)
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", usage=usage))

    def _give(self, delta: llm.ChoiceDelta) -> None:
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=delta))


class Voice(tts.TTS[str]):
    """Speaks a sentence `ttfb_s` after it has it, `seconds` long, twenty times faster than it is played."""

    def __init__(self, truth: Truth, seconds: float = 0.6, ttfb_s: float = 0.12, failures: int = 0) -> None:
        super().__init__(capabilities=tts.TTSCapabilities(streaming=True), sample_rate=RATE, num_channels=1)
        self.truth, self.seconds, self.ttfb_s, self.failures = truth, seconds, ttfb_s, failures

    @property
    def model(self) -> str:
        return "mouth-1"

    @property
    def provider(self) -> str:
        return "cartesia"

    def synthesize(self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> Any:
        raise NotImplementedError

    def stream(self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> tts.SynthesizeStream:
        return _VoiceStream(tts=self, conn_options=conn_options)


class _VoiceStream(tts.SynthesizeStream):
    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        voice = self._tts
        assert isinstance(voice, Voice)
        output_emitter.initialize(
            request_id="r", sample_rate=RATE, num_channels=1, mime_type="audio/pcm", frame_size_ms=50, stream=True
        )
        output_emitter.start_segment(segment_id="s")
        gathered = ""
        async for text in self._input_ch:
            if isinstance(text, str):
                gathered += text
            if gathered.rstrip().endswith((".", "?", "!")):
                await self._speak(voice, gathered, output_emitter)
                gathered = ""
        if gathered.strip():
            await self._speak(voice, gathered, output_emitter)
        output_emitter.end_segment()

    async def _speak(self, voice: Voice, text: str, output_emitter: tts.AudioEmitter) -> None:
        self._mark_started()
        voice.truth.note("text")
        await asyncio.sleep(voice.ttfb_s)
        if voice.failures:
            voice.failures -= 1
            voice.truth.note("tts failed")
            raise APIConnectionError("the synthesizer has gone")
        voice.truth.note("first frame")
        for _ in range(round(voice.seconds / 0.05)):
            output_emitter.push(SPEECH * 5)
            await asyncio.sleep(0.0025)


class Line(io.AudioOutput):
    """The way to the user's ear: plays in real time, and says when it starts and ends."""

    def __init__(self, truth: Truth, *, pause: bool = True) -> None:
        super().__init__(
            label="line", capabilities=io.AudioOutputCapabilities(pause=pause), next_in_chain=None, sample_rate=RATE
        )
        self.truth = truth
        self.frames: asyncio.Queue[rtc.AudioFrame | None] = asyncio.Queue()
        self.going = asyncio.Event()
        self.going.set()
        self.played_s = 0.0
        self.cleared = 0
        self.started = False
        self.segment = False
        self.audible = False
        self.task = asyncio.create_task(self._play())

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self.segment = True
        for start in range(0, frame.samples_per_channel, FRAME):
            data = bytes(frame.data)[2 * start : 2 * (start + FRAME)]
            self.frames.put_nowait(rtc.AudioFrame(data, RATE, 1, len(data) // 2))

    def flush(self) -> None:
        super().flush()
        if self.segment:
            self.frames.put_nowait(None)

    def clear_buffer(self) -> None:
        if not self.segment:
            return
        self.cleared += 1
        while not self.frames.empty():
            self.frames.get_nowait()
        self._ended(interrupted=True)

    def pause(self) -> None:
        self.going.clear()
        self._quiet()

    def resume(self) -> None:
        self.going.set()

    def _quiet(self) -> None:
        if self.audible:
            self.audible = False
            self.truth.note("quiet")

    async def _play(self) -> None:
        due_s = 0.0
        while True:
            frame = await self.frames.get()
            cleared = self.cleared
            await self.going.wait()
            if cleared != self.cleared:
                continue
            if frame is None:
                if self.segment:
                    self._ended(interrupted=False)
                continue
            now_s = asyncio.get_running_loop().time()
            due_s = now_s if now_s - due_s > 0.05 else due_s
            if not self.started:
                self.started = True
                self.truth.note("heard")
                self.on_playback_started(created_at=time.time())
            elif not self.audible:
                self.truth.note("heard again")
            self.audible = True
            self.played_s += frame.duration
            due_s += frame.duration
            await asyncio.sleep(max(0.0, due_s - now_s))

    def _ended(self, *, interrupted: bool) -> None:
        self._quiet()
        self.truth.note("played out")
        played_s, self.played_s, self.started, self.segment = self.played_s, 0.0, False, False
        self.on_playback_finished(playback_position=played_s, interrupted=interrupted)


@dataclass
class Call:
    """One call: the parts that a scenario speaks to."""

    truth: Truth = field(default_factory=Truth)

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self.line.task.cancel()
            await self.line.task

    def __post_init__(self) -> None:
        self.caller = Caller(self.truth)
        self.line = Line(self.truth)
