"""Requests for text and speech, through the real client, as stages of the turn that is current."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI, OpenAI, RateLimitError
from opentelemetry import trace

import voicespan
from voicespan.context import LiveSpan
from voicespan.integrations.openai import call

from .http import Provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .conftest import Turns

pytestmark = pytest.mark.alone

ASKED: list[Any] = [{"role": "user", "content": "how cold is it"}]


@asynccontextmanager
async def provided(**options: Any) -> AsyncIterator[tuple[Provider, AsyncOpenAI]]:
    """Give a provider and its client."""
    async with (
        Provider(**options) as provider,
        AsyncOpenAI(api_key="none", base_url=provider.url, max_retries=0) as client,
    ):
        yield provider, client


@asynccontextmanager
async def asked(turns: Turns) -> AsyncIterator[voicespan.Turn]:
    """Hold a call in which the user has asked something."""
    with voicespan.session("call-7") as session:
        turn = session.user_turn()
        turn.speech_ended()
        turn.committed()
        yield turn
        turn.end()
    turns.all()


async def chat(client: AsyncOpenAI) -> int:
    stream = await client.chat.completions.create(
        model="brain-1", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    return len([chunk async for chunk in stream])


async def chat_helper(client: AsyncOpenAI) -> int:
    async with client.chat.completions.stream(
        model="brain-1", messages=ASKED, stream_options={"include_usage": True}
    ) as stream:
        return len([event async for event in stream])


async def chat_threaded(client: AsyncOpenAI) -> int:
    def plain() -> int:
        with OpenAI(api_key="none", base_url=str(client.base_url), max_retries=0) as sync:
            stream = sync.chat.completions.create(
                model="brain-1", messages=ASKED, stream=True, stream_options={"include_usage": True}
            )
            return len(list(stream))

    return await asyncio.to_thread(plain)


async def responses(client: AsyncOpenAI) -> int:
    stream = await client.responses.create(model="brain-1", input="how cold is it", stream=True)
    return len([event async for event in stream])


async def responses_helper(client: AsyncOpenAI) -> int:
    async with client.responses.stream(model="brain-1", input="how cold is it") as stream:
        return len([event async for event in stream])


async def responses_raw(client: AsyncOpenAI) -> int:
    """Stream as openai-agents does."""
    request = client.responses.with_streaming_response.create(model="brain-1", input="how cold", stream=True)
    async with request as answer:
        return len([event async for event in await answer.parse()])


async def chat_raw(client: AsyncOpenAI) -> int:
    answer = await client.chat.completions.with_raw_response.create(
        model="brain-1", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    return len([chunk async for chunk in answer.parse()])


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """Let the client import its parts and make its types, which it does at their first use."""

    async def use() -> None:
        async with provided(wait_s=0, step_s=0) as (_, client):
            for ask in STREAMS:
                await ask(client)
            await client.chat.completions.parse(model="brain-1", messages=ASKED)
            await client.responses.create(model="brain-1", input="how cold is it")
            asks: dict[str, Any] = {"model": "mouth-1", "voice": "alloy", "input": "It", "response_format": "pcm"}
            await client.audio.speech.create(**asks)
            await asyncio.to_thread(_speak, str(client.base_url), asks)

    asyncio.run(use())


STREAMS = [chat, chat_helper, chat_threaded, chat_raw, responses, responses_helper, responses_raw]


@pytest.mark.covers("F-TR05", "F-TR06", "B-T02")
@pytest.mark.parametrize("ask", STREAMS, ids=lambda each: each.__name__)
async def test_a_stream_of_tokens(turns: Turns, ask: Callable[[AsyncOpenAI], Any]) -> None:
    """A streamed answer is the stage `llm`: request, first and last token, token counts and model."""
    async with provided() as (provider, client), asked(turns):
        provider.note("asked")
        assert await ask(client) > 2
    (turn,) = turns.all()
    (llm,) = turn.all("llm")
    tokens = provider.notes["token"]
    assert llm.start_ns == provider.near(provider.notes["asked"][0])
    assert turn["llm.ttft"].end_ns == provider.near(tokens[0])
    assert llm.end_ns == provider.near(tokens[2])
    assert llm.error is None
    assert llm.attributes.items() >= {
        "gen_ai.request.model": "brain-1", "gen_ai.provider.name": "openai", "voice.llm.token.count": 3,
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3,
    }.items()  # fmt: skip


@pytest.mark.parametrize("kind", ["chat", "responses", "parse"])
async def test_a_whole_answer(turns: Turns, kind: str) -> None:
    """An answer that comes as a whole is a stage too; its first token comes with its last."""
    async with provided() as (provider, client), asked(turns):
        provider.note("asked")
        if kind == "chat":
            await client.chat.completions.create(model="brain-1", messages=ASKED)
        elif kind == "parse":
            await client.chat.completions.parse(model="brain-1", messages=ASKED)
        else:
            await client.responses.create(model="brain-1", input="how cold is it")
    (turn,) = turns.all()
    (llm,) = turn.all("llm")
    assert (llm.start_ns, llm.end_ns) == (
        provider.near(provider.notes["asked"][0]),
        provider.near(provider.notes["token"][0]),
    )
    assert llm.attributes["gen_ai.usage.output_tokens"] == 3


@pytest.mark.covers("F-TR08", "F-TR09", "B-T04")
@pytest.mark.parametrize("how", ["bytes", "file", "read", "whole", "threaded"])
async def test_speech(turns: Turns, how: str, tmp_path: Any) -> None:
    """Speech is the stage `tts`: from the text, first and last frame, and the length of PCM."""
    asks: dict[str, Any] = {"model": "mouth-1", "voice": "alloy", "input": "It is nine.", "response_format": "pcm"}
    async with provided() as (provider, client), asked(turns):
        provider.note("asked")
        if how == "whole":
            assert len((await client.audio.speech.create(**asks)).content) == 24_000
        elif how == "threaded":
            await asyncio.to_thread(_speak, provider.url, asks)
        else:
            async with client.audio.speech.with_streaming_response.create(**asks) as answer:
                if how == "bytes":
                    assert sum([len(chunk) async for chunk in answer.iter_bytes()]) == 24_000
                elif how == "read":
                    assert len(await answer.read()) == 24_000
                else:
                    await answer.stream_to_file(tmp_path / "speech")
    (turn,) = turns.all()
    (tts,) = turn.all("tts")
    frames = provider.notes["frame"]
    assert tts.start_ns == provider.near(provider.notes["asked"][0])
    first = frames[0] if how in ("bytes", "file", "threaded") else provider.notes["end"][0]
    assert turn["tts.first_audio"].end_ns == provider.near(first)
    assert tts.attributes.items() >= {
        "gen_ai.request.model": "mouth-1", "voice.tts.voice.name": "alloy", "gen_ai.provider.name": "openai",
        "voice.text.length": 11, "voice.audio.duration_s": pytest.approx(0.5),
    }.items()  # fmt: skip


def _speak(url: str, asks: dict[str, Any]) -> None:
    with (
        OpenAI(api_key="none", base_url=url) as client,
        client.audio.speech.with_streaming_response.create(**asks) as answer,
    ):
        assert sum(len(chunk) for chunk in answer.iter_bytes()) == 24_000


async def test_the_sentence_between(turns: Turns) -> None:
    """Text and speech of one turn are in their causal order: the sentence ends where the speech begins."""
    async with provided() as (provider, client), asked(turns) as turn_:
        await chat(client)
        provider.note("speech")
        request = client.audio.speech.with_streaming_response.create(
            model="mouth-1", voice="alloy", input="It is nine.", response_format="pcm"
        )
        async with request as answer:
            async for chunk in answer.iter_bytes():
                turn_.audio_sent(len(chunk) / 48_000)
    (turn,) = turns.all()
    assert turn.outcome == "completed"
    assert turn["llm.first_sentence"].end_ns == provider.near(provider.notes["speech"][0])
    assert set(turn.shares) >= {"llm", "sentence", "tts"}
    assert turn.shares["unattributed"] < 0.03


async def test_a_failure(turns: Turns) -> None:
    """An error of the provider is the stage's, and passes through to the service."""
    async with provided(status=429) as (_, client), asked(turns):
        with pytest.raises(RateLimitError):
            await chat(client)
    (turn,) = turns.all()
    assert turn["llm"].attributes["error.type"] == "openai.RateLimitError"
    assert "llm.ttft" not in {span.name for span in turn.spans}
    assert turn.outcome == "error"


@pytest.mark.parametrize("how", ["closed", "dropped", "cancelled"])
async def test_a_stream_that_nobody_reads_to_its_end(turns: Turns, how: str) -> None:
    """A stream that is closed, dropped or cancelled half-way is cancelled work, and holds no turn open."""
    async with provided(step_s=0.3) as (_, client), asked(turns) as asking:
        stream = await client.chat.completions.create(model="brain-1", messages=ASKED, stream=True)
        if how == "cancelled":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    async for _ in stream:
                        pass
        else:
            await anext(aiter(stream))
            if how == "closed":
                await stream.close()
            raw = stream.response
            del stream
            gc.collect()
            await raw.aclose()
        async with asyncio.timeout(5):  # a generator that was dropped is closed by the loop, and let go only then
            while any(stage.open for stage in asking.record.stages):
                gc.collect()
                await asyncio.sleep(0.01)
    (turn,) = turns.all()
    assert turn["llm"].attributes["voice.stage.cancelled"] is True
    assert turn["llm"].error is None


async def test_nothing_without_a_turn(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a turn a request passes untouched: nothing is made, and the stream is as the client made it."""
    monkeypatch.setattr(call, "_begin", lambda *_: pytest.fail("looked for a stage"))
    async with provided() as (_, client):
        assert await chat(client) == 5
        with voicespan.session("call-8"):
            assert await responses(client) == 7
    assert turns.all() == []


async def test_a_stage_that_is_current(turns: Turns) -> None:
    """Inside a stage that somebody has opened the request is a part of it: tokens and spans are counted once."""
    async with provided() as (_, client), asked(turns) as turn_:
        with turn_.llm(model="mine") as llm:
            stream = await client.chat.completions.create(model="brain-1", messages=ASKED, stream=True)
            async for _ in llm.stream(stream):
                pass
        with turn_.tool("look_up"):
            await client.chat.completions.create(model="brain-1", messages=ASKED)
        with turn_.tts(voice="mine", sample_rate=24_000) as tts:
            request = client.audio.speech.with_streaming_response.create(
                model="mouth-1", voice="alloy", input="It", response_format="pcm"
            )
            async with request as answer:
                async for _ in tts.stream(answer.iter_bytes()):
                    pass
    (turn,) = turns.all()
    assert [
        (llm.attributes["gen_ai.request.model"], llm.attributes["voice.llm.token.count"]) for llm in turn.all("llm")
    ] == [("mine", 3)]
    assert [tts.attributes["voice.tts.voice.name"] for tts in turn.all("tts")] == ["mine"]
    assert turn["tts"].attributes["voice.audio.duration_s"] == pytest.approx(0.5)


async def test_a_stage_that_is_open(turns: Turns) -> None:
    """A stage that is open without being current is not doubled either; two requests at once are two stages."""
    async with provided() as (_, client):
        async with asked(turns) as turn_:
            llm = turn_.llm(model="mine")
            stream = await client.chat.completions.create(model="brain-1", messages=ASKED, stream=True)
            async for _ in llm.stream(stream):
                pass
        async with asked(turns):
            await asyncio.gather(chat(client), chat(client))
    first, second = turns.all()
    assert [llm.attributes["gen_ai.request.model"] for llm in first.all("llm")] == ["mine"]
    assert len(second.all("llm")) == 2


async def test_the_request_is_a_part_of_the_stage(turns: Turns) -> None:
    """While the request is made the stage is current: what is called then is its child."""
    seen: list[int] = []

    async def hook(_request: Any) -> None:
        live = trace.get_current_span()
        assert isinstance(live, LiveSpan)
        seen.append(live.get_span_context().span_id)

    async with provided() as (_, client):
        client._client.event_hooks["request"].append(hook)
        async with asked(turns):
            await chat(client)
    (turn,) = turns.all()
    assert seen == [turn["llm"].span_id]


async def test_the_object_is_the_clients_own(turns: Turns) -> None:
    """The service gets the client's own stream, to be used in every way that it offers."""
    async with provided() as (_, client), asked(turns):
        stream = await client.chat.completions.create(model="brain-1", messages=ASKED, stream=True)
        assert type(stream).__name__ == "AsyncStream"
        async with stream:
            assert [chunk.choices[0].delta.content async for chunk in stream if chunk.choices] == [
                "", "It ", "is ", "nine.",
            ]  # fmt: skip
        assert stream.response.status_code == 200
