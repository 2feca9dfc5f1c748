from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from voicespan.local import difference
from voicespan.local.difference import LEAST, Difference, Moments

SHAPE = 0.5
S = 1_000_000_000


def sample(draw: random.Random, middle: float, size: int) -> list[int]:
    """Latencies as they are: lognormal, in order; `middle` is the logarithm of their median in seconds."""
    return sorted(round(draw.lognormvariate(middle, SHAPE) * S) for _ in range(size))


def quantile(middle: float, percent: int) -> float:
    """The true percentile of such latencies."""
    return S * math.exp(NormalDist(middle, SHAPE).inv_cdf(percent / 100))


def coverage(percent: int, sizes: tuple[int, int], middles: tuple[float, float], samples: int) -> float:
    """How often the interval of the difference holds the true one."""
    draw = random.Random(sum(sizes) * percent)
    true = quantile(middles[0], percent) - quantile(middles[1], percent)
    hits = 0
    for _ in range(samples):
        now, before = (sample(draw, middle, size) for middle, size in zip(middles, sizes, strict=True))
        found = difference.of_percentiles(now, before, percent)
        assert found is not None
        hits += found.low <= true <= found.high
    return hits / samples


@pytest.mark.parametrize(
    ("percent", "sizes", "samples"),
    [
        (50, (30, 30), 2000), (50, (30, 200), 1500), (50, (200, 200), 1500), (50, (2000, 2000), 300),
        (95, (80, 80), 1500), (95, (200, 200), 1500), (95, (2000, 200), 500), (95, (2000, 2000), 300),
        (99, (400, 400), 300), (99, (2000, 1000), 100),
    ],
)  # fmt: skip
@pytest.mark.parametrize("middles", [(0.0, 0.0), (0.4, -0.3)])
def test_intervals_of_percentiles_hold_the_truth(
    percent: int, sizes: tuple[int, int], samples: int, middles: tuple[float, float]
) -> None:
    """Of lognormal latencies, 93 to 99 % of the intervals hold the true difference, whether there is one or not."""
    assert 0.93 <= coverage(percent, sizes, middles, samples) <= 0.99


def test_noise_is_no_news_and_a_change_is() -> None:
    """Two samples of the same latencies differ by chance alone; 30 % more is seen in 200 turns."""
    draw = random.Random(4)
    same = slower = 0
    for _ in range(300):
        before = sample(draw, 0.0, 200)
        for percent in (50, 95):
            alike = difference.of_percentiles(sample(draw, 0.0, 200), before, percent)
            assert alike is not None
            same += alike.excludes_zero
        change = difference.of_percentiles(sample(draw, 0.26, 200), before, 50)
        assert change is not None
        slower += change.excludes_zero and change.low > 0
    assert same <= 0.07 * 600
    assert slower >= 0.95 * 300


def test_percentiles_of_few_turns_are_not_compared() -> None:
    """Below the least number of turns, on either side, nothing is claimed; at it, something is."""
    for percent, least in ((50, LEAST["p50"]), (95, LEAST["p95"]), (99, LEAST["p99"])):
        enough, few = list(range(least)), list(range(least - 1))
        assert difference.of_percentiles(enough, few, percent) is None
        assert difference.of_percentiles(few, enough, percent) is None
        assert difference.of_percentiles(enough, enough, percent) is not None


def test_limits_of_a_percentile_are_those_of_the_binomial_distribution() -> None:
    """Of 100 values the 40th and 61st hold the median with 96.48 %, as tables say; drawn in they hold it with 95 %."""
    ordered = [1000 * rank for rank in range(1, 101)]
    rank, factor = difference._rank_below(100, 50)
    assert rank == 40
    certainty = 1 - 2 * (1 - NormalDist().cdf(NormalDist().inv_cdf(0.975) / factor))
    assert certainty == pytest.approx(0.9648, abs=1e-4)
    found = difference.of_percentiles(ordered, [50_000] * 100, 50)
    assert found is not None
    assert (found.change, found.low, found.high) == pytest.approx((0, -10_000 * factor, 11_000 * factor))


@pytest.mark.parametrize(
    ("now", "before", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_intervals_of_rates_are_the_published_ones(
    now: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    """The eight examples of Newcombe (1998), table II, method 10."""
    found = difference.of_rates(now, before)
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_rates_of_no_turn_are_not_compared() -> None:
    """Where one side has no turn there is no rate."""
    assert difference.of_rates((0, 0), (1, 2)) is None
    assert difference.of_rates((1, 2), (0, 0)) is None


def test_means_are_compared_as_welch_did() -> None:
    """Student's sleep data (1908), of which R's t.test says -3.3654832 to 0.2054832."""
    drug = [7, -16, -2, -12, -1, 34, 37, 8, 0, 20]
    other = [19, 8, 11, 1, -1, 44, 55, 16, 46, 34]
    found = difference.of_means(Moments.of(drug), Moments.of(other))
    assert found == pytest.approx((-15.8, -33.654832, 2.054832), abs=1e-3)
    assert Moments.of(other[1:]) is None
    assert difference.of_means(Moments.of(drug), None) is None


@pytest.mark.parametrize(
    ("freedom", "value"), [(9, 2.262157), (12, 2.178813), (20, 2.085963), (60, 2.000298), (1000, 1.962339)]
)
def test_student_is_the_one_of_the_tables(freedom: int, value: float) -> None:
    """The 97.5th percentile of Student's t, as printed everywhere."""
    assert difference._student(freedom) == pytest.approx(value, abs=4e-4)


def test_equal_values_have_no_doubt() -> None:
    """Where all values are the same the interval is a point, and clear unless it is zero."""
    assert difference.of_means(Moments.of([5] * 20), Moments.of([3] * 20)) == Difference(2, 2, 2)
    assert Difference(2, 2, 2).excludes_zero
    assert not Difference(0, 0, 0).excludes_zero
    assert not Difference(1, -1, 3).excludes_zero
    assert Difference(-2, -3, -1).excludes_zero


def normal(deviations: float) -> difference.Test:
    """A difference that lies so many standard deviations from zero."""

    def test(tail: float) -> Difference:
        margin = NormalDist().inv_cdf(1 - tail)
        return Difference(deviations, deviations - margin, deviations + margin)

    return test


def test_news_of_a_group_are_those_of_holm() -> None:
    """His example's p-values 0.01, 0.04, 0.03 and 0.005: at 5 %, the first and the last are news."""
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    tests = {name: normal(NormalDist().inv_cdf(1 - p / 2)) for name, p in p_values.items()}
    assert difference.clear(tests) == {"a", "d"}
    assert difference.clear({"b": tests["b"]}) == {"b"}
    assert difference.clear({}) == set()


def test_limits_are_open_where_the_values_do_not_tell() -> None:
    """With more certainty than so few values have, nothing is said about the 95th percentile."""
    values = list(range(80))
    found = difference.of_percentiles(values, values, 95, 1e-4)
    assert found is not None
    assert found == (0, -math.inf, math.inf)
    assert not found.excludes_zero
