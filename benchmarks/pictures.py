"""Draws the pictures of docs/performance.md; it runs in the environment of requirements/charts.txt.

python benchmarks/pictures.py RESULTS FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
# The same results give the same file.
mpl.rcParams.update({"svg.hashsalt": "voicespan", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})

from matplotlib import pyplot as plt  # noqa: E402

OURS, THEIRS, FAINT = "#6a3fb5", "#8a8f98", "#c9b6ea"


def name(key: str) -> str:
    return {"plain": "plain SDK", "ours": "voicespan", "ours, traces": "voicespan, traces"}.get(key, key)


def colour(key: str) -> str:
    return OURS if key.startswith("ours") else THEIRS


def libraries(peers: dict[str, Any], having: str) -> list[str]:
    """Those that record, in the order of the table, the first on top."""
    return [
        key
        for key, peer in peers.items()
        if having in peer and key != "bare" and key.partition(",")[0] not in ("pipecat", "livekit")
    ][::-1]


def bars(axes: Any, keys: list[str], values: list[float], title: str) -> None:
    drawn = axes.barh([name(key) for key in keys], values, color=[colour(key) for key in keys])
    axes.bar_label(drawn, fmt=lambda value: f"{value:,.3g}" if value < 999.5 else f"{value:,.0f}", padding=3)
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=9)


def peers(found: Any) -> Any:
    keys = libraries(found["peers"], "recording")
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axes, cost, title in zip(
        panels,
        ("caller_us", "bytes_us"),
        ("one turn on the calling thread, µs", "all CPU until bytes, µs"),
        strict=True,
    ):
        bars(axes, keys, [found["peers"][key]["recording"][cost]["min"] for key in keys], title)
    return figure


def life(found: Any) -> Any:
    keys = libraries(found["peers"], "start")
    of = found["peers"]
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.4), sharey=True, layout="constrained")
    bars(panels[0], keys, [of[key]["start"]["cpu_ms"] for key in keys], "start, ms of CPU")
    bars(panels[1], keys, [of[key]["start"]["memory_mb"] for key in keys], "memory after the start, MB")
    worst = [max(end["s"] for end in of[key]["exit"].values()) for key in keys]
    bars(panels[2], keys, worst, "exit with a dead back end, s")
    return figure


def calls(found: Any) -> Any:
    runs = {
        int(count): sorted(point["runs"], key=lambda one: one["loop_delay_ms"]["p99"])[len(point["runs"]) // 2]
        for count, point in found["curves"].items()
    }
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    kinds = {"voicespan": (OURS, "o-"), "without telemetry": (THEIRS, "o--")}
    curves = (
        ("CPU, cores", lambda run: (run["cpu_cores"], run["cpu_cores_without"])),
        ("memory at most, MB", lambda run: (run["memory_mb"], None)),
        ("event-loop delay, p99, ms", lambda run: (run["loop_delay_ms"]["p99"], run["loop_delay_without_ms"]["p99"])),
    )
    for axes, (title, of) in zip(panels, curves, strict=True):
        for index, (label, (shade, style)) in enumerate(kinds.items()):
            values = [of(run)[index] for run in runs.values()]
            if None not in values:
                axes.plot(list(runs), values, style, color=shade, label=label, markersize=3)
        axes.set_xscale("log")
        axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
        axes.set_xlabel("calls at once")
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=9)
    panels[0].legend(frameon=False)
    return figure


def main(results: str, folder: str) -> None:
    found = json.loads(Path(results).read_text())
    for key, script, draw in (("peers", "peers", peers), ("life", "peers", life), ("calls", "calls", calls)):
        if script in found and "failed" not in found[script]:
            figure = draw(found[script])
            figure.patch.set_facecolor("white")
            figure.savefig(Path(folder, f"{key}.svg"), metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
