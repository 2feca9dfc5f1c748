"""What the Collector's pipeline costs: CPU per span against a pass-through, and without each of its parts.

    python benchmarks/collector.py [--rate 20000] [--limit 50000] [--seconds 6] [--rounds 2] [--only NAME ...]

Every variant gets the same turns (made by voicespan, prepared as OTLP) at the same rate. Processor time is that of the
Collector alone, read from the system: generator and receiver share the machine and do not count. Then default and
sampling get as much as they have to take, and nothing may be lost. Prints JSON; the best round of each variant.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
from ratio import Ratio

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.e2e.calls import Calls, request  # noqa: E402
from tests.e2e.stack import until  # noqa: E402
from tests.ports import free_port  # noqa: E402

from voicespan.stack.programs import COLLECTOR  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT = multiprocessing.get_context("spawn")
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MARK = b"\xfe\xed\xfa\xce"  # how every trace id begins here: spans are counted by it
TURNS_PER_REQUEST = 50  # 600 spans: what a busy service or a tier in front sends at once
REQUESTS = 40  # prepared; the trace ids are new each time
IN_FLIGHT = 16
ARRIVAL_S = 30
BARS = {"default": 4, "sampling": 7}

DEFAULT = ("otel-collector.yaml",)
SAMPLING = ("otel-collector.yaml", "collector/sampling.yaml")
PASS_THROUGH = {
    "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": "${env:VOICESPAN_OTLP_GRPC_ENDPOINT}"}}}},
    "processors": {"batch": {"timeout": "200ms", "send_batch_size": 2048, "send_batch_max_size": 4096}},
    "exporters": {"otlp_grpc": {"endpoint": "${env:VOICESPAN_TEMPO_ENDPOINT}", "tls": {"insecure": True}}},
    "extensions": {"health_check": {"endpoint": "${env:VOICESPAN_HEALTH_ENDPOINT}"}},
    "service": {
        "extensions": ["health_check"],
        "pipelines": {"traces": {"receivers": ["otlp"], "processors": ["batch"], "exporters": ["otlp_grpc"]}},
        "telemetry": {"metrics": {"level": "none"}},
    },
}
PIPELINES = "service::pipelines::"
KEEP_ALL = {"VOICESPAN_BASELINE_PERCENT": "100"}


@dataclass(frozen=True)
class Variant:
    """One way to set up the Collector: files of deploy/ (none: the pass-through), and keys that are changed."""

    files: tuple[str, ...]
    changes: tuple[str, ...] = ()


VARIANTS = {
    "pass-through": Variant(()),
    "default": Variant(DEFAULT),
    "sampling": Variant(SAMPLING),
    "no redaction": Variant(DEFAULT, (PIPELINES + "traces/in::processors: [memory_limiter]",)),
    "no redaction by rules": Variant(DEFAULT, (PIPELINES + "traces/in::processors: [memory_limiter, redaction]",)),
    # A pipeline cannot be taken away, so the metrics get the spans of a receiver that nobody sends to.
    "no metrics of spans": Variant(
        DEFAULT,
        (
            "receivers::otlp/nobody::protocols::grpc::endpoint: 127.0.0.1:0",
            PIPELINES + "traces/metrics::receivers: [otlp/nobody]",
            PIPELINES + "traces/in::exporters: [forward/store]",
        ),
    ),
    "no filter of replayed": Variant(DEFAULT, (PIPELINES + "traces/metrics::processors: []",)),
    "queue in memory": Variant(DEFAULT, ("exporters::otlp_grpc/tempo::sending_queue::storage: null",)),
    "no batch": Variant(DEFAULT, (PIPELINES + "traces/store::processors: []",)),
    "no memory limit": Variant(DEFAULT, (PIPELINES + "traces/in::processors: [transform/redaction, redaction]",)),
}


class Sink(grpc.GenericRpcHandler):
    """Takes requests without looking into them, and counts the spans."""

    def __init__(self) -> None:
        self.spans = 0
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 * 2**20)])
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._take)

    def _take(self, body: bytes, _: object) -> bytes:
        count = body.count(MARK)
        with self._lock:
            self.spans += count
        return b""


@dataclass(frozen=True)
class Prepared:
    """A request whose trace ids can be replaced: where they stand, turn by turn."""

    body: bytes
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def make(cls, calls: Calls, turns: int) -> Prepared:
        sent = [calls.plain(300 + 40 * number) for number in range(turns)]
        body = request(sent)
        return cls(body, tuple(tuple(_all(body, turn.trace_id)) for turn in sent))

    @property
    def spans(self) -> int:
        return sum(map(len, self.places))

    def fresh(self) -> bytes:
        """The request with trace ids that were never sent before."""
        body = bytearray(self.body)
        for places in self.places:
            trace_id = MARK + os.urandom(12)
            for place in places:
                body[place : place + 16] = trace_id
        return bytes(body)


def _all(body: bytes, wanted: bytes) -> Iterator[int]:
    place = body.find(wanted)
    while place >= 0:
        yield place
        place = body.find(wanted, place + 1)


def generate(port: int, rate: float, seconds: float, result: Any) -> None:
    """Send at this rate for some seconds; report spans accepted and refused, and the time it took."""
    calls = Calls()
    prepared = [Prepared.make(calls, TURNS_PER_REQUEST) for _ in range(REQUESTS)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    send = channel.unary_unary(EXPORT)
    accepted = refused = 0
    room = threading.Semaphore(IN_FLIGHT)
    lock = threading.Lock()

    def done(spans: int, answer: grpc.Future) -> None:
        nonlocal accepted, refused
        with lock:
            if answer.exception() is None:
                accepted += spans
            else:
                refused += spans
        room.release()

    send(b"")  # connects
    began = time.monotonic()
    number = sent = 0
    while (now := time.monotonic()) - began < seconds:
        if sent > (now - began) * rate:
            time.sleep(0.001)
            continue
        each = prepared[number % REQUESTS]
        number += 1
        sent += each.spans
        room.acquire()
        send.future(each.fresh()).add_done_callback(lambda answer, spans=each.spans: done(spans, answer))
    took = time.monotonic() - began
    for _ in range(IN_FLIGHT):
        room.acquire()
    result.put((accepted, refused, took))
    channel.close()


@contextmanager
def collector(variant: Variant, sink: Sink) -> Iterator[tuple[psutil.Process, int]]:
    """The Collector in this variant, as its process and the port that takes spans."""
    program = COLLECTOR.find()
    with tempfile.TemporaryDirectory(prefix="voicespan-bench-") as folder:
        port, http, metrics, own, health = (free_port() for _ in range(5))
        environ = {
            **os.environ,
            "VOICESPAN_OTLP_GRPC_ENDPOINT": f"127.0.0.1:{port}",
            "VOICESPAN_OTLP_HTTP_ENDPOINT": f"127.0.0.1:{http}",
            "VOICESPAN_METRICS_ENDPOINT": f"127.0.0.1:{metrics}",
            "VOICESPAN_SELF_METRICS_PORT": str(own),
            "VOICESPAN_HEALTH_ENDPOINT": f"127.0.0.1:{health}",
            "VOICESPAN_TEMPO_ENDPOINT": f"127.0.0.1:{sink.port}",
            "VOICESPAN_QUEUE_DIR": f"{folder}/queue",
            **KEEP_ALL,
        }
        configs = [str(ROOT / "deploy" / file) for file in variant.files] or [f"yaml:{json.dumps(PASS_THROUGH)}"]
        configs += [f"yaml:{change}" for change in variant.changes]
        command = [str(program), *(option for config in configs for option in ("--config", config))]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            until(lambda: _healthy(process, health, Path(folder, "log")), "the Collector is ready")
            yield psutil.Process(process.pid), port
        finally:
            process.terminate()
            process.wait(60)


def _healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    if process.poll() is not None:
        sys.exit(log.read_text()[-3000:])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return bool(answer.status == 200)


def measure(variant: Variant, rate: float, seconds: float) -> dict[str, float]:
    """Send to one variant at a rate, after a moment to warm up, and wait until all of it has arrived."""
    sink = Sink()
    with collector(variant, sink) as (process, port):
        warm_up, _, _ = _send(port, rate / 2, 2)
        _wait(sink, warm_up)
        before, spans_before = process.cpu_times(), sink.spans
        accepted, refused, took = _send(port, rate, seconds)
        memory = process.memory_info().rss
        _wait(sink, spans_before + accepted)
        after = process.cpu_times()
        arrived = sink.spans - spans_before
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "spans_per_s": round(accepted / took),
        "cpu_us_per_span": round(cpu_s / accepted * 1e6, 2),
        "memory_mib": round(memory / 2**20),
        "refused": refused,
        "lost": accepted - arrived,
    }


def _send(port: int, rate: float, seconds: float) -> tuple[int, int, float]:
    result: Any = CONTEXT.Queue()
    generator = CONTEXT.Process(target=generate, args=(port, rate, seconds, result))
    generator.start()
    accepted, refused, took = result.get(timeout=seconds + 120)
    generator.join()
    return accepted, refused, took


def _wait(sink: Sink, spans: int) -> None:
    deadline = time.monotonic() + ARRIVAL_S
    while sink.spans < spans and time.monotonic() < deadline:
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20_000, help="spans a second at which variants are compared")
    parser.add_argument(
        "--limit", type=float, default=50_000, help="spans a second that have to be taken; 0: not tried"
    )
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rounds-with-bar", type=int, default=0, help="of the variants that have a bar, where more")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    if COLLECTOR.find() is None:
        print(json.dumps({"collector": f"not measured: no Collector here ({COLLECTOR.source})"}))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
    for number in range(max(options.rounds, options.rounds_with_bar)):
        for name in options.only:
            if number < options.rounds or name in ("pass-through", *BARS):
                found[name].append(measure(VARIANTS[name], options.rate, options.seconds))
    best = {name: min(rounds, key=lambda one: one["cpu_us_per_span"]) for name, rounds in found.items()}
    if "pass-through" in best:
        for result in best.values():
            result["ratio"] = round(result["cpu_us_per_span"] / best["pass-through"]["cpu_us_per_span"], 2)
    costs = {name: [one["cpu_us_per_span"] for one in rounds] for name, rounds in found.items()}
    ratios = {
        name: Ratio.of(costs[name], costs["pass-through"]).plain()
        for name in BARS
        if name in costs and "pass-through" in costs
    }
    at_limit = {
        name: measure(VARIANTS[name], options.limit, options.seconds)
        for name in ("pass-through", *BARS)
        if options.limit and name in options.only
    }
    machine = {"machine": platform.machine(), "cores": os.cpu_count()}
    rates = {f"at {options.rate:.0f} spans/s": best, f"at {options.limit:.0f} spans/s": at_limit}
    print(json.dumps({**machine, "bars": BARS, "ratios": ratios, **rates}, indent=2))


if __name__ == "__main__":
    main()
