"""How often somebody may ask: token buckets, a bounded number of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Rate:
    """Lets each key through `per_s` times a second, after a burst of `burst`.

    At most `max_keys` are remembered; the one that was seen longest ago is forgotten.
    """

    def __init__(self, per_s: float, burst: int, now_ns: Callable[[], int], max_keys: int = 4096) -> None:
        self._per_ns = per_s / 1e9
        self._burst = burst
        self._now_ns = now_ns
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def allows(self, key: str, cost: float = 1) -> bool:
        """Take one, or `cost`, from the key's bucket, and return whether there was so much."""
        now_ns = self._now_ns()
        left, seen_ns = self._buckets.pop(key, (float(self._burst), now_ns))
        left = min(float(self._burst), left + (now_ns - seen_ns) * self._per_ns)
        allowed = left >= cost
        self._buckets[key] = (left - cost if allowed else left, now_ns)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return allowed

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._buckets)
