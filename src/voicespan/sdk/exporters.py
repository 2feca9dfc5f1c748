"""Makes the exporters that the standard variables ask for.

The usual ones (`otlp` over HTTP) are imported directly; all others come from the SDK's own factory, which looks through
the entry points of every installed package and imports all three signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voicespan.sdk.endpoint import Endpoint, Signal
from voicespan.sdk.transport import Transport, fits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HTTP = "http/protobuf"

_VARIABLES: dict[Signal, str] = {
    "traces": "OTEL_TRACES_EXPORTER",
    "metrics": "OTEL_METRICS_EXPORTER",
    "logs": "OTEL_LOGS_EXPORTER",
}


@dataclass(slots=True)
class Maker:
    """Makes exporters of one kind; `target` says where they send, `endpoint` is None for those that are not OTLP."""

    kind: type[Any]
    target: str
    endpoint: Endpoint | None = None
    own_transport: bool = False

    def __call__(self) -> Any:
        """Make one."""
        if not self.own_transport:
            return self.kind()
        transport = Transport()
        exporter = self.kind(_transport=transport)
        transport.longest_s = getattr(getattr(exporter, "_client", None), "_timeout", None)
        return exporter


def makers(signal: Signal, environ: Mapping[str, str]) -> list[Maker]:
    """Return a maker for each exporter that the environment names.

    Raises:
        LookupError: a name or protocol is not known, or its package is not installed.

    """
    names = [name.strip() for name in environ.get(_VARIABLES[signal], "").split(",") if name.strip()]
    if [name.lower() for name in names] == ["none"]:
        return []
    return [_maker(signal, name, environ) for name in names]


def _maker(signal: Signal, name: str, environ: Mapping[str, str]) -> Maker:
    endpoint = Endpoint.read(signal, environ)
    if name == "otlp" and endpoint.protocol == HTTP:
        kind = _OTLP_HTTP[signal]()
        return Maker(kind, endpoint.url, endpoint, fits(kind, endpoint, environ))
    kind = _from_sdk(signal, name)
    if name.startswith("otlp"):
        return Maker(kind, endpoint.url, endpoint)
    return Maker(kind, f"the exporter {name!r}")


def _otlp_http_traces() -> type[Any]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter


def _otlp_http_metrics() -> type[Any]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter


def _otlp_http_logs() -> type[Any]:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    return OTLPLogExporter


_OTLP_HTTP: dict[Signal, Callable[[], type[Any]]] = {
    "traces": _otlp_http_traces,
    "metrics": _otlp_http_metrics,
    "logs": _otlp_http_logs,
}


def _from_sdk(signal: Signal, name: str) -> type[Any]:
    wanted: dict[Signal, list[str]] = {"traces": [], "metrics": [], "logs": []}
    try:
        from opentelemetry.sdk._configuration import _get_exporter_entry_point, _import_exporters

        wanted[signal] = [_get_exporter_entry_point(name, signal)]
        found = _import_exporters(wanted["traces"], wanted["metrics"], wanted["logs"])
    except Exception as error:
        needs = ": pip install 'voicespan[otlp-grpc]'" if "grpc" in f"{name} {error}" else ""
        raise LookupError(f"{_VARIABLES[signal]}={name}: {error}{needs}") from error
    return next(kind for kinds in found for kind in kinds.values())
