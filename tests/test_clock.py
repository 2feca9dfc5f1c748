from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicespan.clock import RemoteClock


def test_offset_of_a_symmetric_exchange_is_exact() -> None:
    """With equal delays both ways the remote time is mapped exactly, and the error bound is half the round trip."""
    clock = RemoteClock()
    hours = 5 * 3600 * 10**9
    clock.exchange(hours + 0, 1_000, 3_000, hours + 4_000)
    assert clock.local_ns(hours + 2_000) == 2_000
    assert clock.error_ns == 1_000


def test_unknown_clock_maps_nothing() -> None:
    """Before the first exchange no time is made up."""
    clock = RemoteClock()
    assert not clock.known
    assert clock.local_ns(1) is None
    assert clock.error_ns is None


def test_best_round_trip_is_believed() -> None:
    """A slow, lopsided exchange does not spoil the offset that a quick one gave."""
    clock = RemoteClock()
    clock.exchange(0, 10, 10, 20)
    clock.exchange(100, 900, 900, 910)
    assert clock.local_ns(50) == 50


def test_impossible_exchange_is_ignored() -> None:
    """A round trip below zero comes from a clock that stepped and is not taken in."""
    clock = RemoteClock()
    clock.exchange(100, 0, 500, 200)
    assert not clock.known


@given(
    offset=st.integers(-(10**15), 10**15),
    out=st.integers(0, 10**8),
    back=st.integers(0, 10**8),
    inside=st.integers(0, 10**6),
)
def test_error_stays_within_half_the_round_trip(offset: int, out: int, back: int, inside: int) -> None:
    """Whatever the delays, the mapped time is off by at most half the round trip."""
    clock = RemoteClock()
    sent = 10**12
    received = sent - offset + out
    clock.exchange(sent, received, received + inside, received + inside + offset + back)
    local = clock.local_ns(sent)
    assert local is not None
    assert clock.error_ns is not None
    assert abs(local - (sent - offset)) <= clock.error_ns + 1


@pytest.mark.parametrize("drift_ppm", [-200, 200])
def test_drift_is_followed(drift_ppm: int) -> None:
    """The offset is of the last exchanges, so that a drifting clock is followed for hours."""
    clock = RemoteClock(samples=8)
    for second in range(3600):
        now = second * 10**9
        remote = now + now * drift_ppm // 1_000_000
        clock.exchange(remote, now + 5_000_000, now + 5_000_000, remote + 10_000_000)
    local = clock.local_ns(remote)
    assert local is not None
    assert abs(local - now) < 2_000_000
