"""What would leave a process, as by default and where content is wanted: the same telemetry, exported twice."""

from __future__ import annotations

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from voicespan import settings
from voicespan.sdk.batch import Limits
from voicespan.sdk.export import BatchProcessor
from voicespan.sdk.exporters import Maker
from voicespan.sdk.logs import LogBatchProcessor

TARGET = "http://127.0.0.1:4318/v1"


class Leaving:
    """Providers of spans and log records, behind which stand voicespan's own processors, without content and with."""

    def __init__(self) -> None:
        self.tracers = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
        self.loggers = LoggerProvider(resource=Resource({}), shutdown_on_exit=False)
        self._spans = {wanted: InMemorySpanExporter() for wanted in (False, True)}
        self._logs = {wanted: InMemoryLogRecordExporter() for wanted in (False, True)}  # type: ignore[no-untyped-call]
        for wanted in (False, True):
            spans, logs = self._spans[wanted], self._logs[wanted]
            settings.reset(settings.Settings(content=wanted))
            self.tracers.add_span_processor(BatchProcessor(spans, target=TARGET, limits=Limits()))
            maker = Maker(lambda logs=logs: logs, TARGET)  # type: ignore[arg-type]
            self.loggers.add_log_record_processor(LogBatchProcessor(maker, Limits()))
        settings.reset()

    def names(self) -> set[str]:
        """Return the names of the spans that left."""
        self.tracers.force_flush()
        return {span.name for span in self._spans[False].get_finished_spans()}

    def text(self, *, wanted: bool = False) -> str:
        """Return all that left, as text."""
        self.tracers.force_flush()
        self.loggers.force_flush()
        spans = [span.to_json() for span in self._spans[wanted].get_finished_spans()]
        logs = [each.log_record for each in self._logs[wanted].get_finished_logs()]
        said = [f"{each.event_name} {each.body!s} {dict(each.attributes or {})}" for each in logs]
        return "\n".join(spans + said)

    def end(self) -> None:
        """Shut the providers down."""
        self.tracers.shutdown()
        self.loggers.shutdown()
