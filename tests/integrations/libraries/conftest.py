"""Spans and measurements of this process, kept in memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

from voicespan import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan


class Telemetry:
    """What was recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended."""
        return list(self._exporter.get_finished_spans())

    def wait(self, count: int, timeout_s: float = 10) -> list[ReadableSpan]:
        """Wait until so many spans have ended; return them in the order of their beginnings."""
        self.until(lambda: len(self.spans) >= count, timeout_s)
        assert len(self.spans) == count, [span.name for span in self.spans]
        return sorted(self.spans, key=lambda span: span.start_time or 0)

    @staticmethod
    def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
        """Wait for something that another thread does."""
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)

    def points(self, name: str) -> list[Any]:
        """Return the data points of a metric, measured now."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    """Make providers of this test the global ones, also for tracers and instruments that were made before."""
    made = Telemetry()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", made.tracers)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", made.meters)
    monkeypatch.setattr(emit, "_recorder", None)
    for module, names in _users():
        tracer, meter = made.tracers.get_tracer(f"voicespan.{names}"), made.meters.get_meter(f"voicespan.{names}")
        monkeypatch.setattr(module, "_tracer", tracer)
        monkeypatch.setattr(module, "_meter", meter)
        if names == "grpc":
            kinds = {trace.SpanKind.CLIENT: "client", trace.SpanKind.SERVER: "server"}
            histograms = {
                kind: meter.create_histogram(f"rpc.{side}.call.duration", unit="s") for kind, side in kinds.items()
            }
            monkeypatch.setattr(module, "_durations", histograms)
        else:
            monkeypatch.setattr(module, "_duration", meter.create_histogram("db.client.operation.duration", unit="s"))
            monkeypatch.setattr(module, "_observed", [])
    yield made
    made.meters.shutdown()


def _users() -> Iterator[tuple[Any, str]]:
    from voicespan.integrations import redis
    from voicespan.integrations.grpc import call

    yield call, "grpc"
    yield redis, "redis"
