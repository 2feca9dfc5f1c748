"""Everything that an exporter gets is redacted, whoever recorded it; what the service holds is not changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from voicespan import settings
from voicespan.sdk import scrub
from voicespan.sdk.batch import Limits
from voicespan.sdk.export import BatchProcessor

SECRET = "bob@example.com"
CONTEXT = SpanContext(1, 2, is_remote=True)


def exported(record: Any) -> ReadableSpan:
    """The span that reaches an exporter."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "bot", "owner": SECRET}))
    provider.add_span_processor(BatchProcessor(exporter, limits=Limits()))
    record(provider.get_tracer("somebody"))
    provider.shutdown()
    (span,) = exporter.get_finished_spans()
    return span


def test_every_string_of_a_span_is_redacted() -> None:
    """Name, attributes of every shape, events, links, status message, exception and resource."""

    def record(tracer: Any) -> None:
        with (
            pytest.raises(ValueError, match="for bob"),
            tracer.start_as_current_span(f"call {SECRET}", links=[Link(CONTEXT, {"from": SECRET})]) as span,
        ):
            span.set_attributes({"one": SECRET, "many": ["x", SECRET], "number": 7, "session.id": "+15551234567"})
            span.add_event(f"event {SECRET}", {"of": SECRET})
            raise ValueError(f"no mailbox for {SECRET}")

    span = exported(record)
    assert SECRET not in span.to_json()
    assert "5551234567" not in span.to_json()
    assert span.name == "call [EMAIL]"
    assert span.attributes is not None
    assert span.attributes["many"] == ("x", "[EMAIL]")
    assert span.attributes["number"] == 7
    assert str(span.attributes["session.id"]).startswith("[PHONE]-")
    assert [event.name for event in span.events] == ["event [EMAIL]", "exception"]
    assert span.events[1].attributes is not None
    assert "no mailbox for [EMAIL]" in str(span.events[1].attributes["exception.stacktrace"])
    assert span.links[0].attributes == {"from": "[EMAIL]"}
    assert span.status.description == "ValueError: no mailbox for [EMAIL]"
    assert span.resource.attributes["owner"] == "[EMAIL]"


def test_the_services_own_span_is_not_changed() -> None:
    """Processors and holders of the span see what they wrote."""
    kept = []

    def record(tracer: Any) -> None:
        with tracer.start_as_current_span("x") as span:
            span.set_attribute("mail", SECRET)
            kept.append(span)

    assert exported(record).attributes == {"mail": "[EMAIL]"}
    assert kept[0].attributes == {"mail": SECRET}


def test_a_clean_span_is_passed_on_as_it_is() -> None:
    """Nothing is copied where there is nothing to redact."""
    span = ReadableSpan("x", CONTEXT, attributes={"a": "b"}, status=Status(StatusCode.ERROR, "no"))
    assert scrub.spans([span])[0] is span


def test_what_cannot_be_redacted_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """When redaction fails, the batch is counted as lost, with the reason, and not sent."""

    def fails(_batch: object, **_: object) -> list[ReadableSpan]:
        raise RuntimeError("broken rule")

    monkeypatch.setattr(scrub, "spans", fails)
    exporter = InMemorySpanExporter()
    processor = BatchProcessor(exporter, limits=Limits())
    provider = TracerProvider()
    provider.add_span_processor(processor)
    provider.get_tracer("x").start_span("x").end()
    provider.shutdown()
    assert exporter.get_finished_spans() == ()
    assert processor.batcher.counts.get("failed") == 1
    assert processor.batcher.reason == "redaction failed: RuntimeError: broken rule"


def said(tracer: Any) -> None:
    """A span of somebody's instrumentation that carries a conversation."""
    with tracer.start_as_current_span("chat") as span:
        span.set_attributes(
            {"gen_ai.input.messages": "[hello]", "gen_ai.request.model": "m", "lk.user_transcript": "x"}
        )
        span.add_event("gen_ai.user.message", {"content": "hello", "role": "user"})
        span.add_event("note", {"output.value": "hello", "n": 1})


def test_what_was_said_does_not_leave() -> None:
    """Transcripts, prompts and messages of any instrumentation are left out, and the rest of the span stays."""
    span = exported(said)
    assert span.attributes == {"gen_ai.request.model": "m"}
    assert [dict(event.attributes or {}) for event in span.events] == [{}, {"n": 1}]


@pytest.mark.parametrize(
    ("target", "kept"),
    [("http://127.0.0.1:4318/v1/traces", True), ("http://collector:4318/v1/traces", False), ("", False)],
)
def test_what_was_said_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch, target: str, kept: bool) -> None:
    """With VOICESPAN_CONTENT it is sent, but to this machine only."""
    monkeypatch.setenv("VOICESPAN_CONTENT", "true")
    settings.reset()
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(BatchProcessor(exporter, target=target, limits=Limits()))
    said(provider.get_tracer("somebody"))
    provider.shutdown()
    (span,) = exporter.get_finished_spans()
    assert ("lk.user_transcript" in (span.attributes or {})) is kept
    settings.reset()


SERVICE = f"""
import logging
from opentelemetry import metrics, trace
import voicespan

meter = metrics.get_meter("somebody")
meter.create_counter("calls").add(1, {{"who": "{SECRET}"}})
from opentelemetry._logs import get_logger, LogRecord
with voicespan.session(id="+15551234567") as session:
    turn = session.user_turn(input="text")
    turn.set("note", "card 4111 1111 1111 1111")
    with turn.llm(model="m") as llm:
        get_logger("somebody").emit(LogRecord(body="mail {SECRET}", attributes={{"of": "{SECRET}"}}, event_name="e"))
        llm.fail(ValueError("sip:alice@example.com refused"))
"""


@pytest.mark.covers("E-Q06")
def test_seeded_secrets_are_found_in_no_output_of_a_service(tmp_path: Path) -> None:
    """Spans, metrics and log records of a whole process, printed by the console exporters, hold none of them."""
    program = tmp_path / "service.py"
    program.write_text(SERVICE)
    exporters = {f"OTEL_{signal}_EXPORTER": "console" for signal in ("TRACES", "METRICS", "LOGS")}
    environ = {"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path), "OTEL_SERVICE_NAME": "bot", **exporters}
    command = [sys.executable, "-m", "voicespan", "run", "--", "python", str(program)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for tag in ("[EMAIL]", "[PHONE]", "[CARD]", "[SIP]"):
        assert tag in done.stdout, json.dumps(done.stdout)[-3000:]
    for secret in (SECRET, "5551234567", "4111", "alice@"):
        assert secret not in done.stdout


def test_names_of_attributes_are_strings_that_leave() -> None:
    """An address in the name of an attribute, or of a field at any depth, is replaced as everywhere."""
    given = {"mail.bob@example.com": 1, "fine": {"bob@example.com": {"+15551234567": 2}}}
    assert scrub.attributes(given) == {"[EMAIL]": 1, "fine": {"[EMAIL]": {"[PHONE]": 2}}}
