"""All that a voice service can send, for a while: turns of every kind, the spans around them, and every metric."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from voicespan import names as n
from voicespan.testing import VoiceRecorder

from .calls import SPEECH_MS, Calls, Sent, pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voicespan.sessions import Session
    from voicespan.turn import Turn

SERVICE = "voice-agent"
_ATTRIBUTES = {attribute.name: attribute for attribute in n.ATTRIBUTES}
_CHOSEN = {
    n.GEN_AI_REQUEST_MODEL: ("small-chat", "large-chat"),
    n.DB_OPERATION_NAME: ("GET", "SET", "HGETALL"),
    n.DB_CLIENT_CONNECTION_POOL_NAME: ("sessions",),
    n.VOICE_MESSAGE_TYPE: ("AudioFrame", "TextChunk"),
    n.HW_NAME: ("a GPU",),
    n.VOICE_GENERATION_DISCARDED: (None, True),
}
_ERRORS = {n.METRIC_VOICE_SESSION_ERRORS, n.METRIC_VOICE_SESSION_SETUP_FAILURES, n.METRIC_VOICE_CLIENT_ERRORS}
"""They count nothing but errors; elsewhere the class of an error is there only when something failed."""
_USUAL = {
    n.METRIC_HW_GPU_MEMORY_USAGE: 30e9,
    n.METRIC_HW_GPU_MEMORY_LIMIT: 80e9,
    n.METRIC_HW_GPU_UTILIZATION: 0.4,
    n.METRIC_HW_TEMPERATURE: 61.0,
    n.METRIC_HW_POWER: 210.0,
    n.METRIC_PROCESS_CPU_UTILIZATION: 0.2,
    n.METRIC_SYSTEM_CPU_UTILIZATION: 0.3,
    n.METRIC_PROCESS_MEMORY_USAGE: 4e8,
    n.METRIC_SYSTEM_MEMORY_USAGE: 9e9,
    n.METRIC_VOICE_SERVICE_UP: 1,
}


@dataclass
class Turns(Calls):
    """Turns of every kind, with lengths that vary."""

    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def any(self, number: int) -> Sent:
        """Return a turn; over a hundred numbers there is one of each kind at least."""
        self.model, self.voice_name, self.worker = self.rng.choice(
            (
                ("small-chat", "sam", "tts-cosy@0"),
                ("small-chat", "anna", "tts-cosy@1"),
                ("large-chat", "sam", "tts-cosy@1"),
            )
        )
        length_ms = self.rng.lognormvariate(6.3, 0.45) * (1.4 if self.model == "large-chat" else 1)
        kinds: dict[int, Callable[[], Sent]] = {
            0: lambda: self.interrupted(length_ms),
            1: lambda: self.failed(length_ms),
            2: lambda: self.abandoned(6000),
            3: lambda: self.tool(length_ms + 500),
            4: self.greeting,
            5: lambda: self.realtime(length_ms),
            6: lambda: self.filler(length_ms),
            7: lambda: self.gap(length_ms),
            8: lambda: self.plain(9_000),
            9: lambda: self.speculative(length_ms),
            10: lambda: self.unheard(length_ms),
            11: self.long,
            12: lambda: self.mute(length_ms),
            13: lambda: self.recovered(length_ms),
        }
        return kinds.get(number % 25, lambda: self.plain(length_ms))()

    def _asked(self, response_ms: float) -> tuple[Session, Turn, VoiceRecorder]:
        """As in every call, with a recognizer and a detector that knows the real end of speech."""
        voice = VoiceRecorder()
        session = voice.session("call", transport="websocket")
        turn = session.user_turn()
        with turn.asr(model="asr-small", language="en-US") as asr:
            voice.clock.advance(ms=SPEECH_MS)
            turn.speech_ended(at=voice.clock.now_ns)
            voice.clock.advance(ms=response_ms * 0.3)
            turn.committed()
            voice.clock.advance(ms=response_ms * 0.05)
            asr.final()
        return session, turn, voice

    def interrupted(self, response_ms: float = 400) -> Sent:
        """The user speaks into the reply and stops it; every part of the service says when it has stopped."""
        session, turn, voice = self._asked(response_ms)
        self._replied(turn, voice, response_ms, seconds=5.0)
        voice.clock.advance(ms=700)
        turn.interrupted()
        for phase in ("worker_pause", "server_cancel", "playback_stop"):
            voice.clock.advance(ms=self.rng.uniform(8, 120))
            turn.barge_in(phase)
        turn.audio_stopped()
        return self._over(session, voice, "interrupted")

    def unheard(self, response_ms: float) -> Sent:
        """The client does not report: what is known is when the frames were sent."""
        session, turn, voice = self._asked(response_ms)
        with turn.llm(model=self.model) as llm:
            voice.clock.advance(ms=response_ms * 0.3)
            llm.token()
        with turn.tts(voice=self.voice_name, model="tts-small", language="en-US") as tts:
            tts.text("Yes.")
            voice.clock.advance(ms=response_ms * 0.3)
            tts.audio(0.5)
        voice.clock.advance(ms=15)
        turn.audio_sent(0.5)
        return self._over(session, voice, "unheard")

    def long(self) -> Sent:
        """The reply is a speech of three seconds, in German."""
        session, turn, voice = self._asked(500)
        with turn.tts(voice=self.voice_name, model="tts-small", language="de", text="So wird das Wetter. " * 20) as tts:
            tts.worker(self.worker)
            for _ in range(3):
                voice.clock.advance(ms=900)
                tts.audio(1.5)
                turn.audio_sent(1.5)
            turn.audio_heard()
        return self._over(session, voice, "long")

    def recovered(self, response_ms: float) -> Sent:
        """A model fails, another one answers."""
        session, turn, voice = self._asked(response_ms)
        with turn.llm(model=self.model) as llm:
            voice.clock.advance(ms=60)
            llm.fail(ConnectionError("model is away"))
        self._replied(turn, voice, response_ms)
        return self._over(session, voice, "recovered")

    def mute(self, response_ms: float) -> Sent:
        """Synthesis fails, and nothing is heard."""
        session, turn, voice = self._asked(response_ms)
        with turn.tts(voice=self.voice_name, model="tts-small", language="en-US", text="Nine degrees.") as tts:
            tts.worker(self.worker)
            tts.fail(TimeoutError("no worker"))
        turn.failed("no worker")
        return self._over(session, voice, "mute")

    def tool(self, response_ms: float) -> Sent:
        """The model asks a tool first."""
        session, turn, voice = self._asked(response_ms)
        with turn.tool("get_weather"):
            voice.clock.advance(ms=450)
        self._replied(turn, voice, response_ms - 500)
        return self._over(session, voice, "tool")

    def greeting(self) -> Sent:
        """The agent begins."""
        voice = VoiceRecorder()
        session = voice.session("greeted", transport="webrtc")
        turn = session.agent_turn(trigger="greeting")
        with turn.tts(voice=self.voice_name, model="tts-small", language="en-US") as tts:
            tts.text("Hello, what can I do for you?")
            voice.clock.advance(ms=150)
            tts.audio(1.0)
        turn.audio_sent(1.0)
        voice.clock.advance(ms=30)
        turn.audio_heard()
        return self._over(session, voice, "greeting")

    def realtime(self, response_ms: float) -> Sent:
        """A speech-to-speech model answers."""
        session, turn, voice = self._asked(response_ms)
        with turn.realtime(model="speech-1") as realtime:
            voice.clock.advance(ms=response_ms * 0.6)
            realtime.audio(1.0)
        voice.clock.advance(ms=8)
        turn.audio_sent(1.0)
        voice.clock.advance(ms=40)
        turn.audio_heard()
        return self._over(session, voice, "realtime")

    def filler(self, response_ms: float) -> Sent:
        """The agent says "one moment" before it answers."""
        session, turn, voice = self._asked(response_ms)
        with turn.tts(voice=self.voice_name, model="tts-small", filler=True) as tts:
            tts.text("One moment.")
            voice.clock.advance(ms=90)
            tts.audio(0.5)
        turn.audio_sent(0.5)
        voice.clock.advance(ms=20)
        turn.audio_heard()
        voice.clock.advance(ms=500)
        self._replied(turn, voice, response_ms)
        return self._over(session, voice, "filler")

    def gap(self, response_ms: float) -> Sent:
        """The reply stops for a moment in its middle."""
        session, turn, voice = self._asked(response_ms)
        self._replied(turn, voice, response_ms, seconds=0.5)
        voice.clock.advance(ms=500)
        turn.audio_stopped()
        voice.clock.advance(ms=400)
        with turn.tts(voice=self.voice_name, model="tts-small", language="en-US") as tts:
            tts.text("And it will stay so.")
            tts.audio(1.0)
        turn.audio_sent(1.0)
        turn.audio_heard()
        return self._over(session, voice, "gap")

    def speculative(self, response_ms: float) -> Sent:
        """A generation was begun too early and thrown away."""
        session, turn, voice = self._asked(response_ms)
        with turn.llm(model=self.model) as llm:
            voice.clock.advance(ms=20)
            llm.token()
            llm.usage(input_tokens=812, output_tokens=9)
            llm.discarded()
        self._replied(turn, voice, response_ms)
        return self._over(session, voice, "speculative")


def around(rng: random.Random) -> Iterator[Span]:
    """Give one span of every kind that is no part of a turn made here: HTTP, gRPC, the worker's, Redis, set-up.

    Most take a tenth of a second, and once in a while one takes twelve.
    """
    made = {span.name for span in n.SPANS if span.attributes and span.parent in {None, n.SPAN_TTS}} - {n.SPAN_TURN}
    made |= {n.SPAN_SYNTHESIZE, n.SPAN_TTS_INFERENCE, n.SPAN_TTS_FRAMING, n.SPAN_TOKEN_MINT}
    made -= {n.SPAN_TTS_FIRST_AUDIO}
    for span in n.SPANS:
        if span.name not in made:
            continue
        attributes = {
            name: rng.choice(values(name)) for name in span.attributes if name != n.ERROR_TYPE and values(name)
        }
        failed = rng.random() < 0.1
        if failed and n.ERROR_TYPE in span.attributes:
            attributes[n.ERROR_TYPE] = "timeout"
        yield _span(span, attributes, 12 if rng.random() < 0.03 else rng.lognormvariate(-2.5, 0.8), failed=failed)


def _span(span: n.Span, attributes: dict[str, Any], duration_s: float, *, failed: bool) -> Span:
    name = span.name
    for attribute, value in attributes.items():
        name = name.replace(f"{{{attribute}}}", str(value))
    now_ns = time.time_ns()
    kinds = {"internal": Span.SPAN_KIND_INTERNAL, "client": Span.SPAN_KIND_CLIENT, "server": Span.SPAN_KIND_SERVER}
    return Span(
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        name=name,
        kind=kinds[span.kind],
        start_time_unix_nano=now_ns - round(duration_s * 1e9),
        end_time_unix_nano=now_ns,
        attributes=pairs(attributes),
        status=Status(code=Status.STATUS_CODE_ERROR) if failed else None,
    )


def values(attribute: str) -> tuple[Any, ...]:
    """Return values that an attribute may have."""
    listed = _ATTRIBUTES[attribute]
    found: tuple[Any, ...] = _CHOSEN.get(attribute, listed.values)
    return tuple(int(value) for value in found) if listed.type == "int" else found


class Metrics:
    """A service that records every metric of the names module."""

    def __init__(self, endpoint: str, *, service: str = SERVICE, worker: str | None = None, every_s: float = 5) -> None:
        self._rng = random.Random(worker or service)
        resource = {
            n.SERVICE_NAME: service,
            n.SERVICE_VERSION: "1.4.2",
            n.SERVICE_INSTANCE_ID: f"{worker or service}-1",
            n.DEPLOYMENT_ENVIRONMENT_NAME: "test",
            **({n.VOICE_WORKER_ID: worker} if worker else {}),
        }
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{endpoint}/v1/metrics"), every_s * 1000)
        self._provider = MeterProvider([reader], Resource(resource))
        meter = self._provider.get_meter("voicespan")
        self._record = []
        for metric in n.METRICS:
            if metric.name.startswith("hw.") and not worker:
                continue
            if metric.observable:
                make = getattr(meter, f"create_observable_{metric.instrument.replace('updown', 'up_down_')}")
                make(metric.name, [self._observed(metric)], metric.unit)
            elif metric.instrument == "histogram":
                histogram = meter.create_histogram(
                    metric.name, metric.unit, explicit_bucket_boundaries_advisory=metric.boundaries
                )
                self._record.append((metric, histogram.record))
            else:
                make = getattr(meter, f"create_{metric.instrument.replace('updown', 'up_down_')}")
                self._record.append((metric, make(metric.name, metric.unit).add))

    def step(self) -> None:
        """Record something with every instrument."""
        for metric, record in self._record:
            if metric.instrument == "histogram":
                around = self._rng.choice(metric.boundaries[: max(1, len(metric.boundaries) * 2 // 3)])
                record(around * self._rng.uniform(0.5, 1.0), self._attributes(metric))
            elif metric.instrument == "updowncounter":
                record(self._rng.choice((1, 1, -1)), self._attributes(metric, plain=True))
            else:
                record(1, self._attributes(metric))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _observed(self, metric: n.Metric) -> Any:
        began = time.monotonic()

        def callback(_: CallbackOptions) -> list[Observation]:
            usual = _USUAL.get(metric.name, 3)
            value = 0.3 * (time.monotonic() - began) if metric.instrument == "counter" else usual
            found = [Observation(value, self._attributes(metric, plain=True))]
            if metric.name == n.METRIC_OTEL_SDK_PROCESSOR_SPAN_PROCESSED:  # some were dropped
                found.append(Observation(value / 10, {n.ERROR_TYPE: "queue_full"}))
            return found

        return callback

    def _attributes(self, metric: n.Metric, *, plain: bool = False) -> dict[str, Any]:
        chosen = {
            name: values(name)[0] if plain else self._rng.choice(values(name))
            for name in metric.attributes
            if name != n.ERROR_TYPE and values(name)
        }
        attributes = {name: value for name, value in chosen.items() if value is not None}
        failed = metric.name in _ERRORS or (not plain and self._rng.random() < 0.1)
        return attributes | ({n.ERROR_TYPE: "timeout"} if failed and n.ERROR_TYPE in metric.attributes else {})
