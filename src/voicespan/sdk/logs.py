"""Sends log records, where OTEL_LOGS_EXPORTER asks for it. Alone, because importing the SDK's logs takes its time.

What a service writes with `logging` or loguru is sent as well as written: no handler is added to a logger, since
`logging.basicConfig` would then do nothing and the service fall silent.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber, set_logger_provider
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor

from voicespan import logs
from voicespan import names as n
from voicespan.guard import guarded
from voicespan.sdk import scrub
from voicespan.sdk.batch import Batcher, Limits
from voicespan.sdk.export import ExporterSender
from voicespan.sdk.shutdown import close

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.resources import Resource

    from voicespan.sdk.exporters import Maker

_ATTRIBUTES = {
    "session_id": n.SESSION_ID,
    "transport": n.VOICE_TRANSPORT,
    "model_id": n.GEN_AI_REQUEST_MODEL,
    "worker": n.VOICE_WORKER_ID,
    "client_ip": n.CLIENT_ADDRESS,
    "error_type": "exception.type",
    "error_message": "exception.message",
    "traceback": "exception.stacktrace",
}
"""What fields of a line are called as attributes."""
_ELSEWHERE = frozenset(
    {"timestamp", "level", "logger", "message", "event", "trace_id", "span_id", "trace_flags", *logs.WHO_FIELDS}
)
"""Fields that have a place of their own in a record, or stand on its resource."""
_SEVERITIES = {
    "DEBUG": (SeverityNumber.DEBUG, "DEBUG"),
    "INFO": (SeverityNumber.INFO, "INFO"),
    "WARNING": (SeverityNumber.WARN, "WARN"),
    "ERROR": (SeverityNumber.ERROR, "ERROR"),
    "CRITICAL": (SeverityNumber.FATAL, "FATAL"),
}
_NOT_OURS = ("opentelemetry.", "voicespan.sdk")
"""Loggers that tell how telemetry fares: sending that would give them more to tell."""
_formatter = logs.RedactingFormatter()
_sender: list[Sender] = []


class Sender:
    """Makes records of lines."""

    def __init__(self, provider: LoggerProvider) -> None:
        self._provider = provider

    def follow(self) -> None:
        """Take every line that a logger hands to its handlers, from now on."""
        logs.keep_origins()
        _sender[:] = [self]
        if not getattr(logging.Logger.callHandlers, "__wrapped__", None):
            wrapt.wrap_function_wrapper(logging, "Logger.callHandlers", _handled)
            wrapt.register_post_import_hook(_follow_loguru, "loguru")

    @guarded
    def send(self, line: Mapping[str, Any], when_s: float) -> None:
        """Send a line; what was written while telemetry is sent, is not."""
        name = str(line["logger"])
        if name.startswith(_NOT_OURS) or not is_instrumentation_enabled():
            return
        number, text = _SEVERITIES[line["level"]]
        event = line.get("event")
        self._provider.get_logger(name).emit(
            LogRecord(
                timestamp=round(when_s * 1e9),
                observed_timestamp=time.time_ns(),
                context=_context(line),
                severity_number=number,
                severity_text=text,
                body=line["message"],
                attributes={
                    _ATTRIBUTES.get(key, key): value
                    for key, value in line.items()
                    if key not in _ELSEWHERE and value is not None
                },
                event_name=None if event is None else str(event),
            )
        )


def _context(line: Mapping[str, Any]) -> otel_context.Context:
    """Return a context with the identity that a line names, which may be one that its event was given."""
    try:
        identity = trace.SpanContext(
            int(line["trace_id"], 16),
            int(line["span_id"], 16),
            is_remote=False,
            trace_flags=trace.TraceFlags(int(line.get("trace_flags", "01"), 16)),
        )
    except (KeyError, TypeError, ValueError):
        return otel_context.Context()
    return trace.set_span_in_context(trace.NonRecordingSpan(identity), otel_context.Context())


def _handled(wrapped: Any, _logger: Any, args: Any, kwargs: Any) -> Any:
    record = args[0] if args else kwargs["record"]
    _send_record(record)
    return wrapped(*args, **kwargs)


@guarded
def _send_record(record: logging.LogRecord) -> None:
    for sender in _sender:
        sender.send(_formatter.line(record), record.created)


@guarded
def _follow_loguru(module: ModuleType) -> None:
    def sink(message: Any) -> None:
        for sender in _sender:
            sender.send(logs.loguru_line(message), message.record["time"].timestamp())

    module.logger.add(sink, catch=True)


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
    Sender(provider).follow()
    return provider, [processor.batcher for processor in processors]
