"""The twelve spans of a plain turn, in the ways that libraries ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

FRAMES = 10
SPANS = 12
MODEL = {"gen_ai.request.model": "small", "gen_ai.operation.name": "chat"}
SPEAKER = {"voice.tts.voice.name": "amy"}
VOICE = {**SPEAKER, "voice.component": "tts"}
VAD, ASR, LLM = ({"voice.component": name} for name in ("vad", "asr", "llm"))
PLAYBACK = {"voice.component": "playback"}
RESPONSE = {"voice.response.from": "speech_end"}
BOTTLENECK = {"voice.turn.bottleneck": "llm", "voice.turn.outcome": "completed"}
STAGES = ("endpoint", "asr", "llm", "sentence", "tts", "send", "unattributed")


def about(session_id: str) -> dict[str, str | int]:
    """What the turn itself says at its start."""
    return {
        "session.id": session_id,
        "gen_ai.conversation.id": session_id,
        "gen_ai.operation.name": "invoke_agent",
        "voice.turn.initiator": "user",
        "voice.turn.input": "speech",
        "voice.turn.index": 1,
        "voice.speech.segments": 1,
        "voice.transport": "websocket",
    }


def played() -> int:
    """Count the frames of the reply, which is all that can be done with them without metrics."""
    frames = 0
    for _ in range(FRAMES):
        frames += 1
    return frames


def traced(tracer: trace.Tracer, session_id: str) -> None:
    """With OpenTelemetry's tracer by hand, done well: explicit parents, attributes at the start."""
    start, child = tracer.start_span, trace.set_span_in_context
    turn = start("voice.turn", attributes=about(session_id))
    root = child(turn)
    vad = start("vad", context=root, attributes=VAD)
    endpoint = start("vad.endpoint", context=child(vad))
    asr = start("asr", context=root, attributes=ASR)
    finalize = start("asr.finalize", context=child(asr))
    response = start("voice.response", context=root, attributes=RESPONSE)
    vad.add_event("vad.speech_end")
    finalize.end()
    asr.end()
    endpoint.end()
    vad.end()
    llm = start("llm", context=root, attributes={**LLM, **MODEL})
    in_llm = child(llm)
    ttft = start("llm.ttft", context=in_llm, attributes=MODEL)
    sentence = start("llm.first_sentence", context=in_llm, attributes=MODEL)
    ttft.end()
    sentence.end()
    llm.set_attribute("voice.llm.token.count", 3)
    llm.end()
    tts = start("tts", context=root, attributes=VOICE)
    first = start("tts.first_audio", context=child(tts), attributes=SPEAKER)
    first.end()
    playback = start("playback", context=root, attributes=PLAYBACK)
    frames = played()
    for name, value in BOTTLENECK.items():
        response.set_attribute(name, value)
    for stage in STAGES:
        response.set_attribute(f"voice.response.share.{stage}", 0.1)
    response.end()
    tts.set_attribute("voice.audio.frame.count", frames)
    tts.end()
    playback.end()
    for name, value in BOTTLENECK.items():
        turn.set_attribute(name, value)
    turn.end()


class Settable(Protocol):
    """A span inside its block."""

    def set(self, attributes: dict[str, str | int | float]) -> None:
        """Give it these."""


def nested(span: Callable[[str, dict[str, str | int]], AbstractContextManager[Settable]], session_id: str) -> None:
    """With blocks, as libraries with an interface of their own document it.

    The same spans with the same parents and attributes; the event of the detector is an attribute, since not all have
    events, and no span overlaps another that is not its parent.
    """
    with span("voice.turn", about(session_id)) as turn:
        with span("vad", VAD) as vad, span("vad.endpoint", {}):
            vad.set({"vad.speech_end": True})
        with span("asr", ASR), span("asr.finalize", {}):
            pass
        with span("llm", {**LLM, **MODEL}) as llm:
            with span("llm.ttft", MODEL):
                pass
            with span("llm.first_sentence", MODEL):
                pass
            llm.set({"voice.llm.token.count": 3})
        with span("tts", VOICE) as tts:
            with span("tts.first_audio", SPEAKER):
                pass
            tts.set({"voice.audio.frame.count": FRAMES})
        with span("playback", PLAYBACK):
            played()
        with span("voice.response", RESPONSE) as response:
            response.set(BOTTLENECK | {f"voice.response.share.{stage}": 0.1 for stage in STAGES})
        turn.set(BOTTLENECK)
