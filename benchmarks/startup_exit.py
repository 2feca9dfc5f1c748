"""How long a process takes to end when its Collector is well, refuses, or never answers; spans and metrics are pending.

    python benchmarks/startup_exit.py [--rounds 3]

Compared with the plain SDK over HTTP. The time counts from the last line of the script to the end of the process, by
exit and by SIGTERM. Prints JSON; the bar is 2 s and one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import threading
import time
from contextlib import ExitStack
from http.server import ThreadingHTTPServer

from startup import Answer, Case, all_cases, alone

BAR_S = 2.0
AT_START = "nothing takes telemetry"
"""Said when a process starts and nobody listens, however it ends."""

SCRIPT = """
import time
from opentelemetry import metrics, trace
tracer = trace.get_tracer("bench")
for index in range(200):
    tracer.start_span(f"span {index}").end()
metrics.get_meter("bench").create_counter("hits").add(1)
print("end", flush=True)
time.sleep(SLEEP)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        urls, python = collectors(stack), alone()
        cases = {}
        for collector, url in urls.items():
            started = all_cases(python, url)
            for name in ("voicespan", "sdk"):
                for way in ("exit", "sigterm"):
                    repeats = 1 if name == "sdk" else rounds  # which takes up to 15 s, and the same every time
                    runs = [measure(started[name], way) for _ in range(repeats)]
                    cases[f"{name}, {collector}, {way}"] = {
                        "s_median": round(statistics.median(run[0] for run in runs), 2),
                        "s_max": round(max(run[0] for run in runs), 2),
                        "lines": max(run[1] for run in runs),
                    }
    worst_s = max(case["s_max"] for name, case in cases.items() if name.startswith("voicespan"))
    met = worst_s <= BAR_S
    print(json.dumps({"cases": cases, "bar": {"s": BAR_S, "worst_s": worst_s, "met": met}}, indent=2))


def collectors(stack: ExitStack) -> dict[str, str]:
    """Return the addresses of a Collector that answers, one that refuses, and one that never answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    refusing = stack.enter_context(socket.socket())
    refusing.bind(("127.0.0.1", 0))
    hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
    ports = {
        "answers": server.server_address[1],
        "refuses": refusing.getsockname()[1],
        "never answers": hole.getsockname()[1],
    }
    return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


def measure(case: Case, way: str) -> tuple[float, int]:
    """Run the script; return the seconds from its last line to its end, and the lines of stderr that are about it."""
    script = SCRIPT.replace("SLEEP", "60" if way == "sigterm" else "0")
    process = subprocess.Popen(
        [*case.command, "-c", script], env=case.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    if way == "sigterm":
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    return time.monotonic() - began, sum(AT_START not in line for line in err.splitlines())


if __name__ == "__main__":
    main()
