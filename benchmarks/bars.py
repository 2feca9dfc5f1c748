"""What voicespan promises to cost at most, where it is measured, and what a measurement says of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ratio import Ratio, Verdict, interval

if TYPE_CHECKING:
    from collections.abc import Callable

Found = dict[str, Any]
"""What a script has printed."""
Judgement = Verdict | Literal["not measured"]


@dataclass(frozen=True)
class Finding:
    """What was measured, in words, and what it says of the bar."""

    today: str
    judgement: Judgement


NOT_MEASURED = Finding("", "not measured")


@dataclass(frozen=True)
class Bar:
    """One promise."""

    what: str
    bar: str
    script: str
    judge: Callable[[Found], Finding]
    is_ratio: bool = False
    """Holds on every machine, so that `make bench-check` may fail by it."""

    def look(self, results: dict[str, Found]) -> Finding:
        """Judge by the results of all scripts; what was not measured, or not whole, says nothing."""
        try:
            return self.judge(results[self.script])
        except (KeyError, TypeError):
            return NOT_MEASURED


def at_most(name: str, bar: float, of: str = "pairs") -> Callable[[Found], Finding]:
    """Judge a ratio of the script's `ratios`; `of` says what it is the median of."""

    def judge(found: Found) -> Finding:
        ratio = Ratio.read(found["ratios"][name])
        return Finding(_words(ratio, of), ratio.at_most(bar))

    return judge


def at_least(name: str, bar: float) -> Callable[[Found], Finding]:
    """Judge a ratio that has to be large."""

    def judge(found: Found) -> Finding:
        ratio = Ratio.read(found["ratios"][name])
        return Finding(_words(ratio), ratio.at_least(bar))

    return judge


def _words(ratio: Ratio, of: str = "pairs") -> str:
    return f"{ratio.median:.3g} ({ratio.low:.3g} to {ratio.high:.3g}, {ratio.pairs} {of})"


def _said(met: bool, today: str) -> Finding:
    return Finding(today, "met" if met else "not met")


def _growth(found: Found) -> Finding:
    grown = found["bytes_grown_by_20000_frames"]
    return _said(grown < 20_000, f"{grown:,} bytes after 20,000 frames")


def _start(found: Found) -> Finding:
    words = f"OpenTelemetry's own loader {found['added_cpu_ms']['loader']:.0f}"
    return _started(found, "plain_sdk", "sdk", "voicespan", f" and {words}")


def _start_with_all(found: Found) -> Finding:
    return _started(found, "plain_sdk_all_installed", "all installed, sdk", "all installed")


def _started(found: Found, name: str, sdk: str, ours: str, more: str = "") -> Finding:
    ratio, bar, cpu_ms = Ratio.read(found["ratios"][name]), found["bar"], found["added_cpu_ms"]
    mb = found["added_rss_mb"][ours]
    words = f"{_words(ratio)}: {cpu_ms[ours]:.0f} ms where the plain SDK takes {cpu_ms[sdk]:.0f}{more}; {mb:.0f} MB"
    return Finding(words, ratio.at_most(bar["of_plain_sdk"]) if mb <= bar["mb"] else "not met")


def _exit(found: Found) -> Finding:
    dead = [name for name in found["cases"] if name.startswith(("voicespan, refuses", "voicespan, never"))]
    cases = [found["cases"][name] for name in dead]
    theirs = [case["s_median"] for name, case in found["cases"].items() if name.startswith("sdk")]
    worst_s, lines = max(case["s_max"] for case in cases), max(case["lines"] for case in cases)
    words = f"{worst_s:.2f} s at most, {lines} line{'s' * (lines != 1)}; the plain SDK up to {max(theirs):.1f} s"
    return _said(worst_s <= found["bar"]["s"] and lines <= 1, words)


def _delay(found: Found) -> Finding:
    """The delay that telemetry adds, by the interval of several runs as the ratios are; the best would be luck."""
    runs = found["curves"]["1000"]["runs"]
    low, more, high = interval([run["loop_delay_ms"]["p99"] - run["loop_delay_without_ms"]["p99"] for run in runs])
    without = statistics.median(run["loop_delay_without_ms"]["p99"] for run in runs)
    words = f"{more:.2f} ms more ({low:.2f} to {high:.2f}, {len(runs)} runs) than {without:.2f} ms without telemetry"
    return Finding(words, "met" if high <= 1 else "not met" if low > 1 else "not sure")


def _ingest(found: Found) -> Finding:
    rate, bar = found["http_1000"]["spans_per_s"], found["bar_spans_per_s"]
    plain = found["plain_rows_1000"]["spans_per_s"]
    words = f"{rate:,} spans/s here, where plain rows take {plain:,}"
    if rate < bar and plain < PLAIN_ROWS:  # a slower machine, today: the ratio above says how it compares
        return Finding(words, "not sure")
    return _said(rate >= bar, words)


def _panels(found: Found) -> Finding:
    times = [panel["ms"] for panel in found["turns_20000"].values()]
    return _said(max(times) <= found["bar_ms_at_20000_turns"], f"{min(times):.0f} to {max(times):.0f} ms")


def _lost(found: Found) -> Finding:
    at_limit = {name: one for name, one in found["at 50000 spans/s"].items() if name in found["bars"]}
    lost = sum(one["lost"] for one in at_limit.values())
    memory = max(one["memory_mib"] for one in at_limit.values())
    rate = min(one["spans_per_s"] for one in at_limit.values())
    return Finding(
        f"{lost} lost at {rate:,} spans/s, {memory:,} MiB at most",
        "not met" if lost else "met" if rate >= 0.95 * 50_000 else "not sure",
    )


EIGHTH, SIXTH = 1 / 8, 1 / 6
PLAIN_ROWS = 54_000
"""Spans a second that plain rows took at least, on the machine where the bar of the ingest was set."""
BARS = (
    Bar(
        "recording one plain turn (twelve spans), on the calling thread",
        "at most 1/8 (0.125) of the plain SDK",
        "recording",
        at_most("caller", EIGHTH, of="processes"),
        is_ratio=True,
    ),
    Bar(
        "the same, all CPU until OTLP bytes, redaction on",
        "at most 1/6 (0.167) of the plain SDK, which does not redact",
        "recording",
        at_most("all_cpu", SIXTH, of="processes"),
        is_ratio=True,
    ),
    Bar(
        "on the calling thread, with every library that voicespan knows and its integration loaded",
        "at most 1/8 (0.125) of the plain SDK",
        "recording",
        at_most("caller_loaded", EIGHTH, of="processes"),
        is_ratio=True,
    ),
    Bar(
        "all CPU, with all of them loaded",
        "at most 1/6 (0.167) of the plain SDK",
        "recording",
        at_most("all_cpu_loaded", SIXTH, of="processes"),
        is_ratio=True,
    ),
    Bar(
        "one 20 ms audio frame that comes in",
        "at most 1/8 (0.125) of one `Histogram.record`",
        "frames",
        at_most("in", EIGHTH),
        is_ratio=True,
    ),
    Bar(
        "one 20 ms audio frame that goes out",
        "at most 1/8 (0.125) of one `Histogram.record`",
        "frames",
        at_most("out", EIGHTH),
        is_ratio=True,
    ),
    Bar("memory that frames take", "nothing that grows", "frames", _growth),
    Bar(
        "start-up added, OTLP over HTTP, in CPU time, no frameworks installed",
        "at most 150/180 (0.833) of the plain SDK, which took 180 ms where the bar was set; at most 30 MB",
        "startup",
        _start,
        is_ratio=True,
    ),
    Bar(
        "the same where everything is installed that voicespan knows, and none of it imported",
        "at most 0.833 of the plain SDK there, which loads no instrumentation; at most 30 MB",
        "startup",
        _start_with_all,
        is_ratio=True,
    ),
    Bar("exit with a Collector that refuses or never answers", "at most 2 s, one line", "startup_exit", _exit),
    Bar("event-loop delay added with 1,000 calls at once", "p99 at most 1 ms", "calls", _delay),
    Bar(
        "ingest of the viewer over HTTP, beside plain rows in the same run",
        "at least 0.9 of plain rows, which took 54,000 to 74,000 spans/s where the next bar was set",
        "ingest",
        at_least("of_plain_rows", 0.9),
        is_ratio=True,
    ),
    Bar("the same in spans a second", "at least 50,000", "ingest", _ingest),
    Bar("any panel of the viewer over 20,000 turns", "at most 100 ms", "viewer", _panels),
    Bar(
        "CPU per span of the Collector, default pipeline",
        "at most 4 times a pass-through",
        "collector",
        at_most("default", 4),
        is_ratio=True,
    ),
    Bar(
        "the same with sampling that keeps everything",
        "at most 7 times a pass-through",
        "collector",
        at_most("sampling", 7),
        is_ratio=True,
    ),
    Bar("Collector at 50,000 spans/s on two cores", "no accepted span lost, memory bounded", "collector", _lost),
)
