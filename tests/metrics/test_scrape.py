"""The scrape endpoint: names, exemplars, what it survives, and who may ask."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import metrics as api
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from voicespan import metrics
from voicespan import names as n
from voicespan.metrics.instruments import METRICS, record, views
from voicespan.metrics.scrape import Reader

from .conftest import forget

if TYPE_CHECKING:
    from collections.abc import Iterator

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Give a reader whose provider is the global one."""
    forget()
    made = Reader()
    resource = Resource({"service.name": "x", "service.version": "1.2", n.VOICE_WORKER_ID: "tts@0", "host.name": "h"})
    provider = MeterProvider([made], resource, shutdown_on_exit=False, views=[*views(), *EXPONENTIAL])
    monkeypatch.setattr(api, "get_meter_provider", lambda: provider)
    yield made
    provider.shutdown()
    forget()


EXPONENTIAL = [View(instrument_name="app.sizes", aggregation=ExponentialBucketHistogramAggregation())]


def text(reader: Reader, accept: str = OPENMETRICS) -> str:
    status, headers, body = reader.answer(accept=accept, authorization="")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, accept.split(";", maxsplit=1)[0])
    return body.decode()


def families(body: str) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(body)}  # type: ignore[no-untyped-call]


def in_turn() -> Any:
    identity = trace.SpanContext(TRACE, SPAN, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
    return trace.set_span_in_context(trace.NonRecordingSpan(identity))


@pytest.mark.covers("F-EP01", "A-E01", "C-E01", "C-E02", "D-E01", "E-E02", "F-EP18", "C-K03")
def test_every_direct_metric_has_its_name_type_unit_and_help(reader: Reader) -> None:
    """Each instrument of the names module is written as the Collector would: name, type, unit, help, buckets."""
    provider = api.get_meter_provider()
    meter = provider.get_meter("voicespan")
    for metric in n.METRICS:
        if metric.observable:
            make = getattr(meter, f"create_observable_{metric.instrument.replace('updown', 'up_down_')}")
            make(metric.name, [lambda _: [api.Observation(1)]], metric.unit, metric.brief)
        else:
            record(metric.name, 1)
    body = text(reader)
    found = families(body)
    kinds = {"counter": "counter", "histogram": "histogram", "updowncounter": "gauge", "gauge": "gauge"}
    for metric in n.METRICS:
        name = metric.prometheus.removesuffix("_total")
        family = found[name]
        assert (family.type, family.documentation) == (kinds[metric.instrument], metric.brief), metric.name
        suffix = "_total" if metric.instrument == "counter" else ""
        samples = {sample.name for sample in family.samples}
        if metric.instrument == "histogram":
            assert {f"{name}_bucket", f"{name}_sum", f"{name}_count"} <= samples
            limits = [float(s.labels["le"]) for s in family.samples if s.name == f"{name}_bucket"]
            assert limits == [*metric.boundaries, float("inf")], metric.name
        else:
            assert f"{name}{suffix}" in samples, metric.name
        for line in ("HELP", "TYPE"):
            assert f"# {line} {name} " in body
    units = {"s": "seconds", "By": "bytes", "Cel": "celsius", "W": "watts"}
    for name, family in found.items():
        units_here = {units.get(m.unit) for m in n.METRICS if m.prometheus.removesuffix("_total") == name}
        if units_here - {None}:
            assert {family.unit} == units_here
    assert sorted(family.name for family in plain_families(text(reader, "text/plain; version=0.0.4")))


@pytest.mark.covers("F-R09")
def test_a_bucket_has_the_trace_of_its_latest_measurement(reader: Reader) -> None:
    """In the OpenMetrics format a bucket has trace, span, value and time; what was measured outside a turn has none."""
    name = n.METRIC_VOICE_TTS_REAL_TIME_FACTOR
    record(name, 0.15, {n.GEN_AI_REQUEST_MODEL: "m"}, in_turn())
    record(name, 0.9, {n.GEN_AI_REQUEST_MODEL: "m"})
    family = families(text(reader))[METRICS[name].prometheus]
    exemplars = {s.labels["le"]: s.exemplar for s in family.samples if s.name.endswith("_bucket")}
    assert exemplars["0.2"].labels == {"trace_id": f"{TRACE:032x}", "span_id": f"{SPAN:016x}"}
    assert exemplars["0.2"].value == 0.15
    assert [limit for limit, exemplar in exemplars.items() if exemplar] == ["0.2"]
    assert "trace_id" not in text(reader, "text/plain; version=0.0.4")


def test_counters_and_histograms_say_since_when_they_count(reader: Reader) -> None:
    """A rate can see what was counted before the first scrape."""
    record(n.METRIC_VOICE_INTENTS, 1)
    record(n.METRIC_VOICE_TTS_REAL_TIME_FACTOR, 1)
    found = families(text(reader))
    for name in ("voice_intents", "voice_tts_real_time_factor"):
        created = [sample.value for sample in found[name].samples if sample.name == f"{name}_created"]
        assert len(created) == 1
        assert created[0] > 1.7e9


def test_an_exponential_histogram_costs_itself_only(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    """What the format cannot show is said once, and everything else is there."""
    sizes = api.get_meter_provider().get_meter("app").create_histogram("app.sizes")
    sizes.record(3)
    record(n.METRIC_VOICE_INTENTS, 1)
    assert "voice_intents_total" in text(reader)
    assert "voice_intents_total" in text(reader)
    assert capsys.readouterr().err.count("app.sizes is an exponential histogram") == 1


def test_metrics_have_the_labels_that_the_collector_gives_them(reader: Reader) -> None:
    """Version and worker of the resource are labels, as behind the Collector; the library's name is none."""
    record(n.METRIC_VOICE_INTENTS, 1, {n.VOICE_INTENT_TYPE: "weather"})
    (sample,) = (s for s in families(text(reader))["voice_intents"].samples if s.name.endswith("_total"))
    assert sample.labels == {"voice_intent_type": "weather", "service_version": "1.2", "voice_worker_id": "tts@0"}


@pytest.mark.covers("F-LG13")
def test_no_secret_is_scraped(reader: Reader) -> None:
    """Label values of others' metrics are redacted before they are shown."""
    api.get_meter_provider().get_meter("app").create_counter("app.mails").add(1, {"to": "anna@example.com"})
    body = text(reader)
    assert "app_mails_total" in body
    assert "anna@example.com" not in body
    assert "[EMAIL]" in body


@pytest.mark.covers("A-Q05", "F-EP01")
@pytest.mark.parametrize(
    ("authorization", "status"), [("Bearer s3cret", 200), ("", 401), ("Bearer other", 401), ("s3cret", 401)]
)
def test_a_token_keeps_others_out(authorization: str, status: int) -> None:
    """With a token the scrape needs it, in whole."""
    answer = Reader("s3cret").answer(accept="", authorization=authorization)
    assert answer[0] == status
    if status == 401:
        assert answer[1]["WWW-Authenticate"] == "Bearer"


@pytest.mark.covers("A-V01")
def test_the_port_answers_on_both_paths(reader: Reader) -> None:
    """/metrics and /prometheus are the same, all else is not found."""
    record(n.METRIC_VOICE_INTENTS, 1)
    reader.listen("127.0.0.1", 0)
    assert reader.server is not None
    base = f"http://127.0.0.1:{reader.server.server_address[1]}"
    for path in ("/metrics", "/prometheus", "/metrics/", "/metrics?name=x"):
        with urllib.request.urlopen(base + path, timeout=5) as answer:
            assert b"voice_intents_total" in answer.read()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{base}/other", timeout=5)
    assert refused.value.code == 404
    refused.value.close()


@pytest.mark.covers("A-E01", "E-E02")
async def test_it_can_be_mounted_in_fastapi(meters: Any) -> None:
    """One line mounts it; what was counted since then is there."""
    app = FastAPI()
    app.mount("/prometheus", metrics.scrape_app(token="s3cret"))
    metrics.intent("weather")
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        refused = await client.get("/prometheus/")
        answer = await client.get("/prometheus/", headers={"Authorization": "Bearer s3cret", "Accept": OPENMETRICS})
    assert (refused.status_code, answer.status_code) == (401, 200)
    assert 'voice_intents_total{voice_intent_type="weather"} 1.0' in answer.text
    assert "voice_service_up 1.0" in answer.text


async def test_mounted_while_switched_off_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a provider the answer is 503 and the service goes on."""
    monkeypatch.setattr(api, "get_meter_provider", lambda: None)
    transport = httpx.ASGITransport(metrics.scrape_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/")).status_code == 503


def service(script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a service with a scrape port and nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
    none = dict.fromkeys(("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"), "none")
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**kept, **none, "OTEL_SERVICE_NAME": "x", **environ},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


ASK = """
    import json, os, sys, time, urllib.request, voicespan
    from voicespan import metrics
    def ask(port):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError as error:
            return str(error)
        return [float(line.split()[-1]) for line in lines if line.startswith("voice_intents_total")]
"""


def test_a_port_that_a_sibling_holds_is_one_line() -> None:
    """The service starts, runs and ends as ever, and says once that it is not scraped."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        ended = service(
            ASK + "\n    voicespan.setup_tracing(); metrics.intent('a'); print('served')",
            VOICESPAN_PROMETHEUS_PORT=str(port),
        )
    assert (ended.returncode, ended.stdout) == (0, "served\n")
    said = [line for line in ended.stderr.splitlines() if "PROMETHEUS" in line]
    assert len(said) == 1
    assert f"VOICESPAN_PROMETHEUS_PORT={port} is taken" in said[0]
    assert ended.stderr.splitlines() == said


@pytest.mark.covers("F-DP08")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_the_child_of_a_fork_counts_from_zero_and_leaves_the_port_to_its_parent(free_port: int) -> None:
    """The parent is scraped as before; the child has none of its counts, and takes the port once it is free."""
    ended = service(
        ASK
        + f"""
    port = {free_port}
    voicespan.setup_tracing()
    session = voicespan.session('a', sample_rate=16000)
    session.audio_in(bytes(640)); metrics.intent('a'); metrics.intent('a')
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        from voicespan.metrics.audio import flows
        from voicespan.metrics.scrape import Reader
        metrics.intent('a')
        from opentelemetry import metrics as api
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        (reader,) = api.get_meter_provider()._all_metric_readers
        own = reader.answer(accept='', authorization='')[2].decode()
        counted = [line.split()[-1] for line in own.splitlines() if line.startswith('voice_intents_total')]
        os.write(write, json.dumps([counted, flows.totals()]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    print(json.dumps([ask(port), json.loads(os.read(read, 1000))]))
    """,
        VOICESPAN_PROMETHEUS_PORT=str(free_port),
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [[2.0], [["1.0"], {}]]
    assert ended.stderr.count("is taken, maybe by another process of this service") == 1


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port without opentelemetry-exporter-prometheus is one line that says what to install."""
    ended = service(
        """
    import sys
    sys.modules['opentelemetry.exporter.prometheus'] = None
    import voicespan
    voicespan.setup_tracing()
    print('served')
    """,
        VOICESPAN_PROMETHEUS_PORT="19464",
    )
    assert (ended.returncode, ended.stdout) == (0, "served\n")
    assert "pip install 'voicespan[prometheus]'" in ended.stderr
