"""The helpers show what the turns have, and are right at their edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from voicespan import performance
from voicespan.emit import BackgroundRecorder
from voicespan.history import History, history
from voicespan.metrics.level import tasks
from voicespan.performance import (
    ALERT_RULES,
    ConcurrencyTracker,
    MetricTracker,
    ThroughputCalculator,
    analyze_bottlenecks,
    error_counter,
    export_metrics,
    get_stats,
)
from voicespan.sessions import Session
from voicespan.testing import FixedClock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Recorder(BackgroundRecorder):
    def _start(self) -> None:
        """Do without a thread."""


@pytest.fixture
def session() -> Iterator[Session]:
    """Give a session on a fixed clock; what was kept before is gone."""
    fresh = History()
    history.__dict__.update(fresh.__dict__)
    tasks.start()
    yield Session(Recorder(clock=FixedClock()), "a")
    history.__dict__.update(History().__dict__)


def turn(session: Session, *, ttft_ms: float = 300, first_audio_ms: float = 100, fails: bool = False) -> None:
    """Two seconds of speech, transcribed at once; an answer of twenty words."""
    recorder: Any = session.recorder
    clock: FixedClock = recorder.clock
    asked = session.user_turn()
    clock.advance(s=2)
    asked.speech_ended(at=clock.now_ns)
    asked.transcript()
    asked.committed()
    with asked.llm() as llm:
        clock.advance(ms=ttft_ms)
        llm.token()
    with asked.tts(text="word " * 20) as tts:
        clock.advance(ms=first_audio_ms)
        if fails:
            tts.fail("internal")
        else:
            tts.audio(1.0)
            asked.audio_sent(1.0)
    clock.advance(s=3)
    asked.end()
    recorder.drain()


@pytest.mark.covers("B-M01", "B-M11", "B-U02", "B-U04", "B-M07", "B-U05", "F-EP03", "E-M11", "B-Q01")
def test_the_turns_of_the_process_are_the_figures(session: Session) -> None:
    """Latencies in seconds and error rates of each component come from the turns, without a call."""
    for ttft_ms in (200, 300, 400):
        turn(session, ttft_ms=ttft_ms)
    turn(session, fails=True)
    told = export_metrics()
    assert told["stt"]["latency"] == {"avg": 2.0, "p90": 2.0, "p95": 2.0, "count": 4}
    assert told["llm"]["ttft"] == {"avg": pytest.approx(0.3), "p90": 0.4, "p95": 0.4, "count": 4}
    assert told["tts"]["latency"]["count"] == 3
    assert told["tts"]["error_rate"] == error_counter.get_rate("tts") == 0.25
    assert told["stt"]["error_rate"] == 0
    assert told["word_count_performance"]["11-25"]["count"] == 4
    assert get_stats("end_to_end_latency")["avg"] == pytest.approx(0.4)


@pytest.mark.covers("B-U03", "B-M01")
async def test_a_wrapper_around_a_recognizer_times_it(session: Session) -> None:
    """A recognizer is called as before, inside a stage: from its audio to its transcript, by the monotonic clock."""
    recorder: Any = session.recorder
    clock: FixedClock = recorder.clock
    asked = session.user_turn()

    async def process(audio: bytes) -> str:
        clock.advance(ms=1500)
        return f"{len(audio)} bytes"

    async def stt_wrapper(audio: bytes) -> str:
        with asked.asr(model="whisper") as asr:
            text = await process(audio)
            asr.final()
            return text

    assert await stt_wrapper(bytes(640)) == "640 bytes"
    asked.committed()
    asked.end()
    recorder.drain()
    assert get_stats("stt_latency") == {"avg": 1.5, "p90": 1.5, "p95": 1.5, "count": 1}


@pytest.mark.covers("B-U06")
def test_the_bottleneck_is_the_slowest_component(session: Session) -> None:
    """The greatest p90 of recognition, first token and first audio; nothing before there was a turn."""
    assert analyze_bottlenecks() is None
    history.record("stt_latency", 0.2)
    turn(session, ttft_ms=4000)
    assert analyze_bottlenecks() == "llm"
    for _ in range(3):
        turn(session, first_audio_ms=5000)
    assert analyze_bottlenecks() == "tts"


@pytest.mark.covers("B-U01", "B-U02", "B-Q02", "B-Q05", "B-S01", "E-U01", "E-O01")
def test_own_values_have_statistics(session: Session) -> None:
    """Any name can be kept; an unknown one has count 0 and nothing else; the oldest values make room."""
    kept = MetricTracker(max_history=100)
    for value in range(1000):
        kept.record("mine", value)
    assert kept.get_stats("mine") == {"avg": 949.5, "p90": 989, "p95": 994, "count": 100}
    assert kept.get_stats("unknown") == get_stats("unknown") == {"count": 0}
    performance.record("mine", 3)
    assert get_stats("mine")["count"] == 1
    for number in range(1000):
        performance.record(f"name-{number}", 1)
    assert len(history.names()) == 200


@pytest.mark.covers("B-Q07")
def test_no_stages_are_no_errors(session: Session) -> None:
    """Without any request the error rate is 0."""
    assert error_counter.get_rate("stt") == error_counter.get_rate("never heard of") == 0


@pytest.mark.covers("B-U07", "B-M08", "B-M12", "B-Q03")
def test_throughput_is_measured_from_the_first_token(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 before the first token and at its very moment, then tokens over the time since; the stage has them too."""
    now_s = [50.0]
    monkeypatch.setattr("voicespan.performance.time.monotonic", lambda: now_s[0])
    asked = session.user_turn()
    asked.committed()
    llm = asked.llm()
    rate = ThroughputCalculator(llm)
    assert rate.tokens_per_sec == 0
    rate.update(4)
    assert rate.tokens_per_sec == 0
    now_s[0] += 2
    rate.update(6)
    assert (rate.tokens_per_sec, rate.token_count) == (5.0, 10)
    assert llm._record.count == 10


@pytest.mark.covers("B-U08", "B-M09", "B-M10", "B-Q04")
def test_concurrency_is_the_number_of_stages(session: Session) -> None:
    """Stages and own tasks of a component are in one number, with its peak; it never falls below zero."""
    tracker = ConcurrencyTracker("llm")
    asked = session.user_turn()
    asked.committed()
    with asked.llm(), tracker.task():
        tracker.task_start()
        assert tracker.active_tasks == 3
    tracker.task_end()
    tracker.task_end()
    assert (tracker.active_tasks, tracker.peak_tasks) == (0, 3)


@pytest.mark.covers("B-U09", "B-A01", "B-A02", "B-A03", "B-S02")
def test_the_limits_of_the_alerts_are_data() -> None:
    """Two levels for each, in seconds and as a share."""
    assert ALERT_RULES == {
        "stt_latency": {"warning": 1.5, "critical": 2.5},
        "ttft": {"warning": 2.0, "critical": 3.5},
        "error_rate": {"warning": 0.05, "critical": 0.1},
    }
