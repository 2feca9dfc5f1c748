"""OTLP requests built by hand: what a sender would have sent."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MS = 1_000_000
START_NS = 1_800_000_000_000_000_000
AGENT = "voice-agent"
WORKER = "tts-worker"
SHARES = {"endpoint": 0.3, "asr": 0.02, "llm": 0.41, "sentence": 0.08, "tts": 0.15, "send": 0.003, "network": 0.037}

_onsets = itertools.count(START_NS, 10_000 * MS)


def any_value(value: object) -> AnyValue:
    """The OTLP form of a plain value."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    made = AnyValue()
    if isinstance(value, list):
        made.array_value.values.extend(any_value(item) for item in value)
    elif isinstance(value, dict):
        made.kvlist_value.values.extend(pairs(value))
    elif value is not None:
        made.string_value = str(value)
    return made


def pairs(attributes: dict[str, Any]) -> list[KeyValue]:
    """The OTLP form of attributes."""
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


@dataclass
class Trace:
    """A trace under construction; times are milliseconds after its start."""

    trace_id: bytes = field(default_factory=lambda: os.urandom(16))
    onset_ns: int = field(default_factory=lambda: next(_onsets))
    spans: list[tuple[str, str, Span]] = field(default_factory=list)

    @property
    def hex(self) -> str:
        """The trace id as the views show it."""
        return self.trace_id.hex()

    def add(
        self,
        name: str,
        start_ms: float,
        end_ms: float,
        parent: bytes = b"",
        *,
        service: str = AGENT,
        scope: str = "voicespan",
        **attributes: Any,
    ) -> bytes:
        """Add a span and return its id. In names of attributes two underscores stand for a dot."""
        span = Span(
            trace_id=self.trace_id,
            span_id=os.urandom(8),
            parent_span_id=parent,
            name=name,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=self.onset_ns + round(start_ms * MS),
            end_time_unix_nano=self.onset_ns + round(end_ms * MS),
            attributes=pairs({key.replace("__", "."): value for key, value in attributes.items()}),
        )
        self.spans.append((service, scope, span))
        return span.span_id

    def last(self) -> Span:
        """The span that was added last."""
        return self.spans[-1][2]


def request(*spans: tuple[str, str, Span], resource: dict[str, Any] | None = None) -> ExportTraceServiceRequest:
    """A request with these spans (service, scope, span), in this order; every resource has these attributes, too."""
    made = ExportTraceServiceRequest()
    for (service, scope), group in itertools.groupby(spans, key=lambda item: item[:2]):
        of_resource = made.resource_spans.add()
        attributes = {"service.name": service, "service.version": "1.2", **(resource or {})}
        of_resource.resource.attributes.extend(pairs(attributes))
        of_scope = of_resource.scope_spans.add()
        of_scope.scope.name = scope
        of_scope.spans.extend(span for _, _, span in group)
    return made


def log(trace: Trace | None, body: object = "", attributes: dict[str, Any] | None = None, **fields: Any) -> LogRecord:
    """A log record of this trace, or of none."""
    record = LogRecord(
        trace_id=trace.trace_id if trace else b"",
        time_unix_nano=trace.onset_ns if trace else START_NS,
        attributes=pairs(attributes or {}),
    )
    if body != "":
        record.body.CopyFrom(any_value(body))
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def log_request(*records: LogRecord, service: str = AGENT) -> ExportLogsServiceRequest:
    """A request with these log records."""
    made = ExportLogsServiceRequest()
    of_resource = made.resource_logs.add()
    of_resource.resource.attributes.extend(pairs({"service.name": service, "service.version": "1.2"}))
    of_scope = of_resource.scope_logs.add()
    of_scope.scope.name = "logging"
    of_scope.log_records.extend(records)
    return made


def metrics_request() -> ExportMetricsServiceRequest:
    """A request with one metric of each kind, each with one data point; one has an exemplar."""
    made = ExportMetricsServiceRequest()
    metrics = made.resource_metrics.add().scope_metrics.add().metrics
    for kind in ("gauge", "sum", "histogram", "exponential_histogram", "summary"):
        getattr(metrics.add(name=kind), kind).data_points.add(time_unix_nano=START_NS)
    metrics[0].gauge.data_points[0].exemplars.add(trace_id=os.urandom(16), span_id=os.urandom(8), as_double=1.5)
    metrics.add(name="empty")
    return made


def turn(
    index: int = 1,
    *,
    session: str = "call-1",
    outcome: str = "completed",
    shares: dict[str, float] | None = None,
    onset_ns: int | None = None,
) -> Trace:
    """The spans of a plain turn, with those of the worker that synthesized it."""
    shares = SHARES if shares is None else shares
    trace = Trace() if onset_ns is None else Trace(onset_ns=onset_ns)
    silence_ms = sum(shares.values()) * 1000
    end, heard = 2000.0, 2000 + silence_ms
    bottleneck = max(shares, key=lambda stage: shares[stage])
    root = trace.add("voice.turn", 0, heard + 3000, session__id=session, voice__turn__index=index)
    trace.last().attributes.extend(
        pairs(
            {
                "voice.turn.outcome": outcome,
                "voice.turn.initiator": "user",
                "voice.turn.input": "speech",
                "voice.turn.bottleneck": bottleneck,
                "voice.transport": "websocket",
            }
        )
    )
    # The stages follow one another as the silence says.
    ends, at = {}, end
    for stage in SHARES:
        at = ends[stage] = at + shares.get(stage, 0.0) * 1000
    vad = trace.add("vad", 0, ends["endpoint"], root)
    trace.add("vad.endpoint", end, ends["endpoint"], vad)
    asr = trace.add("asr", 50, ends["asr"], root, voice__language="en-US")
    trace.add("asr.finalize", end, ends["asr"], asr)
    llm = trace.add("llm", ends["asr"], ends["sentence"] + 490, root, gen_ai__request__model="small-chat")
    trace.add("llm.ttft", ends["asr"], ends["llm"], llm, voice__critical_path=True)
    trace.add("llm.first_sentence", ends["asr"], ends["sentence"], llm)
    tts = trace.add("tts", ends["sentence"], heard + 1000, root, voice__tts__voice__name="sam")
    trace.add("tts.first_audio", ends["sentence"], ends["tts"], tts, voice__worker__id="tts-0")
    call = trace.add("voice.Synthesis/Synthesize", ends["sentence"] + 2, heard + 999, tts, scope="grpc")
    served = trace.add("Synthesize", ends["sentence"] + 5, heard + 998, call, service=WORKER, scope="grpc")
    trace.add("tts.inference", ends["sentence"] + 6, heard + 990, served, service=WORKER)
    playback = trace.add("playback", ends["send"], heard + 3000, root)
    trace.add("playback.start", ends["send"], heard, playback)
    trace.add(
        "voice.response",
        end,
        heard,
        root,
        voice__measurement__point="client",
        voice__clock__offset_error_s=0.004,
        voice__response__from="speech_end",
        voice__turn__bottleneck=bottleneck,
        gen_ai__request__model="small-chat",
        voice__tts__voice__name="sam",
        voice__worker__id="tts-0",
    )
    trace.last().attributes.extend(pairs({f"voice.response.share.{stage}": share for stage, share in shares.items()}))
    return trace
