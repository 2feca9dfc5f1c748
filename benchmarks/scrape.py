"""How long a scrape takes: 200 series with exemplars in every bucket, in the OpenMetrics format. Prints JSON.

python benchmarks/scrape.py [--series 200] [--rounds 30]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider

from voicespan import names as n
from voicespan.metrics.instruments import METRICS, views
from voicespan.metrics.scrape import Reader

HISTOGRAM = METRICS[n.METRIC_VOICE_TTS_REAL_TIME_FACTOR]
SERIES_OF_ONE = len(HISTOGRAM.boundaries) + 1 + 2
"""Buckets, sum and count: each is a series in Prometheus."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()

    reader = Reader()
    provider = MeterProvider([reader], shutdown_on_exit=False, views=views())
    metrics.set_meter_provider(provider)
    histogram = provider.get_meter("voicespan").create_histogram(HISTOGRAM.name, HISTOGRAM.unit, HISTOGRAM.brief)
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    models = [str(number) for number in range(-(-arguments.series // SERIES_OF_ONE))]

    def record() -> None:
        for number, model in enumerate(models, 1):
            identity = trace.SpanContext(number << 64, number, is_remote=False, trace_flags=flags)
            context = trace.set_span_in_context(trace.NonRecordingSpan(identity))
            for limit in HISTOGRAM.boundaries:
                histogram.record(limit, {n.GEN_AI_REQUEST_MODEL: model}, context)

    took_ms, cpu_ms, body = [], [], b""
    for _ in range(arguments.rounds):
        record()
        begin, cpu = time.perf_counter_ns(), time.thread_time_ns()
        _, _, body = reader.answer(accept="application/openmetrics-text; version=1.0.0", authorization="")
        took_ms.append((time.perf_counter_ns() - begin) / 1e6)
        cpu_ms.append((time.thread_time_ns() - cpu) / 1e6)
    lines = body.decode().splitlines()
    print(
        json.dumps(
            {
                "benchmark": "scrape",
                "series": sum(not line.startswith("#") and "_created" not in line for line in lines) - 1,
                "exemplars": sum(" # {" in line for line in lines),
                "best_ms": round(min(took_ms), 2),
                "median_ms": round(statistics.median(took_ms), 2),
                "max_ms": round(max(took_ms), 2),
                "cpu_median_ms": round(statistics.median(cpu_ms), 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
