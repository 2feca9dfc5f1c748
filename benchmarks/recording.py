"""What one turn costs: recording it with voicespan against writing the same spans with the plain SDK.

Paired and interleaved in one run, in CPU time: what the calling thread pays, and all CPU until the bytes of the OTLP
request exist (ours redacted, the SDK's not). `spans` are our turns where somebody else's span processor wants to see
them, so that they go through the SDK. `held` is the longest that one step of our background work holds the interpreter.
A process has its memory laid out in its own way, which makes a few percent: so it is several processes, each of which
gives one ratio, the median of its pairs. `loaded` are processes with every library that voicespan knows, and with its
integration, as a service has a few of them. Prints JSON: minima, medians, the ratios of the minima, since medians carry
the machine's other work, and under `ratios` the median over the processes with its interval.

    python benchmarks/recording.py [--turns 100] [--rounds 31] [--processes 25]
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from ratio import Ratio
from workers.marked import our_turn
from workers.twelve import traced

from voicespan import breath
from voicespan.distro import VoicespanDistro
from voicespan.emit import BackgroundRecorder
from voicespan.integrations import known
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
            while self.recorder._finished:
                emit = partial(self.recorder._emit, self.recorder._finished.popleft())
                longest = max(longest, measure(emit, time.thread_time_ns) / 1e6)
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


class Run(NamedTuple):
    """One process: microseconds of each way's rounds, on the calling thread and in all, and its longest steps."""

    caller: dict[str, list[float]]
    all_cpu: dict[str, list[float]]
    held_ms: dict[str, float]


def load() -> None:
    """Load the integrations, and then what they wait for."""
    for entry in entry_points(group=known.GROUP):
        VoicespanDistro().load_instrumentor(entry)
    for library in known.LIBRARIES:
        importlib.import_module(library.module)


def once(turns: int, rounds: int) -> Run:
    """Measure in this process."""
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
        for index in range(turns):
            traced(tracer, f"call-{index % 10}")

    def background(way: Ours) -> None:
        way.recorder.drain()
        way.bodies()

    works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "plain": (plainly, plain.spans_to_bytes),
        "voicespan": (lambda: our_turns(ours.recorder, turns), lambda: background(ours)),
        "spans": (lambda: our_turns(seen.recorder, turns), lambda: background(seen)),
    }
    callers: dict[str, list[float]] = {name: [] for name in works}
    alls: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1 + rounds):
        for name, (record, rest) in works.items():
            caller = measure(record, time.thread_time_ns)
            both = caller + measure(rest, time.thread_time_ns)
            if number:  # the first one fills what is remembered
                callers[name].append(caller / turns / 1e3)
                alls[name].append(both / turns / 1e3)
    return Run(callers, alls, ours.held_ms(turns))


def rows(runs: list[dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Return the smallest and the middle of all rounds, and what the smallest is of the plain SDK's."""
    samples = {name: [value for run in runs for value in run[name]] for name in runs[0]}
    return {
        name: {
            "min_us": round(min(values), 2),
            "median_us": round(statistics.median(values), 2),
            "ratio": round(min(values) / min(samples["plain"]), 3),
        }
        for name, values in samples.items()
    }


def ratio(runs: list[dict[str, list[float]]]) -> dict[str, float]:
    """Return the ratio of ours to the plain SDK, of which each process gives one: the median of its pairs."""
    found = [Ratio.of(run["voicespan"], run["plain"]).median for run in runs]
    return Ratio.of(found, [1.0] * len(found)).plain()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--processes", type=int, default=25)
    parser.add_argument("--once", action="store_true", help="measure in this process alone, and print all of it")
    parser.add_argument("--loaded", action="store_true", help="with --once: with every library and its integration")
    arguments = parser.parse_args()
    if arguments.once:
        if arguments.loaded:
            load()
        print(json.dumps(once(arguments.turns, arguments.rounds)))
        return
    command = [sys.executable, __file__, "--once", "--turns", str(arguments.turns), "--rounds", str(arguments.rounds)]
    runs: list[Run] = []
    loaded: list[Run] = []
    for _ in range(arguments.processes):
        for found, more in ((runs, ()), (loaded, ("--loaded",))):
            done = subprocess.run([*command, *more], stdout=subprocess.PIPE, check=True)
            found.append(Run(*json.loads(done.stdout.splitlines()[-1])))
    callers, alls = [run.caller for run in runs], [run.all_cpu for run in runs]
    print(
        json.dumps(
            {
                "benchmark": "recording",
                "processes": len(runs),
                "caller": rows(callers),
                "all_cpu_to_bytes": rows(alls),
                "ratios": {
                    "caller": ratio(callers),
                    "all_cpu": ratio(alls),
                    "caller_loaded": ratio([run.caller for run in loaded]),
                    "all_cpu_loaded": ratio([run.all_cpu for run in loaded]),
                },
                "held_ms": {name: min(run.held_ms[name] for run in runs) for name in runs[0].held_ms},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
