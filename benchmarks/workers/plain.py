"""The plain SDK by hand, as OpenTelemetry's documentation has it: a batch processor, and OTLP over HTTP."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from workers.twelve import traced
from workers.worker import Way, each, run


def start(_: str) -> Way:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("bench")
    return Way(each(lambda session_id: traced(tracer, session_id)), provider.force_flush)


if __name__ == "__main__":
    run(start, "opentelemetry-sdk")
