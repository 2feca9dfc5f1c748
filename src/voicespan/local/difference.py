"""What changed between two groups of turns: differences with 95 % confidence intervals, so that noise is no news.

An interval is put together from the intervals of the two sides (Zou and Donner 2008, "Construction of confidence
intervals about effect measures: a general approach", Statistics in Medicine 27): the distance of each limit from its
own estimate is what that side is uncertain by, and the two uncertainties add up as squares. Nothing is assumed about
the distribution of latencies, which is neither normal nor symmetric.
"""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from voicespan.local.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST = {"p50": 10, "p95": 72, "mean": 10, "rate": 1}
"""How many turns each side must have for a difference to be told. Of fewer than 72 turns, the slowest is not beyond the
95th percentile with enough certainty."""

_TAIL = 0.025
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(1 - _TAIL)
_FAR = 12  # standard deviations beyond which nothing is left of a binomial distribution


class Difference(NamedTuple):
    """Now less before, and the limits of its 95 % confidence interval."""

    change: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


class _Estimate(NamedTuple):
    """What one side says, and the limits of its own interval."""

    value: float
    low: float
    high: float

    def less(self, other: _Estimate) -> Difference:
        change = self.value - other.value
        below = math.hypot(self.value - self.low, other.high - other.value)
        above = math.hypot(self.high - self.value, other.value - other.low)
        return Difference(change, change - below, change + above)


def of_percentiles(now: Sequence[int], before: Sequence[int], percent: int) -> Difference | None:
    """Return the difference of a percentile of values that are in order; None where one side has too few.

    The limits of one percentile are two of the values themselves (Hahn and Meeker 1991, "Statistical Intervals",
    section 5.2): a binomial distribution says how certain it is that the percentile lies between them. That certainty
    is a little over 95 %, so the limits are drawn in as far as they would be of a normal distribution (Price and Bonett
    2002, "Distribution-free confidence intervals for difference and ratio of medians").
    """
    if min(len(now), len(before)) < LEAST[f"p{percent}"]:
        return None
    return _percentile(now, percent).less(_percentile(before, percent))


def of_means(now: Sequence[int], before: Sequence[int]) -> Difference | None:
    """Return the difference of two means after Welch (1947); None where one side has too few values."""
    if min(len(now), len(before)) < LEAST["mean"]:
        return None
    (mean, error), (mean_before, error_before) = _mean(now), _mean(before)
    change, variance = mean - mean_before, error + error_before
    if variance == 0:
        return Difference(change, change, change)
    freedom = variance**2 / (error**2 / (len(now) - 1) + error_before**2 / (len(before) - 1))
    margin = _student(freedom) * math.sqrt(variance)
    return Difference(change, change - margin, change + margin)


def of_rates(now: tuple[int, int], before: tuple[int, int]) -> Difference | None:
    """Return the difference of two rates, each given as so many of so many; None where one side has no turn.

    This is the hybrid score interval, method 10 of Newcombe (1998), "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17, of two intervals after Wilson (1927).
    """
    if min(now[1], before[1]) < LEAST["rate"]:
        return None
    return _rate(*now).less(_rate(*before))


def _percentile(ordered: Sequence[int], percent: int) -> _Estimate:
    count = len(ordered)
    value = percentile(ordered, percent)
    below, low_certainty = _rank_below(count, percent)
    above, high_certainty = _rank_below(count, 100 - percent)  # counted from the other end
    low, high = ordered[below - 1], ordered[count - above]
    return _Estimate(value, value - (value - low) * low_certainty, value + (high - value) * high_certainty)


@lru_cache(1024)
def _rank_below(count: int, percent: int) -> tuple[int, float]:
    """Return the highest rank whose value exceeds the percentile with a probability of at most 2.5 %.

    The second number says by how much the distance to it is more than 97.5 % certainty needs.
    """
    share = percent / 100
    deviation = math.sqrt(count * share * (1 - share))
    rank = max(math.floor(count * share - _FAR * deviation), 0)
    chance = math.exp(
        math.lgamma(count + 1)
        - math.lgamma(rank + 1)
        - math.lgamma(count - rank + 1)
        + rank * math.log(share)
        + (count - rank) * math.log(1 - share)
    )
    total = beyond = 0.0
    while total + chance <= _TAIL:  # chance: that exactly `rank` of the values lie below the percentile
        total = beyond = total + chance
        chance *= (count - rank) / (rank + 1) * share / (1 - share)
        rank += 1
    return rank, _Z / _NORMAL.inv_cdf(1 - beyond)


def _mean(values: Sequence[int]) -> tuple[float, float]:
    """Return the mean and the square of its standard error."""
    count, total = len(values), sum(values)
    squares = sum(map(operator.mul, values, values))
    return total / count, (count * squares - total * total) / (count * count * (count - 1))


def _student(freedom: float) -> float:
    """Return the 97.5th percentile of Student's t (Abramowitz and Stegun 26.7.5); of 9 degrees of freedom or more."""
    terms = (
        _Z,
        (_Z**3 + _Z) / 4,
        (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96,
        (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def _rate(part: int, whole: int) -> _Estimate:
    rate = part / whole
    middle = (part + _Z**2 / 2) / (whole + _Z**2)
    margin = _Z / (whole + _Z**2) * math.sqrt(rate * (1 - rate) * whole + _Z**2 / 4)
    return _Estimate(rate, max(middle - margin, 0.0), min(middle + margin, 1.0))
