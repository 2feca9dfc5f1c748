"""Starts auto-instrumentation with the plain SDK: what opentelemetry-distro does, with OTLP over HTTP."""

import os

os.environ |= {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}

from opentelemetry.instrumentation.auto_instrumentation import _load
from opentelemetry.sdk._configuration import _OTelSDKConfigurator

distro = _load.DefaultDistro()
distro.configure()
_OTelSDKConfigurator().configure()
_load._load_instrumentors(distro)
