"""A provider over HTTP: text as server-sent events, speech in chunks, each at a pace of its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from typing import Any, Self

import pytest


class Provider:
    """Answers every request; notes in nanoseconds of Unix time what it did when.

    `calls` are functions that the model wants to be called, one for each stream of responses, before it says anything.
    """

    def __init__(self, *calls: str, wait_s: float = 0.15, step_s: float = 0.05, status: int = 200) -> None:
        self.calls = list(calls)
        self.wait_s, self.step_s, self.status = wait_s, step_s, status
        self.notes: defaultdict[str, list[int]] = defaultdict(list)
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.late_s = 0.0

    async def _be_punctual(self) -> None:
        """Measure how late this machine is."""
        while True:
            due_s = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            self.late_s = max(self.late_s, time.monotonic() - due_s)

    def near(self, at_ns: int) -> Any:
        """Equal to what lies within 30 ms of a time, and what a busy machine was late."""
        return pytest.approx(at_ns, abs=30_000_000 + round(2e9 * self.late_s))

    def note(self, what: str) -> None:
        self.notes[what].append(time.time_ns())

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(self._be_punctual())
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watch.cancel()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.headers.append(headers)
                self.note("request")
                await self._answer(writer, request.split()[1], body)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, path: str, body: bytes) -> None:
        multipart = path.endswith("transcriptions")
        told: dict[str, Any] = {} if multipart else json.loads(body)
        if self.status != 200:
            await self._whole(writer, {"error": {"message": "no", "code": "rate_limit_exceeded"}}, self.status)
        elif multipart:
            await asyncio.sleep(self.wait_s)
            self.note("transcript")
            await self._whole(writer, {"text": "how cold is it"})
        elif path.endswith("speech"):
            await self._chunks(writer, [bytes(4800)] * 5, "frame", "audio/pcm")
        elif not told.get("stream"):
            await asyncio.sleep(self.wait_s)
            self.note("token")
            await self._whole(writer, completion() if path.endswith("completions") else response())
        elif path.endswith("completions"):
            await self._chunks(writer, chat_events(), "token", "text/event-stream")
        else:
            self.note("asked for text")
            events = call_events(self.calls.pop(0)) if self.calls else response_events()
            await self._chunks(writer, events, "token", "text/event-stream", last="last token")

    async def _whole(self, writer: asyncio.StreamWriter, told: Any, status: int = 200) -> None:
        body = json.dumps(told).encode()
        head = f"HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async def _chunks(
        self, writer: asyncio.StreamWriter, chunks: list[bytes], what: str, kind: str, last: str = "end of output"
    ) -> None:
        """Send chunks, each noted as `what`; the one before the closing event, or the only one, also as `last`."""
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        await writer.drain()
        await asyncio.sleep(self.wait_s)
        for place, chunk in enumerate(chunks):
            self.note(what)
            if place == max(len(chunks) - 2, 0):
                self.note(last)
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
            await asyncio.sleep(self.step_s)
        self.note("end")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _sse(told: Any, kind: str | None = None) -> bytes:
    return (f"event: {kind}\n" if kind else "").encode() + b"data: " + json.dumps(told).encode() + b"\n\n"


def chat_events() -> list[bytes]:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "brain-1"}
    words = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in ("It ", "is ", "nine.")]
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    # As the service does: the first chunk has the role only, and comes together with the first word.
    first = _sse({**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    events = [_sse({**chunk, "choices": [word]}) for word in words]
    events[0] = first + events[0]
    return [*events, _sse({**chunk, "choices": [], "usage": usage}) + b"data: [DONE]\n\n"]


def completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": "It is nine."}
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "brain-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }  # fmt: skip


def response(status: str = "completed") -> dict[str, Any]:
    content = {"type": "output_text", "text": "It is nine.", "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [content]}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": "r", "object": "response", "created_at": 1, "model": "brain-1", "status": status, "output": [message],
        "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
        "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, **details},
    }  # fmt: skip


def response_events() -> list[bytes]:
    where = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    created = {"type": "response.created", "sequence_number": 0, "response": {**response("in_progress"), "output": []}}
    words = [
        _sse({"type": "response.output_text.delta", "sequence_number": 1, "delta": word, **where},
             "response.output_text.delta")
        for word in ("It ", "is ", "nine.")
    ]  # fmt: skip
    item = {"type": "message", "id": "m", "role": "assistant", "status": "in_progress", "content": []}
    added = {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": item}
    part = {"type": "output_text", "text": "", "annotations": []}
    begun = {"type": "response.content_part.added", "sequence_number": 1, "part": part, **where}
    words[0] = b"".join(_sse(told, str(told["type"])) for told in (created, added, begun)) + words[0]
    done = {"type": "response.completed", "sequence_number": 9, "response": response()}
    return [*words, _sse(done, "response.completed")]


def call_events(name: str) -> list[bytes]:
    """Return a response that calls a function and says nothing."""
    item = {"type": "function_call", "id": "f", "call_id": "call_1", "name": name, "status": "completed"}
    where = {"item_id": "f", "output_index": 0, "sequence_number": 1}
    arguments = {"arguments": '{"place": "Oslo"}'}
    made = [item | arguments]
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response("in_progress"), "output": []}, "sequence_number": 0},
        {"type": "response.output_item.added", "item": item | {"arguments": ""}, **where},
        {"type": "response.function_call_arguments.delta", "delta": arguments["arguments"], **where},
        {"type": "response.function_call_arguments.done", "name": name, **arguments, **where},
        {"type": "response.output_item.done", "item": made[0], **where},
        {"type": "response.completed", "response": response() | {"output": made}, "sequence_number": 9},
    ]
    return [b"".join(_sse(each, each["type"]) for each in told)]
