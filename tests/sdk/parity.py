"""The same turn written twice: by our writer, and by the SDK's spans, our redaction and the SDK's encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider

from voicespan.emit import SpanEmitter
from voicespan.sdk import scrub
from voicespan.sdk.wire import Frame, Writer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from voicespan.finished import FinishedTurn


class Keep(SpanProcessor):
    """Keeps ended spans; to us it is somebody else's processor, so that it gets spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class Pair:
    """Both ways out of one process."""

    def __init__(self, limits: SpanLimits | None = None, *, content: bool = False, schema: str | None = None) -> None:
        resource = Resource({"service.name": "bot", "owner": "bob@example.com", "port": 7}, schema)
        self._provider = TracerProvider(resource=resource, span_limits=limits, shutdown_on_exit=False)
        self._kept = Keep()
        self._provider.add_span_processor(self._kept)
        self._emitter = SpanEmitter(self._provider)
        self._content = content
        tracer: Any = self._emitter._tracer
        self._writer = Writer(tracer._span_limits, content=content)
        self._frame = Frame(tracer.resource, tracer._instrumentation_scope)

    def encoded(self, *turns: FinishedTurn) -> ExportTraceServiceRequest:
        """What the SDK makes of the turns."""
        self._kept.spans.clear()
        for turn in turns:
            self._emitter.emit(turn)
        return encode_spans(scrub.spans(self._kept.spans, content=self._content))

    def written(self, *turns: FinishedTurn) -> ExportTraceServiceRequest:
        """What we write; the bytes are decoded, so that what no decoder takes fails here."""
        return ExportTraceServiceRequest.FromString(self.written_bytes(*turns))

    def written_bytes(self, *turns: FinishedTurn) -> bytes:
        """What leaves the process.

        Raises:
            Unfit: a turn has to go the SDK's way.

        """
        return self._frame.around([self._writer.spans(turn) for turn in turns])


def same(turns: list[FinishedTurn]) -> None:
    """Fail unless both ways give equal messages, turn by turn and all in one request, and the same bytes."""
    if not turns:
        return
    pair = Pair()
    for turn in turns:
        assert pair.written(turn) == pair.encoded(turn)
    wanted = pair.encoded(*turns)
    assert pair.written(*turns) == wanted
    assert pair.written_bytes(*turns) == wanted.SerializeToString()
