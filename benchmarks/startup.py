"""Time and memory that starting a process costs: bare, with plain auto-instrumentation, and with voicespan.

    python benchmarks/startup.py [--rounds 121]

The cases run in turn, so that a busy moment meets all of them; the smallest time of each is the one to trust, and on a
busy machine the processor's time (`cpu_ms`). The telemetry goes to a receiver on this machine that answers at once.
A round before them compiles all modules, as those of an installed package are, whatever PYTHONDONTWRITEBYTECODE says.
Prints JSON; `loader` is what OpenTelemetry's own loader costs before it loads anything: every distribution pays it.

The promise is about a service without frameworks, so these run in an environment that has voicespan, what it needs, and
nothing else (requirements/alone.txt). Cases with `all installed` run where everything is that voicespan knows, and are
compared with the plain SDK there: its loader reads the metadata of every package, and imports nothing of them either.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from ratio import Ratio

BAR = 150 / 180
"""Milliseconds that starting may take, of those that the plain SDK took on the machine where the bar was set."""
BAR_MB = 30

ROOT = Path(__file__).parents[1]

# The cost of starting is over when the script begins; how the process ends is measured by startup_exit.py.
SCRIPT = """
import os, resource, sys, time
ms = (time.monotonic() - float(os.environ["BENCH_STARTED"])) * 1e3
used = resource.getrusage(resource.RUSAGE_SELF)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(ms, (used.ru_utime + used.ru_stime) * 1e3, int(status["VmRSS"].split()[0]) / 1024, len(sys.modules))
sys.stdout.flush()
os._exit(0)
"""


class Answer(BaseHTTPRequestHandler):
    """Answers every request with 200."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=121)
    rounds = parser.parse_args().rounds
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cases = all_cases(alone(), f"http://127.0.0.1:{server.server_address[1]}")
    measured: dict[str, list[Run]] = {name: [] for name in cases}
    for number in range(1 + rounds):
        for name, case in cases.items():
            run = measure(case)
            if number:
                measured[name].append(run)
    print(json.dumps(summary(measured), indent=2))


class Case(NamedTuple):
    """How a process is started."""

    command: tuple[str, ...]
    environ: dict[str, str]


def alone() -> str:
    """Return the Python of an environment with voicespan and what it needs; it is made when it is not there."""
    made = subprocess.run(
        [ROOT / "scripts" / "environment", "requirements/alone.txt"], capture_output=True, text=True, check=True
    )
    python = made.stdout.strip()
    install = [Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "--editable", ROOT], check=True)
    return python


def all_cases(alone: str, url: str) -> dict[str, Case]:
    """Return what is compared.

    `voicespan` is the process of the service, as opentelemetry-instrument and the Kubernetes operator start it;
    `voicespan run` has the launcher's own process before it.
    """
    own = ("OTEL_", "VOICESPAN_", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    started, everything = (environment(python, clean, url) for python in (alone, sys.executable))
    off = {"OTEL_PYTHON_DISTRO": "none", "OTEL_PYTHON_CONFIGURATOR": "none"}
    without = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}
    sdk = clean | without | {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "PYTHONPATH": str(sdk_path())}
    run = (sys.executable, "-c", "from voicespan.cli import main; main()", "run", "--", sys.executable)
    return {
        "bare": Case((alone,), clean),
        # Without our instrumentors, which the SDK's own distribution would load because they are installed.
        "loader": Case((alone,), started | off | without),
        "sdk": Case((alone,), sdk),
        "voicespan": Case((alone,), started),
        "all installed, bare": Case((sys.executable,), clean),
        "all installed, sdk": Case((sys.executable,), sdk),
        "all installed, no integrations": Case((sys.executable,), everything | without),
        "all installed": Case((sys.executable,), everything),
        "all installed, voicespan run": Case(
            run, clean | {"OTEL_SERVICE_NAME": "bench", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        ),
    }


def environment(python: str, clean: dict[str, str], url: str) -> dict[str, str]:
    """Return the environment that `voicespan run` makes for a command of this Python."""
    script = (
        "import json, os; from voicespan.run import environment; "
        f"print(json.dumps(environment(os.environ, 'bench', {url!r})))"
    )
    made = subprocess.run([python, "-c", script], env=clean, capture_output=True, text=True, check=True)
    return dict(json.loads(made.stdout))


def sdk_path() -> Path:
    """Return a directory whose `sitecustomize` starts the plain SDK as opentelemetry-distro does, over HTTP."""
    return Path(__file__).parent / "plain_sdk"


class Run(NamedTuple):
    """One process: milliseconds until its script ran, and of the processor's time; resident MB; imported modules."""

    ms: float
    cpu_ms: float
    rss_mb: float
    modules: int


def measure(case: Case) -> Run:
    """Start one process."""
    environ = case.environ | {"BENCH_STARTED": str(time.monotonic())}
    done = subprocess.run([*case.command, "-c", SCRIPT], env=environ, capture_output=True, text=True, check=True)
    wall_ms, cpu_ms, rss_mb, modules = done.stdout.split()
    return Run(float(wall_ms), float(cpu_ms), float(rss_mb), int(modules))


def summary(measured: dict[str, list[Run]]) -> dict[str, object]:
    """Return the figures of each case and what voicespan adds."""
    cases = {
        name: {
            "ms_min": round(min(run.ms for run in runs), 1),
            "ms_median": round(statistics.median(run.ms for run in runs), 1),
            "cpu_ms": round(min(run.cpu_ms for run in runs), 1),
            "rss_mb": round(statistics.median(run.rss_mb for run in runs), 1),
            "modules": runs[0].modules,
        }
        for name, runs in measured.items()
    }
    # What the integrations of everything that is installed here cost a service that imports none of it.
    without, everything = cases["all installed, no integrations"], cases["all installed"]
    integrations = {key: round(everything[key] - without[key], 1) for key in ("cpu_ms", "rss_mb", "modules")}
    paired_ms = statistics.median(
        with_it.ms - none.ms for with_it, none in zip(measured["voicespan"], measured["bare"], strict=True)
    )
    added_ms = cases["voicespan"]["ms_min"] - cases["bare"]["ms_min"]

    bare = {name: "all installed, bare" if name.startswith("all installed") else "bare" for name in cases}

    def added(name: str) -> list[float]:
        return [run.cpu_ms - none.cpu_ms for run, none in zip(measured[name], measured[bare[name]], strict=True)]

    return {
        "python": sys.version.split()[0],
        "cases": cases,
        "added_ms_min": round(added_ms, 1),
        "added_ms_paired_median": round(paired_ms, 1),
        "added_rss_mb": {name: round(case["rss_mb"] - cases[bare[name]]["rss_mb"], 1) for name, case in cases.items()},
        "integrations_add": integrations,
        "added_cpu_ms": {name: round(case["cpu_ms"] - cases[bare[name]]["cpu_ms"], 1) for name, case in cases.items()},
        "ratios": {
            "plain_sdk": Ratio.of(added("voicespan"), added("sdk")).plain(),
            "plain_sdk_all_installed": Ratio.of(added("all installed"), added("all installed, sdk")).plain(),
        },
        "bar": {"of_plain_sdk": round(BAR, 3), "mb": BAR_MB},
    }


if __name__ == "__main__":
    main()
