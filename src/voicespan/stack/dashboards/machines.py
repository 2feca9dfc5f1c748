"""What carries the calls: machines, operations, and the telemetry itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.stack import alerts, rules, scrape
from voicespan.stack import promql as q
from voicespan.stack.dashboards import common as c
from voicespan.stack.dashboards import panels as p
from voicespan.stack.dashboards.board import INSTANCE, Board, Filter

if TYPE_CHECKING:
    from voicespan.stack.dashboards.panels import Panel, Target
    from voicespan.stack.objectives import Objectives

_GPU = (c.WORKER, q.label(n.HW_ID))
_COLLECTOR = f'{q.JOB}="{alerts.COLLECTOR_JOB}"'
_REASON = q.label(n.VOICE_TURN_NO_REPLY_REASON)


def resources(objectives: Objectives) -> Board:
    """Return GPUs, queues, models and Redis."""
    of = Filter(INSTANCE)
    return Board(
        "voicespan-resources",
        "Resource Utilization",
        "GPUs, queues, resident models, Redis, processes.",
        of,
        (
            ("GPU", _gpus(of)),
            ("Models", _models(of)),
            ("Redis", _redis(of, objectives)),
            ("Processes", _processes(of, objectives)),
        ),
    )


def _gpus(of: Filter) -> tuple[Panel, ...]:
    used, whole = (
        q.total(of.metric(metric), _GPU) for metric in (n.METRIC_HW_GPU_MEMORY_USAGE, n.METRIC_HW_GPU_MEMORY_LIMIT)
    )
    return (
        p.lines(
            "GPU Memory Usage",
            "Share of each device's memory that is in use, stacked.",
            f"{used} / {whole}",
            "percentunit",
            by=_GPU,
            stacked=True,
            width=12,
        ),
        c.level(
            of,
            n.METRIC_HW_GPU_UTILIZATION,
            "GPU Utilization",
            "Share of time that each device was busy.",
            "percentunit",
            by=_GPU,
            most=1,
            width=12,
        ),
        c.level(of, n.METRIC_HW_TEMPERATURE, "Temperature", "Of each device.", "celsius", by=_GPU, width=6),
        c.level(of, n.METRIC_HW_POWER, "Power", "What each device draws.", "watt", by=_GPU, width=6),
        c.level(
            of,
            n.METRIC_VOICE_INFERENCE_QUEUE_LENGTH,
            "Inference Queue Depth",
            "Requests that wait for a worker.",
            "none",
            width=6,
        ),
        c.level(
            of, n.METRIC_VOICE_MODEL_RESIDENT, "Model Manager Resident Count", "Models in memory.", "none", width=6
        ),
    )


def _models(of: Filter) -> tuple[Panel, ...]:
    return (
        c.latency(
            of, n.SPAN_MODEL_LOAD, "Loading (p95)", "How long models take to load.", by=(c.MODEL,), shares=(0.95,)
        ),
        c.latency(
            of,
            n.SPAN_MODEL_WARMUP,
            "Warm-up (p95)",
            "How long models take to warm up.",
            by=(c.MODEL,),
            shares=(0.95,),
        ),
        c.count(
            of,
            n.METRIC_VOICE_MODEL_UNLOADS,
            "Unloads",
            "Models that were taken out of memory, by the reason.",
            by=(c.MODEL, q.label(n.VOICE_MODEL_UNLOAD_REASON)),
        ),
    )


def _redis(of: Filter, objectives: Objectives) -> tuple[Panel, ...]:
    return (
        c.recorded(
            of,
            n.METRIC_DB_CLIENT_OPERATION_DURATION,
            "Redis Command Latency (p95)",
            "By command.",
            q.is_(n.DB_SYSTEM_NAME, "redis"),
            by=(q.label(n.DB_OPERATION_NAME),),
        ),
        p.lines(
            "Failed commands",
            "Share of the commands that fail.",
            q.select(rules.REDIS_ERRORS, of.any_span()),
            "percentunit",
            by=(q.JOB,),
            line=c.limit(objectives, "RedisConnectionErrors"),
        ),
        c.level(
            of,
            n.METRIC_DB_CLIENT_CONNECTION_COUNT,
            "Connections",
            "Of the pools, by their state.",
            "none",
            by=(q.label(n.DB_CLIENT_CONNECTION_POOL_NAME), q.label(n.DB_CLIENT_CONNECTION_STATE)),
        ),
    )


def _processes(of: Filter, objectives: Objectives) -> tuple[Panel, ...]:
    cpu, peak = n.METRIC_PROCESS_CPU_TIME, n.METRIC_VOICE_TASK_PEAK
    return (
        p.lines(
            "CPU",
            "Cores that each process uses; one interpreter cannot use more than one.",
            c.per_second(q.series(cpu), of.direct(cpu), p.PROCESS),
            "none",
            by=p.PROCESS,
            line=c.limit(objectives, "HighCpu"),
        ),
        c.level(
            of,
            n.METRIC_PROCESS_MEMORY_USAGE,
            "Memory",
            "Resident memory of each process.",
            "bytes",
            line=c.limit(objectives, "HighMemory") * 1024**3,
        ),
        c.recorded(
            of,
            n.METRIC_VOICE_EVENT_LOOP_DELAY,
            "Event loop",
            "How late timers run.",
            by=p.PROCESS,
            line=c.limit(objectives, "EventLoopBlocked"),
        ),
        c.level(of, n.METRIC_VOICE_TASK_ACTIVE, "Work under way", "By component.", "none", by=(c.COMPONENT,), width=12),
        p.lines(
            "Most work at once",
            "The highest number of each component within an hour.",
            f"max by ({c.COMPONENT}) ({q.select(rules.TASK_PEAK, of.direct(peak))})",
            "none",
            by=(c.COMPONENT,),
            width=12,
        ),
    )


def operations(objectives: Objectives) -> Board:
    """Return what an operator on duty looks at."""
    of = Filter(INSTANCE)
    firing = f'ALERTS{{alertstate="firing", alertname!="Watchdog", {q.JOB}=~"$job|{alerts.COLLECTOR_JOB}|"}}'
    now = (
        p.table(
            "Active alerts",
            "Each has a page in the runbooks.",
            [("Alerts", q.total(firing, ("alertname", "severity", *q.SERVICE)), "none")],
            names={"alertname": "Alert", "severity": "Severity", q.JOB: "Service", q.ENVIRONMENT: "Environment"},
        ),
        p.stat(
            "Services up",
            "Processes that send a heartbeat, by service.",
            q.total(of.metric(n.METRIC_VOICE_SERVICE_UP), (q.JOB,)),
            "none",
            legend=p.legend(q.JOB),
            limits=c.from_(1),
            width=6,
            height=8,
        ),
        p.stat(
            "Collectors up",
            "Collectors that Prometheus reaches.",
            f"sum({q.select('up', [_COLLECTOR])})",
            "none",
            limits=c.from_(1),
            width=6,
            height=8,
        ),
    )
    errors = (
        p.lines(
            "Errors by component",
            "Share of the calls of each stage that fail.",
            q.select(rules.COMPONENT_ERRORS, of.any_span()),
            "percentunit",
            by=(q.JOB, c.COMPONENT),
            line=c.limit(objectives, "ComponentErrorRateWarning"),
        ),
        p.lines(
            "Errors by class",
            "Failed spans per second; the ten most frequent.",
            c.or_none(f"topk(10, {c.per_second(q.CALLS, of.any_span(q.FAILED), (q.SPAN_NAME, c.ERROR))})", q.SPAN_NAME),
            "cps",
            by=(q.SPAN_NAME, c.ERROR),
        ),
        c.failures(
            "Turns without an answer",
            "Per second, by what came instead.",
            of.span(n.SPAN_UNANSWERED),
            by=(c.OUTCOME, _REASON),
            stacked=True,
        ),
    )
    load = (
        c.level(of, n.METRIC_PROCESS_CPU_UTILIZATION, "CPU", c.CPU, "percentunit"),
        c.level(of, n.METRIC_PROCESS_MEMORY_USAGE, "Memory", "Resident memory.", "bytes"),
        c.level(
            of,
            n.METRIC_HW_GPU_UTILIZATION,
            "GPU",
            "Share of time that each device was busy.",
            "percentunit",
            by=(*p.PROCESS, q.label(n.HW_ID)),
        ),
    )
    failed = p.trace_table(
        "Turns that failed",
        "A click opens the trace.",
        "{ " + of.trace(n.SPAN_TURN, "span:status = error") + " }",
    )
    return Board(
        "voicespan-operations",
        "Operations Dashboard",
        "Alerts, errors, resources, and the health of the telemetry.",
        of,
        (
            ("Now", now),
            ("Errors", errors),
            ("Resources", load),
            ("Telemetry", (*_health(objectives), _cardinality(width=24))),
            ("Turns that failed", (failed,)),
        ),
    )


def telemetry(objectives: Objectives) -> Board:
    """Return the health of the pipeline from the service to the stores."""
    of = Filter()
    services = (
        c.count(
            of,
            n.METRIC_OTEL_SDK_PROCESSOR_SPAN_PROCESSED,
            "Spans of services",
            "What the exporters of services took; with a class where it was dropped.",
            by=(q.JOB, c.ERROR),
            width=12,
        ),
        c.calls(
            "Turns in the metrics",
            "Turns per second that the Collector has counted.",
            of.span(n.SPAN_TURN),
            by=(q.JOB,),
            width=12,
        ),
    )
    return Board(
        "voicespan-telemetry",
        "Telemetry Pipeline",
        "From the services through the Collector to the stores: what arrives, what waits, what is lost.",
        of,
        (
            ("Services", services),
            ("Collector", _health(objectives)),
            ("Load", _load()),
            ("Sampling", _sampling()),
        ),
    )


def _own_rate(counter: str, *by: str) -> str:
    """Return the rate of one of the Collector's own counters."""
    return q.total(q.rate(alerts.collected(counter, [_COLLECTOR]), p.RATE), by)


def _health(objectives: Objectives) -> tuple[Panel, ...]:
    def counted(counter: str, by: str, *, never: bool = False) -> list[Target]:
        return [
            p.query(c.or_none(rate, by) if never else rate, f"{signal.replace('_', ' ')} {p.legend(by)}")
            for signal in alerts.SIGNALS
            for rate in [_own_rate(f"{counter}_{signal}", by)]
        ]

    size, capacity = (q.select(metric, [_COLLECTOR]) for metric in (alerts.QUEUE_SIZE, alerts.QUEUE_CAPACITY))
    return (
        p.timeseries(
            "Taken", "What the Collector takes per second.", counted("otelcol_receiver_accepted", "receiver"), "cps"
        ),
        p.timeseries(
            "Refused", "What the Collector refuses per second.", counted(alerts.RECEIVER_REFUSED, "receiver"), "cps"
        ),
        p.timeseries(
            "Sent", "What the Collector hands on per second.", counted("otelcol_exporter_sent", "exporter"), "cps"
        ),
        p.lines(
            "Queue",
            "How full the queue in front of each store is.",
            f"{size} / {capacity}",
            "percentunit",
            by=("exporter", "data_type"),
            line=c.limit(objectives, "CollectorQueueFilling"),
            most=1,
        ),
        p.timeseries(
            "Failed",
            "What could not be sent, per second.",
            counted(alerts.EXPORTER_FAILED, "exporter", never=True),
            "cps",
        ),
        p.timeseries(
            "Not queued",
            "What was lost because a queue was full, per second.",
            counted(alerts.EXPORTER_NOT_QUEUED, "exporter", never=True),
            "cps",
        ),
    )


def _cardinality(width: int = 8) -> Panel:
    return p.lines(
        "Series",
        "Samples of one scrape, which is the number of series.",
        q.select(
            "scrape_samples_post_metric_relabeling",
            [f'{q.JOB}=~"{scrape.SPAN_METRICS_JOB}|{alerts.COLLECTOR_JOB}"'],
        ),
        "none",
        by=(q.JOB,),
        width=width,
    )


def _load() -> tuple[Panel, ...]:
    group = "rule_group"
    failing = q.total(q.rate("prometheus_rule_evaluation_failures_total", p.RATE), (group,))
    return (
        p.lines(
            "Memory",
            "Resident memory of each Collector.",
            q.select("otelcol_process_memory_rss", [_COLLECTOR]),
            "bytes",
            by=(q.INSTANCE,),
        ),
        p.lines(
            "CPU",
            "Cores that each Collector uses.",
            _own_rate("otelcol_process_cpu_seconds", q.INSTANCE),
            "none",
            by=(q.INSTANCE,),
        ),
        _cardinality(),
        p.stat(
            "Overflow",
            "Turns that are counted without labels, because there were too many.",
            f"sum({q.select(q.CALLS, [alerts.OVERFLOW])}) or vector(0)",
            "none",
            limits=c.until(1),
            width=8,
            height=8,
        ),
        p.lines(
            "Failing rules",
            "Evaluations that fail, by group.",
            f'label_replace({failing}, "{group}", "$1", "{group}", ".*;(.*)")',
            "cps",
            by=(group,),
        ),
        p.lines(
            "Exemplars",
            "Dots that Prometheus stored per second.",
            f"sum({q.rate('prometheus_tsdb_exemplar_exemplars_appended_total', p.RATE)})",
            "cps",
            name="stored",
        ),
    )


def _sampling() -> tuple[Panel, ...]:
    decisions = "otelcol_processor_tail_sampling_global_count_traces_sampled"
    only = "only with the sampling overlay."
    return (
        p.lines(
            "Decisions",
            f"Turns per second; {only}",
            _own_rate(decisions, "sampled", "decision"),
            "cps",
            by=("decision", "sampled"),
            width=12,
        ),
        p.lines(
            "Dropped too early",
            f"Turns that were dropped before they were decided on; {only}",
            c.or_none(_own_rate(alerts.DROPPED_TOO_EARLY, q.INSTANCE), q.INSTANCE),
            "cps",
            by=(q.INSTANCE,),
            width=12,
        ),
    )
