"""From 1 to 1,000 calls at once: CPU, memory and event-loop delay of a service, with telemetry and without.

    python benchmarks/calls.py [--calls 1 10 100 1000] [--seconds 15] [--runs 6]

Each point is `voicespan load --calls N`, a process of its own that first holds the same calls without telemetry; a
back end on this machine takes what it sends. The largest is held several times: its delay is a bar. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from sink import Sink

from voicespan.load.shape import TURN_EVERY_S

CALLS = (1, 3, 10, 30, 100, 300, 1000)
KEPT = (
    "turns_per_s",
    "spans_per_s",
    "lost",
    "cpu_cores",
    "cpu_cores_without",
    "memory_mb",
    "loop_delay_ms",
    "loop_delay_without_ms",
    "problems",
)


def held(calls: int, seconds: float) -> dict[str, Any]:
    """Hold so many calls."""
    command = [sys.executable, "-m", "voicespan", "load", "--json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
    with Sink() as sink:
        options = ["--calls", str(calls), "--seconds", str(seconds), "--endpoint", sink.url]
        done = subprocess.run([*command, *options], env=clean, stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(done.stdout)
    return {name: found[name] for name in KEPT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="*", default=CALLS)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--runs", type=int, default=6, help="of the largest number of calls: fewer bound nothing")
    arguments = parser.parse_args()
    curves = {
        calls: {
            "runs": [
                held(calls, arguments.seconds) for _ in range(arguments.runs if calls == max(arguments.calls) else 1)
            ]
        }
        for calls in arguments.calls
    }
    print(
        json.dumps(
            {
                "benchmark": "calls",
                "turn_every_s": TURN_EVERY_S,
                "seconds": arguments.seconds,
                "load": os.getloadavg()[0],
                "curves": curves,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
