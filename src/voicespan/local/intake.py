"""Where every door of the receiver leads: a request is decoded, its use stored, and what it had is counted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from voicespan.local.decode import decode_json, decode_protobuf
from voicespan.local.form import JSON, MalformedRequestError, read
from voicespan.local.log import decode_logs
from voicespan.local.schema import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from google.protobuf.message import Message

    from voicespan.local.decode import Request
    from voicespan.local.forward import Forward
    from voicespan.local.log import Logs
    from voicespan.local.store import Store

SIGNALS = ("traces", "logs", "metrics")

TIDY_EVERY_S = 30.0
"""What is too old goes also while nothing comes."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Counts:
    """What has come since the receiver started."""

    spans: int = 0
    logs: int = 0
    metrics: int = 0
    """Data points: they are taken, and not shown."""
    logs_without_trace: int = 0
    rejected: int = 0
    """Spans and log records that made no sense."""
    refused: int = 0
    """Requests of which nothing could be used."""
    content: int = 0
    """Values that were not kept because they hold what was said."""


class Intake:
    """Takes requests one after the other, in a thread of its own: whoever brings them goes on meanwhile."""

    def __init__(self, store: Store, *, content: bool = False, forward: Forward | None = None) -> None:
        self.store = store
        self.forward = forward
        """Who gets the requests as well, as they came."""
        self.content = content
        """Whether what was said is kept."""
        self.counts = Counts()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voicespan-store")
        self._take = {"traces": self._traces, "logs": self._logs, "metrics": self._metrics}
        self._closing = threading.Event()
        self._timer = threading.Thread(target=self._tidy, name="voicespan-tidy", daemon=True)
        self._timer.start()

    def take(self, signal: str, form: str, body: bytes) -> Future[Message]:
        """Take a request of one of the SIGNALS; the answer comes when it is stored.

        It fails with MalformedRequestError, or StoreError.
        """
        if self.forward is not None:
            self.forward.put(signal, form, body)
        return self.run(lambda: self._taken(signal, form, body))

    def _taken(self, signal: str, form: str, body: bytes) -> Message:
        try:
            return self._take[signal](form, body)
        except MalformedRequestError as malformed:
            self.counts.refused += 1
            self.counts.rejected += malformed.items
            raise

    def run(self, work: Callable[[], _T]) -> Future[_T]:
        """Do something in the thread that takes requests."""
        return self._thread.submit(work)

    def close(self) -> None:
        """Take what was brought already, and no more."""
        self._closing.set()
        self._timer.join()
        self._thread.shutdown(wait=True)
        if self.forward is not None:
            self.forward.close()

    def _tidy(self) -> None:
        while not self._closing.wait(TIDY_EVERY_S):
            with suppress(StoreError):  # the next time will do
                self.run(self.store.tidy).result()

    def keep_spans(self, request: Request) -> None:
        """Store spans and count them; in the thread that takes requests."""
        self.store.add(request.spans)
        self.counts.spans += len(request.spans)
        self.counts.rejected += request.rejected
        self.counts.content += request.left_out

    def keep_logs(self, request: Logs) -> None:
        """Store log records and count them; in the thread that takes requests."""
        self.store.add_logs(request.logs)
        self.counts.logs += len(request.logs)
        self.counts.logs_without_trace += request.without_trace
        self.counts.rejected += request.rejected
        self.counts.content += request.left_out

    def _traces(self, form: str, body: bytes) -> Message:
        request = (decode_json if form == JSON else decode_protobuf)(body, content=self.content)
        self.keep_spans(request)
        answer = ExportTraceServiceResponse()
        if request.rejected:
            answer.partial_success.rejected_spans = request.rejected
            answer.partial_success.error_message = request.reason
        return answer

    def _logs(self, form: str, body: bytes) -> Message:
        request = decode_logs(form, body, content=self.content)
        self.keep_logs(request)
        answer = ExportLogsServiceResponse()
        if request.rejected:
            answer.partial_success.rejected_log_records = request.rejected
            answer.partial_success.error_message = request.reason
        return answer

    def _metrics(self, form: str, body: bytes) -> Message:
        self.counts.metrics += _points(read(ExportMetricsServiceRequest, form, body))
        return ExportMetricsServiceResponse()


def _points(request: ExportMetricsServiceRequest) -> int:
    points = 0
    for of_resource in request.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                kind = metric.WhichOneof("data")
                points += len(getattr(metric, kind).data_points) if kind else 0
    return points
