"""Whether the endpoint of each signal takes what a service started here would send."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from voicespan.doctor.check import Check
from voicespan.sdk.exporters import makers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.sdk.endpoint import Endpoint, Signal
    from voicespan.sdk.exporters import Maker

_PROBE_TIMEOUT_S = "3"
_SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")


def examine() -> Iterator[Check]:
    """Send an empty request of each signal, by the environment of this process."""
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", _PROBE_TIMEOUT_S)
    for signal in _SIGNALS:
        yield from _deliveries(signal)


def _deliveries(signal: Signal) -> Iterator[Check]:
    try:
        found = makers(signal, os.environ)
    except LookupError as error:
        yield Check(signal, "fail", str(error), f"OTEL_{signal.upper()}_EXPORTER=otlp")
        return
    if not found and signal == "logs":
        yield Check(signal, "ok", "stay where the service writes them (OTEL_LOGS_EXPORTER=none)")
    elif not found:
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        yield Check(signal, "warn", f"none are sent ({variable}=none)", f"unset it, or {variable}=otlp")
    for maker in found:
        if maker.endpoint is None:
            yield Check(signal, "ok", f"go to {maker.target}")
        else:
            yield _deliver(signal, maker, maker.endpoint)


def _deliver(signal: Signal, maker: Maker, endpoint: Endpoint) -> Check:
    where = f"{endpoint.url} ({endpoint.protocol}, {endpoint.variable or 'the default'})"
    if endpoint.mistake:
        return Check(signal, "fail", where, endpoint.mistake)
    began = time.monotonic()
    reason = endpoint.unreachable() or _probe(signal, maker)
    took_ms = (time.monotonic() - began) * 1e3
    if reason is None:
        return Check(signal, "ok", f"{where} took an empty request in {took_ms:.0f} ms")
    return Check(signal, "fail", f"{where} did not take an empty request: {reason}", _remedy(reason, endpoint))


def _probe(signal: Signal, maker: Maker) -> str | None:
    """Send an empty request exactly as the service would; return why it was not taken."""
    from voicespan.sdk.export import Why

    exporter = maker()
    why = Why(exporter)
    try:
        why.begin()
        refusal = why.of(exporter.export(_nothing(signal)))
    except Exception as error:
        return repr(error)
    finally:
        exporter.shutdown()
    return refusal.reason if refusal else None


def _nothing(signal: Signal) -> object:
    if signal != "metrics":
        return []
    from opentelemetry.sdk.metrics.export import MetricsData

    return MetricsData([])


def _remedy(reason: str, endpoint: Endpoint) -> str:
    from voicespan.sdk.export import REFUSED, UNKNOWN_HOST, UNTRUSTED

    if reason == REFUSED:
        return "start a Collector there (on this machine: `voicespan ui`), or set OTEL_EXPORTER_OTLP_ENDPOINT"
    if reason == UNKNOWN_HOST:
        return f"check the host name in {endpoint.variable or 'OTEL_EXPORTER_OTLP_ENDPOINT'}"
    if reason.startswith(("401", "403")):
        return "set OTEL_EXPORTER_OTLP_HEADERS, for example authorization=Bearer%20TOKEN"
    if reason.startswith("404"):
        return "OTEL_EXPORTER_OTLP_ENDPOINT is the base URL, without /v1/traces"
    if reason == UNTRUSTED:
        if os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
            return "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE takes the place of OTEL_EXPORTER_OTLP_CERTIFICATE: unset it"
        return "set OTEL_EXPORTER_OTLP_CERTIFICATE to the certificate of the authority that signed it"
    return f"is that an OTLP port for {endpoint.protocol}? (usually 4318 for http/protobuf, 4317 for grpc)"
