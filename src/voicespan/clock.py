"""Clocks: the machine's two, and the estimate of a remote one."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol


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


class RemoteClock:
    """The offset of another machine's clock to this one, from exchanges of four time stamps (RFC 5905, section 8).

    Of the last exchanges the one with the shortest round trip is believed: its error is at most half of that trip.
    """

    __slots__ = ("_samples",)

    def __init__(self, samples: int = 16) -> None:
        """Remember the last `samples` exchanges, so that a slow drift is followed."""
        self._samples: deque[tuple[int, int]] = deque(maxlen=samples)

    def exchange(self, remote_sent_ns: int, received_ns: int, sent_ns: int, remote_received_ns: int) -> None:
        """Take in one exchange: the remote side sent, this side received, this side answered, the remote received.

        The two outer times are of the remote clock, the two inner ones of this machine's monotonic clock. An exchange
        that is impossible (a round trip below zero) is ignored.
        """
        round_trip_ns = (remote_received_ns - remote_sent_ns) - (sent_ns - received_ns)
        if round_trip_ns < 0:
            return
        offset_ns = ((received_ns - remote_sent_ns) + (sent_ns - remote_received_ns)) // 2
        self._samples.append((round_trip_ns, offset_ns))

    @property
    def known(self) -> bool:
        """Whether at least one exchange was taken in."""
        return bool(self._samples)

    @property
    def error_ns(self) -> int | None:
        """Bound of the offset's error in nanoseconds: half the best round trip; None before the first exchange."""
        return min(self._samples)[0] // 2 if self._samples else None

    def local_ns(self, remote_ns: int) -> int | None:
        """Return the monotonic time of this machine for a remote one; None before the first exchange."""
        return remote_ns + min(self._samples)[1] if self._samples else None
