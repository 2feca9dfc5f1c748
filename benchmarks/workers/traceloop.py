"""Traceloop's SDK (OpenLLMetry) to another back end; its own reports to its makers are off.

HOW is `spans` (its decorators, which is how it records an own program) or `tracer` (OpenTelemetry's tracer through its
provider).
"""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import trace
from traceloop.sdk import Traceloop
from traceloop.sdk.decorators import task, workflow

from workers import twelve
from workers.worker import Way, each, run


def about(attributes: dict[str, Any]) -> None:
    trace.get_current_span().set_attributes(attributes)


@workflow(name="voice.turn")
def turn(session_id: str) -> None:
    about(twelve.about(session_id))
    vad()
    asr()
    llm()
    tts()
    playback()
    response()
    about(twelve.ENDED)


@task(name="vad")
def vad() -> None:
    about(twelve.VAD)
    endpoint()


@task(name="vad.endpoint")
def endpoint() -> None:
    about(twelve.CRITICAL)


@task(name="asr")
def asr() -> None:
    about(twelve.ASR)
    finalize()


@task(name="asr.finalize")
def finalize() -> None:
    """Nothing is said of it."""


@task(name="llm")
def llm() -> None:
    about(twelve.LLM)
    ttft()
    sentence()
    about(twelve.GENERATED)


@task(name="llm.ttft")
def ttft() -> None:
    about(twelve.MODEL)


@task(name="llm.first_sentence")
def sentence() -> None:
    about(twelve.MODEL)


@task(name="tts")
def tts() -> None:
    about(twelve.TTS)
    first()
    about(twelve.SPOKEN)


@task(name="tts.first_audio")
def first() -> None:
    about(twelve.VOICE)


@task(name="playback")
def playback() -> None:
    about(twelve.PLAYBACK)
    twelve.played()
    about(twelve.PLAYED)


@task(name="voice.response")
def response() -> None:
    about(twelve.RESPONSE)
    about(twelve.ANSWERED)


def start(how: str) -> Way:
    Traceloop.init(
        app_name="bench",
        api_endpoint=os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"],
        telemetry_enabled=False,
    )
    provider: Any = trace.get_tracer_provider()
    if how == "tracer":
        tracer = trace.get_tracer("bench")
        return Way(each(lambda session_id: twelve.traced(tracer, session_id)), provider.force_flush)
    return Way(each(turn), provider.force_flush)


if __name__ == "__main__":
    run(start, "traceloop-sdk")
