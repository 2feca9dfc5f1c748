"""Voice pipelines of the unmodified Agents SDK, by its own tracing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents import Agent, OpenAIResponsesModel, set_tracing_disabled
from agents.tracing import get_trace_provider
from agents.voice import (
    AudioInput,
    OpenAIVoiceModelProvider,
    SingleAgentVoiceWorkflow,
    StreamedAudioInput,
    VoicePipeline,
    VoicePipelineConfig,
)
from openai import AsyncOpenAI

from voicespan.integrations.openai_agents.pipeline import PIPELINES

from .http import Provider
from .world import Call, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Turns

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Trace, but send nothing to the vendor from here; what the SDK has installed stays otherwise."""
    provider: Any = get_trace_provider()
    processors = provider._multi_processor
    before = processors._processors
    assert PIPELINES in before
    assert len(before) > 1, "the SDK's own processor was taken away"
    processors._processors = (PIPELINES,)
    set_tracing_disabled(False)
    yield
    processors._processors = before


def pipeline(client: AsyncOpenAI, **options: Any) -> VoicePipeline:
    """Return a pipeline as users write it."""
    agent = Agent(name="desk", model=OpenAIResponsesModel("brain-1", client), **options)
    return VoicePipeline(
        workflow=SingleAgentVoiceWorkflow(agent),
        config=VoicePipelineConfig(
            model_provider=OpenAIVoiceModelProvider(openai_client=client), group_id="call-7",
            trace_include_sensitive_audio_data=False,
        ),
    )  # fmt: skip


@pytest.mark.covers("F-TR03", "B-T01")
async def test_an_utterance(turns: Turns) -> None:
    """One run is one turn: recognition, text, speech, and what leaves the stream, each with its milestone."""
    async with Provider() as provider, AsyncOpenAI(api_key="none", base_url=provider.url) as client:
        for _ in range(2):  # the first one also makes the client's types
            provider.notes.clear()
            provider.late_s = 0.0
            provider.note("asked")
            result = await pipeline(client).run(AudioInput(np.zeros(24_000, np.int16)))
            async for event in result.stream():
                if event.type == "voice_stream_event_audio" and not provider.notes["heard"]:
                    provider.note("heard")
        _, turn = await turns.wait(2)
    assert turn.outcome == "completed"
    assert turn.root.attributes["session.id"] == "call-7"
    assert turn["asr"].end_ns == provider.near(provider.notes["transcript"][0])
    assert turn["llm.ttft"].end_ns == provider.near(provider.notes["token"][0])
    assert turn["tts.first_audio"].end_ns == provider.near(provider.notes["frame"][0])
    assert turn["voice.response"].start_ns == provider.near(provider.notes["asked"][0])
    assert turn["voice.response"].end_ns == provider.near(provider.notes["heard"][0])
    assert len(turn.all("llm")) == len(turn.all("tts")) == len(turn.all("asr")) == 1
    assert turn["llm"].attributes.items() >= {
        "gen_ai.request.model": "brain-1", "gen_ai.usage.output_tokens": 3, "voice.llm.token.count": 3,
    }.items()  # fmt: skip
    assert turn["playback"].attributes["voice.playback.sent_s"] == pytest.approx(0.5)


async def test_a_provider_error(turns: Turns) -> None:
    """A run whose recognizer fails is a turn that failed, and the service meets its own error."""
    async with Provider(status=429) as provider:
        client = AsyncOpenAI(api_key="none", base_url=provider.url, max_retries=0)
        result = await pipeline(client).run(AudioInput(np.zeros(24_000, np.int16)))
        with pytest.raises(Exception, match="429"):
            async for _ in result.stream():
                pass
        (turn,) = await turns.wait(1)
        await client.close()
    assert turn.outcome == "error"
    assert turn["asr"].error is not None
    assert not names(turn) & {"llm", "tts", "playback"}


async def test_streamed_audio(turns: Turns) -> None:
    """In a streamed pipeline the turn begins with the real onset: the socket of the recognizer tells it."""
    call = Call()
    async with Provider() as provider, call.server:
        client = AsyncOpenAI(api_key="none", base_url=provider.url, websocket_base_url=call.server.url)
        source = StreamedAudioInput()  # type: ignore[no-untyped-call]
        result = await pipeline(client).run(source)

        async def listen() -> None:
            async for frame in call.line.microphone():
                await source.add_audio(np.frombuffer(frame, np.int16))

        async def play() -> None:
            async for event in result.stream():
                if event.type == "voice_stream_event_audio" and event.data is not None:
                    call.line.play("reply", event.data.tobytes())

        tasks = [asyncio.create_task(listen()), asyncio.create_task(play())]
        await asyncio.sleep(0.6)
        await call.ask(0.8)
        (turn,) = await turns.wait(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
    call.assert_at(turn.root.start_ns, "speech")
    call.assert_at(turn["vad"].end_ns, "committed")
    call.assert_span(turn["asr"], "committed", "transcript")
    call.assert_at(turn["voice.response"].end_ns, "heard")
    assert names(turn) >= {"llm", "llm.ttft", "tts", "tts.first_audio", "playback"}
    assert turn.outcome == "completed"
