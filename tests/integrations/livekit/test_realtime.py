"""A speech-to-speech model that listens, decides and answers by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

from livekit import rtc
from livekit.agents import Agent, AgentSession, llm
from livekit.agents.metrics import RealtimeModelMetrics
from livekit.agents.utils import aio

from .test_turns import names, times, truly
from .world import FRAME_S, RATE, SPEECH, Call, Truth

if TYPE_CHECKING:
    from .conftest import Turns

pytestmark = pytest.mark.alone

HANGOVER_S = 0.3


class Mind(llm.RealtimeModel):
    """Answers `wait_s` after it has decided that the user is done, with `seconds` of speech."""

    def __init__(self, truth: Truth, *, wait_s: float = 0.3, seconds: float = 1.0) -> None:
        super().__init__(
            capabilities=llm.RealtimeCapabilities(
                message_truncation=False, turn_detection=True, user_transcription=False,
                auto_tool_reply_generation=False, audio_output=True, manual_function_calls=False,
            )
        )  # fmt: skip
        self.truth, self.wait_s, self.seconds = truth, wait_s, seconds

    @property
    def model(self) -> str:
        return "mind-1"

    @property
    def provider(self) -> str:
        return "openai"

    def session(self, **_: Any) -> llm.RealtimeSession[str]:
        return MindSession(self)

    async def aclose(self) -> None:
        pass


def measured() -> RealtimeModelMetrics:
    """What the provider bills for a response."""
    kinds = RealtimeModelMetrics
    return RealtimeModelMetrics(
        request_id="r", timestamp=0.0, input_tokens=12, output_tokens=34,
        input_token_details=kinds.InputTokenDetails(), output_token_details=kinds.OutputTokenDetails(),
    )  # fmt: skip


class MindSession(llm.RealtimeSession[str]):
    def __init__(self, model: Mind) -> None:
        super().__init__(model)
        self.model = model
        self.loud_s = self.quiet_s = 0.0
        self.speaking = False
        self.response: asyncio.Task[None] | None = None

    chat_ctx = property(lambda _: llm.ChatContext.empty())
    tools = property(lambda _: llm.ToolContext.empty())

    async def update_instructions(self, instructions: str) -> None: ...
    async def update_chat_ctx(self, chat_ctx: llm.ChatContext) -> None: ...
    async def update_tools(self, tools: list[llm.Tool]) -> None: ...
    def update_options(self, **_: Any) -> None: ...
    def push_video(self, frame: rtc.VideoFrame) -> None: ...
    def generate_reply(self, **_: Any) -> Any: ...
    def commit_audio(self) -> None: ...
    def clear_audio(self) -> None: ...
    def truncate(self, **_: Any) -> None: ...

    async def aclose(self) -> None:
        self.interrupt()

    def interrupt(self) -> None:
        if self.response is not None:
            self.response.cancel()

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        loud = frame.data[0] != 0
        self.quiet_s = 0.0 if loud else self.quiet_s + FRAME_S
        if loud and not self.speaking:
            self.speaking = True
            self.model.truth.note("started")
            self.emit("input_speech_started", llm.InputSpeechStartedEvent())
        elif self.speaking and self.quiet_s >= HANGOVER_S:
            self.speaking = False
            self.model.truth.note("stopped")
            self.emit("input_speech_stopped", llm.InputSpeechStoppedEvent(user_transcription_enabled=False))
            self.response = asyncio.create_task(self._respond())

    async def _respond(self) -> None:
        await asyncio.sleep(self.model.wait_s / 2)
        messages, functions = aio.Chan[llm.MessageGeneration](), aio.Chan[llm.FunctionCall]()
        text, audio = aio.Chan[str](), aio.Chan[rtc.AudioFrame]()
        modalities = asyncio.get_running_loop().create_future()
        modalities.set_result(["audio", "text"])
        try:
            self.emit("generation_created", llm.GenerationCreatedEvent(messages, functions, user_initiated=False))
            messages.send_nowait(llm.MessageGeneration("m", text, audio, modalities))
            await asyncio.sleep(self.model.wait_s / 2)
            self.model.truth.note("first frame")
            for _ in range(round(self.model.seconds / 0.05)):
                audio.send_nowait(rtc.AudioFrame(SPEECH * 5, RATE, 1, RATE // 20))
                await asyncio.sleep(0.003)
            self.model.truth.note("done")
            self.emit("metrics_collected", measured())
        finally:
            for channel in (text, audio, messages, functions):
                channel.close()


async def test_speech_to_speech(turns: Turns) -> None:
    """A turn of such a model has the stage `realtime` from its own decision on, and is interrupted as any other."""
    call = Call()
    session: AgentSession[None] = AgentSession(
        llm=Mind(call.truth, seconds=2.5), vad=None, aec_warmup_duration=None, user_away_timeout=None
    )
    session.input.audio, session.output.audio = call.caller, call.line
    await session.start(Agent(instructions="be brief"))
    await call.caller.speak(0.6)
    await call.truth.happened("heard")
    await asyncio.sleep(0.5)
    await call.caller.speak(0.6)
    first, second = await turns.wait(2)
    await session.aclose()
    await call.close()
    truth = call.truth
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    assert times(first, "realtime.first_audio") == truly(truth, "stopped", "first frame")
    assert times(first, "realtime") == truly(truth, "stopped", "done")
    assert times(first, "playback") == truly(truth, "heard", "quiet")
    assert times(second, "voice.turn")[0] == truly(truth, ("started", 1))[0]
    assert times(second, "realtime.first_audio") == truly(truth, ("stopped", 1), ("first frame", 1))
    assert times(second, "voice.response")[1] == truly(truth, ("heard", 1))[0]
    assert first["realtime"].attributes.items() >= {
        "gen_ai.request.model": "mind-1", "gen_ai.provider.name": "openai",
    }.items()  # fmt: skip
    assert not names(first) & {"asr", "llm", "tts"}
    billed = second["realtime"].attributes
    assert (billed["gen_ai.usage.input_tokens"], billed["gen_ai.usage.output_tokens"]) == (12, 34)
