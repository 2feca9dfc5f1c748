"""What one 20 ms frame of audio costs: `session.audio_in` against one `Histogram.record`, paired in one run.

Then how much of a core a thousand calls need, with a hundred frames a second each: their frames are counted as fast as
possible for a while, with a collection every 15 s of audio time. Prints JSON: medians, and their ratio.

    python benchmarks/frames.py [--rounds 25] [--calls 1000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from typing import TYPE_CHECKING

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from ratio import Ratio

from voicespan import names as n
from voicespan.emit import BackgroundRecorder
from voicespan.metrics.instruments import views
from voicespan.metrics.start import start
from voicespan.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Callable

FRAME = bytes(640)
FRAMES_PER_S = 100
COLLECT_EVERY_S = 15


def cost_us(work: Callable[[], object], count: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(count):
        work()
    return (time.perf_counter_ns() - begin) / count / 1e3


def many_calls(recorder: BackgroundRecorder, reader: InMemoryMetricReader, calls: int) -> float:
    """CPU seconds for each second of audio of so many calls."""
    sessions = [Session(recorder, str(number), sample_rate=16_000) for number in range(calls)]
    begin = time.process_time_ns()
    for _ in range(COLLECT_EVERY_S):
        for _ in range(FRAMES_PER_S // 2):
            for session in sessions:
                session.audio_in(FRAME)
                session.audio_out(FRAME)
    reader.get_metrics_data()
    return (time.process_time_ns() - begin) / 1e9 / COLLECT_EVERY_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=1000)
    arguments = parser.parse_args()

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False, views=views())
    metrics.set_meter_provider(provider)
    start()
    recorder = BackgroundRecorder()
    recorder._thread = recorder  # type: ignore[assignment]  # no thread: only the calling one is measured
    session = Session(recorder, "call", sample_rate=16_000)
    labels = {n.NETWORK_IO_DIRECTION: "receive", n.VOICE_MEASUREMENT_POINT: "server"}
    histogram = provider.get_meter("plain").create_histogram("jitter", "s")

    works: dict[str, Callable[[], object]] = {
        "record": lambda: histogram.record(0.001, labels),
        "audio_in": lambda: session.audio_in(FRAME),
        "audio_out": lambda: session.audio_out(FRAME),
    }
    samples: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            samples[name].append(cost_us(work, 5_000))
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    cost_us(works["audio_in"], 20_000)
    grown = sum(change.size_diff for change in tracemalloc.take_snapshot().compare_to(before, "filename"))
    tracemalloc.stop()

    median = {name: statistics.median(values) for name, values in samples.items()}
    print(
        json.dumps(
            {
                "benchmark": "frames",
                "median_us": {name: round(value, 3) for name, value in median.items()},
                "ratios": {
                    "in": Ratio.of(samples["audio_in"], samples["record"]).plain(),
                    "out": Ratio.of(samples["audio_out"], samples["record"]).plain(),
                },
                "ratio_in": round(median["audio_in"] / median["record"], 3),
                "ratio_out": round(median["audio_out"] / median["record"], 3),
                "bytes_grown_by_20000_frames": grown,
                "cores_of_calls": {arguments.calls: round(many_calls(recorder, reader, arguments.calls), 3)},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
