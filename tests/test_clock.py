from __future__ import annotations

from random import Random

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
@pytest.mark.parametrize("asymmetry", [0.0, 0.5, 1.0])
def test_drift_is_followed(drift_ppm: int, asymmetry: float) -> None:
    """Hours off, drifting, over a jittering, lopsided network: the error stays within a small bound.

    The bound is half of the best round trip, and what the clocks drift apart since that exchange.
    """
    random, clock, worst_ms = Random(1), RemoteClock(), 0.0

    def remote_of(local_ns: int) -> int:
        return 7 * 3600 * 10**9 + local_ns + local_ns * drift_ppm // 1_000_000

    for tenth in range(360):  # an hour, an exchange every ten seconds
        sent = tenth * 10 * 10**9
        delay = 10_000_000 + round(random.expovariate(1 / 20e6))
        out = round(delay * asymmetry)
        received, answered = sent + out, sent + out + 1_000_000
        back = answered + delay - out
        clock.exchange(remote_of(sent), received, answered, remote_of(back))
        moment = back + random.randrange(10 * 10**9)  # a mark before the next exchange
        estimate = clock.estimate(remote_of(moment))
        assert estimate is not None
        assert abs(estimate.local_ns - moment) <= estimate.error_ns + 10_000  # ppm of ppm
        worst_ms = max(worst_ms, abs(estimate.local_ns - moment) / 1e6)
        best = clock.round_trip_ns
        assert best is not None
        if tenth >= 16:
            assert estimate.error_ns <= best // 2 + 200 * 160_000 + 10_000  # at the most, the best is 160 s old
    assert worst_ms < 25


@given(
    offset=st.integers(-(10**15), 10**15),
    delays=st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 10**8)), min_size=1, max_size=16),
)
def test_error_without_drift_is_half_the_best_round_trip(offset: int, delays: list[tuple[int, int]]) -> None:
    """Within a second, where no clock drifts noticeably, the error is at most half the best round trip."""
    clock = RemoteClock()
    for number, (out, back) in enumerate(delays):
        sent = 10**12 + number * 10**7
        clock.exchange(sent + offset, sent + out, sent + out, sent + out + back + offset)
    local = clock.local_ns(10**12 + offset)
    best = min(out + back for out, back in delays)
    assert local is not None
    drift = 2 * 10**8 * RemoteClock.MAX_DRIFT_PPM // 1_000_000
    assert abs(local - 10**12) <= best // 2 + drift + 1
    assert clock.round_trip_ns == best
