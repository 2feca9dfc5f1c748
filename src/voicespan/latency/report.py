"""What the calls say together: the statistics, whether the target is met, and what became worse than before."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voicespan.latency.call import Outcome

_RULE = "=" * 60
_NORMAL_95 = 1.96

TOLERANCES: Mapping[str, float] = {
    "average_ms": 0.15,
    "median_ms": 0.15,
    "p95_ms": 0.25,
    "success_rate": 0.02,
    "compliance_rate": 0.05,
}
"""How much worse each metric may become, unless the baseline says otherwise: a share of its value for latencies, and
an absolute part of 1 for rates."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of all calls against a target; the statistics are of the successful ones.

    The verdict is by the average, the compliance by calls: one that failed misses the target. Percentiles are
    interpolated linearly between the two nearest values, the deviation is that of a sample (n - 1).
    """

    outcomes: Sequence[Outcome]
    target_ms: float

    @property
    def latencies_ms(self) -> list[float]:
        """What callers waited, in order of the calls."""
        return [outcome.latency_s * 1e3 for outcome in self.outcomes if outcome.latency_s is not None]

    @property
    def met(self) -> int:
        """How many calls were answered within the target."""
        return sum(latency < self.target_ms for latency in self.latencies_ms)

    @property
    def passed(self) -> bool:
        """Whether callers were answered within the target on average."""
        return bool(self.latencies_ms) and statistics.fmean(self.latencies_ms) < self.target_ms

    def metrics(self) -> dict[str, float]:
        """Return every metric by its name; without a successful call there are only the rates."""
        found, total = self.latencies_ms, len(self.outcomes)
        rates = {"success_rate": len(found) / total, "compliance_rate": self.met / total}
        if not found:
            return rates
        deviation = statistics.stdev(found) if len(found) > 1 else 0.0
        return {
            "average_ms": statistics.fmean(found),
            "average_error_ms": _NORMAL_95 * deviation / len(found) ** 0.5,
            "median_ms": statistics.median(found),
            "p95_ms": percentile(found, 0.95),
            "p99_ms": percentile(found, 0.99),
            "min_ms": min(found),
            "max_ms": max(found),
            "deviation_ms": deviation,
            **rates,
        }

    def text(self) -> str:
        """Return the report."""
        told, total = self.metrics(), len(self.outcomes)
        good = len(self.latencies_ms)
        lines = [
            _RULE,
            "LATENCY TEST RESULTS",
            _RULE,
            f"Total Calls: {total}",
            f"Successful Calls: {good}",
            f"Failed Calls: {total - good}",
            f"Success Rate: {100 * told['success_rate']:.1f}%",
            "",
            "LATENCY STATISTICS:",
            *(f"  {title:<16} {_ms(told.get(name))}" for title, name in _STATISTICS),
            "",
            f"TARGET COMPLIANCE (<{self.target_ms:g}ms):",
            f"  Calls Meeting Target: {self.met}/{total}",
            f"  Compliance Rate: {100 * told['compliance_rate']:.1f}%",
            "",
            self._verdict(told),
            _RULE,
        ]
        return "\n".join(lines)

    def _verdict(self, told: Mapping[str, float]) -> str:
        if "average_ms" not in told:
            return "❌ FAILED: No call was answered!"
        average = f"Average latency ({told['average_ms']:.2f}ms)"
        if self.passed:
            return f"✅ SUCCESS: {average} is below {self.target_ms:g}ms target!"
        return f"❌ FAILED: {average} is not below {self.target_ms:g}ms target!"

    def data(self) -> dict[str, Any]:
        """Return everything as plain data; `average_error_ms` is half the average's 95 % interval."""
        return {
            "target_ms": self.target_ms,
            "passed": self.passed,
            "calls": len(self.outcomes),
            "metrics": self.metrics(),
            "outcomes": [
                {
                    "latency_ms": None if each.latency_s is None else each.latency_s * 1e3,
                    "problem": each.problem,
                    "trace_id": each.trace_id,
                    "room": each.room,
                }
                for each in self.outcomes
            ],
        }


_STATISTICS = (
    ("Average Latency:", "average_ms"),
    ("Median Latency:", "median_ms"),
    ("95th Percentile:", "p95_ms"),
    ("99th Percentile:", "p99_ms"),
    ("Min Latency:", "min_ms"),
    ("Max Latency:", "max_ms"),
    ("Std Deviation:", "deviation_ms"),
)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share lies, between the two nearest ones in proportion."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def regressions(now: Mapping[str, float], baseline: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each metric that is worse than the baseline by more than its tolerance.

    `baseline` is the data of an earlier report; its `tolerance`, where it has one, counts before `TOLERANCES`.

    Raises:
        ValueError: it is no such data.

    """
    before, tolerances = baseline.get("metrics"), {**TOLERANCES, **baseline.get("tolerance", {})}
    if not isinstance(before, dict):
        raise ValueError("a baseline is what `voicespan latency-test --save FILE` writes")  # noqa: TRY004 - it was read
    found = []
    for name, tolerance in tolerances.items():
        if name not in before:
            continue
        if name.endswith("_rate"):
            if now[name] < before[name] - tolerance:
                found.append(f"{name} {100 * now[name]:.1f}% was {100 * before[name]:.1f}%")
        elif name not in now or now[name] > before[name] * (1 + tolerance):
            found.append(f"{name} {_ms(now.get(name))} was {_ms(before[name])}, and may be {100 * tolerance:g}% more")
    return found
