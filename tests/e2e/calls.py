"""Turns of scripted calls as a service would send them: made by voicespan itself on a fixed clock, encoded as OTLP."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from voicespan.testing import VoiceRecorder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from voicespan.finished import FinishedSpan, FinishedTurn
    from voicespan.sessions import Session
    from voicespan.turn import Turn

SPEECH_MS = 800
_KINDS = {"internal": Span.SPAN_KIND_INTERNAL, "client": Span.SPAN_KIND_CLIENT, "server": Span.SPAN_KIND_SERVER}


@dataclass(frozen=True)
class Sent:
    """A turn of a call: what it is about, and its spans with a trace id of their own."""

    kind: str
    trace_id: bytes
    spans: tuple[Span, ...]

    @property
    def hex(self) -> str:
        """The trace id as back ends show it."""
        return self.trace_id.hex()

    def duration_s(self, name: str) -> float:
        """The length of the only span of this name."""
        (span,) = [span for span in self.spans if span.name == name]
        return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


@dataclass
class Calls:
    """Makes turns. Each belongs to a call of its own and ends now."""

    model: str = "small-chat"
    voice_name: str = "sam"
    worker: str = "tts-cosy@0"
    _made: int = field(default=0, init=False)

    def plain(self, response_ms: float = 400) -> Sent:
        """The user hears the reply after `response_ms` of silence."""
        session, turn, voice = self._asked(response_ms)
        self._replied(turn, voice, response_ms)
        return self._over(session, voice, "plain")

    def interrupted(self, response_ms: float = 400) -> Sent:
        """The user speaks into the reply and stops it."""
        session, turn, voice = self._asked(response_ms)
        self._replied(turn, voice, response_ms, seconds=5.0)
        voice.clock.advance(ms=500)
        turn.interrupted()
        voice.clock.advance(ms=40)
        turn.barge_in("playback_stop")
        turn.audio_stopped()
        return self._over(session, voice, "interrupted")

    def failed(self, response_ms: float = 400) -> Sent:
        """The model fails, and nothing is said."""
        session, turn, voice = self._asked(response_ms)
        with turn.llm(model=self.model) as llm:
            llm.fail(ConnectionError("model is away"))
        turn.failed("model is away")
        return self._over(session, voice, "error")

    def timed_out(self) -> Sent:
        """The model never answers, and nobody hangs up."""
        session, turn, voice = self._asked(400)
        with turn.llm(model=self.model):
            voice.settle(700)
        return self._over(session, voice, "timeout")

    def abandoned(self, silence_ms: float = 400) -> Sent:
        """The user hangs up in the silence."""
        session, _, voice = self._asked(silence_ms)
        voice.clock.advance(ms=silence_ms * 0.65)
        session.hung_up()
        return self._over(session, voice, "no_reply")

    def _asked(self, response_ms: float) -> tuple[Session, Turn, VoiceRecorder]:
        voice = VoiceRecorder()
        self._made += 1
        session = voice.session(f"call-{self._made}", transport="websocket")
        turn = session.user_turn()
        voice.clock.advance(ms=SPEECH_MS)
        turn.speech_ended()
        voice.clock.advance(ms=response_ms * 0.3)
        turn.committed()
        voice.clock.advance(ms=response_ms * 0.05)
        turn.transcript()
        return session, turn, voice

    def _replied(self, turn: Turn, voice: VoiceRecorder, response_ms: float, seconds: float = 1.0) -> None:
        with turn.llm(model=self.model) as llm:
            voice.clock.advance(ms=response_ms * 0.25)
            llm.token()
            voice.clock.advance(ms=response_ms * 0.1)
            llm.sentence()
            llm.usage(input_tokens=812, output_tokens=41)
        with turn.tts(voice=self.voice_name, model="tts-small", language="en-US") as tts:
            tts.worker(self.worker)
            tts.text("Nine degrees and sunny.")
            voice.clock.advance(ms=response_ms * 0.25)
            tts.audio(seconds)
        turn.audio_sent(seconds)
        voice.clock.advance(ms=response_ms * 0.05)
        turn.audio_heard()

    def _over(self, session: Session, voice: VoiceRecorder, kind: str) -> Sent:
        voice.settle(8)
        session.end()
        (turn,) = voice.turns
        return encode(turn, kind)


def encode(turn: FinishedTurn, kind: str) -> Sent:
    """The turn as OTLP, ended now, with a random trace id: the recorder's ids count up, and repeat."""
    trace_id, now_ns = os.urandom(16), time.time_ns()
    shift_ns = now_ns - max(span.end_ns for span in turn.spans)
    ids = {span.span_id: os.urandom(8) for span in turn.spans}
    return Sent(kind, trace_id, tuple(_span(span, trace_id, ids, shift_ns) for span in turn.spans))


def _span(span: FinishedSpan, trace_id: bytes, ids: Mapping[int, bytes], shift_ns: int) -> Span:
    return Span(
        trace_id=trace_id,
        span_id=ids[span.span_id],
        parent_span_id=ids.get(span.parent_id or 0, b""),
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.start_ns + shift_ns,
        end_time_unix_nano=span.end_ns + shift_ns,
        attributes=pairs(span.attributes),
        events=[
            Span.Event(name=event.name, time_unix_nano=event.time_ns + shift_ns, attributes=pairs(event.attributes))
            for event in span.events
        ],
        status=None if span.error is None else Status(code=Status.STATUS_CODE_ERROR, message=span.error),
    )


def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    """The OTLP form of attributes."""
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    made = AnyValue()
    if isinstance(value, (list, tuple)):
        made.array_value.values.extend(_value(each) for each in value)
    else:
        made.string_value = value
    return made


def request(turns: Iterable[Sent], **resource: Any) -> bytes:
    """One OTLP request with all spans of these turns. Names of resource attributes have `__` for a dot."""
    described = {
        "service.name": "voice-agent",
        "service.version": "1.4.2",
        "deployment.environment.name": "test",
        "service.instance.id": os.urandom(4).hex(),
        "process.pid": 4711,
        **{key.replace("__", "."): value for key, value in resource.items()},
    }
    made = ResourceSpans(resource=Resource(attributes=pairs(described)))
    made.scope_spans.add().spans.extend(span for turn in turns for span in turn.spans)
    return ExportTraceServiceRequest(resource_spans=[made]).SerializeToString()
