"""A process that does nothing but say that it is there, and says goodbye when it is asked to end.

python -m tests.e2e.heartbeat ENDPOINT INTERVAL_S ATTRIBUTE=VALUE... [gpu=SHARE]
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from voicespan import names as n

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GPU_BYTES = 80e9


def main(endpoint: str, interval_s: str, *given: str) -> None:
    """Send heartbeats until SIGTERM; the last one is 0."""
    attributes = dict(pair.split("=", 1) for pair in given)
    used = float(attributes.pop("gpu", "0"))
    alive = 1.0

    def observed(value: Callable[[], float], **labels: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(value(), {name.replace("_", "."): label for name, label in labels.items()})]

    # It gives up at once: while the Collector is away, the next heartbeat is the better one.
    exporter = OTLPMetricExporter(f"{endpoint}/v1/metrics", timeout=1)
    reader = PeriodicExportingMetricReader(exporter, float(interval_s) * 1000, export_timeout_millis=1000)
    provider = MeterProvider([reader], Resource(attributes))
    meter = provider.get_meter("voicespan")
    meter.create_observable_gauge(n.METRIC_VOICE_SERVICE_UP, [observed(lambda: alive)])
    if used:
        labels = {"hw_id": "0", "hw_type": "gpu"}
        for name, value in (
            (n.METRIC_HW_GPU_MEMORY_USAGE, used * GPU_BYTES),
            (n.METRIC_HW_GPU_MEMORY_LIMIT, GPU_BYTES),
        ):
            meter.create_observable_up_down_counter(name, [observed(partial(float, value), **labels)], "By")
    ends = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signal.sigwait(ends)
    alive = 0.0
    provider.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
