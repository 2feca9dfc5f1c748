"""The stand-in for a language model, asked by the real client."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
import uvicorn

from voicespan.demo import model, scenarios, tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def client(free_port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    """Give a client of the stand-in."""
    server = uvicorn.Server(uvicorn.Config(model.app(), port=free_port, log_level="warning", ws="none"))
    serving = asyncio.ensure_future(server.serve())
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{free_port}/v1", api_key="none", max_retries=0) as asking:
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield asking
    server.should_exit = True
    await serving


async def ask(client: openai.AsyncOpenAI, *messages: dict[str, Any]) -> list[Any]:
    """Return the chunks of the answer."""
    stream = await client.chat.completions.create(
        model=model.NAME, messages=list(messages), tools=tools.TOOLS, stream=True  # type: ignore[arg-type]
    )  # fmt: skip
    return [chunk async for chunk in stream]  # type: ignore[union-attr]


def user(name: str) -> dict[str, Any]:
    """Return the scenario's question as a message."""
    return {"role": "user", "content": scenarios.named(name).question}


async def test_streams_the_reply(client: openai.AsyncOpenAI) -> None:
    """The reply comes token by token and ends with `stop`."""
    chunks = await ask(client, {"role": "system", "content": "Be brief."}, user("plain"))
    scenario = scenarios.named("plain")
    contents = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert contents == scenario.tokens
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_calls_the_tool_before_it_answers(client: openai.AsyncOpenAI) -> None:
    """Where the scenario has a city the tool is called with it; with its result comes the reply."""
    (called, end) = await ask(client, user("tool"))
    (wanted,) = called.choices[0].delta.tool_calls
    assert wanted.function.name == "get_weather"
    assert json.loads(wanted.function.arguments) == {"city": "London"}
    assert end.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": wanted.id, "content": "rain"}
    answer = await ask(client, user("tool"), {"role": "assistant", "tool_calls": [wanted.model_dump()]}, result)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    assert text == scenarios.named("tool").reply


async def test_refuses_as_often_as_it_should(client: openai.AsyncOpenAI) -> None:
    """The first request is refused with 503, the second is answered; the next conversation meets the same."""
    for _ in range(2):
        with pytest.raises(openai.InternalServerError, match="overloaded"):
            await ask(client, user("retry"))
        assert await ask(client, user("retry"))


async def test_asks_back_when_it_does_not_know(client: openai.AsyncOpenAI) -> None:
    """A question of no scenario gets a reply, too."""
    chunks = await ask(client, {"role": "user", "content": ""})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == scenarios.UNKNOWN.reply


async def test_lists_itself(client: openai.AsyncOpenAI) -> None:
    """The agent's first connection asks for the models."""
    assert [each.id async for each in client.models.list()] == [model.NAME]
