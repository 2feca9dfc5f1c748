"""What changed between two groups of turns: differences with 95 % confidence intervals, so that noise is no news.

Of many differences of the same turns some look large by chance: which are news is decided over a whole group of them,
after Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6. With
nothing changed, a group then has any news in one comparison of twenty at most.

An interval is put together from the intervals of the two sides (Zou and Donner 2008, "Construction of confidence
intervals about effect measures: a general approach", Statistics in Medicine 27): the distance of each limit from its
own estimate is what that side is uncertain by, and the two uncertainties add up as squares. Nothing is assumed about
the distribution of latencies, which is neither normal nor symmetric.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from voicespan.local.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEAST = {"p50": 10, "p95": 72, "p99": 368, "mean": 10, "rate": 1}
"""How many turns each side must have for a difference to be told. Of fewer than 72 turns, the slowest is not beyond the
95th percentile with enough certainty; of fewer than 368 not beyond the 99th."""

TAIL = 0.025
"""What an interval of 95 % leaves out on each side."""

_NORMAL = NormalDist()
_FAR = 12  # standard deviations beyond which nothing is left of a binomial distribution


class Difference(NamedTuple):
    """Now less before, and the limits of its confidence interval, of 95 % unless another tail was asked for."""

    change: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out zero; alone among others, that is no news yet."""
        return self.low > 0 or self.high < 0


Test = Callable[[float], Difference]
"""A difference with the interval that leaves out so much on each side."""

_Key = TypeVar("_Key")


def clear(tests: Mapping[_Key, Test]) -> set[_Key]:
    """Return which of these differences are clear, together with 95 % certainty: that none of them is chance."""
    left = dict(tests)
    while left:
        news = [key for key, test in left.items() if test(TAIL / len(left)).excludes_zero]
        if not news:
            break
        for key in news:
            del left[key]
    return set(tests) - set(left)


class Moments(NamedTuple):
    """What is known of the mean of some values: how many, the mean, and the square of its standard error."""

    size: int
    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[int]) -> Moments | None:
        """Return these of the values; None of too few."""
        count = len(values)
        if count < LEAST["mean"]:
            return None
        total, squares = sum(values), sum(map(operator.mul, values, values))
        return cls(count, total / count, (count * squares - total * total) / (count * count * (count - 1)))


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


def of_percentiles(now: Sequence[int], before: Sequence[int], percent: int, tail: float = TAIL) -> Difference | None:
    """Return the difference of a percentile of values that are in order; None where one side has too few.

    The limits of one percentile are two of the values themselves (Hahn and Meeker 1991, "Statistical Intervals",
    section 5.2): a binomial distribution says how certain it is that the percentile lies between them. That certainty
    is a little over 95 %, so the limits are drawn in as far as they would be of a normal distribution (Price and Bonett
    2002, "Distribution-free confidence intervals for difference and ratio of medians").
    """
    if min(len(now), len(before)) < LEAST[f"p{percent}"]:
        return None
    return _percentile(now, percent, tail).less(_percentile(before, percent, tail))


def of_means(now: Moments | None, before: Moments | None, tail: float = TAIL) -> Difference | None:
    """Return the difference of two means after Welch (1947); None where one side has too few values."""
    if now is None or before is None:
        return None
    change, variance = now.mean - before.mean, now.error + before.error
    if variance == 0:
        return Difference(change, change, change)
    freedom = variance**2 / (now.error**2 / (now.size - 1) + before.error**2 / (before.size - 1))
    margin = _student(freedom, tail) * math.sqrt(variance)
    return Difference(change, change - margin, change + margin)


def of_rates(now: tuple[int, int], before: tuple[int, int], tail: float = TAIL) -> Difference | None:
    """Return the difference of two rates, each given as so many of so many; None where one side has no turn.

    This is the hybrid score interval, method 10 of Newcombe (1998), "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17, of two intervals after Wilson (1927).
    """
    if min(now[1], before[1]) < LEAST["rate"]:
        return None
    return _rate(*now, tail).less(_rate(*before, tail))


def _percentile(ordered: Sequence[int], percent: int, tail: float) -> _Estimate:
    count = len(ordered)
    value = percentile(ordered, percent)
    below, low_certainty = _rank_below(count, percent, tail)
    above, high_certainty = _rank_below(count, 100 - percent, tail)  # counted from the other end
    low: float = ordered[below - 1] if below else -math.inf
    high: float = ordered[count - above] if above else math.inf
    return _Estimate(value, value - (value - low) * low_certainty, value + (high - value) * high_certainty)


@lru_cache(4096)
def _rank_below(count: int, percent: int, tail: float = TAIL) -> tuple[int, float]:
    """Return the highest rank whose value exceeds the percentile with a probability of at most `tail`; 0 is none.

    The second number says by how much the distance to it is more than that certainty needs.
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
    while total + chance <= tail:  # chance: that exactly `rank` of the values lie below the percentile
        total = beyond = total + chance
        chance *= (count - rank) / (rank + 1) * share / (1 - share)
        rank += 1
    return rank, _z(tail) / _NORMAL.inv_cdf(1 - beyond) if rank else 1.0


@lru_cache(256)
def _z(tail: float) -> float:
    return _NORMAL.inv_cdf(1 - tail)


def _student(freedom: float, tail: float = TAIL) -> float:
    """Return what Student's t exceeds with this probability (Abramowitz and Stegun 26.7.5).

    It takes 9 degrees of freedom or more.
    """
    z = _z(tail)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def _rate(part: int, whole: int, tail: float) -> _Estimate:
    rate, z = part / whole, _z(tail)
    middle = (part + z**2 / 2) / (whole + z**2)
    margin = z / (whole + z**2) * math.sqrt(rate * (1 - rate) * whole + z**2 / 4)
    return _Estimate(rate, max(middle - margin, 0.0), min(middle + margin, 1.0))
