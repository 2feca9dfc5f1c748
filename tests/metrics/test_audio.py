"""Frames are counted without loss, and their jitter is right over pauses, mute, cleared audio and clock steps."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import pytest

from voicespan import names as n
from voicespan.sessions import Session

if TYPE_CHECKING:
    from .conftest import Meters, Recorder

FRAME = bytes(640)
"""20 ms at 16 kHz."""
LIMITS = (0.001, 0.005, 0.01, 0.02, 0.05)


def received(session: Session, recorder: Recorder, *intervals_ms: float) -> None:
    """Take a frame after each of these times."""
    for interval_ms in intervals_ms:
        recorder.fixed.advance(ms=interval_ms)
        session.audio_in(FRAME)


def jitter(meters: Meters, direction: str) -> tuple[int, ...]:
    """The counts of the buckets, up to 1, 5, 10, 20, 50 ms and above."""
    found = [
        point
        for point in meters.points(n.METRIC_VOICE_AUDIO_FRAME_JITTER)
        if point.attributes == {n.NETWORK_IO_DIRECTION: direction, n.VOICE_MEASUREMENT_POINT: "server"}
    ]
    if not found:
        return ()
    assert found[0].explicit_bounds == LIMITS
    return tuple(found[0].bucket_counts)


@pytest.mark.covers("C-M23", "A-M20", "A-M21", "C-Q03")
def test_frames_and_bytes_are_counted_by_direction(meters: Meters, recorder: Recorder) -> None:
    """Each frame counts once, with its bytes, in its direction; no session is a label."""
    first, second = (Session(recorder, name, sample_rate=16_000) for name in ("a", "b"))
    for session in (first, second, first):
        session.audio_in(FRAME)
    second.audio_out(FRAME)
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == {("receive",): 3, ("transmit",): 1}
    assert meters.values(n.METRIC_VOICE_AUDIO_IO) == {("receive", "server"): 1920, ("transmit", "server"): 640}


def test_what_a_call_has_counted_outlives_it(meters: Meters, recorder: Recorder) -> None:
    """A counter never falls when sessions end or are forgotten without an end."""
    for _ in range(3):
        session = Session(recorder, "gone", sample_rate=16_000)
        received(session, recorder, 20, 21, 20)
        del session
        gc.collect()
        recorder.drain()
    gc.collect()
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == {("receive",): 9}
    assert jitter(meters, "receive") == (6, 0, 0, 0, 0, 0)
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == {("receive",): 9}


@pytest.mark.covers("C-M24", "D-M13", "A-M24")
def test_a_frame_that_comes_late_or_early_is_off_by_that(meters: Meters, recorder: Recorder) -> None:
    """The jitter of a received frame is what its interval differs from the length of the frame before."""
    session = Session(recorder, "a", sample_rate=16_000)
    received(session, recorder, 0, 20, 24, 16, 28, 5, 35, 75)
    point = meters.points(n.METRIC_VOICE_AUDIO_FRAME_JITTER)[0]
    assert point.bucket_counts == (1, 2, 1, 2, 0, 1)
    assert point.sum == pytest.approx(0.004 + 0.004 + 0.008 + 0.015 + 0.015 + 0.055)
    assert point.max == pytest.approx(0.055)


@pytest.mark.parametrize("pause_ms", [521, 5_000, 3_600_000])
def test_a_pause_or_mute_is_no_jitter(meters: Meters, recorder: Recorder, pause_ms: float) -> None:
    """Half a second and more without a frame is a pause; the frames behind it are measured against one another."""
    session = Session(recorder, "a", sample_rate=16_000)
    received(session, recorder, 0, 20, pause_ms, 20, 20)
    assert jitter(meters, "receive") == (3, 0, 0, 0, 0, 0)
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == {("receive",): 5}


def test_steps_of_the_wall_clock_do_not_matter(
    meters: Meters, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jitter comes from the monotonic clock."""
    session = Session(recorder, "a", sample_rate=16_000)
    received(session, recorder, 0, 20)
    monkeypatch.setattr(recorder.fixed, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    received(session, recorder, 20, 20)
    assert jitter(meters, "receive") == (3, 0, 0, 0, 0, 0)


def test_without_a_length_there_is_no_jitter(meters: Meters, recorder: Recorder) -> None:
    """Frames of unknown length are counted; how far off their time they are is not guessed at."""
    session = Session(recorder, "a")
    received(session, recorder, 0, 20, 33)
    session.audio_out(FRAME)
    assert jitter(meters, "receive") == jitter(meters, "transmit") == ()
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == {("receive",): 3, ("transmit",): 1}


def test_the_length_of_a_frame_can_be_given(meters: Meters, recorder: Recorder) -> None:
    """Encoded frames, whose bytes tell no length, come with their seconds."""
    session = Session(recorder, "a")
    for interval_ms in (0, 60, 63):
        recorder.fixed.advance(ms=interval_ms)
        session.audio_in(b"opus", 0.06)
    assert jitter(meters, "receive") == (1, 1, 0, 0, 0, 0)


def test_frames_sent_ahead_of_time_are_not_late(meters: Meters, recorder: Recorder) -> None:
    """A sender may be ahead; a frame is late when all before it are played out."""
    session = Session(recorder, "a", sample_rate=16_000)
    for interval_ms in (0, 0, 0, 0, 0, 60, 20, 20, 43):  # five at once, so 100 ms are in store
        recorder.fixed.advance(ms=interval_ms)
        session.audio_out(FRAME)
    assert jitter(meters, "transmit") == (8, 0, 0, 0, 0, 0)
    recorder.fixed.advance(ms=20 + 17 + 7)  # 37 ms were in store
    session.audio_out(FRAME)
    assert jitter(meters, "transmit") == (8, 0, 1, 0, 0, 0)


def test_audio_that_was_dropped_is_not_in_store(meters: Meters, recorder: Recorder) -> None:
    """After a barge-in the next reply is measured from its own first frame."""
    session = Session(recorder, "a", sample_rate=16_000)
    turn = session.agent_turn()
    for _ in range(20):
        session.audio_out(FRAME)
        turn.audio_sent(0.02)
    turn.audio_cleared()
    for interval_ms in (30, 20, 26):
        recorder.fixed.advance(ms=interval_ms)
        session.audio_out(FRAME)
    assert jitter(meters, "transmit") == (20, 0, 1, 0, 0, 0)


@pytest.mark.covers("C-M25")
def test_dropped_frames_count_by_reason_and_as_that_alone(meters: Meters, recorder: Recorder) -> None:
    """A frame that is thrown away is no frame that came or left; an unknown reason is `other`."""
    session = Session(recorder, "a", sample_rate=16_000)
    session.audio_out(FRAME, dropped="backpressure")
    session.audio_out(FRAME, dropped="backpressure")
    session.audio_in(FRAME, dropped="error")
    session.audio_in(FRAME, dropped="call 17")  # type: ignore[arg-type]
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAME_DROPS) == {("backpressure",): 2, ("error",): 1, ("other",): 1}
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == {}


def test_frames_may_have_any_form(meters: Meters, recorder: Recorder) -> None:
    """Arrays count by their bytes, objects by their data; what is no audio raises nothing."""
    from array import array

    class Frame:
        data = memoryview(array("h", [0] * 160))

    session = Session(recorder, "a", sample_rate=16_000)
    for frame in (bytearray(10), memoryview(bytes(20)), memoryview(array("h", [0] * 10)), Frame(), None, 5):
        session.audio_in(frame)
    assert meters.values(n.METRIC_VOICE_AUDIO_IO) == {("receive", "server"): 10 + 20 + 20 + 320}


def test_calls_on_many_threads_lose_nothing(meters: Meters, recorder: Recorder) -> None:
    """Each call counts for itself, so that threads do not overwrite each other's numbers."""
    sessions = [Session(recorder, str(number), sample_rate=16_000) for number in range(8)]

    def call(session: Session) -> None:
        for _ in range(5_000):
            session.audio_in(FRAME)

    threads = [threading.Thread(target=call, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        meters.collect()
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == {("receive",): 40_000}
    assert sum(jitter(meters, "receive")) == 40_000 - 8


def test_switched_off_nothing_is_counted(meters: Meters, recorder: Recorder) -> None:
    """A disabled recorder counts no frame."""
    recorder.enabled = False
    session = Session(recorder, "a", sample_rate=16_000)
    session.audio_in(FRAME)
    session.audio_out(FRAME, dropped="pause")
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == meters.values(n.METRIC_VOICE_AUDIO_FRAME_DROPS) == {}


def test_two_readers_see_the_same(meters: Meters, recorder: Recorder) -> None:
    """What one collection takes out of the process reaches every reader."""
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    other = InMemoryMetricReader()
    meters.provider.add_metric_reader(other)
    session = Session(recorder, "a", sample_rate=16_000)
    received(session, recorder, 0, 20, 23)
    assert jitter(meters, "receive") == (1, 1, 0, 0, 0, 0)
    meters.reader = other
    assert jitter(meters, "receive") == (1, 1, 0, 0, 0, 0)
    assert meters.values(n.METRIC_VOICE_AUDIO_FRAMES) == {("receive",): 3}
