"""The speech service without turns: its spans and metrics, and the example of it under load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.ports import free_port

from voicespan import names as n
from voicespan.metrics.labels import labels
from voicespan.synthesis import Synthesis

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[1] / "examples" / "tts"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    labels.forget()
    yield exporter
    exporter.shutdown()
    labels.forget()


def by_name(exporter: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.covers("E-M04", "E-M05", "E-Q09", "F-AT18", "F-AT19", "F-AT20", "F-TR19", "E-Q06")
def test_a_synthesis_has_the_ranges_of_its_text_and_copies_its_voice(spans: InMemorySpanExporter) -> None:
    """Ranges, lengths, frames and factor on `tts`, its first audio below it; voice and language also on the request."""
    text = "(happy) " + "word " * 12
    with (
        trace.get_tracer("http").start_as_current_span("POST /tts"),
        Synthesis(text, voice="sam", language="en", model="espeak") as synthesis,
    ):
        inside = trace.get_current_span().get_span_context().span_id
        time.sleep(0.01)
        synthesis.audio(0.5)
        synthesis.audio(0.5)
        time.sleep(0.05)
    found = by_name(spans)
    tts, first, request = found[n.SPAN_TTS], found[n.SPAN_TTS_FIRST_AUDIO], found["POST /tts"]
    attributes = dict(tts.attributes)
    factor = attributes.pop(n.VOICE_TTS_REAL_TIME_FACTOR)
    assert attributes == {
        n.VOICE_COMPONENT: "tts",
        n.VOICE_ALIAS: "synthesize_request",
        n.VOICE_TTS_VOICE_NAME: "sam",
        n.VOICE_LANGUAGE: "en",
        n.GEN_AI_REQUEST_MODEL: "espeak",
        n.VOICE_TEXT_LENGTH: 68,
        n.VOICE_TEXT_WORD_COUNT_RANGE: "11-25",
        n.VOICE_TEXT_CHARACTER_COUNT_RANGE: "51-150",
        n.VOICE_AUDIO_FRAME_COUNT: 2,
        n.VOICE_AUDIO_DURATION_S: 1.0,
    }
    assert factor == pytest.approx((tts.end_time - tts.start_time) / 1e9, abs=1e-6)
    assert tts.context.span_id == inside
    assert (tts.parent.span_id, first.parent.span_id) == (request.context.span_id, tts.context.span_id)
    assert first.end_time <= tts.end_time
    assert (request.attributes[n.VOICE_TTS_VOICE_NAME], request.attributes[n.VOICE_LANGUAGE]) == ("sam", "en")
    assert "word" not in str(found)


@pytest.mark.covers("E-Q07", "E-M03")
def test_a_synthesis_that_fails_is_an_error(spans: InMemorySpanExporter) -> None:
    """The exception passes, the span has its class, and what was current before is so again."""
    with pytest.raises(RuntimeError, match="diverged"), Synthesis("Hello", voice="sam"):
        raise RuntimeError("diverged")
    tts = by_name(spans)[n.SPAN_TTS]
    assert tts.attributes[n.ERROR_TYPE] == "RuntimeError"
    assert tts.status.status_code is trace.StatusCode.ERROR
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.covers("E-Q08", "F-AT15")
def test_a_voice_that_is_not_listed_is_other(spans: InMemorySpanExporter) -> None:
    """What a request says goes into no label unless it is known."""
    labels.allow(n.VOICE_TTS_VOICE_NAME, ["sam"])
    with Synthesis("Hello", voice="'; drop table"):
        pass
    assert by_name(spans)[n.SPAN_TTS].attributes[n.VOICE_TTS_VOICE_NAME] == "other"


@pytest.mark.covers(
    "E-E01",
    "E-E02",
    "E-E03",
    "E-E04",
    "E-M01",
    "E-M06",
    "E-K04",
    "E-K05",
    "E-T01",
    "E-U02",
    "F-EP03",
    "F-EP04",
    "F-EP12",
)
@pytest.mark.timeout(180)
def test_the_example_serves_and_its_load_prints_what_it_measures() -> None:
    """Speech, health, JSON figures by length, and Prometheus's form of the same, after the load that comes with it."""
    pytest.importorskip("espeakng_loader", reason="needs the extra `demo`")
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    run = "from voicespan.cli import main; main()"
    command = [sys.executable, "-c", run, "run", "--", "uvicorn", "service:app", "--port", str(port)]
    none = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_SERVICE_NAME": "tts"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    service = subprocess.Popen(
        command, cwd=EXAMPLE, env={**os.environ, **none, "PATH": path}, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert json.loads(get(f"{base}/health")) == {"status": "ok"}
                break
            except OSError:
                assert time.monotonic() < deadline
                assert service.poll() is None, service.communicate()
                time.sleep(0.1)
        load = [sys.executable, str(EXAMPLE / "load.py"), base, "--requests", "15"]
        printed = subprocess.run(load, capture_output=True, text=True, timeout=90, check=True).stdout
        figures = json.loads(get(f"{base}/metrics"))
        asked = urllib.request.Request(
            f"{base}/prometheus/", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:
            scraped = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}  # type: ignore[no-untyped-call]
    finally:
        service.terminate()
        service.communicate(timeout=20)
    assert "p90 by words" in printed
    assert printed.splitlines()[-1] == "200: 12  404: 3"
    assert figures["tts"]["error_rate"] == pytest.approx(0.2)
    assert sum(one["count"] for one in figures["word_count_performance"].values()) == 15
    assert len(figures["word_count_performance"]) >= 3
    counted = {
        sample.labels["gen_ai_request_model"]: sample.value
        for sample in scraped["voice_tts_real_time_factor"].samples
        if sample.name.endswith("_count")
    }
    assert counted == {"espeak-ng": 12}
    for name in ("voice_model_load_duration_seconds", "voice_model_resident", "voice_tts_voice_active"):
        assert name in scraped, name
    timed = {
        (sample.labels["http_route"], sample.labels["http_request_method"], sample.labels["http_response_status_code"]):
        sample.value
        for sample in scraped["http_server_request_duration_seconds"].samples
        if sample.name.endswith("_count") and sample.labels["http_route"] == "/tts"
    }  # fmt: skip
    assert timed == {("/tts", "POST", "200"): 12, ("/tts", "POST", "404"): 3}


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
