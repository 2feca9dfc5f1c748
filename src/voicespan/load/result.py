"""What came of a load: figures that are written while it runs and at its end, for people and as JSON."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(slots=True)
class Delays:
    """Durations in seconds; what is asked of them is in milliseconds."""

    values_s: list[float] = field(default_factory=list)

    def add(self, value_s: float) -> None:
        """Take one."""
        self.values_s.append(value_s)

    def summary(self) -> dict[str, float]:
        """Return p50, p99 and the longest, in milliseconds; nothing without values."""
        if not self.values_s:
            return {}
        ordered = sorted(self.values_s)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        found = {"p50": statistics.median(ordered), "p99": p99, "max": ordered[-1]}
        return {name: round(value * 1000, 2) for name, value in found.items()}


@dataclass(slots=True)
class Cost:
    """CPU and time from when it was made."""

    cpu_s: float = field(default_factory=time.process_time)
    wall_s: float = field(default_factory=time.monotonic)

    def cores(self) -> float:
        """Return how much of a core was used since."""
        return (time.process_time() - self.cpu_s) / max(1e-9, time.monotonic() - self.wall_s)

    def seconds(self) -> float:
        """Return how long it was, in seconds."""
        return time.monotonic() - self.wall_s


def peak_mb() -> float:
    """Return the most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT / 1e6


@dataclass(slots=True)
class Result:
    """What came of it. None is what this way of sending does not have.

    `lost` are spans that were made and not taken by the back end, for whatever reason; `duration_s` is without the
    start and the end of the processes.
    """

    way: str
    calls: int
    turns: int
    duration_s: float
    spans: int | None = None
    sent: int | None = None
    lost: int | None = None
    cpu_cores: float | None = None
    """Of one core; several processes add up."""
    cpu_cores_without: float | None = None
    """The same calls without telemetry, measured just before."""
    memory_mb: float | None = None
    loop_delay_ms: dict[str, float] = field(default_factory=dict)
    loop_delay_without_ms: dict[str, float] = field(default_factory=dict)
    request_ms: dict[str, float] = field(default_factory=dict)
    heard_silence_ms: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Result:
        """Return what `plain` gave."""
        return cls(**{each.name: plain[each.name] for each in fields(cls)})

    def plain(self) -> dict[str, Any]:
        """Return it for JSON, with the rates."""
        made = {"turns_per_s": self.turns, "spans_per_s": self.spans}
        rates = {name: None if count is None else round(count / self.duration_s, 1) for name, count in made.items()}
        return asdict(self) | rates

    def lines(self) -> list[str]:
        """Return it for people."""
        rows = [
            ("turns", f"{self.turns:,} ({self.turns / self.duration_s:,.1f}/s)"),
            ("spans", self._spans()),
            ("CPU", _cores(self.cpu_cores, self.cpu_cores_without)),
            ("memory", None if self.memory_mb is None else f"{self.memory_mb:.0f} MB at most"),
            ("event-loop delay", _delays(self.loop_delay_ms, self.loop_delay_without_ms)),
            ("request", _delays(self.request_ms, {})),
            ("heard silence", _delays(self.heard_silence_ms, {})),
            *(("problem", problem) for problem in self.problems),
        ]
        return [f"  {name:<18}{words}" for name, words in rows if words]

    def _spans(self) -> str | None:
        if self.spans is None:
            return None
        return f"{self.spans:,} ({self.spans / self.duration_s:,.0f}/s), {self.sent:,} sent, {self.lost:,} lost"


def _cores(used: float | None, without: float | None) -> str | None:
    if used is None:
        return None
    return f"{used:.2f} of a core" + ("" if without is None else f"; the same calls without telemetry {without:.2f}")


def _delays(found: dict[str, float], without: dict[str, float]) -> str | None:
    if not found:
        return None
    words = f"p50 {found['p50']} ms, p99 {found['p99']} ms, longest {found['max']} ms"
    if without:
        words += f"; without telemetry {without['p50']}, {without['p99']}, {without['max']}"
    return words
