"""A call with the agent of `bot.py` on this machine: no server, no keys, no sound card.

    voicespan run -- python examples/livekit/offline.py

A caller, a recognizer, a model and a synthesizer that stand in for real ones take the time that those take; everything
between them is LiveKit's own `AgentSession`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from bot import Assistant
from livekit import rtc
from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, AgentSession, llm, stt, tts, vad
from livekit.agents.voice import io

RATE = 16_000
FRAME_S = 0.02
FRAME = round(RATE * FRAME_S)
LOUD, QUIET = b"\x00\x10" * FRAME, bytes(2 * FRAME)


class Caller(io.AudioInput):
    """A microphone, into which a script speaks."""

    def __init__(self) -> None:
        super().__init__(label="caller")
        self.speaking = False
        self.words = ""
        self.next_s = 0.0

    async def __anext__(self) -> rtc.AudioFrame:
        now_s = asyncio.get_running_loop().time()
        self.next_s = (self.next_s or now_s) + FRAME_S
        await asyncio.sleep(self.next_s - now_s)
        return rtc.AudioFrame(LOUD if self.speaking else QUIET, RATE, 1, FRAME)

    async def say(self, words: str, seconds: float) -> None:
        self.words, self.speaking = words, True
        await asyncio.sleep(seconds)
        self.speaking = False


class Detector(vad.VAD):
    """Tells speech from silence by loudness."""

    def __init__(self) -> None:
        super().__init__(capabilities=vad.VADCapabilities(update_interval=FRAME_S))

    def stream(self) -> vad.VADStream:
        return DetectorStream(self)


class DetectorStream(vad.VADStream):
    """An onset after 60 ms of sound, an end after 300 ms of none."""

    async def _main_task(self) -> None:
        speaking, sound_s, silence_s = False, 0.0, 0.0
        async for frame in self._input_ch:
            if not isinstance(frame, rtc.AudioFrame):
                continue
            loud = frame.data[0] != 0
            sound_s, silence_s = (sound_s + FRAME_S, 0.0) if loud else (sound_s, silence_s + FRAME_S)
            kinds = [vad.VADEventType.INFERENCE_DONE]
            if not speaking and sound_s > 0.05:
                speaking = True
                kinds.append(vad.VADEventType.START_OF_SPEECH)
            elif speaking and silence_s >= 0.3:
                speaking = False
                kinds.append(vad.VADEventType.END_OF_SPEECH)
            for kind in kinds:
                event = vad.VADEvent(kind, 0, 0.0, sound_s if speaking else 0.0, silence_s, speaking=speaking)
                event.raw_accumulated_speech = FRAME_S if loud else 0.0
                event.raw_accumulated_silence = silence_s
                self._event_ch.send_nowait(event)
            if not speaking and not loud:
                sound_s = 0.0


class Recognizer(stt.STT):
    """Has the caller's words 200 ms after they have ended."""

    model, provider = "stand-in-stt", "stand-in"

    def __init__(self, caller: Caller) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=False))
        self.caller = caller

    async def _recognize_impl(self, *args: Any, **kwargs: Any) -> stt.SpeechEvent:
        raise NotImplementedError

    def stream(self, *, conn_options: Any = DEFAULT_API_CONNECT_OPTIONS, **_: Any) -> stt.RecognizeStream:
        return RecognizerStream(stt=self, conn_options=conn_options)


class RecognizerStream(stt.RecognizeStream):
    async def _run(self) -> None:
        loud = False
        async for frame in self._input_ch:
            if isinstance(frame, rtc.AudioFrame):
                before, loud = loud, frame.data[0] != 0
                if before and not loud:
                    asyncio.get_running_loop().call_later(0.2, self.give, self._stt.caller.words)

    def give(self, words: str) -> None:
        data = stt.SpeechData(language="en", text=words, confidence=1.0)
        self._event_ch.send_nowait(stt.SpeechEvent(stt.SpeechEventType.FINAL_TRANSCRIPT, alternatives=[data]))


class Model(llm.LLM):
    """Asks for the weather when it hears the word, and has an opinion on everything else."""

    model, provider = "stand-in-llm", "stand-in"

    def chat(self, *, chat_ctx: llm.ChatContext, tools: Any = None, conn_options: Any = None, **_: Any) -> Any:
        conn_options = conn_options or DEFAULT_API_CONNECT_OPTIONS
        return ModelStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class ModelStream(llm.LLMStream):
    async def _run(self) -> None:
        last = self._chat_ctx.items[-1]
        await asyncio.sleep(0.3)
        if last.type == "message" and "weather" in (last.text_content or ""):
            arguments = json.dumps({"place": "Oslo"})
            call = llm.FunctionToolCall(name="get_weather", arguments=arguments, call_id=f"call-{time.time_ns()}")
            self.give(llm.ChoiceDelta(role="assistant", tool_calls=[call]))
            return
        text = "It is nine degrees there." if last.type == "function_call_output" else "That is a fine thing to say."
        for word in text.split():
            self.give(llm.ChoiceDelta(role="assistant", content=word + " "))
            await asyncio.sleep(0.02)

    def give(self, delta: llm.ChoiceDelta) -> None:
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=delta))


class Voice(tts.TTS):
    """Speaks 150 ms after it has a sentence, a third of a second for a word."""

    model, provider = "stand-in-tts", "stand-in"

    def __init__(self) -> None:
        super().__init__(capabilities=tts.TTSCapabilities(streaming=True), sample_rate=RATE, num_channels=1)

    def synthesize(self, text: str, **_: Any) -> Any:
        raise NotImplementedError

    def stream(self, *, conn_options: Any = DEFAULT_API_CONNECT_OPTIONS) -> tts.SynthesizeStream:
        return VoiceStream(tts=self, conn_options=conn_options)


class VoiceStream(tts.SynthesizeStream):
    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        output_emitter.initialize(
            request_id="r", sample_rate=RATE, num_channels=1, mime_type="audio/pcm", frame_size_ms=60, stream=True
        )
        output_emitter.start_segment(segment_id="s")
        async for text in self.sentences():
            self._mark_started()
            await asyncio.sleep(0.15)
            for _ in range(5 * len(text.split())):
                output_emitter.push(LOUD * 3)
                await asyncio.sleep(0.005)
        output_emitter.end_segment()

    async def sentences(self) -> AsyncIterator[str]:
        gathered = ""
        async for text in self._input_ch:
            gathered += text if isinstance(text, str) else ""
            if gathered.rstrip().endswith((".", "?")):
                yield gathered
                gathered = ""
        if gathered.strip():
            yield gathered


class Ear(io.AudioOutput):
    """The way to the caller: plays in real time, which here means to wait."""

    def __init__(self) -> None:
        super().__init__(label="ear", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.given_s = 0.0
        self.began_s = 0.0
        self.end: asyncio.TimerHandle | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self.given_s:
            self.began_s = time.monotonic()
            self.on_playback_started(created_at=time.time())
        self.given_s += frame.duration

    def flush(self) -> None:
        super().flush()
        if self.given_s and self.end is None:
            left_s = max(0.0, self.began_s + self.given_s - time.monotonic())
            self.end = asyncio.get_running_loop().call_later(left_s, self.ended, self.given_s, False)

    def clear_buffer(self) -> None:
        if self.given_s:
            self.ended(min(self.given_s, time.monotonic() - self.began_s), True)

    def ended(self, seconds: float, interrupted: bool) -> None:
        if self.end is not None:
            self.end.cancel()
        self.end, self.given_s = None, 0.0
        self.on_playback_finished(playback_position=seconds, interrupted=interrupted)


async def main() -> None:
    """Hold a call: two questions, and a remark that interrupts the last answer."""
    caller = Caller()
    session = AgentSession(
        stt=Recognizer(caller), vad=Detector(), llm=Model(), tts=Voice(), aec_warmup_duration=None,
        turn_handling={"turn_detection": "vad"},
    )  # fmt: skip
    session.input.audio, session.output.audio = caller, Ear()
    await session.start(Assistant())
    await asyncio.sleep(3.0)
    await caller.say("how is the weather", 1.0)
    await asyncio.sleep(4.0)
    await caller.say("I like rain", 0.8)
    await asyncio.sleep(2.0)
    await caller.say("I mean snow", 1.0)
    await asyncio.sleep(4.0)
    await session.aclose()


if __name__ == "__main__":
    asyncio.run(main())
