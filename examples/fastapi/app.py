"""A voice service as its team has written it: calls over a WebSocket, speech by a gRPC worker, callers in Redis.

Nothing here knows of telemetry. `README.md` says how its calls become traces.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import grpc
import pipeline
import redis.asyncio as redis
from fastapi import FastAPI, WebSocket

CALLERS_FOR_S = 3600


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect to the worker and the store."""
    async with (
        grpc.aio.insecure_channel(os.environ["SPEECH_WORKER"]) as channel,
        redis.from_url(os.environ["REDIS_URL"]) as store,
    ):
        app.state.worker = channel.unary_stream("/demo.Speech/Synthesize")
        app.state.store = store
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/calls")
async def calls() -> dict[str, int]:
    """Say how many calls each caller has made."""
    return {key.decode(): int(await app.state.store.get(key)) for key in await app.state.store.keys("caller:*")}


@app.websocket("/call/{caller}")
async def call(websocket: WebSocket, caller: str) -> None:
    """Answer one caller: their utterances come as text of the recognizer, the replies go back as sound."""
    await websocket.accept()
    await app.state.store.set(f"caller:{caller}", 1, ex=CALLERS_FOR_S)
    async for message in websocket.iter_text():
        question = pipeline.heard(message)
        answer = await pipeline.think(question, app.state.store)
        async for frame in pipeline.speak(answer, app.state.worker):
            await pipeline.play(websocket, frame)
        await websocket.send_text("done")
