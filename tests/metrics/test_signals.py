"""What a service says of itself becomes metrics and spans, and never harms the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from voicespan import metrics
from voicespan import names as n
from voicespan.metrics import signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Meters


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is exported."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    exporter.shutdown()


@pytest.mark.covers("C-M27", "C-M28", "C-M29", "C-M30", "E-M09", "E-T02")
def test_models_are_loaded_warmed_and_unloaded(meters: Meters, spans: InMemorySpanExporter) -> None:
    """Load and warm-up have a span in a trace of their own and a duration with that trace; unloads have a reason."""
    with trace.get_tracer("call").start_as_current_span("call") as call:
        with metrics.model_load("cosy"):
            pass
        with metrics.model_warmup("cosy"):
            pass
    metrics.model_unloaded("cosy", "ttl_eviction")
    found = meters.collect()
    made = {span.name: span for span in spans.get_finished_spans()}
    for span_name, metric in (
        (n.SPAN_MODEL_LOAD, n.METRIC_VOICE_MODEL_LOAD_DURATION),
        (n.SPAN_MODEL_WARMUP, n.METRIC_VOICE_MODEL_WARMUP_DURATION),
    ):
        (point,) = found[metric].data.data_points
        assert (point.count, point.attributes) == (1, {n.GEN_AI_REQUEST_MODEL: "cosy"})
        assert point.exemplars[0].trace_id == made[span_name].context.trace_id != call.get_span_context().trace_id
        assert made[span_name].parent is None
    unloads = meters.points(n.METRIC_VOICE_MODEL_UNLOADS)
    assert [(u.value, u.attributes[n.VOICE_MODEL_UNLOAD_REASON]) for u in unloads] == [(1, "ttl_eviction")]


def test_a_load_that_fails_leaves_no_model(meters: Meters, spans: InMemorySpanExporter) -> None:
    """The exception passes, the span has its class, the duration counts, and nothing is in memory."""
    with pytest.raises(OSError, match="no such file"), metrics.model_load("cosy"):
        raise OSError("no such file")
    assert meters.points(n.METRIC_VOICE_MODEL_RESIDENT) == []
    assert meters.only(n.METRIC_VOICE_MODEL_LOAD_DURATION).count == 1
    (span,) = spans.get_finished_spans()
    assert (span.attributes or {})[n.ERROR_TYPE] == "OSError"
    assert span.status.status_code is trace.StatusCode.ERROR


@pytest.mark.covers("C-M36", "C-M37", "F-TR21")
def test_commands_are_counted_and_timed(meters: Meters, spans: InMemorySpanExporter) -> None:
    """A command that a worker applies has a count, a duration, and a span in the trace that it came in."""
    with trace.get_tracer("rpc").start_as_current_span("demo.Speech/Control") as call:
        for command in ("PAUSE", "RESUME", "PAUSE", "dance"):
            with metrics.control(command):
                pass
    assert meters.values(n.METRIC_VOICE_CONTROL_COMMANDS) == {("PAUSE",): 2, ("RESUME",): 1, ("other",): 1}
    assert {p.count for p in meters.points(n.METRIC_VOICE_CONTROL_DURATION)} == {2, 1}
    controls = [span for span in spans.get_finished_spans() if span.name == n.SPAN_CONTROL]
    assert {span.context.trace_id for span in controls} == {call.get_span_context().trace_id}


@pytest.mark.covers("C-M08", "C-M09", "C-M10")
def test_messages_are_counted_by_kind_and_direction_and_timed(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message counts, also when its handling fails; what was received has the time of its handling."""
    from voicespan.metrics import messages

    now_ns = iter([0, 3_000_000, 10_000_000, 17_000_000])
    monkeypatch.setattr(messages, "monotonic_ns", lambda: next(now_ns))
    metrics.message_sent("SessionStarted")
    with metrics.message_received("TextChunk"):
        pass
    with pytest.raises(ValueError, match="bad"), metrics.message_received("TextChunk"):
        raise ValueError("bad")
    assert meters.values(n.METRIC_VOICE_MESSAGES) == {("transmit", "SessionStarted"): 1, ("receive", "TextChunk"): 2}
    point = meters.only(n.METRIC_VOICE_MESSAGE_PROCESS_DURATION)
    assert (point.bucket_counts, point.sum) == ((0, 1, 1, 0, 0, 0), pytest.approx(0.01))


@pytest.mark.covers("A-M04", "A-M08", "A-M22", "A-M23", "A-M15", "A-M16", "A-M17", "A-M18", "A-M19")
def test_limits_intents_and_clients(meters: Meters) -> None:
    """Refusals by route, intents by kind, errors, reconnections and marks of clients."""
    metrics.rate_limited("/rt-token")
    metrics.intent("weather")
    metrics.client_error("websocket")
    metrics.client_reconnected()
    marks = next(a for a in n.ATTRIBUTES if a.name == n.VOICE_CLIENT_MARK).values
    for mark in marks:
        metrics.client_mark(mark, 0.4)
    metrics.client_mark("playback_start", -1)
    assert meters.values(n.METRIC_VOICE_RATE_LIMIT_REJECTIONS) == {("/rt-token",): 1}
    assert meters.values(n.METRIC_VOICE_INTENTS) == {("weather",): 1}
    assert meters.values(n.METRIC_VOICE_CLIENT_ERRORS) == {("websocket",): 1}
    assert meters.values(n.METRIC_VOICE_CLIENT_RECONNECTIONS) == {(): 1}
    points = meters.points(n.METRIC_VOICE_CLIENT_MARK_DURATION)
    assert {point.attributes[n.VOICE_CLIENT_MARK]: point.count for point in points} == dict.fromkeys(marks, 1)


@pytest.mark.covers("D-M12", "D-M14", "E-X06", "D-Q05")
def test_a_report_on_the_network_is_jitter_loss_and_opinion(meters: Meters) -> None:
    """Each is recorded where it is known; a score needs the loss and a delay or jitter, and says how it was made."""
    metrics.audio_quality("transmit", jitter_s=0.004, loss=0.02, delay_s=0.06)
    metrics.audio_quality("receive", loss=0.0)
    metrics.audio_quality("receive", loss=1.5, jitter_s=-1)
    jitter = meters.only(n.METRIC_VOICE_AUDIO_FRAME_JITTER)
    assert jitter.attributes == {n.NETWORK_IO_DIRECTION: "transmit", n.VOICE_MEASUREMENT_POINT: "client"}
    assert jitter.sum == pytest.approx(0.004)
    assert {p.attributes[n.NETWORK_IO_DIRECTION]: p.sum for p in meters.points(n.METRIC_VOICE_AUDIO_PACKET_LOSS)} == {
        "transmit": 0.02,
        "receive": 0.0,
    }
    score = meters.only(n.METRIC_VOICE_AUDIO_MOS)
    assert score.attributes == {n.NETWORK_IO_DIRECTION: "transmit", n.VOICE_AUDIO_MOS_METHOD: "e_model"}
    assert score.sum == pytest.approx(4.18, abs=0.01)  # Id = 1.6, Ie = 7.0, R = 84.6


def test_a_worker_tells_its_real_time_factor(meters: Meters) -> None:
    """Time spent over audio made; no audio has no factor."""
    metrics.synthesized("cosy", spent_s=0.5, audio_s=2.0)
    metrics.synthesized("cosy", spent_s=0.5, audio_s=0.0)
    assert meters.only(n.METRIC_VOICE_TTS_REAL_TIME_FACTOR).sum == 0.25


def test_nothing_raises_into_the_service(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is given, and whatever breaks behind, a call of these only ever returns."""
    from opentelemetry import metrics as api

    for wrong in (None, object(), float("nan")):
        metrics.client_mark("playback_start", wrong)  # type: ignore[arg-type]
        metrics.intent(wrong)  # type: ignore[arg-type]
        metrics.audio_quality("transmit", jitter_s=wrong, loss=wrong)  # type: ignore[arg-type]
    monkeypatch.setattr(api, "get_meter_provider", lambda: 1 / 0)
    metrics.rate_limited("/")
    with metrics.control("PAUSE"), metrics.message_received("x"), metrics.connection():
        pass


def test_every_call_is_public() -> None:
    """What the package offers exists, and what the room has is offered."""
    assert [name for name in metrics.__all__ if not callable(getattr(metrics, name))] == []
    made = {name for name, value in vars(signals).items() if getattr(value, "__module__", "") == signals.__name__}
    assert {name for name in made if not name.startswith("_")} <= set(metrics.__all__)
    assert dir(metrics) == sorted(metrics.__all__)
