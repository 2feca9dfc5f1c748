"""After one conversation of the demo, every metric has data: where it is scraped, and at the Collector."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.ports import free_port

from voicespan import names as n
from voicespan.metrics.gpu import DRIVER

from .stack import Collector, Store, get, until

pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

DEMO = ("-c", "from voicespan.cli import main; main()", "demo", "--no-browser", "--port", "0", "--exit", "--json")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
KINDS = {"counter": "counter", "histogram": "histogram", "updowncounter": "gauge", "gauge": "gauge"}
REDIS = {n.METRIC_DB_CLIENT_OPERATION_DURATION, n.METRIC_DB_CLIENT_CONNECTION_COUNT}
D, N = "traces_span_metrics_duration_seconds", "traces_span_metrics_calls"
SPANS: tuple[tuple[str, str, dict[str, str], tuple[str, ...]], ...] = (
    ("F-SM01", D, {"span_name": "tts.first_audio"}, ("gen_ai_request_model", "voice_tts_voice_name")),
    ("F-SM02", D, {"span_name": "barge_in"}, ("voice_barge_in_phase",)),
    ("F-SM03", D, {"span_name": "asr.finalize"}, ("gen_ai_request_model",)),
    ("F-SM04", D, {"span_name": "asr"}, ("gen_ai_request_model", "voice_language")),
    ("F-SM05", N, {"span_name": "asr"}, ("gen_ai_request_model",)),
    ("F-SM06", N, {"span_name": "asr", "status_code": "STATUS_CODE_ERROR"}, ("error_type",)),
    ("F-SM07", D, {"span_name": "llm.ttft"}, ("gen_ai_request_model",)),
    ("F-SM08", D, {"span_name": "llm"}, ("gen_ai_request_model",)),
    ("F-SM09", D, {"span_name": "execute_tool get_weather"}, ("gen_ai_tool_name",)),
    ("F-SM10", D, {"span_name": "tts"}, ("gen_ai_request_model", "voice_worker_id")),
    ("F-SM11", N, {"span_name": "tts"}, ("gen_ai_request_model", "voice_worker_id")),
    ("F-SM12", D, {"span_name": "tts.inference"}, ()),
    ("F-SM13", N, {"span_kind": "SPAN_KIND_SERVER", "http_route": "/token"}, ("http_response_status_code",)),
    ("F-SM14", D, {"span_kind": "SPAN_KIND_SERVER", "http_route": "/token"}, ()),
    ("F-SM15", N, {"span_name": "tts", "status_code": "STATUS_CODE_ERROR"}, ("error_type",)),
    ("F-SM16", D, {"span_name": "tts"}, ("voice_text_word_count_range", "voice_tts_voice_name")),
    ("F-SM17", D, {"span_name": "tts"}, ("voice_text_character_count_range",)),
    ("F-SM18", N, {"voice_component": "tts", "status_code": "STATUS_CODE_ERROR"}, ()),
    ("F-SM19", D, {"span_name": "token.mint"}, ()),
    ("F-SM20", N, {"span_name": "voice.session.setup", "status_code": "STATUS_CODE_ERROR"}, ("error_type",)),
    ("F-SM21", D, {"span_kind": "SPAN_KIND_SERVER"}, ("rpc_method",)),
    ("F-IN01", D, {"span_name": "voice.turn"}, ("voice_transport", "voice_turn_outcome")),
    ("F-IN02", D, {"span_name": "voice.response"}, ("voice_transport", "voice_measurement_point")),
    ("F-SM22", D, {"span_name": "playback"}, ("voice_measurement_point",)),
)
"""What the catalog derives from spans: all of its section F.5."""

CATALOG = (
    ("F-IN03", "voice_session_started_total", "counter"),
    ("F-IN04", "voice_session_ended_total", "counter"),
    ("F-IN05", "voice_session_active", "gauge"),
    ("F-IN06", "voice_session_errors_total", "counter"),
    ("F-IN07", "voice_session_setup_failures_total", "counter"),
    ("F-IN08", "voice_session_latency_target_total", "counter"),
    ("F-IN09", "voice_messages_total", "counter"),
    ("F-IN10", "voice_message_process_duration_seconds", "histogram"),
    ("F-IN11", "voice_connection_active", "gauge"),
    ("F-IN12", "voice_vad_events_total", "counter"),
    ("F-IN13", "voice_vad_detection_duration_seconds", "histogram"),
    ("F-IN14", "voice_tts_real_time_factor", "histogram"),
    ("F-IN15", "voice_audio_frames_total", "counter"),
    ("F-IN16", "voice_audio_frame_jitter_seconds", "histogram"),
    ("F-IN17", "voice_audio_frame_drops_total", "counter"),
    ("F-IN18", "voice_audio_io_bytes_total", "counter"),
    ("F-IN19", "voice_audio_mos", "histogram"),
    ("F-IN20", "voice_audio_packet_loss", "histogram"),
    ("F-IN21", "voice_model_load_duration_seconds", "histogram"),
    ("F-IN22", "voice_model_warmup_duration_seconds", "histogram"),
    ("F-IN23", "voice_model_unloads_total", "counter"),
    ("F-IN24", "voice_control_commands_total", "counter"),
    ("F-IN25", "voice_control_duration_seconds", "histogram"),
    ("F-IN26", "voice_rate_limit_rejections_total", "counter"),
    ("F-IN27", "voice_task_active", "gauge"),
    ("F-IN28", "voice_llm_token_rate_per_second", "histogram"),
    ("F-IN29", "gen_ai_client_token_usage", "histogram"),
    ("F-IN30", "gen_ai_client_operation_duration_seconds", "histogram"),
    ("F-IN31", "gen_ai_client_operation_time_to_first_chunk_seconds", "histogram"),
    ("F-IN32", "db_client_operation_duration_seconds", "histogram"),
    ("F-IN33", "http_server_request_duration_seconds", "histogram"),
    ("F-IN34", "voice_intents_total", "counter"),
    ("F-IN35", "voice_client_errors_total", "counter"),
    ("F-IN36", "voice_client_reconnections_total", "counter"),
    ("F-IN37", "voice_client_mark_duration_seconds", "histogram"),
    ("F-OB01", "hw_gpu_memory_usage_bytes", "gauge"),
    ("F-OB02", "hw_gpu_memory_limit_bytes", "gauge"),
    ("F-OB03", "hw_gpu_utilization_ratio", "gauge"),
    ("F-OB04", "hw_temperature_celsius", "gauge"),
    ("F-OB05", "hw_power_watts", "gauge"),
    ("F-OB06", "process_cpu_utilization_ratio", "gauge"),
    ("F-OB06", "system_cpu_utilization_ratio", "gauge"),
    ("F-OB07", "process_memory_usage_bytes", "gauge"),
    ("F-OB07", "system_memory_usage_bytes", "gauge"),
    ("F-OB08", "db_client_connection_count", "gauge"),
    ("F-OB09", "voice_inference_queue_length", "gauge"),
    ("F-OB10", "voice_model_resident", "gauge"),
    ("F-OB11", "voice_tts_voice_active", "gauge"),
    ("F-OB12", "voice_task_peak", "gauge"),
    ("F-OB13", "voice_service_up", "gauge"),
    ("F-OB14", "voice_event_loop_delay_seconds", "histogram"),
)
"""Each name of the sections F.6 and F.7, as Prometheus has it, and its type. What has no name of its own is a span."""


@dataclass(frozen=True)
class Told:
    """The families of metrics, by name, that each one tells."""

    services: dict[str, dict[str, Any]]
    collector: dict[str, Any]
    dots: set[str]
    """What had exemplars at the Collector while the demo ran."""
    expected: tuple[n.Metric, ...]
    redis: object


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The demo runs once, with a Collector, a Redis where there is one, and a stand-in for the library of GPUs."""
    folder = tmp_path_factory.mktemp("metrics")
    expected = {metric.name: metric for metric in n.METRICS}
    environ = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent / "nvml"), *_paths()]))
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").split()
    # Any library will do: the stand-in asks it nothing.
    (folder / DRIVER).symlink_to(next(word for word in maps if word.endswith("/libc.so.6")))
    environ["LD_LIBRARY_PATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    redis = _redis(folder)
    if redis is None:
        expected = {name: metric for name, metric in expected.items() if name not in REDIS}
    else:
        environ["REDIS_URL"] = redis[1]
    try:
        with Store() as store:
            collector = Collector(folder / "gw", settings={"VOICESPAN_TEMPO_ENDPOINT": store.endpoint})
            with collector:
                options = ("--otlp", f"http://127.0.0.1:{collector.http}", "--db", str(folder / "demo.db"))
                address = f"http://127.0.0.1:{collector.metrics}/metrics"
                command = [sys.executable, *DEMO, *options, "--keep", str(folder / "kept")]
                dots: set[str] = set()
                with (folder / "demo.log").open("wb") as log:
                    demo = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
                    while demo.poll() is None:  # an exemplar is there until the service's next export
                        dots |= with_traces(families(get(address, Accept=OPENMETRICS)))
                        time.sleep(1)
                assert demo.returncode == 0, (folder / "demo.log").read_text()
                last = 'voice_turn_no_reply_reason="user_left"'  # as it is in the last scenario
                until(lambda: last in get(address, Accept=OPENMETRICS), "the Collector has counted the last turn")
                services = {
                    role: families((folder / "kept" / f"{role}.metrics").read_text())
                    for role in ("orchestrator", "worker")
                }
                yield Told(services, families(get(address, Accept=OPENMETRICS)), dots, tuple(expected.values()), redis)
    finally:
        if redis is not None:
            redis[0].terminate()
            redis[0].wait(10)


def _paths() -> list[str]:
    return [path for path in [os.environ.get("PYTHONPATH")] if path]


def _redis(folder: Path) -> tuple[subprocess.Popen[bytes], str] | None:
    """A Redis of its own; None where there is none, or nothing that measures it."""
    program = shutil.which("redis-server")
    if program is None or find_spec("voicespan.integrations.redis") is None:
        return None
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder))
    return subprocess.Popen([program, *options], stdout=subprocess.DEVNULL), f"redis://127.0.0.1:{port}/0"


def families(text: str) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]


def with_traces(found: dict[str, Any]) -> set[str]:
    """The families that have a bucket with a trace."""
    return {
        name
        for name, family in found.items()
        for sample in family.samples
        if sample.exemplar and len(sample.exemplar.labels["trace_id"]) == 32
    }


def check(metric: n.Metric, found: dict[str, Any]) -> str | None:
    """What is wrong with a metric; None where it has data, its type, unit and help."""
    name = metric.prometheus.removesuffix("_total")
    family = found.get(name)
    if family is None:
        return "missing"
    if family.type != KINDS[metric.instrument]:
        return f"a {family.type}"
    if not family.documentation:
        return "without help"
    wanted = {"_bucket", "_sum", "_count"} if metric.instrument == "histogram" else {""}
    wanted = {"_total"} if metric.instrument == "counter" else wanted
    samples = {sample.name.removeprefix(name) for sample in family.samples}
    return None if wanted <= samples else f"only {samples}"


@pytest.mark.covers("F-EP18", "A-K03", "A-V01", "C-K03", "F-EP01")
def test_every_metric_is_on_the_scrape_endpoints(told: Told) -> None:
    """Each direct and observable metric has data at the agent or its worker, with type, unit and help."""
    together = {name: family for found in told.services.values() for name, family in found.items()}
    wrong = {metric.name: check(metric, together) for metric in told.expected}
    assert {name: what for name, what in wrong.items() if what} == {}


@pytest.mark.covers("F-EP18", "A-V04", "A-V05", "A-V06", *(row for row, *_ in CATALOG))
@pytest.mark.parametrize(("row", "name", "kind"), CATALOG, ids=[f"{row} {name}" for row, name, _ in CATALOG])
def test_every_name_of_the_catalog_is_told(told: Told, row: str, name: str, kind: str) -> None:
    """What the catalog asks for is at a service of the demo and at the Collector, by its name, with type and help."""
    if name.startswith("db_") and told.redis is None:
        pytest.skip("needs redis-server")
    for found in ({key: each for role in told.services.values() for key, each in role.items()}, told.collector):
        family = found[name.removesuffix("_total")]
        assert (family.type, bool(family.documentation), bool(family.samples)) == (kind, True, True), row


@pytest.mark.covers("F-EP18")
def test_every_metric_is_at_the_collector(told: Told) -> None:
    """The same at the Collector, by the same names."""
    wrong = {metric.name: check(metric, told.collector) for metric in told.expected}
    assert {name: what for name, what in wrong.items() if what} == {}


@pytest.mark.covers(
    "F-EP18", "C-M07", "C-M14", "C-M20", "E-M02", "A-M02", "A-M03", "A-M26", "A-T17", "A-U09", "A-E03", "A-V03",
    "A-V05", *(row for row, *_ in SPANS),
)  # fmt: skip
@pytest.mark.parametrize(("row", "family", "labels", "split"), SPANS, ids=[row for row, *_ in SPANS])
def test_every_span_is_a_metric_at_the_collector(
    told: Told, row: str, family: str, labels: dict[str, str], split: tuple[str, ...]
) -> None:
    """What the catalog derives from spans has data with the labels that split it."""
    samples = [
        sample
        for sample in told.collector[family].samples
        if labels.items() <= sample.labels.items() and all(sample.labels.get(name) for name in split)
    ]
    assert samples
    if family == D:
        assert {sample.name.removeprefix(D) for sample in samples} >= {"_bucket", "_sum", "_count"}


@pytest.mark.covers("F-R09")
def test_a_dot_of_a_direct_metric_opens_its_turn(told: Told) -> None:
    """Real-time factor, token rate, detections and GenAI durations carry traces, also behind the Collector."""
    names = (
        n.METRIC_VOICE_TTS_REAL_TIME_FACTOR,
        n.METRIC_VOICE_LLM_TOKEN_RATE,
        n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION,
        n.METRIC_VOICE_VAD_DETECTION_DURATION,
    )
    metrics = {metric.prometheus for metric in n.METRICS if metric.name in names}
    assert metrics <= with_traces(told.services["orchestrator"])
    assert metrics <= told.dots


@pytest.mark.covers("C-Q03", "F-R08")
def test_no_label_is_an_identity_or_a_text(told: Told) -> None:
    """No series of voicespan's has a session, a trace, a text or a client's address as a label."""
    allowed = {attribute.replace(".", "_") for metric in n.METRICS for attribute in metric.attributes}
    allowed |= {"le", "service_version", "deployment_environment_name", "voice_worker_id"}
    allowed |= {"otel_component_name", "otel_component_type"}
    allowed.add("gen_ai_response_model")  # of the instrumentation of the model's own client, where that is loaded
    for role, found in told.services.items():
        for metric in n.METRICS:
            family = found.get(metric.prometheus.removesuffix("_total"))
            if family is not None and not metric.name.startswith(("http.", "db.")):
                labels = {label for sample in family.samples for label in sample.labels}
                assert labels <= allowed, (role, metric.name)
