"""A text-to-speech API: espeak-ng behind HTTP, with its health, its own statistics as JSON, and Prometheus's form.

voicespan run -- uvicorn service:app --port 8010
"""

from __future__ import annotations

import contextlib
import io
import wave
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

from voicespan import metrics, performance
from voicespan.demo import pcm, speech
from voicespan.names import VOICE_LANGUAGE, VOICE_TTS_VOICE_NAME
from voicespan.synthesis import Synthesis

MODEL = "espeak-ng"
VOICES = {"sam": ("en", "en-us"), "biden": ("en", "en-gb-x-rp"), "anna": ("de", "de"), "chloe": ("fr", "fr")}
"""Name of a voice: its language, and what the engine calls it."""


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Load the engine before the first request would have to wait for it."""
    metrics.allow(VOICE_TTS_VOICE_NAME, VOICES)
    metrics.allow(VOICE_LANGUAGE, {language for language, _ in VOICES.values()})
    with metrics.model_load(MODEL):
        speech.load()
    with metrics.model_warmup(MODEL):
        speech.synthesized("ready")
    yield
    metrics.model_unloaded(MODEL)


app = FastAPI(lifespan=lifespan)
app.mount("/prometheus", metrics.scrape_app())


class Request(BaseModel):
    """What to say."""

    text: str = Field(max_length=5000)
    voice_name: str = "sam"
    language: str = "en"


@app.post("/tts")
def tts(request: Request) -> Response:
    """Return the spoken text as a WAV file; runs in a thread, so that others are answered meanwhile."""
    with Synthesis(request.text, voice=request.voice_name, language=request.language, model=MODEL) as synthesis:
        known = VOICES.get(request.voice_name)
        if known is None or known[0] != request.language:
            raise HTTPException(404, f"no voice {request.voice_name!r} for {request.language!r}")
        sound = speech.synthesized(request.text, speech.Voice(known[1]))
        for _ in pcm.frames(sound):
            synthesis.audio(pcm.FRAME_MS / 1000)
    return Response(_wav(sound), media_type="audio/wav")


@app.get("/health")
async def health() -> dict[str, str]:
    """Say that requests are taken."""
    return {"status": "ok"}


@app.get("/metrics")
async def statistics() -> dict[str, Any]:
    """Return the figures of the last thousand requests."""
    return performance.export_metrics()


def _wav(sound: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(pcm.RATE)
        writer.writeframes(sound)
    return file.getvalue()
