"""Fails when a ratio is worse than its bar: `make bench-check`.

    python benchmarks/check.py [recording frames …] [--results FILE]

Only ratios of what was measured in one run, which hold on any machine, and only where the whole interval of 95 % lies
on the wrong side of the bar: a busy machine makes the interval wide, and then the answer is "not sure", which does not
fail. Runs the scripts that it needs, or takes what `make bench` has written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bars import BARS
from script import Script

if TYPE_CHECKING:
    from bars import Found

BRIEF = {
    "recording": ("--processes", "7"),
    "frames": (),
    "startup": (),
    "ingest": ("--brief",),
    "collector": ("--only", "pass-through", "default", "sampling", "--limit", "0", "--rounds", "7", "--seconds", "4"),
}
"""The scripts with ratios, and how they measure nothing else."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", default=list(BRIEF), metavar="script", help=" ".join(BRIEF))
    parser.add_argument("--results", type=Path, help="do not measure: take these")
    arguments = parser.parse_args()
    if unknown := set(arguments.scripts) - set(BRIEF):
        parser.error(f"no ratio is measured by {', '.join(sorted(unknown))}")
    results: dict[str, Found] = {}
    if arguments.results:
        results = json.loads(arguments.results.read_text())
    else:
        for name in arguments.scripts:
            results[name] = Script(name, BRIEF[name]).run()
    worse, broken = 0, [name for name in arguments.scripts if "failed" in results.get(name, {})]
    for bar in BARS:
        if bar.is_ratio and bar.script in arguments.scripts:
            finding = bar.look(results)
            worse += finding.judgement == "not met"
            today = finding.today or results.get(bar.script, {}).get("failed", "")
            print(f"{finding.judgement:<13}{bar.what}: {bar.bar}. Measured: {today or '-'}", flush=True)
    if broken:
        sys.exit(f"cannot be measured: {', '.join(broken)}")
    if worse:
        sys.exit(f"{worse} of the ratios are worse than their bar")


if __name__ == "__main__":
    main()
