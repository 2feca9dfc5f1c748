"""Each alert fires for what it is about, is silent in health, and is silent where there is too little to judge by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import names as n
from voicespan.stack import alerts, generate, slo
from voicespan.stack import promql as q
from voicespan.stack.rules import Alert

from .series import Series, case, counter, failed, gauge, histogram, series, spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voicespan.stack.objectives import Objectives

COLLECTOR = {"job": "otel-collector", "instance": "127.0.0.1:8888"}


def up(values: str, instance: str = "gateway-0") -> Series:
    """Both targets of a Collector."""
    return {
        f'up{{job="{job}", instance="{instance}:{port}"}}': values
        for job, port in (("otel-collector", 8888), ("otel-collector-span-metrics", 8889))
    }


UP = up("1x60")
PAUSE = {"voice_barge_in_phase": "worker_pause"}
CLIENT = {"voice_measurement_point": "client"}
NO_REPLY = {"voice_turn_outcome": "no_reply", "voice_turn_no_reply_reason": "user_left"}


def jitter(value_s: float, per_minute: float) -> Series:
    """Frames that come late."""
    metric = n.METRIC_VOICE_AUDIO_FRAME_JITTER
    return histogram(q.series(metric), q.boundaries(metric), value_s, per_minute, instance="a", **CLIENT)


def loop_delay(value_s: float, per_minute: float) -> Series:
    """Timers that run late."""
    metric = n.METRIC_VOICE_EVENT_LOOP_DELAY
    return histogram(q.series(metric), q.boundaries(metric), value_s, per_minute, instance="a")


def sessions(errors: float, started: float) -> Series:
    """Sessions and their errors, per minute."""
    return counter("voice_session_errors_total", errors, error_type="timeout") | counter(
        "voice_session_started_total", started
    )


def redis(broken: float, fine: float) -> Series:
    """Redis commands, per minute."""
    metric = "db_client_operation_duration_seconds_count"
    return counter(metric, broken, db_system_name="redis", error_type="ConnectionError") | counter(
        metric, fine, db_system_name="redis"
    )


def client(errors: float, reconnections: float) -> Series:
    """What clients report, per minute."""
    return counter("voice_client_errors_total", errors, error_type="websocket") | counter(
        "voice_client_reconnections_total", reconnections
    )


def calls(broken: float, fine: float) -> Series:
    """Requests to a model, per minute."""
    labels = {"voice_component": "llm"}
    return spans("llm", 1, fine, **labels) | failed("llm", 1, broken, **labels)


def answers(answered: float, unanswered: float) -> Series:
    """Turns that were answered and such that were not, per minute; nobody waited in as many more."""
    return (
        spans(n.SPAN_RESPONSE, 0.5, answered, **CLIENT)
        | spans(n.SPAN_UNANSWERED, 8, unanswered, voice_measurement_point="server", **NO_REPLY)
        | spans(n.SPAN_UNANSWERED, 8, answered, voice_turn_no_reply_reason="no_speech")
    )


def gpu(used: str) -> Series:
    """A GPU of 100 bytes."""
    labels = {"voice_worker_id": "tts@0", "hw_id": "0", "hw_type": "gpu", "instance": "a"}
    return series("hw_gpu_memory_usage_bytes", used, **labels) | gauge("hw_gpu_memory_limit_bytes", 100, **labels)


def heartbeat(values: str, **labels: str) -> Series:
    """One process while the Collector is up."""
    return UP | series("voice_service_up", values, instance="a", **labels)


def day(last_minutes_s: float, per_minute: float, hours: int = 3) -> Series:
    """Hours in which the silence lasted 0.3 s, then 0.5 s, and then 20 minutes of another length."""
    usual = hours * 60
    found: Series = {}
    for bound in (*n.BOUNDARIES_S, float("inf")):
        fast, slow, last = (per_minute if value <= bound else 0 for value in (0.3, 0.5, last_minutes_s))
        half = usual // 2
        before = fast * half, fast * half + slow * (half + 1)
        values = f"0+{fast:g}x{half} {before[0] + slow:g}+{slow:g}x{half} {before[1] + last:g}+{last:g}x20"
        le = "+Inf" if bound == float("inf") else f"{bound:.1f}" if bound == int(bound) else f"{bound:g}"
        found |= series(f"{q.DURATION}_bucket", values, span_name=n.SPAN_RESPONSE, le=le, **CLIENT)
    return found | counter(f"{q.DURATION}_count", per_minute, usual + 22, span_name=n.SPAN_RESPONSE, **CLIENT)


def collector(metric: str, values: str, /, **labels: str) -> Series:
    """One of the Collector's own counters."""
    return series(metric, values, **COLLECTOR, **labels)


def full(size: float, exporter: str = "otlp_grpc/tempo") -> Series:
    """A queue of 100."""
    labels = {**COLLECTOR, "exporter": exporter}
    return gauge("otelcol_exporter_queue_size", size, **labels) | gauge(
        "otelcol_exporter_queue_capacity", 100, **labels
    )


@dataclass
class Case:
    """What an alert is held against; `low` is its condition with too few events, or for too short a time."""

    fires: Series
    quiet: Series
    low: Series
    at: str = "30m"


def cases(fires_quiet_low: Iterable[Series]) -> Case:
    """A case of three that are alike."""
    fires, quiet, low = fires_quiet_low
    return Case(fires, quiet, low)


def of_span(name: str, fires_s: float, quiet_s: float, **labels: str) -> Case:
    """Spans of two lengths; for a quantile one a minute is too few to judge by."""
    return cases(spans(name, *each, **labels) for each in ((fires_s, 30), (quiet_s, 30), (fires_s, 1)))


def of_own_counter(metric: str, **labels: str) -> Case:
    """One of the Collector's counters, in both of its forms; what was lost just now has not been looked at twice."""
    return Case(
        collector(f"{metric}_total", "0+1x60", **labels),
        collector(metric, "0x60", **labels),
        collector(metric, "0x29 9x31", **labels),
    )


TEMPO = {"exporter": "otlp_grpc/tempo"}
OTLP = {"receiver": "otlp"}
CASES: dict[str, Case] = {
    "HighFirstAudioLatency": of_span(n.SPAN_TTS_FIRST_AUDIO, 0.4, 0.2),
    "HighBargeInLatency": of_span(n.SPAN_BARGE_IN, 0.08, 0.02, **PAUSE),
    "HighFrameJitter": Case(jitter(0.015, 3000), jitter(0.001, 3000), jitter(0.015, 1)),
    "HighEndToEndLatency": of_span(n.SPAN_RESPONSE, 1.9, 0.9, **CLIENT),
    "LatencyTargetMissed": cases(
        spans(n.SPAN_RESPONSE, *each, **CLIENT) for each in ((0.7, 30), (0.5, 30), (0.7, 0.5))
    ),
    "SttLatencyWarning": of_span(n.SPAN_ASR_FINALIZE, 1.9, 1.3),
    "SttLatencyCritical": of_span(n.SPAN_ASR_FINALIZE, 3, 2.3),
    "LlmTtftWarning": of_span(n.SPAN_LLM_TTFT, 2.3, 1.8),
    "LlmTtftCritical": of_span(n.SPAN_LLM_TTFT, 5, 3.2),
    "TtsSlowResponses": of_span("POST /tts", 20, 7, span_kind="SPAN_KIND_SERVER", http_route="/tts"),
    "LatencyAnomaly": Case(day(3, 30), day(0.5, 30), day(3, 1), at="200m"),
    "HighSessionErrorRate": Case(sessions(2, 10), sessions(0.5, 10), sessions(1, 1)),
    "ManySessionErrors": Case(sessions(12, 1000), sessions(1, 1000), sessions(1, 0)),
    "RedisConnectionErrors": Case(redis(10, 90), redis(1, 99), redis(1, 0)),
    "ComponentErrorRateWarning": Case(calls(8, 92), calls(1, 99), calls(1, 0)),
    "ComponentErrorRateCritical": Case(calls(15, 85), calls(8, 92), calls(1, 0)),
    "TtsErrors": Case(failed(n.SPAN_TTS, 1, 12), spans(n.SPAN_TTS, 1, 500), failed(n.SPAN_TTS, 1, 1)),
    "RateLimitSpike": cases(
        counter("voice_rate_limit_rejections_total", count, http_route="/tts") for count in (90, 0, 5)
    ),
    "ClientErrors": Case(client(4, 4), client(0, 0), counter("voice_client_reconnections_total", 1)),
    "UnansweredTurns": Case(answers(90, 10), answers(99, 1), answers(1, 0.5)),
    "WorkerUnavailable": Case(
        # One of two is gone; one was shut down on purpose; one was away for a moment, and came back as a new process.
        heartbeat("1x25", voice_worker_id="tts@0") | heartbeat("1x60", voice_worker_id="tts@1"),
        heartbeat("1x24 0 0 stale", voice_worker_id="tts@0") | heartbeat("1x60", voice_worker_id="tts@1"),
        heartbeat("1x28 stale 1x30", voice_worker_id="tts@0"),
        at="35m",
    ),
    "ServiceDown": Case(
        heartbeat("1x25"),
        heartbeat("1x25") | series("voice_service_up", "1x60", instance="b"),
        heartbeat("1x25 0 0 stale"),
        at="35m",
    ),
    "GPUMemoryExhaustion": cases(gpu(values) for values in ("97x60", "60x60", "60x28 97 60x30")),
    "HighCpu": cases(counter("process_cpu_time_seconds_total", seconds, instance="a") for seconds in (57, 45, 30)),
    "EventLoopBlocked": Case(loop_delay(0.2, 60), loop_delay(0.002, 60), loop_delay(0.2, 1)),
    "HighMemory": cases(
        series("process_memory_usage_bytes", values, instance="a")
        for values in ("9e9x60", "8e9x60", "8e9x28 9e9 8e9x30")
    ),
    "TelemetryPipelineDown": Case(up("0x60"), UP, UP | up("0x60", "gateway-1")),
    "CollectorDown": Case(
        UP | {'up{job="otel-collector", instance="gateway-1:8888"}': "0x60"},
        UP | {'up{job="redis", instance="a"}': "0x60"},
        up("1x29 0 1x30"),
    ),
    "TelemetryRefused": of_own_counter("otelcol_receiver_refused_spans", **OTLP),
    "TelemetrySendFailed": of_own_counter("otelcol_exporter_send_failed_log_records", **TEMPO),
    "CollectorQueueFull": of_own_counter("otelcol_exporter_enqueue_failed_metric_points", **TEMPO),
    "CollectorQueueFilling": Case(full(85), full(5), full(80)),
    "TracesDroppedTooEarly": of_own_counter("otelcol_processor_tail_sampling_sampling_trace_dropped_too_early"),
    "MetricsOverflow": Case(
        counter(q.CALLS, 5, otel_metric_overflow="true"),
        counter(q.CALLS, 5),
        series(q.CALLS, "_x28 1x30", otel_metric_overflow="true"),
    ),
    "SpanMetricsMissing": Case(
        collector("otelcol_receiver_accepted_spans", "0+1x60"),
        collector("otelcol_receiver_accepted_spans_total", "0+1x60") | counter(q.CALLS, 5),
        collector("otelcol_receiver_accepted_spans", "0x60"),
    ),
    "ServiceDropsSpans": cases(
        series("otel_sdk_processor_span_processed_total", values, error_type="queue_full")
        for values in ("0+5x60", "0x60", "0x27 9x33")
    ),
    "RulesFail": cases(
        series("prometheus_rule_evaluation_failures_total", values, rule_group="a")
        for values in ("0+5x60", "0x60", "0x27 9x33")
    ),
}

ALWAYS = {"Watchdog"}
BY_BUDGET = {"ErrorBudgetBurn"}
"""tests/stack/test_slo.py has the cases of these."""


def all_alerts(objectives: Objectives) -> list[Alert]:
    """Every alert that there is."""
    groups = (alerts.service(objectives), alerts.pipeline(objectives), *slo.groups(objectives))
    return [rule for group in groups for rule in group.rules if isinstance(rule, Alert)]


def firing(name: str) -> str:
    """How many alerts of a name fire."""
    return f'count(ALERTS{{alertname="{name}", alertstate="firing"}})'


def test_every_alert_has_its_cases(objectives: Objectives) -> None:
    """No alert is without a case, and no case without an alert."""
    assert {alert.name for alert in all_alerts(objectives)} == set(CASES) | ALWAYS | BY_BUDGET


@pytest.mark.parametrize("name", CASES)
@pytest.mark.covers("A-A01", "A-A02", "A-Q08", "A-V13", "B-A01", "B-A02", "B-A03", "C-A01", "C-A02", "C-A03", "C-A04",
                    "C-A05", "C-A06", "C-A07", "C-Q01", "C-Q02", "C-Q05", "C-Q15", "D-A01", "E-A01", "E-A02", "E-A03",
                    "E-A04", "E-A05", "E-Q02", "D-S01", "B-S02", "E-S06")  # fmt: skip
def test_alert(name: str, judge: Callable[..., None]) -> None:
    """The alert fires for its condition, not in health, and not for one event or one moment."""
    given = CASES[name]
    judge(
        [
            case(given.fires, firing(name), 1, given.at),
            case(given.quiet, firing(name), None, given.at),
            case(given.low, firing(name), None, given.at),
        ]
    )


@pytest.mark.parametrize("signal", alerts.SIGNALS)
def test_signals_are_told_apart(signal: str, judge: Callable[..., None]) -> None:
    """Spans, metrics and logs that are refused at once are three alerts, in either form of the counters' names."""
    given = {
        name: values
        for number, refused in enumerate(alerts.SIGNALS)
        for name, values in collector(
            f"otelcol_receiver_refused_{refused}{'_total' * (number % 2)}", "0+1x60", **OTLP
        ).items()
    }
    judge([case(given, firing("TelemetryRefused").replace("}", f', signal="{signal}"}}'), 1)])


def test_watchdog(judge: Callable[..., None]) -> None:
    """The watchdog fires from the first moment on, without any series."""
    judge([case({}, firing("Watchdog"), 1, "30s")])


@pytest.mark.parametrize("name", ["HighEndToEndLatency", "ServiceDown"])
def test_one_service_does_not_hide_another(name: str, judge: Callable[..., None]) -> None:
    """An alert is about one service in one environment: health elsewhere does not silence it."""
    other = {key.replace("production", "staging"): value for key, value in CASES[name].quiet.items()}
    judge([case(other | CASES[name].fires, firing(name), 1, CASES[name].at)])


ABSENT = ("ServiceDown", "WorkerUnavailable")
WORKER = {"voice_worker_id": "tts@0"}


def never(given: Series) -> list[dict[str, Any]]:
    """A case in which no one's absence is reported at any time of an hour."""
    return [
        case(given, f'count_over_time(ALERTS{{alertname=~"{"|".join(ABSENT)}", alertstate="firing"}}[1h])', None, "1h")
    ]


def test_an_outage_of_the_collector_is_no_outage_of_services(judge: Callable[..., None]) -> None:
    """While the Collector is down nobody's absence is reported."""
    gone = heartbeat("1x25", **WORKER) | up("1x25 0x35")
    judge(never(gone))


def test_an_outage_of_one_gateway_is_no_outage_of_services(judge: Callable[..., None]) -> None:
    """While one gateway of two is down, heartbeats that went by it are missing: nobody's absence is reported."""
    behind = heartbeat("1x25", **WORKER) | series("voice_service_up", "1x60", job="other", instance="b")
    half = {'up{job="otel-collector-span-metrics", instance="gateway-1:8889"}': "1x25 0x35"}
    judge([*never(behind | UP | up("1x25 0x35", "gateway-1")), *never(behind | UP | half)])


@pytest.mark.parametrize("outage", [1, 2, 6, 12])
def test_services_come_back_after_an_outage_of_the_collector(outage: int, judge: Callable[..., None]) -> None:
    """When the Collector is up again the heartbeats need a moment, and nobody's absence is reported meanwhile."""
    back = heartbeat(f"1x24 stale {'_ ' * (outage + 2)} 1x35", **WORKER) | up(f"1x25 0x{outage - 1} 1x40")
    judge(never(back))


def test_who_does_not_come_back_is_reported(judge: Callable[..., None]) -> None:
    """A worker that died with the Collector is missed once the Collector has been up for a while."""
    gone = heartbeat("1x25", **WORKER) | up("1x25 0x2 1x35")
    judge([case(gone, firing(name), 1, "36m") for name in ABSENT])


def test_a_killed_worker_whose_successor_ends_is_not_gone(judge: Callable[..., None]) -> None:
    """A worker is killed and replaced; when the new one says goodbye minutes later, nobody is missed."""
    killed = heartbeat("1x20 stale", **WORKER) | series(
        "voice_service_up", "_x21 1x4 0 0 stale", instance="b", **WORKER
    )
    judge(never(killed))


@pytest.mark.covers("C-M41")
def test_a_scraped_worker_that_does_not_answer_is_gone(judge: Callable[..., None]) -> None:
    """Where Prometheus scrapes the workers itself, one that it cannot reach is unavailable, heartbeat or not."""
    scraped = {'up{job="tts-workers", instance="a:9100"}': "1x60"}
    away = scraped | {'up{job="tts-workers", instance="b:9100"}': "1x20 0x40"}
    judge(
        [
            case(UP | away, firing("WorkerUnavailable"), 1),
            case(UP | scraped, firing("WorkerUnavailable"), None),
            case(UP | away | heartbeat("1x20", **WORKER), firing("WorkerUnavailable"), 2),
        ]
    )


@pytest.mark.parametrize("name", ["TelemetrySendFailed", "CollectorQueueFull", "CollectorQueueFilling"])
def test_a_closed_viewer_is_no_alert(name: str, judge: Callable[..., None]) -> None:
    """The viewer is a person's tool: what it does not take is dropped, and nobody is told."""

    def lost(exporter: str) -> Series:
        counters = ("otelcol_exporter_send_failed_spans_total", "otelcol_exporter_enqueue_failed_spans_total")
        counted = [collector(metric, "0+1x60", exporter=exporter).items() for metric in counters]
        return dict(item for items in counted for item in items) | full(100, exporter)

    judge(
        [
            case(UP | lost("otlp_http/viewer"), firing(name), None),
            case(UP | lost("otlp_http/viewer") | lost("otlp_grpc/tempo"), firing(name), 1),
        ]
    )


@pytest.mark.covers("F-DP09")
def test_every_alert_has_a_page(objectives: Objectives) -> None:
    """Each alert links to a page that says what it means, what the user hears, how to look and what to do."""
    pages = {alert.page for alert in all_alerts(objectives)}
    folder = generate.CHECKOUT / "docs/runbooks"
    assert {path.stem for path in folder.glob("*.md")} == pages | {"README"}
    for page in pages:
        text = (folder / f"{page}.md").read_text()
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
            "What it means", "What the user hears", "How to look", "What to do",
        ], page  # fmt: skip
        for alert in all_alerts(objectives):
            if alert.page == page:
                assert f"`{alert.name}`" in text.split("## ")[0], f"{page}.md does not name {alert.name}"
    index = (folder / "README.md").read_text()
    assert set(re.findall(r"\]\(([a-z0-9-]+)\.md\)", index)) == pages


def test_links_follow_the_file(objectives: Objectives) -> None:
    """The address of the runbooks is the user's."""
    data: dict[str, Any] = all_alerts(objectives)[0].data("https://wiki.example/voice")
    assert data["annotations"]["runbook"] == "https://wiki.example/voice/high-first-audio-latency.md"
