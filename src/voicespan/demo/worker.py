"""The speech worker: a gRPC service around espeak-ng that streams packets of frames, five times as fast as they play.

`voicespan run` traces the calls (their server spans are the parents here); what happens inside are ordinary spans.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from opentelemetry import trace

from voicespan import metrics
from voicespan.demo import pcm, scenarios, synthesis, truth
from voicespan.demo.scenarios import Scenario
from voicespan.demo.speech import Voice, load, synthesized
from voicespan.names import (
    ERROR_TYPE,
    SPAN_TTS_FRAMING,
    SPAN_TTS_INFERENCE,
    VOICE_AUDIO_FRAME_COUNT,
    VOICE_TTS_REAL_TIME_FACTOR,
    VOICE_WORKER_ID,
)

_MODEL = "espeak-ng"
_SPEED = 5.0
_BURST = 5
_PAUSE_AFTER_S = 0.1
_DIVERGED = "the vocoder diverged"
Context = grpc.aio.ServicerContext[Any, Any]
_tracer = trace.get_tracer("voicespan.demo.worker")


class Worker:
    """Synthesizes one request at a time, as a process with one graphics card would."""

    def __init__(self, worker_id: str, seed: int = 0) -> None:
        self._id = worker_id
        self._seed = seed
        self._jitter: dict[str, Iterator[float]] = {}
        self._card = asyncio.Lock()
        self._running: dict[str, asyncio.Event] = {}

    async def synthesize(self, request: synthesis.Request, context: Context) -> AsyncIterator[bytes]:
        """Speak the request's text; the first packet comes when its scenario says so."""
        scenario = scenarios.for_sentence(request.text)
        truth.note("speech.request", scenario.name, text=request.text)
        trace.get_current_span().set_attribute(VOICE_WORKER_ID, self._id)
        await context.send_initial_metadata(((synthesis.WORKER_ID, self._id),))
        running = self._running[request.stream] = asyncio.Event()
        running.set()
        try:
            with metrics.speaking(request.voice):
                with metrics.queued():
                    await self._card.acquire()
                try:
                    speech = await self._infer(scenario, request)
                finally:
                    self._card.release()
            if speech is None:
                truth.note("speech.failed", scenario.name, text=request.text)
                await context.abort(grpc.StatusCode.INTERNAL, _DIVERGED)
            truth.note("speech.first_frame", scenario.name, text=request.text)
            async for packet in _framed(speech, running):
                yield packet
        finally:
            del self._running[request.stream]

    async def control(self, command: synthesis.Command, _context: Context) -> bytes:
        """Pause or resume a stream; one that has ended is no error."""
        with metrics.control(command.command):
            running = self._running.get(command.stream)
            if running is not None and command.command == synthesis.PAUSE:
                running.clear()
            elif running is not None:
                running.set()
        return b""

    async def _infer(self, scenario: Scenario, request: synthesis.Request) -> bytes | None:
        """Return the speech, after the time that the scenario gives it; None when the scenario wants a failure."""
        jitter = self._jitter.setdefault(scenario.name, scenarios.jitter(self._seed, scenario.name))
        begin = time.monotonic()
        with _tracer.start_as_current_span(SPAN_TTS_INFERENCE) as span:
            speech = synthesized(request.text, Voice(request.voice))
            await asyncio.sleep(begin + scenario.first_audio_s * next(jitter) - time.monotonic())
            if scenario.speech_fails:
                span.set_attribute(ERROR_TYPE, "model_error")
                span.set_status(trace.StatusCode.ERROR, _DIVERGED)
                return None
            spent_s, audio_s = time.monotonic() - begin, pcm.seconds(speech)
            span.set_attribute(VOICE_TTS_REAL_TIME_FACTOR, spent_s / audio_s)
            metrics.synthesized(_MODEL, spent_s=spent_s, audio_s=audio_s)
        return speech + pcm.silence(_PAUSE_AFTER_S)


async def _framed(speech: bytes, running: asyncio.Event) -> AsyncIterator[bytes]:
    frames = list(pcm.frames(speech))
    # Not the current span: a context that is held across a `yield` may end in another task.
    span = _tracer.start_span(SPAN_TTS_FRAMING, attributes={VOICE_AUDIO_FRAME_COUNT: len(frames)})
    try:
        for start in range(0, len(frames), _BURST):
            packet = frames[start : start + _BURST]
            yield b"".join(packet)
            if len(packet) == _BURST:
                await asyncio.sleep(_BURST * pcm.FRAME_MS / 1000 / _SPEED)
                await running.wait()
    finally:
        span.end()


def handler(worker: Worker) -> grpc.GenericRpcHandler:
    """Return what makes a gRPC server answer with this worker."""
    methods: dict[str, Any] = {
        synthesis.SYNTHESIZE: grpc.unary_stream_rpc_method_handler(
            worker.synthesize, request_deserializer=lambda message: synthesis.Request(**json.loads(message))
        ),
        synthesis.CONTROL: grpc.unary_unary_rpc_method_handler(
            worker.control, request_deserializer=lambda message: synthesis.Command(**json.loads(message))
        ),
    }
    return grpc.method_handlers_generic_handler(synthesis.SERVICE, methods)


async def serve(port: int, seed: int) -> None:
    """Serve on this port of the machine until cancelled.

    Raises:
        RuntimeError: the port is taken.

    """
    with metrics.model_load(_MODEL):
        load()
    with metrics.model_warmup(_MODEL):
        synthesized("ready")  # before the first caller has to wait for it
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((handler(Worker(os.environ.get("VOICESPAN_WORKER_ID", "tts-espeak@0"), seed)),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(grace=0.2)
