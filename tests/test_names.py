"""The one table of names: it is free of contradictions, follows its own rules, and docs/names.md repeats it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from voicespan import names

DOTTED = re.compile(r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$")
UNITS = {
    "s",
    "ms",
    "us",
    "ns",
    "seconds",
    "milliseconds",
    "bytes",
    "mb",
    "kb",
    "percent",
    "ratio",
    "total",
    "celsius",
    "watts",
    "hz",
}
UNIT_SYMBOLS = re.compile(r"^(s|By|1|Cel|W|\{[a-z]+\}(/s)?)$")

ROWS: list[names.Span | names.Event | names.Attribute | names.Metric] = [
    *names.SPANS,
    *names.EVENTS,
    *names.ATTRIBUTES,
    *names.METRICS,
]
CARRIERS: list[names.Span | names.Event | names.Metric] = [*names.SPANS, *names.EVENTS, *names.METRICS]

# The labels that dashboards and rules use; without voice.turn.no_reply.reason the SLO could not leave out no_speech.
DIMENSIONS = {
    "service.version",
    "deployment.environment.name",
    "voice.worker.id",
    "voice.component",
    "voice.transport",
    "voice.turn.initiator",
    "voice.turn.input",
    "voice.turn.outcome",
    "voice.turn.no_reply.reason",
    "voice.turn.bottleneck",
    "voice.measurement.point",
    "voice.barge_in.phase",
    "voice.critical_path",
    "gen_ai.request.model",
    "gen_ai.tool.name",
    "voice.tts.voice.name",
    "voice.language",
    "voice.text.word_count.range",
    "voice.text.character_count.range",
    "error.type",
    "http.route",
    "http.request.method",
    "http.response.status_code",
    "rpc.method",
    "db.operation.name",
}
NEVER_LABELS = {"session.id", "client.address", "gen_ai.conversation.id", "service.instance.id", "gen_ai.tool.call.id"}
MILESTONES = {
    "vad.endpoint",
    "asr.finalize",
    "llm.ttft",
    "llm.first_sentence",
    "tts.first_audio",
    "playback.start",
    "playback.gap",
    "realtime.first_audio",
}
STAGES = {"vad", "asr", "llm", "execute_tool {gen_ai.tool.name}", "tts", "playback", "realtime"}

PROMETHEUS = {
    "voice.session.started": "voice_session_started_total",
    "voice.session.ended": "voice_session_ended_total",
    "voice.session.active": "voice_session_active",
    "voice.session.errors": "voice_session_errors_total",
    "voice.session.setup.failures": "voice_session_setup_failures_total",
    "voice.session.latency_target": "voice_session_latency_target_total",
    "voice.messages": "voice_messages_total",
    "voice.message.process.duration": "voice_message_process_duration_seconds",
    "voice.connection.active": "voice_connection_active",
    "voice.vad.events": "voice_vad_events_total",
    "voice.vad.detection.duration": "voice_vad_detection_duration_seconds",
    "voice.tts.real_time_factor": "voice_tts_real_time_factor",
    "voice.audio.frames": "voice_audio_frames_total",
    "voice.audio.frame.jitter": "voice_audio_frame_jitter_seconds",
    "voice.audio.frame.drops": "voice_audio_frame_drops_total",
    "voice.audio.io": "voice_audio_io_bytes_total",
    "voice.audio.mos": "voice_audio_mos",
    "voice.audio.packet.loss": "voice_audio_packet_loss",
    "voice.model.load.duration": "voice_model_load_duration_seconds",
    "voice.model.warmup.duration": "voice_model_warmup_duration_seconds",
    "voice.model.unloads": "voice_model_unloads_total",
    "voice.control.commands": "voice_control_commands_total",
    "voice.control.duration": "voice_control_duration_seconds",
    "voice.rate_limit.rejections": "voice_rate_limit_rejections_total",
    "voice.task.active": "voice_task_active",
    "voice.llm.token.rate": "voice_llm_token_rate_per_second",
    "voice.intents": "voice_intents_total",
    "voice.client.errors": "voice_client_errors_total",
    "voice.client.reconnections": "voice_client_reconnections_total",
    "voice.client.mark.duration": "voice_client_mark_duration_seconds",
    "gen_ai.client.token.usage": "gen_ai_client_token_usage",
    "gen_ai.client.operation.duration": "gen_ai_client_operation_duration_seconds",
    "gen_ai.client.operation.time_to_first_chunk": "gen_ai_client_operation_time_to_first_chunk_seconds",
    "db.client.operation.duration": "db_client_operation_duration_seconds",
    "http.server.request.duration": "http_server_request_duration_seconds",
    "hw.gpu.memory.usage": "hw_gpu_memory_usage_bytes",
    "hw.gpu.memory.limit": "hw_gpu_memory_limit_bytes",
    "hw.gpu.utilization": "hw_gpu_utilization_ratio",
    "hw.temperature": "hw_temperature_celsius",
    "hw.power": "hw_power_watts",
    "process.cpu.time": "process_cpu_time_seconds_total",
    "process.cpu.utilization": "process_cpu_utilization_ratio",
    "system.cpu.utilization": "system_cpu_utilization_ratio",
    "process.memory.usage": "process_memory_usage_bytes",
    "system.memory.usage": "system_memory_usage_bytes",
    "db.client.connection.count": "db_client_connection_count",
    "voice.inference.queue.length": "voice_inference_queue_length",
    "voice.model.resident": "voice_model_resident",
    "voice.tts.voice.active": "voice_tts_voice_active",
    "voice.task.peak": "voice_task_peak",
    "voice.service.up": "voice_service_up",
    "voice.event_loop.delay": "voice_event_loop_delay_seconds",
}

# The boundaries that the catalog lists (F.4), in seconds.
CATALOG_BOUNDARIES_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1, 1.5, 2, 2.5, 3, 3.5, 5, 10)


@pytest.mark.covers("D-S07")
def test_docs_repeat_the_module() -> None:
    """docs/names.md is exactly what `python -m voicespan.names` prints."""
    docs = Path(__file__).parent.parent / "docs" / "names.md"
    assert docs.read_text(encoding="utf-8") == names.document()


@pytest.mark.parametrize("kind", ["SPANS", "EVENTS", "ATTRIBUTES", "METRICS"])
def test_a_name_stands_once(kind: str) -> None:
    """No table has a name twice."""
    listed = [entry.name for entry in getattr(names, kind)]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(("prefix", "kind"), [("SPAN_", "SPANS"), ("EVENT_", "EVENTS"), ("METRIC_", "METRICS")])
def test_every_constant_is_in_its_table(prefix: str, kind: str) -> None:
    """A span, event or metric constant has its row, and the other way round (patterns of foreign spans aside)."""
    constants = {value for key, value in vars(names).items() if key.startswith(prefix)}
    rows = {entry.name.removesuffix(" {gen_ai.tool.name}") for entry in getattr(names, kind)}
    assert constants == {row for row in rows if not row.startswith("{")}


def test_an_attribute_constant_is_the_dotted_name_in_upper_case() -> None:
    """Whoever knows an attribute knows its constant."""
    for attribute in names.ATTRIBUTES:
        assert getattr(names, attribute.name.upper().replace(".", "_")) == attribute.name


@pytest.mark.covers("F-R05")
def test_names_are_lower_case_and_dotted() -> None:
    """Every name that is ours to choose is lower case and dotted; a gRPC span has the name of its method."""
    chosen = [
        row.name.removesuffix(" {gen_ai.tool.name}")
        for row in ROWS
        if not row.name.startswith("{") and row.name != names.SPAN_SYNTHESIZE
    ]
    assert [name for name in chosen if not DOTTED.match(name)] == []


@pytest.mark.covers("F-R05")
def test_own_attributes_and_metrics_have_the_own_namespace() -> None:
    """A name is OpenTelemetry's or stands under `voice.` (`voicespan.` for what is about the distribution itself)."""
    standard = (
        "service.",
        "telemetry.",
        "deployment.",
        "session.",
        "client.",
        "error.",
        "exception.",
        "gen_ai.",
        "http.",
        "rpc.",
        "server.",
        "db.",
        "network.",
        "hw.",
        "process.",
        "system.",
        "otel.",
    )
    for name in [attribute.name for attribute in names.ATTRIBUTES] + [metric.name for metric in names.METRICS]:
        assert name.startswith((*standard, "voice.", "voicespan.")), name


@pytest.mark.covers("F-R05", "F-R06", "B-Q01")
def test_no_unit_stands_in_the_name_of_a_metric_or_span() -> None:
    """Units are a field; a metric or span name has none, no `total` and no `_ms`."""
    for name in [metric.name for metric in names.METRICS] + [span.name for span in names.SPANS]:
        assert not set(re.split(r"[._ {}]+", name)) & UNITS, name


@pytest.mark.covers("F-R05", "F-R06")
def test_an_attribute_name_ends_in_s_only_when_it_is_in_seconds() -> None:
    """`_s` is the only unit in attribute names, and it says the truth."""
    for attribute in names.ATTRIBUTES:
        words = re.split(r"[._]", attribute.name)
        assert not set(words[:-1]) & UNITS, attribute.name
        if words[-1] in UNITS:
            assert (words[-1], attribute.unit, attribute.type) == ("s", "s", "double"), attribute.name


@pytest.mark.covers("F-R06", "B-Q01")
def test_units_are_base_units() -> None:
    """Metrics are in s, By, 1, Cel, W or {things}: no milliseconds, megabytes or percents."""
    for metric in names.METRICS:
        assert UNIT_SYMBOLS.match(metric.unit), metric.name


@pytest.mark.covers("F-R07")
def test_every_threshold_is_a_bucket_boundary() -> None:
    """A limit can be asked of the histogram exactly, with no interpolation."""
    direct = {metric.name: metric.boundaries for metric in names.METRICS}
    for threshold in names.THRESHOLDS:
        assert threshold.value in direct.get(threshold.on, names.BOUNDARIES_S), threshold


@pytest.mark.covers("F-R07")
def test_the_original_buckets_are_kept() -> None:
    """The span-derived histogram has every boundary that the original dashboards had, in order."""
    assert set(CATALOG_BOUNDARIES_S) <= set(names.BOUNDARIES_S)
    for boundaries in (names.BOUNDARIES_S, *(metric.boundaries for metric in names.METRICS)):
        assert list(boundaries) == sorted(set(boundaries))


def test_only_histograms_have_boundaries() -> None:
    """Every histogram states its buckets (the SDK's defaults are for milliseconds), nothing else does."""
    for metric in names.METRICS:
        assert bool(metric.boundaries) == (metric.instrument == "histogram"), metric.name


def test_prometheus_names() -> None:
    """The names on dashboards and in rules are the ones that the Collector makes of ours."""
    derived = {metric.name: metric.prometheus for metric in names.METRICS if metric.name in PROMETHEUS}
    assert derived == PROMETHEUS


def test_what_is_carried_is_defined() -> None:
    """Spans, events and metrics carry only attributes that the table explains, spans only events that it explains."""
    attributes = {attribute.name for attribute in names.ATTRIBUTES}
    events = {event.name for event in names.EVENTS}
    for entry in CARRIERS:
        assert set(entry.attributes) <= attributes, entry.name
        assert len(entry.attributes) == len(set(entry.attributes)), entry.name
    for span in names.SPANS:
        assert set(span.events) <= events, span.name


def test_what_is_defined_is_carried() -> None:
    """No attribute and no event is only on paper."""
    carried = {name for entry in CARRIERS for name in entry.attributes}
    aside = {attribute.name for attribute in names.ATTRIBUTES if attribute.group == "Resource"}
    aside |= {names.VOICE_LINK_TYPE}
    assert {attribute.name for attribute in names.ATTRIBUTES} - carried == aside
    of_spans = {name for span in names.SPANS for name in span.events}
    assert {event.name for event in names.EVENTS} - of_spans == {names.EVENT_EVALUATION_RESULT}  # a log record


def test_parents_exist() -> None:
    """The parent of every span is a span of the table, and the stages are children of the root."""
    listed = {span.name: span for span in names.SPANS}
    assert {span.parent for span in names.SPANS} - {None} <= set(listed)
    assert {name for name in STAGES if listed[name].parent != names.SPAN_TURN} == set()


@pytest.mark.covers("F-R08")
def test_dimensions() -> None:
    """The labels of span-derived metrics are the agreed ones, and some span or the resource carries each."""
    assert set(names.DIMENSIONS) == DIMENSIONS
    carried = {name for span in names.SPANS for name in span.attributes}
    assert DIMENSIONS - carried == {"service.version", "deployment.environment.name"}


@pytest.mark.covers("F-R08", "C-Q03")
def test_identities_are_never_labels() -> None:
    """Session, client, process and call ids are no dimension and on no metric."""
    assert not NEVER_LABELS & set(names.DIMENSIONS)
    for metric in names.METRICS:
        assert not NEVER_LABELS & set(metric.attributes), metric.name


def test_labels_have_few_values() -> None:
    """No number that can be anything is a label."""
    for attribute in names.ATTRIBUTES:
        if attribute.dimension:
            assert attribute.type in {"string", "boolean"} or attribute.name == "http.response.status_code"


def test_the_component_is_on_stages_only() -> None:
    """Error ratios divide by the spans of a component, so milestones must not have it."""
    with_component = {span.name for span in names.SPANS if names.VOICE_COMPONENT in span.attributes}
    assert with_component == STAGES


def test_text_ranges_are_on_synthesis_only() -> None:
    """Text ranges multiply the series of one span, not of all."""
    ranges = {names.VOICE_TEXT_WORD_COUNT_RANGE, names.VOICE_TEXT_CHARACTER_COUNT_RANGE}
    assert {span.name for span in names.SPANS if ranges & set(span.attributes)} == {names.SPAN_TTS}


def test_stages_and_milestones_can_be_on_the_critical_path() -> None:
    """A span that can have a share of the silence says so."""
    spans = {span.name for span in names.SPANS if names.VOICE_CRITICAL_PATH in span.attributes}
    assert spans == (STAGES | MILESTONES) - {names.SPAN_PLAYBACK_GAP}


def test_the_silence_carries_every_share() -> None:
    """Answered or not, the silence names each part, and what splits it on a dashboard."""
    listed = {span.name: set(span.attributes) for span in names.SPANS}
    shares = {f"voice.response.share.{stage}" for stage in names.SHARE_STAGES}
    copies = {
        "voice.transport",
        "voice.measurement.point",
        "voice.turn.initiator",
        "voice.turn.outcome",
        "voice.turn.bottleneck",
        "gen_ai.request.model",
        "voice.tts.voice.name",
        "voice.language",
        "voice.worker.id",
    }
    for span in (names.SPAN_RESPONSE, names.SPAN_UNANSWERED):
        assert shares | copies <= listed[span]
    assert set(names.SHARE_STAGES) == set(
        next(a for a in names.ATTRIBUTES if a.name == names.VOICE_TURN_BOTTLENECK).values
    )


def test_the_tables_cannot_be_changed() -> None:
    """The tables are tuples of frozen rows: shared by every part of the distribution."""
    for table in ("SPANS", "EVENTS", "ATTRIBUTES", "METRICS", "THRESHOLDS"):
        rows = getattr(names, table)
        assert isinstance(rows, tuple)
        with pytest.raises(AttributeError):
            setattr(rows[0], rows[0]._fields[0], "other")
