"""Voice pipelines of the unmodified Agents SDK, by its own tracing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents import Agent, OpenAIResponsesModel, function_tool, set_tracing_disabled
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
from opentelemetry import trace

from voicespan.integrations.openai_agents.pipeline import PIPELINES

from .http import Provider
from .world import Call, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.finished import FinishedTurn

    from .conftest import Turns

pytestmark = pytest.mark.alone


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


def pipeline(client: AsyncOpenAI, group_id: str = "call-7", **options: Any) -> VoicePipeline:
    """Return a pipeline as users write it."""
    agent = Agent(**{"name": "desk", "model": OpenAIResponsesModel("brain-1", client), **options})
    return VoicePipeline(
        workflow=SingleAgentVoiceWorkflow(agent),
        config=VoicePipelineConfig(
            model_provider=OpenAIVoiceModelProvider(openai_client=client), group_id=group_id,
            trace_include_sensitive_audio_data=False,
        ),
    )  # fmt: skip


async def ask(provider: Provider, asked: VoicePipeline) -> None:
    """Say something, and listen to the answer to its end."""
    provider.note("asked")
    result = await asked.run(AudioInput(np.zeros(24_000, np.int16)))
    async for event in result.stream():
        if event.type == "voice_stream_event_audio" and not provider.notes["heard"]:
            provider.note("heard")


async def warm() -> None:
    """Let the client make its types, which takes it long and happens once."""
    async with Provider("look") as provider, AsyncOpenAI(api_key="none", base_url=provider.url) as client:
        provider.wait_s = provider.step_s = 0.0
        await ask(provider, pipeline(client, "warm", tools=[function_tool(look)]))


def look(place: str) -> str:
    """Look around."""
    return place


def assert_answered(turn: FinishedTurn, provider: Provider) -> None:
    """Every milestone of an answer lies where it happened, by the clock of who has answered."""
    notes, near = provider.notes, provider.near
    assert turn.outcome == "completed"
    assert turn["asr"].start_ns == near(notes["asked"][0])
    assert turn["asr"].end_ns == near(notes["transcript"][0])
    assert [span.start_ns for span in turn.all("llm")] == [near(at_ns) for at_ns in notes["asked for text"]]
    assert [span.end_ns for span in turn.all("llm")] == [near(at_ns) for at_ns in notes["last token"]]
    assert turn["tts.first_audio"].end_ns == near(notes["frame"][0])
    assert turn["voice.response"].start_ns == near(notes["asked"][0])
    assert turn["voice.response"].end_ns == near(notes["heard"][0])


@pytest.mark.covers("F-TR03", "B-T01")
async def test_an_utterance(turns: Turns) -> None:
    """One run is one turn: recognition, text, speech, and what leaves the stream, each with its milestone."""
    await warm()
    async with Provider() as provider, AsyncOpenAI(api_key="none", base_url=provider.url) as client:
        await ask(provider, pipeline(client))
        _, turn = await turns.wait(2)
    assert_answered(turn, provider)
    assert turn.root.attributes["session.id"] == "call-7"
    assert turn["llm.ttft"].end_ns == provider.near(provider.notes["token"][0])
    assert len(turn.all("llm")) == len(turn.all("tts")) == len(turn.all("asr")) == 1
    assert turn["llm"].attributes.items() >= {
        "gen_ai.request.model": "brain-1", "gen_ai.usage.output_tokens": 3, "voice.llm.token.count": 3,
    }.items()  # fmt: skip
    assert turn["playback"].attributes["voice.playback.sent_s"] == pytest.approx(0.5)


@pytest.mark.covers("F-TR07")
async def test_a_tool(turns: Turns) -> None:
    """A function of the agent is a stage, current while it runs, between two requests for text of one turn."""
    current: list[int] = []
    await warm()
    async with Provider("get_weather") as provider, AsyncOpenAI(api_key="none", base_url=provider.url) as client:

        async def get_weather(place: str) -> str:
            """Look up the weather."""
            provider.note("call")
            current.append(trace.get_current_span().get_span_context().span_id)
            await asyncio.sleep(0.3)
            provider.note("result")
            return f"nine degrees in {place}"

        await ask(provider, pipeline(client, tools=[function_tool(get_weather)]))
        _, turn = await turns.wait(2)
    assert_answered(turn, provider)
    tool = turn["execute_tool get_weather"]
    assert (tool.start_ns, tool.end_ns) == tuple(provider.near(provider.notes[what][0]) for what in ("call", "result"))
    assert current == [tool.span_id]
    assert len(turn.all("llm")) == 2
    assert turn.shares["tool"] == pytest.approx(0.3, abs=0.03 + 2 * provider.late_s)


async def test_a_hand_over(turns: Turns) -> None:
    """Another agent that takes over within a run is an event, and what it is asked for carries its name."""
    await warm()
    async with Provider("transfer_to_billing") as provider:
        client = AsyncOpenAI(api_key="none", base_url=provider.url)
        billing = Agent(name="billing", model=OpenAIResponsesModel("brain-2", client))
        await ask(provider, pipeline(client, handoffs=[billing]))
        _, turn = await turns.wait(2)
        await client.close()
    assert_answered(turn, provider)
    (event,) = [event for event in turn.root.events if event.name == "voice.handoff"]
    assert event.attributes["gen_ai.agent.name"] == "billing"
    # The run hands over when the answer that asked for it has come to its end, before it asks the other agent.
    ended_ns = max(at_ns for at_ns in provider.notes["end"] if at_ns < provider.notes["asked for text"][1])
    assert event.time_ns == provider.near(ended_ns)
    first, second = turn.all("llm")
    assert "gen_ai.agent.name" not in first.attributes
    assert (second.attributes["gen_ai.agent.name"], second.attributes["gen_ai.request.model"]) == ("billing", "brain-2")
    assert turn["tts"].attributes["gen_ai.agent.name"] == "billing"


async def test_two_calls_at_once(turns: Turns) -> None:
    """Two runs in one process keep their turns apart, each with its own times."""
    await warm()

    async def one(wait_s: float, provider: Provider, call_id: str) -> None:
        async with provider, AsyncOpenAI(api_key="none", base_url=provider.url) as client:
            await asyncio.sleep(wait_s)
            await ask(provider, pipeline(client, call_id))

    slow, fast = Provider(wait_s=0.3), Provider(wait_s=0.15)
    await asyncio.gather(one(0, slow, "call-8"), one(0.1, fast, "call-9"))
    found = {turn.root.attributes["session.id"]: turn for turn in await turns.wait(3)}
    assert_answered(found["call-8"], slow)
    assert_answered(found["call-9"], fast)


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
