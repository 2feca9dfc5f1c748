"""Levels go up and down, never below zero, and their peaks are seen by every reader."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

from voicespan import metrics
from voicespan import names as n
from voicespan.metrics import level
from voicespan.metrics.level import Level
from voicespan.sessions import Session

if TYPE_CHECKING:
    from .conftest import Meters, Recorder

LLM, TTS = ("llm",), ("tts",)


@pytest.mark.covers("B-M09", "B-U08", "B-Q04")
def test_stages_are_tasks_while_they_run(meters: Meters, recorder: Recorder) -> None:
    """A stage counts as work of its component from its begin to its end, however often it is ended."""
    turn = Session(recorder, "a").user_turn()
    turn.committed()
    first, second = turn.llm(), turn.llm()
    assert meters.values(n.METRIC_VOICE_TASK_ACTIVE) == {LLM: 2}
    first.end()
    first.end()
    assert meters.values(n.METRIC_VOICE_TASK_ACTIVE) == {LLM: 1}
    with turn.tts(), pytest.raises(ValueError, match="broken"):  # noqa: SIM117
        with second:
            raise ValueError("broken")
    assert meters.values(n.METRIC_VOICE_TASK_ACTIVE) == {LLM: 0, TTS: 0}


def test_what_is_open_when_the_turn_ends_is_no_task_any_more(meters: Meters, recorder: Recorder) -> None:
    """A stage that nobody ends ends with its turn; a tool in the background goes on."""
    session = Session(recorder, "a")
    turn = session.user_turn()
    turn.committed()
    turn.llm()
    tool = turn.tool("slow", background=True)
    session.end()
    assert meters.values(n.METRIC_VOICE_TASK_ACTIVE) == {LLM: 0, ("tool",): 1}
    tool.end()
    assert meters.values(n.METRIC_VOICE_TASK_ACTIVE) == {LLM: 0, ("tool",): 0}
    late = turn.llm()
    late.end()
    assert meters.values(n.METRIC_VOICE_TASK_ACTIVE)[LLM] == 0


@pytest.mark.covers("B-M10", "B-U08")
def test_nothing_is_noted_for_metrics_that_nobody_takes(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a meter provider that is read, a turn keeps nothing that only its metrics tell."""
    monkeypatch.delitem(sys.modules, "voicespan.performance", raising=False)  # by which a service asks for numbers
    with Session(recorder, "a") as session:
        turn = session.user_turn()
        turn.speech_ended()
        stage = turn.llm()
        assert (turn.record.detections, turn.record.stages[0].task, len(level.tasks._moves)) == ((), None, 0)
        stage.end()
        turn.end()
    assert len(level.tasks._moves) == 0


def test_the_peak_is_told_until_it_is_over(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most work at once is told by every collection soon after, and forgotten later."""
    now_s = [1000.0]
    monkeypatch.setattr("voicespan.metrics.level.time.monotonic", lambda: now_s[0])
    level.tasks.start()
    with metrics.task("llm"), metrics.task("llm"), metrics.task("llm"):
        pass
    peaks = []
    for _ in range(4):
        peaks.append(meters.values(n.METRIC_VOICE_TASK_PEAK)[LLM])
        now_s[0] += 6
    assert peaks == [3, 3, 3, 0]
    assert level.tasks.ever() == {((n.VOICE_COMPONENT, "llm"),): 3}


def test_a_level_is_never_below_zero() -> None:
    """What is given back twice counts once."""
    counted = Level()
    key = counted.up({})
    counted.down(key)
    counted.down(key)
    assert counted.now() == {(): 0}


def test_a_level_is_right_on_many_threads() -> None:
    """Ups and downs of many threads cancel out."""
    counted = Level()

    def work() -> None:
        for _ in range(2_000):
            with counted.held({}):
                pass

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.now() == {(): 0}
    assert 1 <= counted.ever()[()] <= 6


@pytest.mark.covers("C-M11", "C-M22", "C-M26", "E-M06")
def test_connections_queues_models_and_voices_are_levels(meters: Meters) -> None:
    """Each is what there is now: by transport, or in all."""
    with metrics.connection("websocket"), metrics.queued(), metrics.queued(), metrics.speaking("sam"):
        with metrics.speaking("sam"), metrics.speaking("anna"), metrics.model_load("m"):
            pass
        assert meters.values(n.METRIC_VOICE_CONNECTION_ACTIVE) == {("websocket",): 1}
        assert meters.values(n.METRIC_VOICE_INFERENCE_QUEUE_LENGTH) == {(): 2}
        assert meters.values(n.METRIC_VOICE_TTS_VOICE_ACTIVE) == {(): 1}
        assert meters.values(n.METRIC_VOICE_MODEL_RESIDENT) == {(): 1}
    metrics.model_unloaded("m", "lru_eviction")
    found = {
        name: meters.values(name)
        for name in (
            n.METRIC_VOICE_CONNECTION_ACTIVE,
            n.METRIC_VOICE_INFERENCE_QUEUE_LENGTH,
            n.METRIC_VOICE_TTS_VOICE_ACTIVE,
            n.METRIC_VOICE_MODEL_RESIDENT,
        )
    }
    assert [sum(values.values()) for values in found.values()] == [0, 0, 0, 0]


def test_what_nobody_reads_does_not_grow() -> None:
    """Moves that no collection works off are worked off by the one that counts, before there are many."""
    counted, key = Level(), ((n.VOICE_COMPONENT, "llm"),)
    for _ in range(3 * Level.MAX_MOVES):
        counted.down(counted.up_by(key))
        assert len(counted._moves) <= Level.MAX_MOVES
    counted.up_by(key)
    assert counted.now() == {key: 1}
    assert counted.ever() == {key: 1}
    for _ in range(2 * Level.MAX_MOVES):
        counted.down(key)
        assert len(counted._moves) <= Level.MAX_MOVES
    assert counted.now() == {key: 0}
