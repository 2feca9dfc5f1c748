"""A stand-in for a language model: speaks the OpenAI chat protocol, with times and failures that are known.

It streams a scenario's reply token by token, calls the weather tool where the scenario has a city, and refuses where
the scenario wants it. Nothing traces it: it is somebody else's service, as the model is in production.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from voicespan.demo import scenarios, truth
from voicespan.demo.scenarios import Scenario

NAME = "stand-in"


class Model:
    """The stand-in's state: how often each scenario was refused, and its seeded jitter."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._jitter: dict[str, Iterator[float]] = {}
        self._refused: Counter[str] = Counter()

    async def complete(self, request: Request) -> Response:
        """Answer `POST /v1/chat/completions`, always as a stream."""
        asked = await request.json()
        messages = asked["messages"]
        question = next(message["content"] for message in reversed(messages) if message["role"] == "user")
        scenario = scenarios.for_question(question)
        truth.note("model.request", scenario.name)
        if self._refused[scenario.name] < scenario.refusals:
            self._refused[scenario.name] += 1
            return JSONResponse({"error": {"message": "overloaded", "type": "overloaded"}}, 503)
        self._refused[scenario.name] = 0
        wants_tool = scenario.city is not None and messages[-1]["role"] != "tool"
        pieces = _tool_call(scenario) if wants_tool else [{"content": token} for token in scenario.tokens]
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        prompt = sum(len(str(message.get("content") or "").split()) for message in messages)
        stream = self._stream(scenario, pieces, time.monotonic(), prompt=prompt, usage=usage)
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _stream(
        self, scenario: Scenario, pieces: list[dict[str, Any]], begin: float, *, prompt: int, usage: bool
    ) -> AsyncIterator[str]:
        jitter = self._jitter.setdefault(scenario.name, scenarios.jitter(self._seed, scenario.name))
        due = begin + scenario.first_token_s * next(jitter)
        for number, piece in enumerate(pieces):
            await asyncio.sleep(due - time.monotonic())
            if number == 0:
                truth.note("model.first_token", scenario.name)
            yield _chunk(piece)
            due += scenario.token_s * next(jitter)
        truth.note("model.last_token", scenario.name)
        yield _chunk({}, finish_reason="tool_calls" if "tool_calls" in pieces[0] else "stop")
        if usage:
            yield _usage(prompt, len(pieces))
        yield "data: [DONE]\n\n"


def app(seed: int = 0) -> Starlette:
    """Return the service."""
    return Starlette(
        routes=[
            Route("/v1/chat/completions", Model(seed).complete, methods=["POST"]),
            Route("/v1/models", _models),
        ]
    )


async def _models(_request: Request) -> JSONResponse:
    return JSONResponse({"object": "list", "data": [{"id": NAME, "object": "model", "created": 0, "owned_by": "demo"}]})


def _tool_call(scenario: Scenario) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": json.dumps({"city": scenario.city})}
    return [{"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}]


def _usage(prompt: int, completion: int) -> str:
    """The last chunk: what is billed, with a word for a token."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    chunk = {"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 0, "model": NAME, "choices": []}
    return f"data: {json.dumps({**chunk, 'usage': usage})}\n\n"


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
    chunk = {
        "id": "chatcmpl-demo",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": NAME,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return f"data: {json.dumps(chunk)}\n\n"
