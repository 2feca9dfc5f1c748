"""What the same turn costs under other libraries: logfire, openlit, traceloop-sdk, Pipecat's and LiveKit's own tracing.

    python benchmarks/peers.py [--rounds 15] [--turns 50] [--only plain ours …]

Each is a process of its own (workers/), with the library's own environment where its pins do not go together with ours
(requirements/peers/, scripts/environment), and a back end on this machine. All run in turns in one run, so that the
speed and load of the machine cancel out; ratios are to the plain SDK in the same round, with the interval in which the
true median lies with 95 % confidence. `caller_us` is the CPU of the thread that holds the call, `bytes_us` all CPU
until the bytes of the requests exist, `sent_us` until the back end has answered; for Pipecat and LiveKit it is what is
added to the same turn without tracing. What cannot be installed is said to be missing. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ratio import Ratio, interval
from sink import Sink, Taken
from startup_exit import collectors

HERE = Path(__file__).parent
ROOT = HERE.parent
COSTS = ("caller_us", "bytes_us", "sent_us")
WARM_UP = 3
FEWER = 0.4  # a turn of a framework takes a hundred times as long as its telemetry
ANSWER_S = 120


@dataclass(frozen=True)
class Peer:
    """One way to record turns: its worker, and what is said of it."""

    worker: str
    how: str
    what: str
    environment: str | None = None
    """Its requirements under requirements/peers/; None: they go together with ours."""
    beside: str = "plain"
    """What it is compared with."""
    turns: float = 1.0
    """How many turns it holds, of those that a round has."""

    @property
    def records(self) -> bool:
        """Whether spans have to come of it."""
        return self.worker != "bare" and self.how != "off"


PEERS = {
    "bare": Peer("bare", "", "the API without a provider: nothing is recorded"),
    "plain": Peer("plain", "", "opentelemetry-sdk by hand: a batch processor, OTLP over HTTP"),
    "ours": Peer("ours", "", "voicespan's marks, everything at its defaults: redaction and metrics are on"),
    "ours, traces": Peer("ours", "traces", "the same without metrics, which none of the others makes of a turn"),
    "logfire": Peer("logfire", "spans", "`logfire.span` to another back end, console off", "logfire"),
    "logfire, tracer": Peer("logfire", "tracer", "OpenTelemetry's tracer through Logfire's provider", "logfire"),
    "openlit": Peer("openlit", "spans", "`openlit.start_trace`, an empty list of prices from the disk", "openlit"),
    "openlit, tracer": Peer("openlit", "tracer", "OpenTelemetry's tracer through OpenLIT's provider", "openlit"),
    "traceloop": Peer("traceloop", "spans", "the decorators `@workflow` and `@task`", "traceloop"),
    "traceloop, tracer": Peer(
        "traceloop", "tracer", "OpenTelemetry's tracer through Traceloop's provider", "traceloop"
    ),
    "pipecat, off": Peer("pipecat", "off", "a turn of a Pipecat pipeline, without tracing", None, "", FEWER),
    "pipecat, own": Peer(
        "pipecat", "own", "the same, `enable_tracing=True` and a plain SDK", None, "pipecat, off", FEWER
    ),
    "pipecat, ours": Peer("pipecat", "ours", "the same under voicespan", None, "pipecat, off", FEWER),
    "livekit, off": Peer("livekit", "off", "a turn of a LiveKit AgentSession, without tracing", None, "", FEWER),
    "livekit, own": Peer("livekit", "own", "the same, its own spans to a plain SDK", None, "livekit, off", FEWER),
    "livekit, ours": Peer("livekit", "ours", "the same under voicespan", None, "livekit, off", FEWER),
}


class Missing(Exception):
    """A peer that is not measured, and why."""


def python(peer: Peer) -> str:
    """Return the Python of its environment, which is made when it is not there."""
    if peer.environment is None:
        return sys.executable
    made = subprocess.run(
        [ROOT / "scripts" / "environment", f"requirements/peers/{peer.environment}.txt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Missing((made.stderr.strip() or f"status {made.returncode}").splitlines()[-1])
    return made.stdout.strip()


class Worker:
    """A process that holds turns when it is told to, and the back end that it sends them to."""

    def __init__(self, peer: Peer, stack: ExitStack) -> None:
        self.sink = stack.enter_context(Sink())
        command = [python(peer), "-m", f"workers.{peer.worker}", "turns", peer.how]
        self._process = subprocess.Popen(
            command,
            env=environ(self.sink.url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(self._end)
        self._err: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        self.version = str(self._answer()["version"])

    def turns(self, count: int) -> tuple[dict[str, float], Taken]:
        """Return what so many turns cost, and what came of them."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self._answer(), self.sink.counted()

    def _answer(self) -> dict[str, Any]:
        late = threading.Timer(ANSWER_S, self._process.kill)
        late.start()
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.startswith("{"):
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        finally:
            late.cancel()
        self._process.wait()
        raise Missing(("".join(self._err).strip() or f"it ended with {self._process.returncode}").splitlines()[-1])

    @property
    def complaint(self) -> str:
        """The last line that it has written on stderr."""
        return "".join(self._err).strip().rpartition("\n")[2]

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._err.append(line)
            del self._err[:-50]

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


def environ(url: str) -> dict[str, str]:
    """Return the environment of a worker: nothing of this one's telemetry, and no reports to anybody's makers."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
    return clean | {
        "PYTHONPATH": str(HERE),
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "bench",
        "TRACELOOP_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
    }


def recording(workers: dict[str, Worker], rounds: int, turns: int) -> dict[str, dict[str, Any]]:
    """Hold turns in turns; return figures by peer."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    came = {name: Taken() for name in workers}
    for number in range(WARM_UP + rounds):
        for name, worker in workers.items():
            figures, taken = worker.turns(round(turns * PEERS[name].turns))
            if number >= WARM_UP:
                found[name].append(figures)
                came[name] += taken
    for name, taken in came.items():
        if PEERS[name].records and not taken.spans:
            raise SystemExit(f"{name}: nothing was recorded: {workers[name].complaint}")
    return {name: _figures(name, found, came[name], rounds * turns * PEERS[name].turns) for name in workers}


def _figures(name: str, found: dict[str, list[dict[str, float]]], came: Taken, turns: float) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "spans_per_turn": round(came.spans / turns, 1),
        "attributes_per_turn": round(came.attributes / turns),
        "bytes_per_turn": round(came.size / turns),
        "turns_per_request": round(turns / came.requests, 1) if came.requests else None,
        "memory_mb": round(found[name][-1]["memory_mb"], 1),
    }
    theirs = found.get(PEERS[name].beside, [])
    for cost in COSTS:
        ours = [each[cost] for each in found[name]]
        figures[cost] = {"min": round(min(ours), 1), "median": round(statistics.median(ours), 1)}
        if theirs and theirs is not found[name]:
            without = [each[cost] for each in theirs]
            low, median, high = interval([one - other for one, other in zip(ours, without, strict=True)])
            figures[cost]["added"] = {"low": round(low, 1), "median": round(median, 1), "high": round(high, 1)}
            figures[cost]["ratio"] = Ratio.of(ours, without).plain()
    return figures


def starting(peers: dict[str, tuple[Peer, str]], rounds: int, url: str) -> dict[str, dict[str, float]]:
    """Start each so many times, in turns; return the least of time and CPU, and the medians of the rest."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, (peer, program) in peers.items():
            began = {"BENCH_STARTED": str(time.monotonic())}
            command = [program, "-m", f"workers.{peer.worker}", "start", peer.how]
            done = subprocess.run(command, env=environ(url) | began, capture_output=True, text=True, check=True)
            found[name].append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    return {
        name: {
            "ms": round(min(run["ms"] for run in runs), 1),
            "cpu_ms": round(min(run["cpu_ms"] for run in runs), 1),
            "memory_mb": round(statistics.median(run["memory_mb"] for run in runs), 1),
            "modules": runs[0]["modules"],
            "threads": runs[0]["threads"],
        }
        for name, runs in found.items()
    }


def ending(peers: dict[str, tuple[Peer, str]]) -> dict[str, dict[str, dict[str, float]]]:
    """End each with back ends that are dead: two processes at a time, since they only wait."""
    with ExitStack() as stack:
        urls = {kind: url for kind, url in collectors(stack).items() if kind != "answers"}
        found = {}
        for name, (peer, program) in peers.items():
            command = [program, "-m", f"workers.{peer.worker}", "exit", peer.how]
            ends = {kind: stack.enter_context(_Ending(command, url)) for kind, url in urls.items()}
            for end in ends.values():
                end.ready()
            for end in ends.values():
                end.go()
            found[name] = {kind: end.over() for kind, end in ends.items()}
        return found


class _Ending:
    """A process on its way to its end."""

    def __init__(self, command: list[str], url: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environ(url), stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self._took: dict[str, float] = {}
        self._thread = threading.Thread(target=self._watch)

    def ready(self) -> None:
        """Wait until it could begin."""
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()) and not line.startswith("{"):
            pass

    def go(self) -> None:
        """Let it hold its turns and end."""
        self._thread.start()

    def over(self) -> dict[str, float]:
        """Return the seconds from its last statement to its end, and the lines that it wrote on stderr."""
        self._thread.join()
        return self._took

    def _watch(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.ready()
        began = time.monotonic()
        try:
            _, err = self._process.communicate(timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, err = self._process.communicate()
        self._took = {"s": round(time.monotonic() - began, 2), "lines": err.count("\n")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=list(PEERS), choices=list(PEERS))
    arguments = parser.parse_args()

    found: dict[str, dict[str, Any]] = {name: {"what": PEERS[name].what} for name in arguments.only}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in arguments.only:
            try:
                workers[name] = Worker(PEERS[name], stack)
            except Missing as why:
                found[name]["missing"] = str(why)
        for name, figures in recording(workers, arguments.rounds, arguments.turns).items():
            found[name] |= {"version": workers[name].version, "recording": figures}
    # What starts and ends is the library, not the way in which spans are made.
    programs = {name: (PEERS[name], python(PEERS[name])) for name in workers if "," not in name}
    with Sink() as sink:
        for name, start in starting(programs, arguments.starts, sink.url).items():
            found[name]["start"] = start
    for name, end in ending(programs).items():
        found[name]["exit"] = end
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    print(
        json.dumps(
            {
                "benchmark": "peers",
                **machine,
                "rounds": arguments.rounds,
                "turns": arguments.turns,
                "peers": found,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
