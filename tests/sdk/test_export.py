from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from voicespan import diagnostics, settings
from voicespan.sdk import export
from voicespan.sdk.batch import DROPPED, FAILED, SENT, Limits, Refusal
from voicespan.sdk.export import BatchProcessor, MetricSender, Why, count_processed, is_passing, plain_reason
from voicespan.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing has been said or counted, and the settings are the defaults."""
    settings.reset(Settings(exit_timeout_s=10))
    diagnostics.forget()
    yield
    settings.reset()
    diagnostics.forget()


class Failing(SpanExporter):
    """Refuses everything."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE


def provider(exporter: SpanExporter, **options: Any) -> tuple[TracerProvider, BatchProcessor]:
    processor = BatchProcessor(exporter, target="there")
    made = TracerProvider(shutdown_on_exit=False, **options)
    made.add_span_processor(processor)
    return made, processor


def test_ended_spans_are_exported() -> None:
    """Spans of the SDK reach the exporter, off the thread that ends them."""
    threads: set[str] = set()

    class Noting(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            threads.add(threading.current_thread().name)
            return super().export(spans)

    exporter = Noting()
    tracers, _ = provider(exporter)
    with tracers.get_tracer("t").start_as_current_span("a"):
        pass
    assert tracers.force_flush(20_000)
    assert [span.name for span in exporter.get_finished_spans()] == ["a"]
    assert threads == {"voicespan-span"}
    tracers.shutdown()


def test_unsampled_spans_are_not() -> None:
    """What the sampler leaves out is not exported."""
    exporter = InMemorySpanExporter()
    tracers, processor = provider(exporter, sampler=ALWAYS_OFF)
    tracers.get_tracer("t").start_span("a").end()
    assert tracers.force_flush(20_000)
    assert exporter.get_finished_spans() == ()
    assert processor.batcher.counts.snapshot() == {}


def test_what_shutdown_could_not_send_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A shutdown in a running process says how many spans were lost, and where they should have gone."""
    tracers, _ = provider(Failing())
    tracers.get_tracer("t").start_span("a").end()
    tracers.shutdown()
    assert capsys.readouterr().err == (
        "voicespan: shut down, and not sent: 1 span to there (the exporter does not say why)\n"
    )


def test_the_processor_shuts_its_exporter_down_once() -> None:
    """A second shutdown changes nothing."""
    calls = []

    class Noting(InMemorySpanExporter):
        def shutdown(self) -> None:
            calls.append(1)

    _, processor = provider(Noting())
    processor.shutdown()
    processor.shutdown()
    assert calls == [1]


def test_processed_spans_are_a_metric() -> None:
    """What was sent and lost is `otel.sdk.processor.span.processed`, with the cause as `error.type`."""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider

    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    _, processor = provider(InMemorySpanExporter())
    counts = processor.batcher.counts
    counts.add(SENT, 5)
    counts.add(FAILED, 3)
    counts.add(DROPPED, 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metrics, "get_meter", meters.get_meter)
        count_processed(processor.batcher)
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert metric.name == "otel.sdk.processor.span.processed"
    points = {(point.attributes or {}).get("error.type"): point.value for point in metric.data.data_points}  # type: ignore[union-attr]
    assert points == {None: 5, "export_failed": 3, "queue_full": 2, "already_shutdown": 0}
    meters.shutdown()


class FakeMetricExporter(MetricExporter):
    """Gives `result`."""

    result = MetricExportResult.SUCCESS

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        return self.result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        pass


def test_lost_metrics_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Metrics that could not be sent are counted and said once a minute, and so is that they are taken again."""
    inner = FakeMetricExporter()
    sender = MetricSender(inner, target="there")
    inner.result = MetricExportResult.FAILURE
    sender.export(MetricsData([]))
    sender.export(MetricsData([]))
    assert (sender.unsent, diagnostics.counters.get("metrics.failed")) == (True, 2)
    inner.result = MetricExportResult.SUCCESS
    assert sender.export(MetricsData([])) is MetricExportResult.SUCCESS
    assert sender.unsent is False
    assert capsys.readouterr().err == (
        "voicespan: metrics could not be sent to there (the exporter does not say why)\n"
        "voicespan: there takes metrics again\n"
    )


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "Failed to export spans batch code: None, reason: (Caused by NewConnectionError('Connection refused'))",
            "connection refused",
        ),
        ("Transient error [Errno 111] Connection refused encountered while exporting spans", "connection refused"),
        ("Transient error StatusCode.UNAVAILABLE encountered while exporting traces to x", "StatusCode.UNAVAILABLE"),
        ("Failed to export spans batch code: 401, reason: Unauthorized", "401 Unauthorized"),
        ("Transient error Service Unavailable encountered while exporting spans batch", "Service Unavailable"),
        ("Failed to export: Read timed out. (read timeout=10)", "no answer in time"),
        ("code: None, reason: Remote end closed connection without response", "connection closed by the peer"),
        (
            "Failed to export traces to c:1, error code: StatusCode.UNAUTHENTICATED, error details: no token",
            "UNAUTHENTICATED no token",
        ),
        ("[Errno -2] Name or service not known", "unknown host name"),
        ("certificate verify failed: self-signed", "its certificate is not trusted"),
        ("x" * 500, "x" * 200 + "..."),
    ],
)
def test_reasons_in_plain_words(message: str, words: str) -> None:
    """An exporter's log line becomes the few words that a person needs."""
    assert plain_reason(message) == words


@pytest.mark.parametrize(
    ("message", "passing"),
    [
        ("Failed to export spans batch code: None, reason: [Errno 111] Connection refused", True),
        ("Failed to export spans batch code: 503, reason: Service Unavailable", True),
        ("Failed to export spans batch code: 429, reason: Too Many Requests", True),
        ("Failed to export spans batch code: 400, reason: Bad Request", False),
        ("Failed to export spans batch code: 500, reason: Internal Server Error", False),
        ("Failed to export traces to c:1, error code: StatusCode.UNAVAILABLE, error details: x", True),
        ("Failed to export traces to c:1, error code: StatusCode.PERMISSION_DENIED, error details: x", False),
        ("Failed to encode span batch: boom", False),
    ],
)
def test_what_may_be_sent_later(message: str, passing: bool) -> None:
    """By the rules of OTLP some failures pass, and others will meet the same batch again."""
    assert is_passing(message) is passing


def test_exporters_do_not_hear_each_other(why: Why) -> None:
    """A line that another exporter logs on its own thread is not taken for ours."""
    other = Why(why._exporter)

    def fail() -> None:
        other.begin()
        logging.getLogger("opentelemetry.exporter.test").error("Read timed out")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert (why.reason, other.reason) == ("", "no answer in time")


class LoggingExporter:
    """Stands in for an OTLP exporter: logs as those do, under a module name of theirs."""

    def __init__(self) -> None:
        self._shutdown_event = threading.Event()


LoggingExporter.__module__ = "opentelemetry.exporter.test"


@pytest.fixture
def why() -> Iterator[Why]:
    """The reasons of an exporter that logs."""
    made = Why(LoggingExporter())
    made.begin()
    yield made
    export._listeners.pop("opentelemetry.exporter.test")
    logging.getLogger("opentelemetry.exporter.test").filters.clear()


def test_the_reason_comes_from_the_log(why: Why, caplog: pytest.LogCaptureFixture) -> None:
    """The exporter's line is kept from the service's log; its reason outlives a later line that has none."""
    logger = logging.getLogger("opentelemetry.exporter.test")
    logger.warning("Transient error %s encountered while exporting", "Bad Gateway")
    logger.error("Failed to export spans batch due to timeout, max retries or shutdown.")
    assert why.of(SpanExportResult.FAILURE) == Refusal("Bad Gateway", passing=True)
    assert why.of(SpanExportResult.SUCCESS) is None
    why.begin()
    logger.error("Failed to export spans batch due to timeout, max retries or shutdown.")
    assert why.of(SpanExportResult.FAILURE) == Refusal("Bad Gateway", passing=True)
    why.begin()
    logger.error("Failed to export spans batch code: %s, reason: %s", 401, "Unauthorized")
    assert why.of(SpanExportResult.FAILURE) == Refusal("401 Unauthorized")
    assert caplog.records == []


def test_debug_shows_the_exporters_log(why: Why, caplog: pytest.LogCaptureFixture) -> None:
    """With VOICESPAN_LOG_LEVEL=debug the exporter's own lines are written."""
    settings.reset(Settings(log_level="debug"))
    logging.getLogger("opentelemetry.exporter.test").error("Failed")
    assert [record.getMessage() for record in caplog.records] == ["Failed"]


@pytest.mark.parametrize("hurry_first", [True, False])
def test_a_hopeless_attempt_is_not_repeated_at_the_end(why: Why, hurry_first: bool) -> None:
    """Where nobody listens, the end of the process does not wait between attempts."""
    event = why._exporter._shutdown_event  # type: ignore[attr-defined]

    def fail() -> None:
        logging.getLogger("opentelemetry.exporter.test").error("Connection refused")

    first, second = (why.hurry, fail) if hurry_first else (fail, why.hurry)
    first()
    assert not event.is_set()
    second()
    assert event.is_set()


def test_an_overloaded_target_is_tried_again_at_the_end(why: Why) -> None:
    """Where somebody listens, the end of the process keeps trying while it has time."""
    why.hurry()
    logging.getLogger("opentelemetry.exporter.test").error("Transient error Service Unavailable encountered while")
    assert not why._exporter._shutdown_event.is_set()  # type: ignore[attr-defined]


def test_limits_can_be_given() -> None:
    """The limits of a processor may come from code."""
    assert BatchProcessor(InMemorySpanExporter(), limits=Limits(batch=1)).batcher._limits.batch == 1
