"""What one turn costs: recording it with voicespan against writing the same spans with the plain SDK.

Paired and interleaved in one run, in CPU time: what the calling thread pays, and all CPU until the bytes of the OTLP
request exist (ours redacted, the SDK's not). `spans` are our turns where somebody else's span processor wants to see
them, so that they go through the SDK. `held` is the longest that one step of our background work holds the interpreter.
Prints JSON: minima, medians, the ratios of the minima, since medians carry the machine's other work, and under `ratios`
the median of the paired ones with its interval.

    python benchmarks/recording.py [--turns 100] [--rounds 151]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from ratio import Ratio
from workers.marked import our_turn
from workers.twelve import traced

from voicespan import breath
from voicespan.emit import BackgroundRecorder
from voicespan.metrics.instruments import nobody_reads
from voicespan.sdk.batch import Limits
from voicespan.sdk.export import BatchProcessor, BodySender
from voicespan.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan


class Keep(SpanProcessor):
    """Keeps ended spans, as the queue of a batch processor does; costs next to nothing."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class Way:
    """A provider, and how what it holds becomes the bodies of requests."""

    def __init__(self) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.keep = Keep()

    def add_keeper(self) -> None:
        """Keep spans as they end."""
        self.provider.add_span_processor(self.keep)

    def spans_to_bytes(self) -> int:
        """Encode what was kept, in batches, without redaction."""
        spans, self.keep.spans = self.keep.spans, []
        return sum(
            len(encode_spans(spans[start : start + 512]).SerializeToString()) for start in range(0, len(spans), 512)
        )


class Ours(Way):
    """Our queue and sender, which is asked for the bodies by hand."""

    def __init__(self) -> None:
        super().__init__()
        exporter = OTLPSpanExporter(endpoint="http://127.0.0.1:9/v1/traces")
        self.processor = BatchProcessor(exporter, limits=Limits(queue=1 << 30, batch=512, size=1 << 30))
        self.provider.add_span_processor(self.processor)
        self.batcher = self.processor.batcher
        self.batcher._thread = self  # type: ignore[assignment]  # no thread: its work is measured apart
        self.recorder = BackgroundRecorder()
        self.recorder._thread = self  # type: ignore[assignment]
        self.recorder._sdk = self.provider

    def body(self) -> int:
        """Take one batch out of the queue and make a body of it."""
        sender = self.batcher._sender
        assert isinstance(sender, BodySender)
        return len(sender.body(self.batcher._take()))

    def bodies(self) -> None:
        """Empty the queue."""
        while self.batcher._queue:
            self.body()

    def held_ms(self, turns: int) -> dict[str, float]:
        """The longest step of each kind, each the best of several runs: the machine has other things to do."""
        steps: dict[str, list[float]] = {"a_turn": [], "a_body": []}
        for _ in range(5):
            our_turns(self.recorder, turns)
            longest = 0.0
            while self.recorder._closed:
                work = self.recorder._closed.popleft()
                longest = max(longest, measure(work, time.thread_time_ns) / 1e6)
            steps["a_turn"].append(longest)
            longest = 0.0
            while self.batcher._queue:
                longest = max(longest, measure(self.body, time.thread_time_ns) / 1e6)
            steps["a_body"].append(longest)
        return {name: round(min(values), 3) for name, values in steps.items()}


def our_turns(recorder: BackgroundRecorder, turns: int) -> None:
    with Session(recorder, "call-1", transport="websocket") as session:
        for _ in range(turns):
            our_turn(session)


def measure(work: Callable[[], object], clock: Callable[[], int]) -> int:
    begin = clock()
    work()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=151)
    arguments = parser.parse_args()

    plain, ours, seen = Way(), Ours(), Ours()
    plain.add_keeper()
    seen.provider.add_span_processor(SpanProcessor())
    trace.set_tracer_provider(plain.provider)
    meters = MeterProvider(shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    nobody_reads(meters)
    breath.WORK_NS = 1 << 60  # in a pause the machine's other work would come into the figures
    tracer = plain.provider.get_tracer("plain")

    def plainly() -> None:
        for index in range(arguments.turns):
            traced(tracer, f"call-{index % 10}")

    def background(way: Ours) -> None:
        way.recorder.drain()
        way.bodies()

    works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "plain": (plainly, plain.spans_to_bytes),
        "voicespan": (lambda: our_turns(ours.recorder, arguments.turns), lambda: background(ours)),
        "spans": (lambda: our_turns(seen.recorder, arguments.turns), lambda: background(seen)),
    }
    callers: dict[str, list[float]] = {name: [] for name in works}
    alls: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, (record, rest) in works.items():
            caller = measure(record, time.thread_time_ns)
            callers[name].append(caller / arguments.turns / 1e3)
            alls[name].append((caller + measure(rest, time.thread_time_ns)) / arguments.turns / 1e3)

    def rows(samples: dict[str, list[float]]) -> dict[str, dict[str, float]]:
        return {
            name: {
                "min_us": round(min(values), 2),
                "median_us": round(statistics.median(values), 2),
                "ratio": round(min(values) / min(samples["plain"]), 3),
            }
            for name, values in samples.items()
        }

    print(
        json.dumps(
            {
                "benchmark": "recording",
                "caller": rows(callers),
                "all_cpu_to_bytes": rows(alls),
                "ratios": {
                    "caller": Ratio.of(callers["voicespan"], callers["plain"]).plain(),
                    "all_cpu": Ratio.of(alls["voicespan"], alls["plain"]).plain(),
                },
                "ratio_caller": round(min(callers["voicespan"]) / min(callers["plain"]), 3),
                "ratio_all_cpu": round(min(alls["voicespan"]) / min(alls["plain"]), 3),
                "held_ms": ours.held_ms(arguments.turns),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
