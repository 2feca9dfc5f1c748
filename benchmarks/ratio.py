"""A ratio of two costs that were measured in pairs, how sure it is, and what that says of a bar."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95
Verdict = Literal["met", "not met", "not sure"]


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, and the interval in which the true median lies with 95 % confidence."""

    low: float
    median: float
    high: float
    pairs: int

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """Take two lists of costs, of which those at one index were measured one after the other.

        The interval is between two order statistics of the ratios, as the sign test has it: nothing is supposed of how
        they are distributed. Fewer than six pairs bound nothing: the interval is then 0 to infinity.
        """
        low, median, high = interval([one / other for one, other in zip(ours, theirs, strict=True)])
        return cls(max(0.0, low), median, high, len(ours))

    @classmethod
    def read(cls, found: dict[str, float]) -> Ratio:
        """Take what `plain` has written."""
        return cls(found["low"], found["median"], found["high"], int(found["pairs"]))

    def plain(self) -> dict[str, float]:
        """Return it for JSON."""
        return {name: round(value, 4) for name, value in self.__dict__.items()}

    def at_most(self, bar: float) -> Verdict:
        """Say whether the ratio is under a bar, over it, or whether the noise is too large to tell."""
        if self.high <= bar:
            return "met"
        return "not met" if self.low > bar else "not sure"

    def at_least(self, bar: float) -> Verdict:
        """Say the same of a ratio that has to be large."""
        if self.low >= bar:
            return "met"
        return "not met" if self.high < bar else "not sure"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of the values between its bounds."""
    ordered, cut = sorted(values), _cut(len(values))
    low, high = (-math.inf, math.inf) if cut is None else (ordered[cut], ordered[-1 - cut])
    return low, statistics.median(ordered), high


def _cut(count: int) -> int | None:
    """Return how many values at each end lie outside of the interval of the median; None where there are too few."""
    tail, cut = 0.0, -1
    for index in range(count):
        tail += math.comb(count, index) / 2**count
        if 2 * tail > 1 - CONFIDENCE:
            break
        cut = index
    return None if cut < 0 else cut
