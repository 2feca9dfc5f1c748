"""What following the OpenAI client adds to one event and one request, on the calling thread; printed as JSON.

Events are given to the client's own connection over a socket that does nothing, followed and not, in turns, in one
process. A request is a function in the place of the client's, so that only what is added is timed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import platform
import statistics
import time
from typing import TYPE_CHECKING, Any

import openai
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.chat import ChatCompletionChunk

import voicespan
from voicespan.integrations.openai import OpenAIInstrumentor, call

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 100
CALLS = 40
FRAME = {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(960)).decode()}
DELTA = json.dumps(
    {
        "type": "response.output_audio.delta", "event_id": "e", "response_id": "r", "item_id": "i", "output_index": 0,
        "content_index": 0, "delta": base64.b64encode(bytes(4800)).decode(),
    }
)  # fmt: skip
CHUNK = ChatCompletionChunk.model_validate(
    {
        "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": "token"}, "finish_reason": None}],
    }
)  # fmt: skip


class Silence:
    """A socket to nowhere."""

    async def send(self, data: str) -> None: ...

    async def recv(self, decode: bool = False) -> bytes:
        return DELTA.encode()


def median_us(work: Callable[[], Any]) -> float:
    begun = time.perf_counter_ns()
    for _ in range(CALLS):
        work()
    return (time.perf_counter_ns() - begun) / CALLS / 1e3


def begin(connection: Any) -> None:
    """Bring the connection to where audio is flowing both ways."""
    for event in (
        {"type": "session.created", "session": {"type": "realtime", "id": "s", "model": "m"}},
        {"type": "input_audio_buffer.speech_started", "audio_start_ms": 0, "item_id": "u"},
        {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 500, "item_id": "u"},
        {"type": "input_audio_buffer.committed", "item_id": "u"},
        {"type": "response.created", "response": {"id": "r"}},
    ):
        connection.parse_event(json.dumps(event))


async def main() -> None:
    plain = AsyncRealtimeConnection(Silence())  # type: ignore[arg-type]
    OpenAIInstrumentor().instrument(skip_dep_check=True)
    followed = AsyncRealtimeConnection(Silence())  # type: ignore[arg-type]
    begin(followed)
    conversation = followed._voicespan  # type: ignore[attr-defined]
    sample = plain.parse_event(DELTA)
    works: dict[str, Callable[[], Any]] = {
        "frame": lambda: conversation.sent(FRAME),
        "delta": lambda: conversation.received(sample),
        "delta_of_the_client": lambda: plain.parse_event(DELTA),
        "request_without_a_turn": lambda: call.generates_async(int, None, (), {}),
        "request_of_nobody": int,
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    conversation._scope.close()
    for _ in range(ROUNDS):
        for name, work in works.items():
            taken[name].append(median_us(work))
    taken["token"] = [await tokens(followed=True) - await tokens(followed=False) for _ in range(ROUNDS)]
    conversation.lost(None)
    result = {name: [round(min(each), 2), round(statistics.median(each), 2)] for name, each in taken.items()}
    versions = {"python": platform.python_version(), "openai": openai.__version__}
    print(json.dumps({"unit": "us", "what": ["min", "median"], **result, **versions}, indent=2))


async def tokens(*, followed: bool) -> float:
    """Return microseconds for one token of a stream."""

    class Stream:
        def __init__(self) -> None:
            self._iterator = self.items()

        async def items(self) -> Any:
            for _ in range(CALLS):
                yield CHUNK

    async def create() -> Stream:
        return Stream()

    with voicespan.session("s") as session:
        turn = session.user_turn(input="text")
        stream = await call._request_async(create, None, "llm", (), {}) if followed else await create()
        begun = time.perf_counter_ns()
        async for _ in stream._iterator:
            pass
        took = (time.perf_counter_ns() - begun) / CALLS / 1e3
        turn.end()
    return took


if __name__ == "__main__":
    asyncio.run(main())
