"""The twelve spans of a plain turn with all that ours carry, in the ways that libraries ask for.

Nothing is concluded here: shares, bottleneck and critical path, which voicespan has to find out, are constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

FRAMES = 10
SPANS = 12
Attributes = dict[str, str | bool | int | float]

CRITICAL: Attributes = {"voice.critical_path": True}
VAD: Attributes = {"voice.component": "vad", **CRITICAL}
ASR: Attributes = {"voice.component": "asr"}
MODEL: Attributes = {"gen_ai.request.model": "small", **CRITICAL}
LLM: Attributes = {"voice.component": "llm", "gen_ai.operation.name": "chat", **MODEL}
GENERATED: Attributes = {
    "voice.llm.token.count": 3,
    "voice.llm.token.rate": 40.0,
    "gen_ai.response.time_to_first_chunk": 0.1,
}
VOICE: Attributes = {"voice.tts.voice.name": "amy", **CRITICAL}
TTS: Attributes = {"voice.component": "tts", "voice.alias": "synthesize_request", **VOICE}
SPOKEN: Attributes = {
    "voice.audio.frame.count": FRAMES,
    "voice.audio.duration_s": 0.2,
    "voice.tts.real_time_factor": 0.5,
}
PLAYBACK: Attributes = {"voice.component": "playback", "voice.measurement.point": "server"}
PLAYED: Attributes = {"voice.playback.sent_s": 0.2, "voice.playback.heard_s": 0.2, "voice.playback.estimated": True}
RESPONSE: Attributes = {
    "voice.response.from": "speech_end",
    "voice.measurement.point": "server",
    "voice.turn.initiator": "user",
    "voice.transport": "websocket",
    "voice.tts.voice.name": "amy",
    "gen_ai.request.model": "small",
}
ENDED: Attributes = {"voice.turn.bottleneck": "llm", "voice.turn.outcome": "completed"}
STAGES = ("endpoint", "llm", "sentence", "tts", "send", "unattributed")
ANSWERED: Attributes = {**ENDED, **{f"voice.response.share.{stage}": 0.1 for stage in STAGES}}
PREVIOUS = [trace.Link(trace.SpanContext(1, 1, is_remote=False), {"voice.link.type": "previous"})]


def about(session_id: str) -> Attributes:
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
    """With OpenTelemetry's tracer by hand, done well: explicit parents, attributes and links made once, at the start.

    Span for span, attribute for attribute and event for event what ours are: tests/benchmarks/test_recording.py.
    """
    start, child, client = tracer.start_span, trace.set_span_in_context, trace.SpanKind.CLIENT
    turn = start("voice.turn", attributes=about(session_id), links=PREVIOUS)
    turn.add_event("speech_start")
    root = child(turn)
    vad = start("vad", context=root, attributes=VAD)
    endpoint = start("vad.endpoint", context=child(vad), attributes=CRITICAL)
    asr = start("asr", context=root, attributes=ASR)
    finalize = start("asr.finalize", context=child(asr))
    response = start("voice.response", context=root, attributes=RESPONSE)
    vad.add_event("vad.speech_end")
    turn.add_event("speech_end")
    turn.add_event("first_transcript")
    finalize.end()
    asr.end()
    endpoint.end()
    vad.end()
    turn.add_event("response_created")
    llm = start("llm", context=root, kind=client, attributes=LLM)
    in_llm = child(llm)
    ttft = start("llm.ttft", context=in_llm, attributes=MODEL)
    sentence = start("llm.first_sentence", context=in_llm, attributes=MODEL)
    ttft.end()
    sentence.end()
    llm.set_attributes(GENERATED)
    llm.end()
    tts = start("tts", context=root, kind=client, attributes=TTS)
    first = start("tts.first_audio", context=child(tts), attributes=VOICE)
    first.end()
    playback = start("playback", context=root, attributes=PLAYBACK)
    played()
    response.set_attributes(ANSWERED)
    response.end()
    tts.set_attributes(SPOKEN)
    tts.end()
    playback.set_attributes(PLAYED)
    playback.end()
    turn.set_attributes(ENDED)
    turn.end()


class Settable(Protocol):
    """A span inside its block."""

    def set(self, attributes: Attributes) -> None:
        """Give it these."""


def nested(span: Callable[[str, Attributes], AbstractContextManager[Settable]], session_id: str) -> None:
    """With blocks, as libraries with an interface of their own document it.

    The same spans with the same parents and attributes, less the events and the link, since not all have these; and no
    span overlaps another that is not its parent.
    """
    with span("voice.turn", about(session_id)) as turn:
        with span("vad", VAD), span("vad.endpoint", CRITICAL):
            pass
        with span("asr", ASR), span("asr.finalize", {}):
            pass
        with span("llm", LLM) as llm:
            with span("llm.ttft", MODEL):
                pass
            with span("llm.first_sentence", MODEL):
                pass
            llm.set(GENERATED)
        with span("tts", TTS) as tts:
            with span("tts.first_audio", VOICE):
                pass
            tts.set(SPOKEN)
        with span("playback", PLAYBACK) as playback:
            played()
            playback.set(PLAYED)
        with span("voice.response", RESPONSE) as response:
            response.set(ANSWERED)
        turn.set(ENDED)
