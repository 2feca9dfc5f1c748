"""Turns as OTLP, sent straight to a back end: what a Collector or a viewer takes, without a service in between."""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from voicespan.load.result import Cost, Delays, Result, peak_mb
from voicespan.load.shape import paces, spoken
from voicespan.sdk.wire import Frame, Writer
from voicespan.testing import VoiceRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.finished import FinishedTurn
    from voicespan.load.shape import Shape

_BATCH = 20
"""Turns in a request: what a service with some hundred calls has in the 0.2 s that it waits for more."""
_TEMPLATES = 50
_CONNECTIONS = 4
_TIMEOUT_S = 10.0
_OK = 200


class Requests:
    """Bodies of requests: turns that were recorded beforehand, with ids and times of now."""

    def __init__(self, shape: Shape, service: str) -> None:
        frame = Frame(Resource({"service.name": service}), InstrumentationScope("voicespan.load"))
        writer, rng = Writer(SpanLimits(), content=False), random.Random(1)  # noqa: S311
        bodies = [frame.around([writer.spans(_turn(shape, rng, number))]) for number in range(_TEMPLATES)]
        self._templates = [ExportTraceServiceRequest.FromString(body) for body in bodies]
        self._next = 0

    def body(self, turns: int) -> tuple[bytes, int]:
        """Return a request with so many turns, and the number of spans in it."""
        made, spans = [], 0
        for _ in range(turns):
            template = self._templates[self._next % _TEMPLATES]
            self._next += 1
            spans += _renew(template)
            made.append(template.SerializeToString())
        return b"".join(made), spans


def _turn(shape: Shape, rng: random.Random, number: int) -> FinishedTurn:
    voice, pace = VoiceRecorder(), paces(shape, rng)
    with voice.session(f"load-{number}", transport="websocket") as session:
        for wait_s in spoken(session, pace):
            voice.clock.advance(s=wait_s)
    return voice.turns[0]


def _renew(request: ExportTraceServiceRequest) -> int:
    """Give the spans of a turn new ids, and have them end now; return how many there are."""
    (inner,) = request.resource_spans[0].scope_spans
    trace_id, ids = os.urandom(16), {b"": b""}
    shift_ns = time.time_ns() - max(span.end_time_unix_nano for span in inner.spans)
    for span in inner.spans:
        ids[span.span_id] = os.urandom(8)
    for span in inner.spans:
        span.trace_id, span.span_id = trace_id, ids[span.span_id]
        span.parent_span_id = ids.get(span.parent_span_id, b"")
        span.start_time_unix_nano += shift_ns
        span.end_time_unix_nano += shift_ns
        for event in span.events:
            event.time_unix_nano += shift_ns
    return len(inner.spans)


class Straight:
    """Sends at a fixed rate over a few connections, and says what was taken."""

    def __init__(self, shape: Shape, url: str, service: str) -> None:
        self.shape, self.url = shape, url
        self.requests = Requests(shape, service)
        self.turns = self.spans = self.sent = 0
        self.delays = Delays()
        self.problems: dict[str, int] = {}
        self._lock = threading.Lock()

    def run(self, progress: Callable[[dict[str, int]], None]) -> Result:
        """Send for as long as the shape says; return what came of it."""
        cost, until_s = Cost(), time.monotonic() + self.shape.seconds
        every_s = _CONNECTIONS * _BATCH / self.shape.rate
        threads = [
            threading.Thread(target=self._send, args=(until_s, every_s, every_s * number / _CONNECTIONS), daemon=True)
            for number in range(_CONNECTIONS)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and time.monotonic() < until_s + 2 * _TIMEOUT_S:
            threads[0].join(1)
            progress({"turns": self.turns, "spans": self.spans, "sent": self.sent, "lost": self.spans - self.sent})
        return Result(
            way="otlp",
            calls=self.shape.calls,
            turns=self.turns,
            spans=self.spans,
            sent=self.sent,
            lost=self.spans - self.sent,
            duration_s=round(cost.seconds(), 2),
            cpu_cores=round(cost.cores(), 3),
            memory_mb=round(peak_mb(), 1),
            request_ms=self.delays.summary(),
            problems=[f"{words} ({count} requests)" for words, count in sorted(self.problems.items())],
        )

    def _send(self, until_s: float, every_s: float, first_s: float) -> None:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        due_s = time.monotonic() + first_s
        while (now_s := time.monotonic()) < until_s:
            if now_s < due_s:
                time.sleep(min(due_s, until_s) - now_s)
                continue
            due_s = max(due_s + every_s, now_s - 1)  # what was late is made up for, a second at most
            with self._lock:
                body, spans = self.requests.body(_BATCH)
                self.turns += _BATCH
                self.spans += spans
            began_s = time.monotonic()
            problem, taken = _post(connection, parts.path, body, spans)
            with self._lock:
                self.delays.add(time.monotonic() - began_s)
                self.sent += taken
                if problem is not None:
                    self.problems[problem] = self.problems.get(problem, 0) + 1
        connection.close()


def _post(connection: http.client.HTTPConnection, path: str, body: bytes, spans: int) -> tuple[str | None, int]:
    """Post a request; return why not all of it was taken, and how many of its spans were."""
    try:
        connection.request("POST", path, body, {"Content-Type": "application/x-protobuf"})
        answer = connection.getresponse()
        said = answer.read(1 << 16)
        if answer.status != _OK:
            connection.close()
            return f"{answer.status} {answer.reason}", 0
        rejected = ExportTraceServiceResponse.FromString(said).partial_success.rejected_spans
    except Exception as error:
        connection.close()
        return f"{type(error).__name__}: {error}", 0
    return ("some spans were rejected" if rejected else None), spans - rejected
