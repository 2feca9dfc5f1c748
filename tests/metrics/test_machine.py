"""The process, its machine, its event loops, and the heartbeat."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from voicespan import names as n
from voicespan.metrics import loop, machine
from voicespan.metrics.machine import Share
from voicespan.sessions import Session

if TYPE_CHECKING:
    from .conftest import Meters, Recorder


@pytest.mark.covers("A-M05", "A-M06", "D-M15", "D-M16", "E-M07", "E-M08", "E-Q04", "E-U04", "D-U02")
def test_process_and_machine_are_read_at_collection(meters: Meters) -> None:
    """Processor time, its shares and resident memory are there, true to their units, without a label."""
    machine._machine_share.start()
    before_s = time.process_time()
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        pass
    found = meters.collect()
    values = {name: [(p.value, dict(p.attributes)) for p in found[name].data.data_points] for name in found}
    ((cpu_s, labels),) = values[n.METRIC_PROCESS_CPU_TIME]
    assert before_s < cpu_s <= time.process_time()
    assert labels == {}
    for name in (n.METRIC_PROCESS_CPU_UTILIZATION, n.METRIC_SYSTEM_CPU_UTILIZATION):
        ((share, labels),) = values[name]
        assert 0 < share <= 1, name
        assert labels == {}
    ((memory, _),), ((of_machine, _),) = values[n.METRIC_PROCESS_MEMORY_USAGE], values[n.METRIC_SYSTEM_MEMORY_USAGE]
    assert 10e6 < memory < of_machine


@pytest.mark.covers("D-O01", "F-PF05")
def test_a_call_reads_nothing_of_the_machine(
    meters: Meters, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processor and memory are read by the thread that collects, and by nothing that a call does."""
    readers: list[threading.Thread] = []

    def read() -> tuple[float, float]:
        readers.append(threading.current_thread())
        return time.process_time(), time.monotonic()

    monkeypatch.setattr(machine._process_share, "_read", read)
    monkeypatch.setattr(machine._machine_share, "_read", read)
    session = Session(recorder, "a")
    turn = session.user_turn(input="text")
    session.audio_in(b"\0" * 640)
    turn.audio_sent(0.02)
    turn.end()
    session.end()
    assert readers == []
    background = threading.Thread(target=meters.collect)
    background.start()
    background.join(30)
    assert set(readers) == {background}


def test_a_share_is_of_the_time_since_the_last_collection() -> None:
    """Half of the last two seconds is 0.5, whatever was before; a collection right behind tells the same."""
    times = iter([(0.0, 0.0), (4.0, 4.0), (5.0, 6.0), (5.0, 6.01)])
    share = Share(lambda: next(times))
    share.start()
    assert [[one.value for one in share()] for _ in range(3)] == [[1.0], [0.5], [0.5]]


def test_before_any_time_has_passed_there_is_no_share() -> None:
    """The first reading has nothing to compare with."""
    share = Share(lambda: (1.0, 5.0))
    assert list(share()) == []


@pytest.mark.covers("A-M01", "C-M41")
def test_the_heartbeat_is_one_and_says_goodbye(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 while the process runs, 0 as its last word, and still 1 where an exception ends it."""
    assert meters.values(n.METRIC_VOICE_SERVICE_UP) == {(): 1}
    monkeypatch.setattr(machine, "leaving", lambda: True)
    assert meters.values(n.METRIC_VOICE_SERVICE_UP) == {(): 0}
    monkeypatch.setattr(sys, "last_value", RuntimeError("crash"), raising=False)
    assert meters.values(n.METRIC_VOICE_SERVICE_UP) == {(): 1}


async def test_a_blocked_event_loop_shows(meters: Meters, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that a session begins in is watched: what blocks it makes its timer late by so much."""
    monkeypatch.setattr(loop, "EVERY_S", 0.01)
    Session(recorder, "a")
    Session(recorder, "b")
    await asyncio.sleep(0.05)
    time.sleep(0.3)  # noqa: ASYNC251 - this is what must not be done
    await asyncio.sleep(0.05)
    point = meters.only(n.METRIC_VOICE_EVENT_LOOP_DELAY)
    limits = point.explicit_bounds
    assert point.count >= 3
    assert sum(count for count, limit in zip(point.bucket_counts, (*limits, 9), strict=True) if limit > 0.25) >= 1
    assert point.max >= 0.25


def test_without_a_loop_nothing_is_watched(meters: Meters, recorder: Recorder) -> None:
    """A service of threads has no event loop, and no delay."""
    Session(recorder, "a")
    assert meters.points(n.METRIC_VOICE_EVENT_LOOP_DELAY) == []


def test_a_loop_that_is_watched_can_end(meters: Meters, recorder: Recorder) -> None:
    """The timer keeps no loop alive and leaves nothing behind."""

    async def main() -> None:
        Session(recorder, "a")

    asyncio.run(main())
    asyncio.run(main())
    assert meters.points(n.METRIC_VOICE_EVENT_LOOP_DELAY) == []
