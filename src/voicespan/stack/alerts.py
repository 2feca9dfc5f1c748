"""The alerts: what is wrong with the service, and what is wrong with the telemetry about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.stack import promql as q
from voicespan.stack import rules
from voicespan.stack.objectives import Limit
from voicespan.stack.rules import Alert, Group

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.stack.objectives import Objectives

COLLECTOR_JOB = "otel-collector"
"""The job under which Prometheus scrapes the Collector's own metrics."""
COLLECTOR_JOBS = f'job=~"{COLLECTOR_JOB}.*"'
"""A matcher for that job and the one of the span-derived metrics."""
WORKERS_JOB = "tts-workers"
"""The job of workers that Prometheus scrapes itself."""
NOT_THE_VIEWER = 'exporter!~".*/viewer"'
"""A matcher for every exporter but the viewer's, which may lose what nobody looks at."""

# Labels by which alerts are inhibited.
SYMPTOM = "symptom"
LATENCY = {SYMPTOM: "latency"}
ABSENCE = {SYMPTOM: "absence"}

_MODEL = q.label(n.GEN_AI_REQUEST_MODEL)
_WORKER = q.label(n.VOICE_WORKER_ID)
_COMPONENT = q.label(n.VOICE_COMPONENT)
_SILENCE = (*q.SERVICE, q.POINT)
_PER_PROCESS = (*q.SERVICE, q.INSTANCE)
_STAGE = (*q.SERVICE, q.SPAN_NAME, q.POINT)


def _threshold(of: str, purpose: str) -> float:
    """Return the limit that the names module has for a purpose."""
    return next(limit.value for limit in n.THRESHOLDS if limit.on == of and purpose in limit.purpose)


_HTTP = "{http.request.method} {http.route}"
LIMITS: dict[str, Limit] = {
    "HighFirstAudioLatency": Limit(_threshold(n.SPAN_TTS_FIRST_AUDIO, "alert on p95"), "s", of=n.SPAN_TTS_FIRST_AUDIO),
    "HighBargeInLatency": Limit(_threshold(n.SPAN_BARGE_IN, "alert"), "s", of=n.SPAN_BARGE_IN),
    "HighFrameJitter": Limit(
        _threshold(n.METRIC_VOICE_AUDIO_FRAME_JITTER, "alert on p95"), "s", of=n.METRIC_VOICE_AUDIO_FRAME_JITTER
    ),
    "GPUMemoryExhaustion": Limit(0.95, "ratio"),
    "HighSessionErrorRate": Limit(0.1, "ratio"),
    "ManySessionErrors": Limit(0.1, "per second"),
    "RedisConnectionErrors": Limit(0.05, "ratio"),
    "HighEndToEndLatency": Limit(_threshold(n.SPAN_RESPONSE, "alert on p95"), "s", of=n.SPAN_RESPONSE),
    "RateLimitSpike": Limit(1, "per second"),
    "ClientErrors": Limit(0.1, "per second"),
    "SttLatencyWarning": Limit(_threshold(n.SPAN_ASR_FINALIZE, "warning on p90"), "s", of=n.SPAN_ASR_FINALIZE),
    "SttLatencyCritical": Limit(_threshold(n.SPAN_ASR_FINALIZE, "critical on p90"), "s", of=n.SPAN_ASR_FINALIZE),
    "LlmTtftWarning": Limit(_threshold(n.SPAN_LLM_TTFT, "warning on p90"), "s", of=n.SPAN_LLM_TTFT),
    "LlmTtftCritical": Limit(_threshold(n.SPAN_LLM_TTFT, "critical on p90"), "s", of=n.SPAN_LLM_TTFT),
    "ComponentErrorRateWarning": Limit(0.05, "ratio"),
    "ComponentErrorRateCritical": Limit(0.1, "ratio"),
    "LatencyTargetMissed": Limit(_threshold(n.SPAN_RESPONSE, "average"), "s"),
    "TtsErrors": Limit(0.1, "per second"),
    "TtsSlowResponses": Limit(_threshold(_HTTP, "alert on p95"), "s", of=_HTTP),
    "HighCpu": Limit(0.8, "cores"),
    "EventLoopBlocked": Limit(
        _threshold(n.METRIC_VOICE_EVENT_LOOP_DELAY, "alert on p95"), "s", of=n.METRIC_VOICE_EVENT_LOOP_DELAY
    ),
    "HighMemory": Limit(8, "GiB"),
    "LatencyAnomaly": Limit(3, "standard deviations"),
    "UnansweredTurns": Limit(0.02, "ratio"),
    "CollectorQueueFilling": Limit(0.8, "ratio"),
}
"""The numbers that alerts compare with, unless the user's file names others."""

TTS_ROUTE = "/tts"
_OLDEST_ANOMALY_SAMPLES = 120
"""An hour of the recorded series: a service that has just begun has no usual day to differ from."""


def service(objectives: Objectives) -> Group:
    """Return the alerts about what users hear and what makes them hear it."""
    return Group(
        "voicespan-alerts",
        (
            *_latency(objectives),
            *_errors(objectives),
            *_absence(),
            *_resources(objectives),
        ),
    )


def _limit(objectives: Objectives, name: str) -> float:
    return objectives.limits.get(name, LIMITS[name].value)


def _above(expression: str, limit: float) -> str:
    return f"{expression} > {limit:g}"


def _enough(
    condition: str, objectives: Objectives, metric: str, matchers: Iterable[str], by: Iterable[str], window: str = "5m"
) -> str:
    """Hold the condition back where so few events came that one of them is already a quantile."""
    events = q.total(q.increase(q.select(metric, matchers), window), by)
    return f"({condition})\nand {events} >= {objectives.fewest}"


def _slow(name: str, objectives: Objectives, metric: str, matchers: tuple[str, ...], by: tuple[str, ...]) -> str:
    slow = _above(q.quantile(0.95, metric, matchers, by, "5m"), _limit(objectives, name))
    return _enough(slow, objectives, f"{metric}_count", matchers, by)


def _slow_stage(name: str, objectives: Objectives, span_name: str) -> str:
    slow = _above(q.select(rules.STAGE_P90, [q.span(span_name)]), _limit(objectives, name))
    return _enough(slow, objectives, f"{q.DURATION}_count", [q.span(span_name)], _STAGE)


def _latency(objectives: Objectives) -> Iterable[Alert]:
    first_audio = (q.span(n.SPAN_TTS_FIRST_AUDIO),)
    pause = (q.span(n.SPAN_BARGE_IN), q.is_(n.VOICE_BARGE_IN_PHASE, "worker_pause"))
    jitter = q.series(n.METRIC_VOICE_AUDIO_FRAME_JITTER)
    response = (q.span(n.SPAN_RESPONSE),)
    yield Alert(
        "HighFirstAudioLatency",
        _slow("HighFirstAudioLatency", objectives, q.DURATION, first_audio, (*q.SERVICE, _MODEL)),
        "5m",
        "warning",
        f"p95 First Audio Latency exceeds {_limit(objectives, 'HighFirstAudioLatency') * 1000:g}ms SLO",
        f"Current p95 FAL of {{{{ $labels.{_MODEL} }}}}: {{{{ $value | humanizeDuration }}}}",
        "high-first-audio-latency",
        {"slo": "fal", **LATENCY},
    )
    yield Alert(
        "HighBargeInLatency",
        _slow("HighBargeInLatency", objectives, q.DURATION, pause, _SILENCE),
        "5m",
        "warning",
        f"p95 Barge-in latency exceeds {_limit(objectives, 'HighBargeInLatency') * 1000:g}ms SLO",
        "Current p95 from the detection to the pause of the worker: {{ $value | humanizeDuration }}",
        "high-barge-in-latency",
        {"slo": "barge_in", **LATENCY},
    )
    yield Alert(
        "HighFrameJitter",
        _slow("HighFrameJitter", objectives, jitter, (), (*_PER_PROCESS, q.POINT)),
        "5m",
        "warning",
        f"p95 Frame jitter exceeds {_limit(objectives, 'HighFrameJitter') * 1000:g}ms SLO",
        "Current p95 jitter of {{ $labels.instance }}: {{ $value | humanizeDuration }}",
        "high-frame-jitter",
        {"slo": "jitter", **LATENCY},
    )
    yield Alert(
        "HighEndToEndLatency",
        _slow("HighEndToEndLatency", objectives, q.DURATION, response, _SILENCE),
        "5m",
        "warning",
        f"p95 of the heard silence exceeds {_limit(objectives, 'HighEndToEndLatency'):g}s",
        f"Current p95 at the {{{{ $labels.{q.POINT} }}}}: {{{{ $value | humanizeDuration }}}}",
        "high-end-to-end-latency",
        {"slo": "e2e", **LATENCY},
    )
    for name, severity, span_name, page, what in (
        ("SttLatencyWarning", "warning", n.SPAN_ASR_FINALIZE, "stt-latency", "the final transcript"),
        ("SttLatencyCritical", "critical", n.SPAN_ASR_FINALIZE, "stt-latency", "the final transcript"),
        ("LlmTtftWarning", "warning", n.SPAN_LLM_TTFT, "llm-ttft", "the first token"),
        ("LlmTtftCritical", "critical", n.SPAN_LLM_TTFT, "llm-ttft", "the first token"),
    ):
        yield Alert(
            name,
            _slow_stage(name, objectives, span_name),
            "5m",
            severity,
            f"p90 of {what} exceeds {_limit(objectives, name):g}s",
            f"Users wait {{{{ $value | humanizeDuration }}}} or more for {what} in every tenth turn",
            page,
            LATENCY,
        )
    sums, counts = (
        q.total(q.increase(q.select(q.DURATION + part, response), "15m"), _SILENCE) for part in ("_sum", "_count")
    )
    yield Alert(
        "LatencyTargetMissed",
        _enough(
            _above(f"{sums} / {counts}", _limit(objectives, "LatencyTargetMissed")),
            objectives,
            f"{q.DURATION}_count",
            response,
            _SILENCE,
            "15m",
        ),
        "5m",
        "warning",
        f"The average silence exceeds {_limit(objectives, 'LatencyTargetMissed') * 1000:g}ms",
        f"Average of 15 minutes at the {{{{ $labels.{q.POINT} }}}}: {{{{ $value | humanizeDuration }}}}",
        "latency-target-missed",
        {"slo": "e2e_avg", **LATENCY},
    )
    yield Alert(
        "TtsSlowResponses",
        _slow("TtsSlowResponses", objectives, q.DURATION, (q.SERVED, q.is_(n.HTTP_ROUTE, TTS_ROUTE)), q.SERVICE),
        "5m",
        "warning",
        f"p95 of the TTS endpoint exceeds {_limit(objectives, 'TtsSlowResponses'):g}s",
        "Current p95: {{ $value | humanizeDuration }}",
        "tts-slow-responses",
        LATENCY,
    )
    usual, spread = (f"{function}_over_time({rules.RESPONSE_P95}[1d])" for function in ("avg", "stddev"))
    anomaly = _above(f"({rules.RESPONSE_P95} - {usual}) / ({spread} > 0)", _limit(objectives, "LatencyAnomaly"))
    yield Alert(
        "LatencyAnomaly",
        _enough(anomaly, objectives, f"{q.DURATION}_count", response, _SILENCE)
        + f"\nand count_over_time({rules.RESPONSE_P95}[1d]) >= {_OLDEST_ANOMALY_SAMPLES}",
        "10m",
        "warning",
        "The heard silence is unusually long for this service",
        "p95 is {{ $value | humanize }} standard deviations above the mean of the last day",
        "latency-anomaly",
        LATENCY,
    )


def _errors(objectives: Objectives) -> Iterable[Alert]:
    started = q.series(n.METRIC_VOICE_SESSION_STARTED)
    errors = q.total(q.rate(q.series(n.METRIC_VOICE_SESSION_ERRORS), "5m"), q.SERVICE)
    sessions = q.total(q.rate(started, "5m"), q.SERVICE)
    yield Alert(
        "HighSessionErrorRate",
        _enough(
            _above(f"{errors} / {sessions}", _limit(objectives, "HighSessionErrorRate")),
            objectives,
            started,
            (),
            q.SERVICE,
        ),
        "3m",
        "warning",
        f"Session error rate > {_limit(objectives, 'HighSessionErrorRate'):.0%}",
        "Errors per session started: {{ $value | humanizePercentage }}",
        "session-errors",
        {"component": "orchestrator"},
    )
    yield Alert(
        "ManySessionErrors",
        _above(errors, _limit(objectives, "ManySessionErrors")),
        "3m",
        "warning",
        f"More than {_limit(objectives, 'ManySessionErrors'):g} session errors a second",
        "Current error rate: {{ $value | humanize }} errors/sec",
        "session-errors",
        {"component": "orchestrator"},
    )
    redis = q.is_(n.DB_SYSTEM_NAME, "redis")
    yield Alert(
        "RedisConnectionErrors",
        _enough(
            _above(rules.REDIS_ERRORS, _limit(objectives, "RedisConnectionErrors")),
            objectives,
            q.series(n.METRIC_DB_CLIENT_OPERATION_DURATION, "_count"),
            [redis],
            q.SERVICE,
        ),
        "2m",
        "warning",
        f"Redis connection errors > {_limit(objectives, 'RedisConnectionErrors'):.0%}",
        "Failed Redis commands: {{ $value | humanizePercentage }}",
        "redis-connection-errors",
        {"component": "redis"},
    )
    staged = [q.is_(n.VOICE_COMPONENT)]
    for name, severity in (("ComponentErrorRateWarning", "warning"), ("ComponentErrorRateCritical", "critical")):
        yield Alert(
            name,
            _enough(
                _above(rules.COMPONENT_ERRORS, _limit(objectives, name)),
                objectives,
                q.CALLS,
                staged,
                (*q.SERVICE, _COMPONENT),
            ),
            "5m",
            severity,
            f"More than {_limit(objectives, name):.0%} of the calls of a stage fail",
            f"Failed {{{{ $labels.{_COMPONENT} }}}} calls: {{{{ $value | humanizePercentage }}}}",
            "component-error-rate",
        )
    failed = q.total(q.rate(q.select(q.CALLS, [q.span(n.SPAN_TTS), q.FAILED]), "5m"), q.SERVICE)
    yield Alert(
        "TtsErrors",
        _above(failed, _limit(objectives, "TtsErrors")),
        "5m",
        "warning",
        f"More than {_limit(objectives, 'TtsErrors'):g} failed syntheses a second",
        "Current error rate: {{ $value | humanize }} errors/sec",
        "tts-errors",
    )
    yield Alert(
        "RateLimitSpike",
        _above(
            q.total(q.rate(q.series(n.METRIC_VOICE_RATE_LIMIT_REJECTIONS), "5m"), q.SERVICE),
            _limit(objectives, "RateLimitSpike"),
        ),
        "5m",
        "warning",
        "Many requests are refused by a rate limit",
        "Refused: {{ $value | humanize }} requests/sec",
        "rate-limit-spike",
    )
    # A union, since either counter may not be there yet.
    counters = (n.METRIC_VOICE_CLIENT_ERRORS, n.METRIC_VOICE_CLIENT_RECONNECTIONS)
    complaints = q.total(" or ".join(q.rate(q.series(counter), "5m") for counter in counters), q.SERVICE)
    yield Alert(
        "ClientErrors",
        _above(complaints, _limit(objectives, "ClientErrors")),
        "5m",
        "warning",
        "Clients report errors or reconnect often",
        "Errors and reconnections: {{ $value | humanize }} a second",
        "client-errors",
    )
    answered = q.span(n.SPAN_RESPONSE, n.SPAN_UNANSWERED)
    counted = q.not_(n.VOICE_TURN_NO_REPLY_REASON, *rules.UNCOUNTED_REASONS)
    unanswered, all_turns = (
        q.total(q.rate(q.select(q.CALLS, [matcher, counted]), "5m"), q.SERVICE)
        for matcher in (q.span(n.SPAN_UNANSWERED), answered)
    )
    yield Alert(
        "UnansweredTurns",
        _enough(
            _above(f"{unanswered} / {all_turns}", _limit(objectives, "UnansweredTurns")),
            objectives,
            q.CALLS,
            [answered, counted],
            q.SERVICE,
        ),
        "5m",
        "warning",
        f"More than {_limit(objectives, 'UnansweredTurns'):.0%} of the turns get no answer",
        "Turns in which the user heard nothing: {{ $value | humanizePercentage }}",
        "unanswered-turns",
        {"slo": "e2e"},
    )


def _gone(record: str, by: tuple[str, ...]) -> str:
    """Who had a heartbeat in the last quarter of an hour and has none now, while every Collector is up.

    The record is the highest of the processes of a name: one that is killed and replaced is not gone, and its last word
    does not outlive its successor's. The last word of a process that ends on purpose is 0: a scale-down is no outage.
    With one Collector of two away, half of the heartbeats are silent; after an outage they need a moment to come back.
    """
    return (
        f"(last_over_time({record}[15m]) > 0\n"
        f"  unless on ({', '.join(by)}) {record})\n"
        f"and on () (min(min_over_time(up{{{COLLECTOR_JOBS}}}[3m])) == 1)"
    )


def _absence() -> Iterable[Alert]:
    scraped = f'up{{job="{WORKERS_JOB}"}} == 0'
    yield Alert(
        "WorkerUnavailable",
        f"({_gone(rules.WORKER_UP, (*q.SERVICE, _WORKER))})\nor on ({q.JOB}, {q.INSTANCE}) ({scraped})",
        "1m",
        "critical",
        "TTS Worker down",
        f"Worker {{{{ or $labels.{_WORKER} $labels.instance }}}} sends no heartbeat any more",
        "worker-unavailable",
        {"component": "worker", **ABSENCE},
    )
    yield Alert(
        "ServiceDown",
        _gone(rules.SERVICE_UP, q.SERVICE),
        "2m",
        "critical",
        "A service is down",
        "No process of {{ $labels.job }} sends a heartbeat any more",
        "service-down",
        ABSENCE,
    )


def _resources(objectives: Objectives) -> Iterable[Alert]:
    usage, limit = q.series(n.METRIC_HW_GPU_MEMORY_USAGE), q.series(n.METRIC_HW_GPU_MEMORY_LIMIT)
    yield Alert(
        "GPUMemoryExhaustion",
        _above(f"{usage} / {limit}", _limit(objectives, "GPUMemoryExhaustion")),
        "2m",
        "critical",
        f"GPU memory usage > {_limit(objectives, 'GPUMemoryExhaustion'):.0%}",
        f"Worker {{{{ $labels.{_WORKER} }}}} GPU {{{{ $labels.{q.label(n.HW_ID)} }}}}: "
        "{{ $value | humanizePercentage }} used",
        "gpu-memory-exhaustion",
        {"component": "worker"},
    )
    yield Alert(
        "HighCpu",
        _above(q.total(q.rate(q.series(n.METRIC_PROCESS_CPU_TIME), "5m"), _PER_PROCESS), _limit(objectives, "HighCpu")),
        "5m",
        "warning",
        "A process has used up its interpreter",
        "{{ $labels.instance }} of {{ $labels.job }} uses {{ $value | humanize }} cores; one interpreter cannot use "
        "more than one",
        "high-cpu",
    )
    delay = q.series(n.METRIC_VOICE_EVENT_LOOP_DELAY)
    yield Alert(
        "EventLoopBlocked",
        _slow("EventLoopBlocked", objectives, delay, (), _PER_PROCESS),
        "5m",
        "warning",
        "Something blocks an event loop",
        "Timers of {{ $labels.instance }} run {{ $value | humanizeDuration }} late (p95)",
        "event-loop-blocked",
        LATENCY,
    )
    yield Alert(
        "HighMemory",
        _above(f"{q.series(n.METRIC_PROCESS_MEMORY_USAGE)} / 1024 / 1024 / 1024", _limit(objectives, "HighMemory")),
        "5m",
        "warning",
        "A process uses much memory",
        "{{ $labels.instance }} of {{ $labels.job }} has {{ $value | humanize }} GiB resident",
        "high-memory",
    )


# The pipeline


def collected(metric: str, matchers: Iterable[str] = ()) -> str:
    """Return a selector of one of the Collector's own counters, with or without `_total`.

    Which of the two it writes depends on how its own metrics are read.
    """
    return q.select("", [f'__name__=~"{metric}(_total)?"', *matchers])


SIGNALS = ("spans", "metric_points", "log_records")
RECEIVER_REFUSED = "otelcol_receiver_refused"
RECEIVER_FAILED = "otelcol_receiver_failed"
EXPORTER_FAILED = "otelcol_exporter_send_failed"
EXPORTER_NOT_QUEUED = "otelcol_exporter_enqueue_failed"
DROPPED_TOO_EARLY = "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early"
ACCEPTED_SPANS = "otelcol_receiver_accepted_spans"
QUEUE_SIZE = "otelcol_exporter_queue_size"
QUEUE_CAPACITY = "otelcol_exporter_queue_capacity"
OVERFLOW = 'otel_metric_overflow="true"'


def pipeline(objectives: Objectives) -> Group:
    """Return the alerts about the telemetry itself: what is silent because it is broken must not look like health."""
    by_exporter = (q.JOB, q.INSTANCE, "exporter")

    def lost(name: str, counter: str, by: tuple[str, ...], severity: str, summary: str, page: str) -> Iterable[Alert]:
        matchers = (NOT_THE_VIEWER,) if by == by_exporter else ()
        # One rule for each signal: the counters of two signals differ in nothing but their names.
        for signal in SIGNALS:
            yield Alert(
                name,
                f"{q.total(q.increase(collected(f'{counter}_{signal}', matchers), '5m'), by)} > 0",
                "1m",
                severity,
                summary,
                f"{{{{ $labels.{by[-1]} }}}} of {{{{ $labels.instance }}}}: {{{{ $value | humanize }}}} "
                f"{signal.replace('_', ' ')} in 5 minutes",
                page,
                {"signal": signal, "counter": counter},
            )

    return Group(
        "voicespan-pipeline",
        (
            Alert(
                "TelemetryPipelineDown",
                f'absent(up{{job="{COLLECTOR_JOB}"}} == 1)',
                "30s",
                "critical",
                "The Collector is down",
                "No Collector answers; the services keep what they can and drop the rest",
                "telemetry-pipeline-down",
            ),
            Alert(
                "CollectorDown",
                f"up{{{COLLECTOR_JOBS}}} == 0",
                "1m",
                "warning",
                "A Collector does not answer",
                "Prometheus cannot reach {{ $labels.instance }} ({{ $labels.job }}); alerts about missing heartbeats "
                "wait until it can",
                "telemetry-pipeline-down",
            ),
            *(
                alert
                for counter in (RECEIVER_REFUSED, RECEIVER_FAILED)
                for alert in lost(
                    "TelemetryRefused",
                    counter,
                    (q.JOB, q.INSTANCE, "receiver"),
                    "warning",
                    "The Collector refuses telemetry",
                    "telemetry-refused",
                )
            ),
            *lost(
                "TelemetrySendFailed",
                EXPORTER_FAILED,
                by_exporter,
                "warning",
                "The Collector gives up on telemetry that it could not send",
                "telemetry-send-failed",
            ),
            *lost(
                "CollectorQueueFull",
                EXPORTER_NOT_QUEUED,
                by_exporter,
                "critical",
                "The Collector's queue is full, and telemetry is lost",
                "collector-queue",
            ),
            Alert(
                "CollectorQueueFilling",
                _above(
                    f"{q.select(QUEUE_SIZE, [NOT_THE_VIEWER])} / {QUEUE_CAPACITY}",
                    _limit(objectives, "CollectorQueueFilling"),
                ),
                "5m",
                "warning",
                "The Collector's queue fills",
                "The queue of {{ $labels.exporter }} is {{ $value | humanizePercentage }} full: what it sends to is "
                "down or slow",
                "collector-queue",
            ),
            Alert(
                "TracesDroppedTooEarly",
                f"{q.total(q.increase(collected(DROPPED_TOO_EARLY), '5m'), (q.JOB, q.INSTANCE))} > 0",
                "5m",
                "warning",
                "Turns are dropped before they are decided on",
                "{{ $labels.instance }} dropped {{ $value | humanize }} turns in 5 minutes: it cannot hold as many as "
                "are open",
                "traces-dropped-too-early",
            ),
            Alert(
                "MetricsOverflow",
                f"{q.total(q.select(q.CALLS, [OVERFLOW]), q.SERVICE)} > 0",
                "5m",
                "warning",
                "Span-derived metrics have too many labels",
                "Turns of {{ $labels.job }} are counted in the overflow series, where no label tells them apart",
                "metrics-overflow",
            ),
            Alert(
                "SpanMetricsMissing",
                f"sum({q.increase(collected(ACCEPTED_SPANS), '10m')}) > 0\nunless sum({q.increase(q.CALLS, '10m')}) "
                "> 0",
                "10m",
                "warning",
                "Spans arrive, but no metrics are made of them",
                "The Collector took {{ $value | humanize }} spans in 10 minutes; dashboards and alerts see none",
                "span-metrics-missing",
                ABSENCE,
            ),
            Alert(
                "ServiceDropsSpans",
                q.total(
                    q.increase(
                        q.select(
                            q.series(n.METRIC_OTEL_SDK_PROCESSOR_SPAN_PROCESSED), [q.is_(n.ERROR_TYPE, "queue_full")]
                        ),
                        "5m",
                    ),
                    q.SERVICE,
                )
                + " > 0",
                "5m",
                "warning",
                "A service drops spans because its queue is full",
                "{{ $labels.job }} dropped {{ $value | humanize }} spans in 5 minutes",
                "service-drops-spans",
            ),
            Alert(
                "RulesFail",
                "sum by (rule_group) (increase(prometheus_rule_evaluation_failures_total[5m])) > 0",
                "5m",
                "warning",
                "Prometheus cannot evaluate some rules",
                "{{ $labels.rule_group }} failed {{ $value | humanize }} times in 5 minutes: its alerts are blind",
                "rules-fail",
            ),
            Alert(
                "Watchdog",
                "vector(1)",
                "0s",
                "none",
                "Alerting works",
                "Always fires: whoever stops hearing it knows that alerts no longer arrive",
                "watchdog",
            ),
        ),
    )
