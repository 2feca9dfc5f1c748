from __future__ import annotations

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from voicespan.sdk.exporters import makers


def test_otlp_over_http() -> None:
    """`otlp` is the SDK's exporter over HTTP, and its endpoint is known."""
    (maker,) = makers("traces", {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1"})
    assert (maker.kind, maker.target) == (OTLPSpanExporter, "http://c:1/v1/traces")
    assert makers("metrics", {"OTEL_METRICS_EXPORTER": "otlp"})[0].kind is OTLPMetricExporter


def test_each_call_makes_another() -> None:
    """A maker makes a new exporter every time: the child of a fork needs one of its own."""
    (maker,) = makers("traces", {"OTEL_TRACES_EXPORTER": "otlp"})
    one, two = maker(), maker()
    assert isinstance(one, OTLPSpanExporter)
    assert one is not two
    for exporter in (one, two):
        exporter.shutdown()


def test_several() -> None:
    """Several exporters may be named; what is not OTLP has no endpoint."""
    found = makers("traces", {"OTEL_TRACES_EXPORTER": "otlp, console"})
    assert [maker.kind for maker in found] == [OTLPSpanExporter, ConsoleSpanExporter]
    assert found[1].endpoint is None


@pytest.mark.parametrize("value", ["", "none", " None "])
def test_none(value: str) -> None:
    """No name, or `none`, is no exporter."""
    assert makers("traces", {"OTEL_TRACES_EXPORTER": value}) == []


def test_an_unknown_name() -> None:
    """A name that is not installed is an error with the variable in it."""
    with pytest.raises(LookupError, match=r"OTEL_TRACES_EXPORTER=jaeger: .*not found"):
        makers("traces", {"OTEL_TRACES_EXPORTER": "jaeger"})


def test_an_unknown_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol that is not known is an error."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/xml")
    with pytest.raises(LookupError, match="http/xml"):
        makers("traces", {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/xml"})
