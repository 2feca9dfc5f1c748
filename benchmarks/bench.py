"""Measures everything, one script after the other, and writes the page: `make bench`.

    python benchmarks/bench.py [recording peers …] [--page]

Results are kept in results.json under the name of their script, each with when it ran, how long, and how busy the
machine was; a script that is not named keeps what it had. docs/performance.md and its pictures are made of them, and of
nothing else: `--page` only makes them anew. Ends with 1 when a script failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from script import Script

import performance

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results.json"
PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "pictures" / "performance"
SCRIPTS = {
    "recording": (),
    "frames": (),
    "peers": (),
    "startup": (),
    "startup_exit": (),
    "calls": (),
    "logs": (),
    "scrape": (),
    "stages": (),
    "frameworks": (),
    "openai_client": (),
    "wire": (),
    "ingest": (),
    "viewer": (),
    "page": (),
    "collector": ("--rounds", "2", "--rounds-with-bar", "13"),
    "soak": (),
}
"""In this order, with these arguments."""


def processor() -> str:
    """Return the name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measured(name: str) -> dict[str, Any]:
    """Run a script."""
    load = os.getloadavg()[0]
    machine = f"{os.cpu_count()} cores, {processor()}, Python {platform.python_version()}"
    circumstances = {"at": time.strftime("%Y-%m-%d"), "load": round(load, 1), "machine": machine}
    return {**circumstances, **Script(name, SCRIPTS[name]).run()}


def draw() -> None:
    """Make the pictures, with a library that lives in an environment of its own; without it the old ones stay."""
    made = subprocess.run(
        [ROOT / "scripts" / "environment", "requirements/charts.txt"], stdout=subprocess.PIPE, text=True, check=False
    )
    if made.returncode:
        print("no pictures: requirements/charts.txt cannot be installed", file=sys.stderr)
        return
    PICTURES.mkdir(parents=True, exist_ok=True)
    subprocess.run([made.stdout.strip(), HERE / "pictures.py", RESULTS, PICTURES], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="script", help=" ".join(SCRIPTS))
    parser.add_argument("--page", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.scripts) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = []
    for name in () if arguments.page else arguments.scripts or SCRIPTS:
        found = measured(name)
        if "failed" in found:
            failed.append(f"{name}: {found['failed']}")
        results[name] = found
        ordered = {each: results[each] for each in SCRIPTS if each in results}
        RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
    PAGE.write_text(performance.page(results))
    draw()
    print(PAGE.relative_to(ROOT))
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
