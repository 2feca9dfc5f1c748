"""Counts by bucket of what happens a hundred thousand times a second, and what a collection takes of them."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context


class Exemplar(NamedTuple):
    """One measurement of many, with the span that it was measured in; its time is Unix time in ns."""

    value: float
    time_ns: int
    context: Context


class Batch(float):
    """Many measurements at once: its value is their sum, `counts` how many fell into each bucket."""

    counts: Sequence[int]
    largest: float
    smallest: float | None
    """None where it is not known: the lower end of the first bucket with something in it is, then."""
    exemplars: Sequence[Exemplar]

    def __new__(
        cls,
        total: float,
        counts: Sequence[int],
        largest: float,
        smallest: float | None = None,
        exemplars: Sequence[Exemplar] = (),
    ) -> Self:
        """Make a batch of measurements of 0 and more."""
        made = super().__new__(cls, total)
        made.counts, made.largest, made.smallest, made.exemplars = counts, largest, smallest, exemplars
        return made


class Buckets:
    """Counts of nanoseconds by bucket; its owner adds, a collection takes what came since the last one."""

    __slots__ = ("_taken", "_taken_sum_ns", "counts", "limits_ns", "most_ns", "sum_ns")

    def __init__(self, boundaries_s: Sequence[float]) -> None:
        self.limits_ns = [round(limit * 1e9) for limit in boundaries_s]
        self.counts = [0] * (len(self.limits_ns) + 1)
        self.sum_ns: float = 0
        self.most_ns: float = 0
        """The largest value since the last time, where it was noted."""
        self._taken = list(self.counts)
        self._taken_sum_ns: float = 0

    def add(self, value_ns: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.limits_ns, value_ns)] += 1
        self.sum_ns += value_ns
        self.most_ns = max(self.most_ns, value_ns)

    def _news(self) -> tuple[list[int], float, float]:
        """Return counts, sum and largest value of what was added since the last time."""
        counts, sum_ns = list(self.counts), self.sum_ns
        new = [count - before for count, before in zip(counts, self._taken, strict=True)]
        new_sum_ns = max(0, sum_ns - self._taken_sum_ns)
        self._taken, self._taken_sum_ns = counts, sum_ns
        largest_ns, self.most_ns = self.most_ns, 0
        return new, new_sum_ns, largest_ns

    def merge(self, other: Buckets) -> None:
        """Add what another one, which its owner goes on to fill, has counted since the last time."""
        new, sum_ns, largest_ns = other._news()
        self.counts = [count + more for count, more in zip(self.counts, new, strict=True)]
        self.sum_ns += sum_ns
        self.most_ns = max(self.most_ns, largest_ns)

    def take(self) -> Batch | None:
        """Return what was added since the last time, in seconds; None when nothing was."""
        new, sum_ns, largest_ns = self._news()
        if not any(new):
            return None
        if not largest_ns:  # then the upper end of the last bucket with something in it is known
            last = max(index for index, count in enumerate(new) if count)
            largest_ns = self.limits_ns[min(last, len(self.limits_ns) - 1)]
        return Batch(sum_ns / 1e9, new, largest_ns / 1e9)
