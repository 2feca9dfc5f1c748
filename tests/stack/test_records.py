"""Each recorded series has the value that was computed by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import names as n
from voicespan.stack import generate, rules
from voicespan.stack import promql as q

from .queries import substituted
from .series import SERVICE, Series, case, counter, failed, gauge, series, spans

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENT = {q.POINT: "client"}
ENDED = "voice_session_ended_total"
PEAK = {"instance": "a"}


def both(name: str, fast: float, slow: float, **labels: str) -> Series:
    """Per minute so many spans of 0.45 s, counted by one Collector, and so many of 0.9 s, counted by another."""
    return spans(name, 0.45, fast, **labels) | spans(name, 0.9, slow, collector_instance_id="gateway-1", **labels)


def turns(per_minute: float, outcome: str, initiator: str = "user", reason: str = "") -> Series:
    """Turns with an outcome."""
    labels = {"voice_turn_outcome": outcome, "voice_turn_initiator": initiator}
    return counter(q.CALLS, per_minute, span_name=n.SPAN_TURN, voice_turn_no_reply_reason=reason, **labels)


RECORDS: dict[str, tuple[Series, float, dict[str, str]]] = {
    # The 95th of 100 is the fifth of the ten between 0.8 and 1.0 s: halfway.
    rules.RESPONSE_P95: (both(n.SPAN_RESPONSE, 90, 10, **CLIENT), 0.9, CLIENT),
    rules.RESPONSE_MEAN: (both(n.SPAN_RESPONSE, 90, 10, **CLIENT), (90 * 0.45 + 10 * 0.9) / 100, CLIENT),
    rules.LATENCY_TARGET: (
        counter("voice_session_latency_target_total", 30, voice_latency_target_outcome="met")
        | counter("voice_session_latency_target_total", 10, voice_latency_target_outcome="missed"),
        0.75,
        {},
    ),
    rules.COMPONENT_ERRORS: (
        spans(n.SPAN_LLM, 1, 92, voice_component="llm") | failed(n.SPAN_LLM, 1, 8, voice_component="llm"),
        0.08,
        {"voice_component": "llm"},
    ),
    # The 90th of 100 is the tenth of the twenty between 0.8 and 1.0 s.
    rules.STAGE_P90: (both(n.SPAN_ASR_FINALIZE, 80, 20), 0.9, {"span_name": n.SPAN_ASR_FINALIZE}),
    rules.BOTTLENECK: (
        spans(n.SPAN_RESPONSE, 0.5, 30, voice_turn_bottleneck="llm")
        | spans(n.SPAN_RESPONSE, 0.5, 12, voice_turn_bottleneck="tts"),
        0.5,
        {"voice_turn_bottleneck": "llm"},
    ),
    rules.LLM_TOKENS: (
        counter("gen_ai_client_token_usage_sum", 600, gen_ai_token_type="output", gen_ai_request_model="small")
        | counter("gen_ai_client_token_usage_sum", 9000, gen_ai_token_type="input", gen_ai_request_model="small"),
        10,
        {"gen_ai_request_model": "small"},
    ),
    rules.TASK_PEAK: (series("voice_task_peak", "3x10 7 2x50", **PEAK), 7, PEAK),
    # 1 of 200 sessions ended in an error.
    rules.AVAILABILITY: (
        counter(ENDED, 199, voice_session_end_reason="normal") | counter(ENDED, 1, voice_session_end_reason="error"),
        0.995,
        {},
    ),
    # 95 of 100: nobody waited for the other hundred, and the agent's own are no answers.
    rules.TURN_SUCCESS: (
        turns(90, "completed") | turns(5, "interrupted") | turns(3, "error") | turns(2, "no_reply", reason="user_left")
        | turns(100, "no_reply", reason="no_speech") | turns(50, "error", "agent"),
        0.95,
        {},
    ),
    rules.REDIS_ERRORS: (
        counter("db_client_operation_duration_seconds_count", 90, db_system_name="redis")
        | counter("db_client_operation_duration_seconds_count", 10, db_system_name="redis", error_type="timeout")
        | counter("db_client_operation_duration_seconds_count", 70, db_system_name="other", error_type="timeout"),
        0.1,
        {},
    ),
    # One that was killed, and its successor that said goodbye.
    rules.WORKER_UP: (
        gauge("voice_service_up", 1, voice_worker_id="tts@0", instance="a")
        | gauge("voice_service_up", 0, voice_worker_id="tts@0", instance="b"),
        1,
        {"voice_worker_id": "tts@0"},
    ),
    rules.SERVICE_UP: (gauge("voice_service_up", 0, instance="a"), 0, {}),
}  # fmt: skip


def close(expression: str, value: float) -> str:
    """A query that gives 1 where a value is as good as another."""
    return f"abs(({expression}) - {value!r}) < bool 1e-9"


def test_every_record_has_a_value_here() -> None:
    """No recorded series is without a case."""
    assert {each.name for each in rules.recording().rules} == set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.covers("B-M10", "B-M11", "B-U05", "B-U06", "C-M40", "C-S04", "C-S07", "D-M05", "D-M06", "D-M07", "D-M08",
                    "D-Q03", "D-S02", "D-S03")  # fmt: skip
def test_record(name: str, judge: Callable[..., None]) -> None:
    """The series has its labels and the value that was computed by hand; spans are counted by two Collectors."""
    given, value, labels = RECORDS[name]
    judge([case(given, close(name, value), 1, "50m", **SERVICE, **labels)], names=["recording.yml"])


NOTHING: dict[str, Series] = {
    rules.COMPONENT_ERRORS: spans(n.SPAN_LLM, 1, 0, voice_component="llm"),
    rules.TURN_SUCCESS: turns(0, "completed"),
    rules.LATENCY_TARGET: counter("voice_session_latency_target_total", 0, voice_latency_target_outcome="met"),
    rules.REDIS_ERRORS: counter("db_client_operation_duration_seconds_count", 0, db_system_name="redis"),
}


@pytest.mark.covers("B-Q07")
def test_a_share_of_nothing_is_nothing(judge: Callable[..., None]) -> None:
    """Where nothing happened a share has no value, and is no division by zero."""
    judge([case(given, name, None) for name, given in NOTHING.items()], names=["recording.yml"])


def test_a_share_without_errors_is_zero(judge: Callable[..., None]) -> None:
    """Where nothing ever failed the share of errors is 0, though no series of errors is there."""
    fine = spans(n.SPAN_LLM, 1, 5, voice_component="llm")
    judge([case(fine, rules.COMPONENT_ERRORS, 0, __name__=rules.COMPONENT_ERRORS, **SERVICE, voice_component="llm")],
          names=["recording.yml"])  # fmt: skip


def panel(uid: str, title: str) -> str:
    """What a panel asks, with everything chosen."""
    board: dict[str, Any] = json.loads((generate.CHECKOUT / f"deploy/grafana/dashboards/{uid}.json").read_text())
    (found,) = [each for each in board["panels"] if each["title"] == title]
    return substituted(found["targets"][0]["expr"], point="client", __rate_interval="5m")


PAUSE = {"voice_barge_in_phase": "worker_pause"}
PROMISES: dict[tuple[str, str], tuple[Series, float]] = {
    ("voicespan-slo", "First audio in time (7 d)"): (
        spans(n.SPAN_TTS_FIRST_AUDIO, 0.2, 96) | spans(n.SPAN_TTS_FIRST_AUDIO, 0.35, 4, collector_instance_id="b"),
        0.96,
    ),
    ("voicespan-slo", "Barge-in in time (7 d)"): (
        spans(n.SPAN_BARGE_IN, 0.03, 98, **PAUSE) | spans(n.SPAN_BARGE_IN, 0.06, 2, collector_instance_id="b", **PAUSE),
        0.98,
    ),
    # Of 80 answers at the ear 60 came in time; of all 120 turns, 20 of them heard at the server, 100 were answered.
    ("voicespan-experience", "Answered in time"): (
        spans(n.SPAN_RESPONSE, 0.5, 60, **CLIENT)
        | spans(n.SPAN_RESPONSE, 0.9, 20, collector_instance_id="b", **CLIENT)
        | spans(n.SPAN_RESPONSE, 0.1, 20, voice_measurement_point="server")
        | spans(n.SPAN_UNANSWERED, 8, 20, voice_measurement_point="server", voice_turn_no_reply_reason="user_left"),
        60 / 80 * 100 / 120,
    ),
}


@pytest.mark.parametrize(("uid", "title"), PROMISES)
@pytest.mark.covers("C-S08", "C-S09")
def test_panel(uid: str, title: str, judge: Callable[..., None]) -> None:
    """The panel shows the share that was computed by hand."""
    given, value = PROMISES[uid, title]
    judge([case(given, close(panel(uid, title), value), 1, "50m")], names=["recording.yml"])
