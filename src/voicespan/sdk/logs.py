"""Sends log records, where OTEL_LOGS_EXPORTER asks for it. Alone, because importing the SDK's logs takes its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry._logs import set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor

from voicespan.sdk import scrub
from voicespan.sdk.batch import Batcher, Limits
from voicespan.sdk.export import ExporterSender
from voicespan.sdk.shutdown import close

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.resources import Resource

    from voicespan.sdk.exporters import Maker


class LogBatchProcessor(LogRecordProcessor):
    """Sends log records in batches from a thread of its own."""

    def __init__(self, maker: Maker, limits: Limits) -> None:
        self.batcher: Batcher[Any] = Batcher(
            ExporterSender(maker(), maker.target, maker, scrub=scrub.logs), limits, "log record"
        )

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a record."""
        self.batcher.put(log_record)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is queued; return whether all of it was sent within the time."""
        return self.batcher.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Send what is queued, for at most VOICESPAN_EXIT_TIMEOUT_S; say what could not be sent."""
        close(self.batcher)


def install(resource: Resource, makers: list[Maker], limits: Limits) -> tuple[LoggerProvider, list[Batcher[Any]]]:
    """Set the logger provider of this process; return it and the queues behind it."""
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    processors = [LogBatchProcessor(maker, limits) for maker in makers]
    for processor in processors:
        provider.add_log_record_processor(processor)
    set_logger_provider(provider)
    return provider, [processor.batcher for processor in processors]
