"""What peers.py says to a worker, and what the worker answers.

python -m workers.NAME turns [HOW]   answers every number on stdin with what so many turns cost, as a line of JSON
python -m workers.NAME start [HOW]   says what it took until turns can be recorded
python -m workers.NAME exit [HOW]    waits for a line, records ten turns, says so, and ends as a program does
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PENDING = 10


@dataclass(frozen=True)
class Way:
    """One way to record turns, started."""

    turns: Callable[[int], None]
    """Hold so many, on the calling thread."""
    flush: Callable[[], object]
    """Return when the back end has all of them."""


def each(turn: Callable[[str], None]) -> Callable[[int], None]:
    """Return what holds many turns where a function holds one of a session."""

    def turns(count: int) -> None:
        for index in range(count):
            turn(f"call-{index % 10}")

    return turns


class Sending:
    """The CPU that goes into requests once their bytes exist: OpenTelemetry's client, which all of them share."""

    def __init__(self) -> None:
        self.ns = 0

    def watch(self) -> None:
        """Begin."""
        from opentelemetry.exporter.otlp.common.http import _OTLPHTTPClient as Client

        export = Client.export

        def timed(client: Any, data: bytes) -> Any:
            began = time.thread_time_ns()
            try:
                return export(client, data)
            finally:
                self.ns += time.thread_time_ns() - began

        Client.export = timed


def memory_mb() -> float:
    """Return what this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(way: Way, sending: Sending, count: int) -> dict[str, float]:
    """Hold so many turns; CPU in microseconds for each of them."""
    caller, everything, sent = time.thread_time_ns(), time.process_time_ns(), sending.ns
    way.turns(count)
    caller = time.thread_time_ns() - caller
    way.flush()
    everything, sent = time.process_time_ns() - everything, sending.ns - sent
    return {
        "caller_us": caller / count / 1e3,
        "bytes_us": (everything - sent) / count / 1e3,
        "sent_us": everything / count / 1e3,
        "memory_mb": memory_mb(),
    }


def run(start: Callable[[str], Way], package: str) -> None:
    """Do what the command line says; `start` gets HOW, and `package` is whose version this is about."""
    what, how = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
    way = start(how)
    if what == "start":
        ms, threads = (time.monotonic() - float(os.environ["BENCH_STARTED"])) * 1e3, threading.active_count()
        memory, modules = memory_mb(), len(sys.modules)
        say(
            {"ms": ms, "cpu_ms": time.process_time() * 1e3, "memory_mb": memory, "modules": modules, "threads": threads}
        )
        os._exit(0)
    if what == "exit":
        say({"ready": True})
        sys.stdin.readline()
        way.turns(PENDING)
        say({"turns": PENDING})
        return
    sending = Sending()
    sending.watch()
    say({"version": version(package)})
    for line in sys.stdin:
        say(measured(way, sending, int(line)))
    os._exit(0)  # how it ends is another question


def say(figures: dict[str, Any]) -> None:
    """Write one line; whatever else the library prints is no JSON and passed over."""
    print(json.dumps(figures), flush=True)
