"""Turns of a service, through the Collector with its default file, to what Prometheus and the store of traces know."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from voicespan import names as n
from voicespan.redaction import redact

from .calls import Calls, Sent, pairs, request
from .stack import Collector, Prometheus, Store, get, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SLOWEST_MS = 3_700
DURATION = "traces_span_metrics_duration_seconds"
CALLS = "traces_span_metrics_calls_total"
STAGES = {"vad", "asr", "llm", "tts", "playback"}
SEEDS = (
    "bob.smith@example.co.uk",
    "+49 (151) 234-56789",
    "555-123-4567",
    "tel:+1-555-123-4567",
    "sip:alice@10.0.0.1:5060;transport=udp",
    "123-45-6789",
    "4111 1111 1111 1111",
    "378282246310005",
    "/voicepacks/bob/v2/ref/a.wav",
    "sk-proj-abcdefghijklmnop1234",
    "Bearer abc.def-123456",
    "api_key=hunter2000",
)
HARMLESS = (
    "llm.ttft", "gpt-4o-2024-05-13", "192.168.100.20", "2026-11-20T15:00:00.123456Z", "1732112345678901234",
    "call-1732112345678", "4bf92f3577b34da6a3ce929d0e0e4736", "550e8400-e29b-41d4-a716-446655440000", "tts-cosy@0",
    "http://127.0.0.1:4318/v1/traces", "1.4.2+20261120", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """The programs, after all that was sent has come through."""

    collector: Collector
    prometheus: Prometheus
    store: Store
    sent: list[Sent]
    replayed: Sent
    leaky: Sent

    @property
    def counted(self) -> list[Sent]:
        return [*self.sent, self.leaky]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Everything is sent between two flushes, the slowest turn last, by three processes of the service."""
    folder = tmp_path_factory.mktemp("chain")
    calls = Calls()
    turns = [calls.plain(150 + number * 1.7) for number in range(450)]
    turns += [each() for each in (calls.interrupted, calls.failed, calls.abandoned) for _ in range(12)]
    turns.append(calls.plain(SLOWEST_MS))
    replayed, leaky = calls.plain(5_000), calls.plain(410)
    seed(leaky)
    with Store() as store:
        collector = Collector(folder / "gw-1", settings={"VOICESPAN_TEMPO_ENDPOINT": store.endpoint})
        with collector, Prometheus(folder / "prometheus", [collector]) as prometheus:
            assert collector.send(request([leaky], **{f"seed{i}": text for i, text in enumerate(SEEDS)})) == 200
            assert collector.send(request([replayed], voicespan__replayed=True)) == 200
            assert collector.send(service_metrics(), "metrics") == 200
            for part in range(0, len(turns), 20):
                assert collector.send(request(turns[part : part + 20])) == 200
            everything = Chain(collector, prometheus, store, turns, replayed, leaky)
            expected = len(everything.counted)
            until(
                lambda: prometheus.value(f'sum({CALLS}{{span_name="voice.turn"}})') == expected,
                "Prometheus has counted every turn",
            )
            until(lambda: prometheus.exemplars(f'{DURATION}_bucket{{span_name="voice.response"}}'), "exemplars")
            until(lambda: not store.lacks([*everything.counted, replayed]), "every turn is stored")
            yield everything


def seed(turn: Sent) -> None:
    """Put what nobody may see into every place of a span that has text."""
    span = turn.spans[-1]
    said = " and ".join(SEEDS)
    span.name = f"GET /users/{SEEDS[0]}"
    span.status.code = Status.STATUS_CODE_ERROR
    span.status.message = f"could not reach {said}"
    span.attributes.extend(pairs({f"seed.{number}": f"the user said {text}" for number, text in enumerate(SEEDS)}))
    span.attributes.extend(pairs({f"seed.list.{number}": ["x", text] for number, text in enumerate(SEEDS)}))
    span.attributes.extend(pairs({"lk.user_transcript": "my secret plan", "gen_ai.input.messages": ["my secret plan"]}))
    span.attributes.extend(pairs({f"harmless.{number}": text for number, text in enumerate(HARMLESS)}))
    span.attributes.extend(pairs({"harmless.list": ["[EMAIL]", *HARMLESS[:1]]}))
    span.attributes.extend(pairs({"gen_ai.usage.completion_tokens": 41, "time": 1_732_112_345_678_901_234}))
    span.events.add(name="exception").attributes.extend(pairs({n.EXCEPTION_MESSAGE: said}))


def service_metrics() -> bytes:
    """What the SDK's metric exporter sends: a gauge of sessions, with a label that says too much."""
    asked, now_ns = ExportMetricsServiceRequest(), time.time_ns()
    resource = asked.resource_metrics.add()
    resource.resource.attributes.extend(
        pairs(
            {
                n.SERVICE_NAME: "tts-worker",
                n.SERVICE_VERSION: "2.0",
                n.SERVICE_INSTANCE_ID: "i-1",
                n.DEPLOYMENT_ENVIRONMENT_NAME: "test",
                n.VOICE_WORKER_ID: "tts-cosy@0",
                "process.pid": 17,
            }
        )
    )
    metrics = resource.scope_metrics.add().metrics
    active = Metric(name=n.METRIC_VOICE_SESSION_ACTIVE, unit="{session}")
    active.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    active.sum.data_points.add(as_int=3, time_unix_nano=now_ns).attributes.extend(pairs({n.VOICE_TRANSPORT: "sip"}))
    errors = Metric(name=n.METRIC_VOICE_SESSION_ERRORS, unit="{error}")
    errors.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    errors.sum.is_monotonic = True
    said_too_much = pairs({n.ERROR_TYPE: f"refused {SEEDS[0]}"})
    errors.sum.data_points.add(as_int=1, time_unix_nano=now_ns).attributes.extend(said_too_much)
    metrics.extend([active, errors])
    return asked.SerializeToString()


def labels(**chosen: str) -> str:
    """A selector."""
    return ",".join(f'{name}="{value}"' for name, value in chosen.items())


@pytest.mark.covers("F-R10")
def test_every_span_is_counted_once(chain: Chain) -> None:
    """Calls and histograms agree with what was sent, for each span name; a replayed batch is not among them."""
    wanted = Counter(span.name for turn in chain.counted for span in turn.spans)
    wanted[redact(f"GET /users/{SEEDS[0]}")] = wanted.pop(f"GET /users/{SEEDS[0]}")
    for metric in (CALLS, f"{DURATION}_count"):
        found = chain.prometheus.query(f"sum by (span_name) ({metric})")
        assert {series["span_name"]: value for series, value in found} == wanted


def test_every_bucket_is_exact(chain: Chain) -> None:
    """For each boundary, the bucket of `voice.response` has as many turns as were that fast."""
    lengths = [turn.duration_s(n.SPAN_RESPONSE) for turn in chain.counted if turn.kind in {"plain", "interrupted"}]
    query = f'sum by (le) ({DURATION}_bucket{{span_name="voice.response"}})'
    found = {float(series["le"]): value for series, value in chain.prometheus.query(query)}
    assert set(found) == {*n.BOUNDARIES_S, float("inf")}
    assert found == {limit: sum(length <= limit for length in lengths) for limit in found}


@pytest.mark.covers("B-S06")
def test_labels_say_what_was_measured_and_not_by_which_process(chain: Chain) -> None:
    """The series of `voice.response` have the dimensions that the span carries, and nothing of a process."""
    found = chain.prometheus.query(f'{DURATION}_count{{span_name="voice.response",voice_turn_outcome="completed"}}')
    (series,) = {tuple(sorted(series.items())) for series, _ in found if series["voice_turn_bottleneck"] == "endpoint"}
    assert dict(series) == {
        "__name__": f"{DURATION}_count",
        "collector_instance_id": "gw-1",
        "deployment_environment_name": "test",
        "gen_ai_request_model": "small-chat",
        "instance": f"127.0.0.1:{chain.collector.metrics}",
        "job": "voice-agent",
        "service_name": "voice-agent",
        "service_version": "1.4.2",
        "span_kind": "SPAN_KIND_INTERNAL",
        "span_name": "voice.response",
        "status_code": "STATUS_CODE_UNSET",
        "voice_language": "en-US",
        "voice_measurement_point": "client",
        "voice_transport": "websocket",
        "voice_tts_voice_name": "sam",
        "voice_turn_bottleneck": "endpoint",
        "voice_turn_initiator": "user",
        "voice_turn_outcome": "completed",
        "voice_worker_id": "tts-cosy@0",
    }


def test_who_gave_up_is_told_from_who_was_not_meant(chain: Chain) -> None:
    """The SLO can leave out reasons: `voice.unanswered` has its reason as a label."""
    query = f'sum by (voice_turn_no_reply_reason) ({CALLS}{{span_name="voice.unanswered"}})'
    found = {series.get("voice_turn_no_reply_reason"): value for series, value in chain.prometheus.query(query)}
    assert found == {"user_left": 12, None: 12}


@pytest.mark.covers("F-SM18", "B-M07")
def test_a_component_is_on_its_stage_only(chain: Chain) -> None:
    """Error ratios divide by the spans of a component, so milestones have none."""
    query = f"sum by (span_name, voice_component) ({CALLS})"
    found = {series["span_name"]: series.get("voice_component") for series, _ in chain.prometheus.query(query)}
    assert {name: component for name, component in found.items() if component} == {name: name for name in STAGES}
    failed = chain.prometheus.value(f"sum({CALLS}{{{labels(voice_component='llm', status_code='STATUS_CODE_ERROR')}}})")
    assert failed == 12


@pytest.mark.covers("F-SM01", "F-SM02", "F-SM07", "F-SM08", "F-SM10", "F-SM11", "F-SM22")
@pytest.mark.covers("C-M05", "B-M04", "B-M02", "B-M03", "D-M03", "C-M18", "C-M19", "D-M04")
@pytest.mark.parametrize(
    ("span", "split_by"),
    [
        (n.SPAN_TTS_FIRST_AUDIO, (n.GEN_AI_REQUEST_MODEL, n.VOICE_TTS_VOICE_NAME)),
        (n.SPAN_BARGE_IN, (n.VOICE_BARGE_IN_PHASE, n.GEN_AI_REQUEST_MODEL)),
        (n.SPAN_LLM_TTFT, (n.GEN_AI_REQUEST_MODEL,)),
        (n.SPAN_LLM, (n.GEN_AI_REQUEST_MODEL,)),
        (n.SPAN_TTS, (n.GEN_AI_REQUEST_MODEL, n.VOICE_WORKER_ID, n.VOICE_TEXT_WORD_COUNT_RANGE)),
        (n.SPAN_PLAYBACK, (n.VOICE_MEASUREMENT_POINT,)),
    ],
)
def test_stages_are_measured_by_what_does_the_work(chain: Chain, span: str, split_by: tuple[str, ...]) -> None:
    """Length and number of a stage's spans are there for each model, voice, worker or phase, in seconds."""
    lengths = [
        (part.end_time_unix_nano - part.start_time_unix_nano) / 1e9
        for turn in chain.counted
        for part in turn.spans
        if part.name == span
    ]
    has = ",".join(f'{name.replace(".", "_")}!=""' for name in split_by)
    assert chain.prometheus.value(f'sum({CALLS}{{span_name="{span}",{has}}})') == len(lengths)
    total_s = chain.prometheus.value(f'sum({DURATION}_sum{{span_name="{span}",{has}}})')
    assert total_s == pytest.approx(sum(lengths))


@pytest.mark.covers("F-R09", "B-S07", "E-X07")
def test_every_dot_opens_its_turn(chain: Chain) -> None:
    """Each exemplar of `voice.response` is a turn that was sent and is stored, and has its duration."""
    found = chain.prometheus.exemplars(f'{DURATION}_bucket{{span_name="voice.response"}}')
    sent = {turn.hex: turn for turn in chain.counted}
    stored = chain.store.traces
    assert len(found) >= 8
    for series, exemplar in found:
        turn = sent[exemplar["labels"]["trace_id"]]
        assert turn.trace_id in stored
        assert float(exemplar["value"]) == pytest.approx(turn.duration_s(n.SPAN_RESPONSE))
        assert exemplar["labels"]["span_id"] in {span.span_id.hex() for span in stored[turn.trace_id]}
        assert series["span_name"] == n.SPAN_RESPONSE


def test_the_slowest_turn_of_a_flush_has_its_dot(chain: Chain) -> None:
    """Among hundreds of turns of one flush, the slowest came last and can be clicked."""
    found = chain.prometheus.exemplars(f'{DURATION}_bucket{{span_name="voice.response"}}')
    slowest = max(found, key=lambda item: float(item[1]["value"]))[1]
    assert slowest["labels"]["trace_id"] == chain.sent[-1].hex
    assert float(slowest["value"]) == pytest.approx(SLOWEST_MS / 1000)


def test_metrics_of_services_are_asked_like_those_of_spans(chain: Chain) -> None:
    """Metrics of a service have its environment, version and worker as labels, and the names of the names module."""
    metric = next(each for each in n.METRICS if each.name == n.METRIC_VOICE_SESSION_ACTIVE)
    ((series, value),) = chain.prometheus.query(metric.prometheus)
    assert value == 3
    assert series == {
        "__name__": metric.prometheus,
        "deployment_environment_name": "test",
        "instance": "i-1",
        "job": "tts-worker",
        "service_version": "2.0",
        "voice_transport": "sip",
        "voice_worker_id": "tts-cosy@0",
    }


@pytest.mark.covers("F-LG13")
def test_the_collector_alone_lets_no_secret_out(chain: Chain) -> None:
    """What a sender without voicespan put into names, attributes, events and messages leaves with voicespan's tags."""
    leaky = chain.leaky.spans[-1].span_id
    (span,) = [span for span in chain.store.traces[chain.leaky.trace_id] if span.span_id == leaky]
    attributes = {pair.key: pair.value for pair in span.attributes}
    for number, text in enumerate(SEEDS):
        assert attributes[f"seed.{number}"].string_value == redact(f"the user said {text}")
    for number, text in enumerate(HARMLESS):
        assert attributes[f"harmless.{number}"].string_value == text
    assert attributes["lk.user_transcript"].string_value == attributes["gen_ai.input.messages"].string_value == "****"
    assert attributes["harmless.list"].array_value.values[1].string_value == "llm.ttft"
    assert attributes["time"].int_value == 1_732_112_345_678_901_234
    assert attributes["gen_ai.usage.completion_tokens"].int_value == 41
    said = " and ".join(SEEDS)
    assert span.status.message == redact(f"could not reach {said}")
    assert span.events[-1].attributes[0].value.string_value == redact(said)
    left = b"".join(chain.store.bodies).decode(errors="replace")
    left += get(f"http://127.0.0.1:{chain.collector.metrics}/metrics", Accept="application/openmetrics-text")
    left += chain.collector.said() + get(f"http://127.0.0.1:{chain.collector.own}/metrics")
    secrets = ["my secret plan", *(re.sub(r"^(tel:|Bearer |api_key=)", "", text) for text in SEEDS)]
    assert [text for text in secrets if text in left] == []


def test_nothing_was_refused_or_dropped(chain: Chain) -> None:
    """The Collector's own counters agree: what was accepted was sent on, and nothing failed."""
    accepted = chain.collector.own_metric("otelcol_receiver_accepted_spans")
    assert accepted == sum(len(turn.spans) for turn in [*chain.counted, chain.replayed])
    assert chain.collector.own_metric("otelcol_exporter_sent_spans") == accepted
    for lost in ("receiver_refused_spans", "exporter_send_failed_spans", "exporter_enqueue_failed_spans"):
        assert chain.collector.own_metric(f"otelcol_{lost}") == 0
