"""Clocks: the machine's two, and the estimate of a remote one."""

from __future__ import annotations

import time
from collections import deque
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

NS_PER_MS = 1_000_000


class Clock(Protocol):
    """Where times come from; tests put a fixed one in its place."""

    def monotonic_ns(self) -> int:
        """Nanoseconds of a clock that never steps; every duration comes from it."""

    def time_ns(self) -> int:
        """Nanoseconds since the Unix epoch; read once per turn, as its anchor."""


class SystemClock:
    """The clocks of the operating system."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    time_ns = staticmethod(time.time_ns)


@cache
def machine_clock() -> str:
    """Return a name for this machine's monotonic clock: the same in all its processes until it starts anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    except OSError:
        return uuid4().hex


class Estimate(NamedTuple):
    """A remote moment on this machine's monotonic clock; the truth is at most `error_ns` away."""

    local_ns: int
    error_ns: int


class RemoteClock:
    """The offset of another machine's clock to this one, from exchanges of four time stamps (RFC 5905, section 8).

    The truth of an exchange lies within half its round trip, however the delays were divided between the two ways.
    Clocks drift apart, so an exchange is worth less the further away from it a moment is: for each moment the exchange
    with the smallest bound, half the round trip plus the drift since, is believed.
    """

    __slots__ = ("_samples",)

    MAX_DRIFT_PPM = 200
    """How fast the two clocks may drift apart: two ordinary crystals and the slewing of NTP stay below it."""

    def __init__(self, samples: int = 16) -> None:
        """Remember the last `samples` exchanges, so that a drift is followed."""
        self._samples: deque[tuple[int, int, int, int]] = deque(maxlen=samples)

    def exchange(self, remote_sent_ns: int, received_ns: int, sent_ns: int, remote_received_ns: int) -> None:
        """Take in one exchange: the remote side sent, this side received, this side answered, the remote received.

        The two outer times are of the remote clock, the two inner ones of this machine's monotonic clock. An exchange
        that is impossible (a round trip below zero) is ignored.
        """
        round_trip_ns = (remote_received_ns - remote_sent_ns) - (sent_ns - received_ns)
        if round_trip_ns < 0:
            return
        offset_ns = ((received_ns - remote_sent_ns) + (sent_ns - remote_received_ns)) // 2
        self._samples.append((remote_sent_ns, remote_received_ns, round_trip_ns, offset_ns))

    @property
    def known(self) -> bool:
        """Whether at least one exchange was taken in."""
        return bool(self._samples)

    @property
    def error_ns(self) -> int | None:
        """Bound of the offset's error at the latest exchange, in nanoseconds; None before the first."""
        if not self._samples:
            return None
        sent_ns, received_ns, _, _ = self._samples[-1]
        estimate = self.estimate((sent_ns + received_ns) // 2)
        return None if estimate is None else estimate.error_ns

    @property
    def round_trip_ns(self) -> int | None:
        """The shortest of the last round trips in nanoseconds; None before the first exchange."""
        return min((round_trip_ns for _, _, round_trip_ns, _ in self._samples), default=None)

    def estimate(self, remote_ns: int) -> Estimate | None:
        """Return this machine's monotonic time for a remote one, with its bound; None before the first exchange."""
        bounds = [
            (round_trip_ns // 2 + self._drifted_ns(remote_ns, sent_ns, received_ns), offset_ns)
            for sent_ns, received_ns, round_trip_ns, offset_ns in self._samples
        ]
        if not bounds:
            return None
        error_ns, offset_ns = min(bounds)
        return Estimate(remote_ns + offset_ns, error_ns)

    def _drifted_ns(self, remote_ns: int, sent_ns: int, received_ns: int) -> int:
        """How far the clocks may have drifted apart from this exchange to a moment, and in the exchange itself."""
        since_ns = abs(remote_ns - (sent_ns + received_ns) // 2) + received_ns - sent_ns
        return since_ns * self.MAX_DRIFT_PPM // 1_000_000

    def local_ns(self, remote_ns: int) -> int | None:
        """Return the monotonic time of this machine for a remote one; None before the first exchange."""
        estimate = self.estimate(remote_ns)
        return None if estimate is None else estimate.local_ns
