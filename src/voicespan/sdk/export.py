"""Sends spans, log records and metrics with the SDK's own exporters, and knows why something was not sent.

Spans for OTLP over HTTP are encoded here, and the exporter only posts the body: `BodySender`. Turns come as bytes.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.trace import SpanProcessor

from voicespan import settings
from voicespan.breath import Breath
from voicespan.diagnostics import counters, say
from voicespan.guard import swallowed
from voicespan.sdk import retry_info, scrub
from voicespan.sdk.batch import (
    CLOSED,
    DROPPED,
    FAILED,
    LATE,
    NO_ANSWER,
    REPLAYED,
    SENT,
    Batcher,
    Limits,
    Refusal,
    Weight,
)
from voicespan.sdk.endpoint import is_loopback
from voicespan.sdk.shutdown import close, leaving
from voicespan.sdk.spool import DAMAGED, REPLACED
from voicespan.sdk.spooler import spooler
from voicespan.sdk.transport import heed
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.sdk.trace.export import SpanExporter

    from voicespan.sdk.spool import Spool
    from voicespan.sdk.wire import Frame

Item_contra = TypeVar("Item_contra", contravariant=True)

REFUSED = "connection refused"
UNKNOWN_HOST = "unknown host name"
UNTRUSTED = "its certificate is not trusted"
_HOPELESS = frozenset({REFUSED, UNKNOWN_HOST, UNTRUSTED})
_PASSING = _HOPELESS | {CLOSED, NO_ANSWER}
_PASSING_CODES = frozenset(
    {
        *("408", "429", "502", "503", "504"),
        *(
            "CANCELLED",
            "DEADLINE_EXCEEDED",
            "RESOURCE_EXHAUSTED",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNAVAILABLE",
            "DATA_LOSS",
        ),
    }
)

# Compiled when something fails, by `re` itself: most processes need none of them, and all would pay for them.
_PLAIN = (
    (r"(?i)Connection refused|ECONNREFUSED", REFUSED),
    (r"(?i)Name or service not known|NameResolution|getaddrinfo|DNS resolution", UNKNOWN_HOST),
    (r"(?i)timed out|Deadline Exceeded", NO_ANSWER),
    (r"(?i)CERTIFICATE_VERIFY_FAILED|certificate verify failed", UNTRUSTED),
    (r"Connection reset|Connection aborted|RemoteDisconnected|Remote end closed|Socket closed", CLOSED),
)
_REASON = (
    r"(?s)code: (?P<code>\S+), reason: (?P<reason>.*)"
    r"|error code: StatusCode\.(?P<grpc>\w+), error details: (?P<details>.*)"
    r"|Transient error (?P<transient>.*?) encountered"
)
_CODE = r"code: (?:StatusCode\.)?(?P<code>\w+)"
_GAVE_UP = "due to timeout, max retries or shutdown|Shutdown in progress|already shutdown"
_MAX_REASON = 200


class Exporter(Protocol[Item_contra]):
    """What the SDK's exporters of spans and log records have in common."""

    def export(self, batch: Sequence[Item_contra], /) -> Any:
        """Send, and return a result whose `name` is SUCCESS or FAILURE."""

    def shutdown(self) -> None:
        """Send nothing any more."""


class ExporterSender(Generic[Item_contra]):
    """Sends with an exporter; after a fork with a new one, because connections can't be shared with the parent."""

    def __init__(
        self,
        exporter: Exporter[Item_contra],
        target: str,
        remake: Callable[[], Exporter[Item_contra]] | None = None,
        *,
        scrub: Callable[..., Sequence[Any]],
    ) -> None:
        self.target = target
        # What was said stays on this machine, whoever asked for it.
        self.content = settings.current().content and is_loopback(urlsplit(target).hostname or "")
        self._scrub = partial(scrub, content=self.content)
        self._exporter = exporter
        self._remake = remake
        self._pid = os.getpid()
        self._closed = False
        self._why = Why(exporter)

    def send(self, batch: Sequence[Item_contra]) -> Refusal | None:
        """Send the batch; return None, or why it was not sent."""
        try:
            clean = self._scrub(batch)
        except Exception as error:  # what could not be redacted does not leave
            return Refusal(f"redaction failed: {type(error).__name__}: {error}", passing=False)
        self._begin()
        return self._why.of(self._exporter.export(clean))

    def _begin(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            if self._remake is not None:
                self._exporter = self._remake()
                self._why = Why(self._exporter)
        self._why.begin()

    def hurry(self) -> None:
        """Retry no more where nobody listens."""
        self._why.hurry()

    def close(self) -> None:
        """Shut the exporter down, which ends its waiting between attempts."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()


class Written(Weight):
    """The spans of one turn as bytes, redacted: fields of the `ScopeSpans` that the frame stands for."""

    __slots__ = ("frame", "spans")

    def __init__(self, count: int, frame: Frame, spans: bytes) -> None:
        self.count = count
        self.size = len(spans)
        self.frame = frame
        self.spans = spans


def weigh(item: ReadableSpan | Written) -> Weight:
    """Return how many spans an item of the queue is."""
    return item if isinstance(item, Written) else _A_SPAN


_A_SPAN = Weight(1, 0)
_PIECE = 64
"""So many spans are encoded at a time: about a millisecond in which no other thread runs."""


class BodySender(ExporterSender["ReadableSpan | Written"]):
    """Makes the body of the request and has the exporter of OTLP over HTTP post it, which does all the rest.

    What is posted, and what came of it, is in one place: `post`.
    """

    BATCH = 512
    """Turns come as bytes, and spans are encoded in pieces: what goes into one request holds nobody up."""

    @staticmethod
    def fits(exporter: object) -> bool:
        """Whether the exporter is the SDK's own for OTLP over HTTP, and posts bodies as we know it does."""
        kind = type(exporter)
        return (
            kind.__module__ == "opentelemetry.exporter.otlp.proto.http.trace_exporter"
            and kind.__name__ == "OTLPSpanExporter"
            and callable(getattr(getattr(exporter, "_client", None), "export", None))
            and os.environ.get("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "").strip().lower() != "true"
        )

    def send(self, batch: Sequence[ReadableSpan | Written]) -> Refusal | None:
        """Send the batch; return None, or why it was not sent."""
        try:
            body = self.body(batch)
        except Exception as error:  # what could not be redacted does not leave
            return Refusal(f"redaction or encoding failed: {type(error).__name__}: {error}", passing=False)
        return self.post(body)

    def body(self, batch: Sequence[ReadableSpan | Written]) -> bytes:
        """Return an `ExportTraceServiceRequest` with the batch."""
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        turns: dict[Frame, list[bytes]] = {}
        spans: list[ReadableSpan] = []
        for item in batch:
            if isinstance(item, Written):
                turns.setdefault(item.frame, []).append(item.spans)
            else:
                spans.append(item)
        parts = [frame.around(written) for frame, written in turns.items()]
        breath = Breath()
        for start in range(0, len(spans), _PIECE):
            parts.append(encode_spans(self._scrub(spans[start : start + _PIECE])).SerializePartialToString())
            breath.take()
        return b"".join(parts)

    def post(self, body: bytes) -> Refusal | None:
        """Post the body of a request; return None, or why it was not taken."""
        if self._closed:
            return Refusal(self._why.reason or NO_ANSWER, passing=True)
        self._begin()
        exporter: Any = self._exporter
        most = getattr(exporter, "_max_request_size", 0)
        if 0 < most < len(body):
            return Refusal(f"the request has {len(body)} bytes, more than the {most} that the exporter sends")
        client = exporter._client  # noqa: SLF001
        result = client.export(body)
        if result.success:
            return None
        if result.status_code is None and result.error is None:  # it was stopped between two attempts
            return self._why.refusal()
        return refused(result, getattr(client, "_transport", None))


def refused(result: Any, transport: Any) -> Refusal:
    """Return why OTLP over HTTP was not taken, by what the exporter's client returns after its last attempt."""
    message = f"code: {result.status_code}, reason: {result.reason or result.error}"
    passing = is_passing(message)
    if result.status_code is None:
        passing = passing or transport is None or transport.is_connection_error(result.error)
    return Refusal(plain_reason(message), passing, getattr(transport, "retry_after_s", 0.0))


class Why:
    """Learns from an exporter's log why it failed, and keeps that log to itself: we say it once, with the counts.

    With VOICESPAN_LOG_LEVEL=debug the exporter's own lines are written as well.
    """

    def __init__(self, exporter: object) -> None:
        self.reason = self._before = ""
        self._passing = False
        self._exporter = exporter
        self._asked: Any = getattr(getattr(exporter, "_client", None), "_transport", None)
        """Knows for how long the target has asked to be left alone."""
        with suppress(Exception):  # it may be of another shape
            heed(self._asked)
            self._asked = self._asked or retry_info.heed(exporter)
        self._hurried = False
        self.thread = 0
        for kind in type(exporter).__mro__:
            if kind.__module__.startswith("opentelemetry.exporter."):
                _listen(kind.__module__, self)

    def begin(self) -> None:
        """Begin an attempt: what the exporter logs on this thread is about it."""
        self.thread = threading.get_ident()
        self._before = self.reason or self._before
        self.reason, self._passing = "", False

    def of(self, result: object) -> Refusal | None:
        """Return why an export with this result failed, None when it did not."""
        return self.refusal() if getattr(result, "name", "SUCCESS") == "FAILURE" else None

    def refusal(self) -> Refusal:
        """Return why the export has failed."""
        after_s = getattr(self._asked, "retry_after_s", 0.0)
        return Refusal(self.reason or "the exporter does not say why", self._passing, after_s)

    def hurry(self) -> None:
        """From now on a hopeless attempt is not repeated."""
        self._hurried = True
        if self.reason in _HOPELESS:
            stop_retrying(self._exporter)

    def take(self, message: str) -> None:
        """Take the reason out of a line of the exporter's log."""
        if not re.search(_GAVE_UP, message):
            self.reason, self._passing = plain_reason(message), is_passing(message)
        elif not self.reason:  # it only says that it gave up: then for what stopped it the last time
            self.reason, self._passing = self._before or NO_ANSWER, True
        if self._hurried and self.reason in _HOPELESS:
            stop_retrying(self._exporter)


class _Listener(logging.Filter):
    """Hands the lines of one exporter module to those who wait for them, by the thread that exports."""

    def __init__(self) -> None:
        super().__init__()
        self.whys: weakref.WeakSet[Why] = weakref.WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        """Hand the line on; return whether it is to be written as well."""
        for why in list(self.whys):
            if why.thread == record.thread:
                why.take(record.getMessage())
        return settings.current().log_level == "debug"


_listeners: dict[str, _Listener] = {}


def _listen(module: str, why: Why) -> None:
    listener = _listeners.get(module)
    if listener is None:
        listener = _listeners[module] = _Listener()
        # Before the exporter's own filter, which keeps back what was logged the last time, too: we would not learn why.
        logging.getLogger(module).filters.insert(0, listener)
    listener.whys.add(why)


def is_passing(message: str) -> bool:
    """Return whether the failure that a line tells of may be over at the next attempt, by the rules of OTLP."""
    if "Transient error" in message or plain_reason(message) in _PASSING:
        return True
    found = re.search(_CODE, message)
    return found is not None and found["code"] in _PASSING_CODES


def plain_reason(message: str) -> str:
    """Return the words that a person needs out of an exporter's error message."""
    for pattern, words in _PLAIN:
        if re.search(pattern, message):
            return words
    text = _words(re.search(_REASON, message)) or message
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."


def _words(found: re.Match[str] | None) -> str | None:
    if found is None:
        return None
    if found["transient"]:
        return found["transient"]
    if found["grpc"]:
        return f"{found['grpc']} {found['details']}"
    return found["reason"] if found["code"] == "None" else f"{found['code']} {found['reason']}"


def stop_retrying(exporter: object) -> None:
    """End the exporter's wait before its next attempt, and have it try every later batch once only.

    The event is a private part of the OTLP exporters; where it is missing, the wait ends with the exit's time-out.
    """
    for owner in (exporter, getattr(exporter, "_client", None)):
        for name in ("_shutdown_event", "_shutdown_in_progress"):
            event = getattr(owner, name, None)
            if isinstance(event, threading.Event):
                event.set()


class BatchProcessor(SpanProcessor):
    """Sends ended spans in small batches from a thread of its own; see `Batcher` for what it promises.

    `remake` makes another exporter like this one, for the child of a fork.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        target: str = "",
        remake: Callable[[], SpanExporter] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.takes_turns = BodySender.fits(exporter)
        """Whether it takes what a `wire.Writer` wrote, beside the spans of the SDK."""
        make: type[ExporterSender[Any]] = BodySender if self.takes_turns else ExporterSender
        sender = make(exporter, target or type(exporter).__name__, remake, scrub=scrub.spans)
        self.content = sender.content
        limits = limits or Limits.read(os.environ, "OTEL_BSP", batch=BodySender.BATCH if self.takes_turns else 64)
        self.spooler = spooler(sender)
        self.batcher = Batcher(sender, limits, "span", weigh, self.spooler)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: only ended spans are sent."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span."""
        context = span.context
        if context is not None and context.trace_flags.sampled:
            self.batcher.put(span)

    def take_turn(self, turn: Written) -> None:
        """Queue a turn that is written already; for one that `takes_turns`."""
        self.batcher.put(turn)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is queued; return whether all of it was sent within the time."""
        return self.batcher.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Send what is queued, for at most VOICESPAN_EXIT_TIMEOUT_S; say what could not be sent."""
        close(self.batcher)


class MetricSender(MetricExporter):
    """Exports metrics with another exporter, and says when that fails.

    `remake` makes another exporter like this one, for the child of a fork.
    """

    def __init__(
        self, exporter: MetricExporter, *, target: str = "", remake: Callable[[], MetricExporter] | None = None
    ) -> None:
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)  # noqa: SLF001
        self.target = target or type(exporter).__name__
        self.unsent = self._gave_up = False
        self.reason = ""
        self._exporter = exporter
        self._remake = remake
        self._pid = os.getpid()
        self._why = Why(exporter)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Send the metrics; a failure is counted and said."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            if self._remake is not None:
                self._exporter = self._remake()
                self._why = Why(self._exporter)
        self._why.begin()
        failed_before, self.unsent = bool(self.reason), True
        try:
            clean = scrub.metrics(metrics_data)
        except Exception as error:  # what could not be redacted does not leave
            swallowed("redaction of metrics", error)
            return MetricExportResult.FAILURE
        result = self._exporter.export(clean, timeout_millis=timeout_millis, **kwargs)
        refusal = self._why.of(result)
        self.unsent = refusal is not None
        if not self._gave_up:  # else the reason is that the request was aborted
            self.reason = refusal.reason if refusal else ""
        if refusal is not None:
            counters.add("metrics.failed")
            if not leaving():
                say("export.metrics.lost", f"metrics could not be sent to {self.target} ({refusal.reason})")
        elif failed_before:
            say("export.metrics.recovered", f"{self.target} takes metrics again")
        return result

    def hurry(self) -> None:
        """Retry no more where nobody listens: the process ends."""
        self._why.hurry()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Pass on."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut the exporter down, which ends what it is doing."""
        if self.unsent:
            self._gave_up, self.reason = True, self.reason or NO_ANSWER
        self._exporter.shutdown(timeout_millis, **kwargs)


def count_processed(batcher: Batcher[Any], spool: Spool | None = None) -> None:
    """Report what was sent and what was lost, on disk too, as `otel.sdk.processor.span.processed`, by cause."""
    from opentelemetry.metrics import CallbackOptions, Observation, get_meter

    component = {"otel.component.type": "batching_span_processor", "otel.component.name": "voicespan"}
    errors = {
        FAILED: {"error.type": "export_failed"},
        DROPPED: {"error.type": "queue_full"},
        LATE: {"error.type": "already_shutdown"},
    }
    on_disk = {REPLACED: {"error.type": "spool_full"}, DAMAGED: {"error.type": "spool_damaged"}}

    def observe(_options: CallbackOptions) -> list[Observation]:
        counts = batcher.counts
        seen = [Observation(counts.get(SENT) + counts.get(REPLAYED), component)]
        seen += [Observation(counts.get(name), component | error) for name, error in errors.items()]
        if spool is not None:
            seen += [Observation(spool.counts.get(name), component | error) for name, error in on_disk.items()]
        return seen

    get_meter("voicespan", __version__).create_observable_counter(
        "otel.sdk.processor.span.processed", [observe], "{span}", "Spans whose processing is over, sent or lost."
    )
