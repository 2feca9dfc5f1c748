"""What a service is told about people is in nothing that it sends, writes or shows."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from tests.ports import free_port

from .receiver import Receiver
from .service import Service, run

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

SECRETS = {
    "[EMAIL]": ("bob.smith@example.co.uk", "bob.smith"),
    "[PHONE]": ("+15551234567", "5551234567"),
    "[SIP]": ("sip:alice@10.0.0.1:5060", "alice"),
    "[SSN]": ("123-45-6789", "123-45"),
    "[CARD]": ("4111 1111 1111 1111", "4111 1111"),
    "[KEY]": ("sk-proj-abcdefghijklmnop1234", "abcdefghijklmnop"),
    "/voicepacks/[REDACTED]/": ("/voicepacks/bob/v2/ref/a.wav", "voicepacks/bob"),
}
"""By its tag: what is said everywhere, and the part of it that would give it away."""

SCRIPT = """
import json, logging, os, urllib.request
from opentelemetry import metrics as api, trace
from opentelemetry._logs import LogRecord, get_logger
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceState
import voicespan
from voicespan import metrics

log, tracer, meter = logging.getLogger("bot"), trace.get_tracer("app"), api.get_meter("app")
log.setLevel("INFO")
counter, histogram, own = meter.create_counter("calls"), meter.create_histogram("took"), metrics.counter("app.orders")
for secret in json.loads(os.environ["SECRETS"]):
    said = f"he said {secret} twice"
    other = SpanContext(1, 1, is_remote=True)
    with tracer.start_as_current_span(
        f"work {secret}", links=[Link(other, {"of": said})], attributes={"one": said, "many": [said], f"n {secret}": 1}
    ) as span:
        span.add_event(f"event {secret}", {"of": said})
        span.record_exception(ValueError(said))
        span.set_status(Status(StatusCode.ERROR, said))
        log.info("args %s", secret)
        log.warning(said, extra={"of": said, "deep": {"list": [said], secret: 1}})
        get_logger("app").emit(LogRecord(body={"said": said}, attributes={"of": [said]}, event_name=secret))
        counter.add(1, {"who": said})
        histogram.record(1, {"who": said})
    try:
        raise LookupError(said)
    except LookupError:
        log.exception("failed on %s", secret)
    own.add(kind=secret)
    metrics.intent(secret)
    metrics.client_error(secret)
    metrics.message_sent(secret)
    metrics.synthesized(said, spent_s=0.5, audio_s=1)
    with metrics.model_load(said):
        pass
    with voicespan.session(id=secret) as session:
        turn = session.user_turn()
        turn.speech_ended()
        turn.committed()
        turn.transcript()
        turn.user_said(said)
        turn.set("note", said)
        log.info("in the turn of %s", secret)
        with turn.llm(model=said, provider=secret) as llm:
            llm.token()
            log.info("in the stage of %s", secret)
        with turn.tool(secret) as tool:
            tool.fail(ValueError(said))
        with turn.tts(voice=secret, text=said) as tts:
            tts.audio(0.02)
            turn.audio_sent(0.02)
            tts.fail(said)
        session.end("error", error=ValueError(said))
ask = urllib.request.Request(
    f"http://127.0.0.1:{os.environ['VOICESPAN_PROMETHEUS_PORT']}/metrics",
    headers={"Accept": "application/openmetrics-text; version=1.0.0"},
)
print("SCRAPED", json.dumps(urllib.request.urlopen(ask, timeout=10).read().decode()))
"""


def text(messages: list[Message]) -> str:
    return "".join(message.SerializeToString().decode("utf-8", "replace") for message in messages)


@pytest.mark.covers("C-L27", "C-L28", "C-L29", "E-Q06")
@pytest.mark.parametrize("content", ["false", "true"])
def test_seeded_secrets_are_in_no_output(content: str) -> None:
    """In each place of each signal stands the tag instead: spans, metrics, logs, lines, the scrape, the resource."""
    given = [secret for secret, _ in SECRETS.values()]
    with Receiver() as receiver:
        done = run(
            SCRIPT,
            SECRETS=json.dumps(given),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_LOGS_EXPORTER="otlp",
            OTEL_RESOURCE_ATTRIBUTES=f"owner={quote(' and '.join(given))}",
            VOICESPAN_LOG_FORMAT="json",
            VOICESPAN_CONTENT=content,
            VOICESPAN_PROMETHEUS_PORT=str(free_port()),
        )
    assert done.code == 0, done.err
    scraped = next(line for line in done.out.splitlines() if line.startswith("SCRAPED"))
    outputs = {
        "spans": text([*receiver.traces]),
        "metrics": text([*receiver.metrics_requests]),
        "records": text([*receiver.logs]),
        "lines": done.out.replace(scraped, ""),
        "scrape": scraped,
        "errors": done.err,
    }
    found = {
        (name, secret) for name, output in outputs.items() for _, secret in SECRETS.values()
        if secret in output or secret in output.replace("\\", "")
    }  # fmt: skip
    assert found == set()
    missing = {(name, tag) for name, output in outputs.items() for tag in SECRETS if tag not in output}
    assert missing <= {("errors", tag) for tag in SECRETS}


KEYS = {
    "LIVEKIT_URL": "wss://acme-7f3k.livekit.example",
    "LIVEKIT_API_KEY": "APIwq7Zk2f9XyLm",
    "LIVEKIT_API_SECRET": "hT5vRk81mQzP0bNcE4sYdL6u",
    "OPENAI_API_KEY": "sk-proj-Zk81mQzP0bNcE4sYdL6uhT5v",
}
AGENT = """
import os, sys
from dotenv import load_dotenv
import voicespan
load_dotenv(os.environ["FILE"])
with voicespan.session() as session:
    turn = session.user_turn()
    turn.committed()
    with turn.llm(model="m") as llm:
        llm.token()
    turn.end()
print("KEYS", *(os.environ[name] for name in sys.argv[1:]))
"""


@pytest.mark.covers("D-G01", "F-DP04")
@pytest.mark.parametrize("how", ["environment", "file"])
def test_an_agents_keys_reach_it_and_nobody_else(how: str, tmp_path: Path) -> None:
    """Keys of LiveKit and OpenAI, given by the environment or by `.env.local`, are the agent's and in no telemetry."""
    given, kept = (KEYS, {}) if how == "environment" else ({}, KEYS)
    (tmp_path / ".env.local").write_text("".join(f"{name}={value}\n" for name, value in kept.items()))
    with Receiver() as receiver:
        done = Service(
            "", command=[sys.executable, "-c", AGENT, *KEYS], FILE=str(tmp_path / ".env.local"),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_LOGS_EXPORTER="otlp", VOICESPAN_LOG_FORMAT="json", **given,
        ).finish()  # fmt: skip
    assert done.code == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("KEYS"))
    assert line.split()[1:] == list(KEYS.values())
    assert "voice.turn" in receiver.span_names
    outputs = (
        text([*receiver.traces, *receiver.metrics_requests, *receiver.logs]) + done.out.replace(line, "") + done.err
    )
    assert [name for name, value in KEYS.items() if value in outputs] == []
