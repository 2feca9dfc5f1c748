"""The parts of the pipeline: a model (here a stand-in), the synthesizer behind gRPC, and the line to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import WebSocket


def heard(message: str) -> str:
    """Take what the caller has said."""
    return message.strip().lower()


async def think(question: str, store: Any) -> str:
    """Stand for a language model; the answers that it has given before are in Redis."""
    known: bytes | None = await store.hget("answers", question)
    if known is not None:
        return known.decode()
    await asyncio.sleep(0.2)
    answer = f"You asked: {question}"
    await store.hset("answers", question, answer)
    return answer


async def speak(text: str, worker: Any) -> AsyncIterator[bytes]:
    """Yield the speech of a text, 20 ms at a time."""
    async for frame in worker(text.encode()):
        yield frame


async def play(websocket: WebSocket, frame: bytes) -> None:
    """Send a frame to the caller."""
    await websocket.send_bytes(frame)
