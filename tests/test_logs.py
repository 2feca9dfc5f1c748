"""Log lines: one JSON object each, with the stage that they were written in, and no secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.handlers
import queue
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

from voicespan import emit, logs, settings
from voicespan import sessions as sessions_module
from voicespan.logs import JSONFormatter, RedactingFormatter, setup_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.testing import VoiceRecorder


class Lines:
    """What was logged."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def all(self) -> list[dict[str, Any]]:
        """Every line so far."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def last(self) -> dict[str, Any]:
        """The latest line."""
        return self.all()[-1]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, voice: VoiceRecorder) -> Iterator[Lines]:
    """Give what the root logger writes; all settings are restored."""
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    before = root.level, list(root.handlers)
    monkeypatch.setattr(sessions_module.events, "disabled", True)
    monkeypatch.setattr(emit, "_recorder", emit.BackgroundRecorder())
    found = Lines()
    root.handlers[:] = [setup_logging("DEBUG", stream=found.stream)]
    yield found
    logging.setLogRecordFactory(factory)
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.mark.covers("C-L01", "C-L02", "C-L03", "C-L04", "C-L26", "C-Q10")
def test_a_line_has_the_fields_of_the_catalog(lines: Lines) -> None:
    """Time of the record in UTC with microseconds and Z, level, logger, message, and what `extra` says."""
    record = logging.LogRecord("orchestrator.server", logging.INFO, __file__, 1, "said %s", ("hello",), None)
    record.created = 1759674735.123456
    record.model_id = "cosy"
    line = json.loads(JSONFormatter().format(record))
    assert line["timestamp"] == "2025-10-05T14:32:15.123456Z"
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "orchestrator.server", "said hello")
    assert line["model_id"] == "cosy"
    logging.getLogger("x").warning("w", extra={"event": "high_latency", "fal_ms": 520})
    assert lines.last()["event"] == "high_latency"
    assert lines.last()["fal_ms"] == 520


@pytest.mark.covers("C-L05", "C-L06", "C-L08", "C-L09", "C-L10", "C-L11", "C-Q09")
def test_a_line_inside_a_stage_has_its_ids(lines: Lines, voice: VoiceRecorder) -> None:
    """Trace and span id are those of the stage, and the session, transport, model and worker stand beside them."""
    log = logging.getLogger("bot")
    with voice.session("call-7", transport="websocket") as session:
        turn = session.user_turn(input="text")
        with turn.tts(model="cosy") as tts:
            tts.worker("tts-cosy@0")
            log.info("speaking")
            expected = trace.get_current_span().get_span_context()
        inside = lines.last()
        log.info("between")
    assert inside["trace_id"] == f"{turn.trace_id:032x}" == f"{expected.trace_id:032x}"
    assert inside["span_id"] == f"{expected.span_id:016x}"
    assert len(inside["trace_id"]) == 32
    assert (inside["session_id"], inside["transport"]) == ("call-7", "websocket")
    assert (inside["model_id"], inside["worker"]) == ("cosy", "tts-cosy@0")
    between = next(line for line in lines.all() if line["message"] == "between")
    assert between["trace_id"] == inside["trace_id"]
    assert between["span_id"] != inside["span_id"]
    log.info("outside")
    assert "trace_id" not in lines.last()


def test_lines_of_tasks_threads_and_queues_keep_their_origin(lines: Lines, voice: VoiceRecorder) -> None:
    """A task, an executor that was given the context, and a queue handler that formats elsewhere have the turn's id."""
    log = logging.getLogger("bot")
    passed: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    aside = logging.getLogger("aside")
    aside.propagate = False
    aside.handlers[:] = [logging.handlers.QueueHandler(passed)]

    async def task() -> None:
        log.info("task")
        await asyncio.get_running_loop().run_in_executor(None, copy_context().run, log.info, "executor")

    with voice.session() as session:
        turn = session.user_turn(input="text")

        async def main() -> None:
            await asyncio.create_task(task())

        asyncio.run(main())
        with ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, log.info, "pool").result()
        aside.info("queued")
    expected = f"{turn.trace_id:032x}"
    assert {line["message"]: line.get("trace_id") for line in lines.all() if line["logger"] == "bot"} == {
        "task": expected, "executor": expected, "pool": expected,
    }  # fmt: skip
    thread = threading.Thread(target=lambda: lines.stream.write(JSONFormatter().format(passed.get()) + "\n"))
    thread.start()
    thread.join()
    assert lines.last()["trace_id"] == expected
    aside.handlers.clear()


@pytest.mark.covers("C-L12", "C-L13", "C-L14", "C-L15")
def test_an_exception_says_where_to_read_on(lines: Lines) -> None:
    """Type, message, traceback and the runbook of its class (or of a base) are fields of their own."""
    try:
        fail(ConnectionRefusedError("Worker tts-cosy@0 not reachable"))
    except ConnectionRefusedError:
        logging.getLogger("bot").exception("Failed to connect to worker")
    line = lines.last()
    assert line["error_type"] == "ConnectionRefusedError"
    assert line["error_message"] == "Worker tts-cosy@0 not reachable"
    assert line["traceback"].startswith("Traceback (most recent call last)")
    assert line["resolution"] == "See docs/runbooks/worker-unavailable.md"
    try:
        fail(KeyError("x"))
    except KeyError:
        logging.getLogger("bot").exception("no runbook")
    assert "resolution" not in lines.last()


@pytest.mark.covers("C-Q06")
def test_every_string_is_redacted_and_the_record_is_not_changed(lines: Lines) -> None:
    """Message, arguments, extra of any shape, error message and traceback; the record keeps what it held."""
    secret = "bob@example.com"
    kept: list[logging.LogRecord] = []
    catcher = logging.handlers.QueueHandler(queue.SimpleQueue())
    catcher.enqueue = kept.append  # type: ignore[assignment,method-assign]
    catcher.prepare = lambda record: record  # type: ignore[method-assign]
    log = logging.getLogger("bot")
    log.addHandler(catcher)
    try:
        fail(ValueError(f"no mailbox {secret}"))
    except ValueError:
        log.exception("mail to %s", secret, extra={"who": secret, "deep": {"list": [secret, 7]}})
    log.removeHandler(catcher)
    assert secret not in lines.stream.getvalue()
    line = lines.last()
    assert line["message"] == "mail to [EMAIL]"
    assert line["deep"] == {"list": ["[EMAIL]", 7]}
    assert line["error_message"] == "no mailbox [EMAIL]"
    assert kept[0].args == (secret,)
    assert kept[0].__dict__["who"] == secret
    assert secret in JSONFormatter().format(kept[0])


@pytest.mark.covers("C-L07", "C-Q14")
def test_client_addresses_are_masked(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's address loses its host part, unless the whole address is asked for."""
    log = logging.getLogger("bot")
    log.info("x", extra={"client_ip": "192.168.1.100"})
    assert lines.last()["client_ip"] == "192.168.1.0"
    log.info("x", extra={"client_ip": "2001:db8:1:2::3"})
    assert lines.last()["client_ip"] == "2001:db8:1::"
    monkeypatch.setenv("VOICESPAN_LOG_CLIENT_ADDRESS", "true")
    settings.reset()
    log.info("x", extra={"client_ip": "192.168.1.100"})
    assert lines.last()["client_ip"] == "192.168.1.100"
    settings.reset()


def fail(error: Exception) -> None:
    """Raise it."""
    raise error


class Hostile:
    """An object whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_nothing_that_is_logged_raises(lines: Lines) -> None:
    """Wrong arguments, objects without text, cycles and odd keys still give a line."""
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    log = logging.getLogger("hostile")
    log.propagate = False  # pytest's own handler would raise where ours does not
    log.handlers[:] = logging.getLogger().handlers[:1]
    log.info("%d", "no number")
    log.info("x", extra={"o": Hostile(), "set": {1, 2}, "bytes": b"\xff", "keys": {(1, 2): 3}})
    before = len(lines.all())
    assert before == 2
    assert lines.all()[1]["o"] == "<Hostile>"
    log.info("x", extra={"cycle": cycle})
    assert len(lines.all()) == 3


@pytest.mark.covers("C-L17")
def test_sessions_say_when_they_begin_and_end(lines: Lines, voice: VoiceRecorder) -> None:
    """A session writes `Session started` and `Session ended`, with its id, transport and reason."""
    with voice.session("call-7", transport="websocket"):
        pass
    started, ended = lines.all()
    assert (started["message"], started["event"], started["level"]) == ("Session started", "session.started", "INFO")
    assert (started["session_id"], started["transport"]) == ("call-7", "websocket")
    assert (ended["event"], ended["reason"]) == ("session.ended", "normal")


@pytest.mark.covers("C-L16", "C-L19", "C-Q11")
def test_slow_first_audio_is_a_warning(lines: Lines, voice: VoiceRecorder) -> None:
    """A turn whose synthesis took longer than its limit to speak is a line, found by `high_latency` and its trace."""
    session = voice.session("session-abc")
    turn = session.user_turn(input="text")
    with turn.tts(model="cosyvoice2-en-base") as tts:
        voice.clock.advance(ms=520)
        tts.audio(0.02)
    turn.audio_sent(0.02)
    (finished,) = voice.settle(5)
    logs.report(finished)
    line = lines.last()
    assert (line["level"], line["message"], line["event"]) == ("WARNING", "High FAL detected", "high_latency")
    assert (line["fal_ms"], line["session_id"], line["model_id"]) == (520, "session-abc", "cosyvoice2-en-base")
    assert line["trace_id"] == f"{turn.trace_id:032x}"


def test_structlog_writes_the_same_fields(lines: Lines, voice: VoiceRecorder) -> None:
    """A structlog chain with our processor gives the same line."""
    structlog = pytest.importorskip("structlog")
    out = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.add_log_level, logs.processor, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    with voice.session("call-7") as session:
        turn = session.user_turn(input="text")
        with turn.llm(model="m"):
            structlog.get_logger().info("mail bob@example.com", event_name="mailed", n=1)
        try:
            fail(TimeoutError("late"))
        except TimeoutError:
            structlog.get_logger().exception("failed")
    structlog.reset_defaults()
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["message"], first["event"], first["level"], first["n"]) == ("mail [EMAIL]", "mailed", "INFO", 1)
    assert first["trace_id"] == f"{turn.trace_id:032x}"
    assert (first["session_id"], first["model_id"]) == ("call-7", "m")
    assert (second["error_type"], second["level"]) == ("TimeoutError", "ERROR")


def test_loguru_writes_the_same_fields(lines: Lines, voice: VoiceRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """A loguru sink of ours gives the same line."""
    loguru = pytest.importorskip("loguru")
    handler = loguru.logger.add(logs.loguru_sink)
    with voice.session("call-7") as session:
        turn = session.user_turn(input="text")
        with turn.llm(model="m"):
            loguru.logger.bind(n=1).info("mail bob@example.com")
    loguru.logger.remove(handler)
    line = json.loads(next(each for each in capsys.readouterr().out.splitlines() if "mail" in each))
    assert (line["message"], line["level"], line["n"]) == ("mail [EMAIL]", "INFO", 1)
    assert line["trace_id"] == f"{turn.trace_id:032x}"


def test_levels_are_checked() -> None:
    """A level that there is not is an error where logging is set up, not later."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with pytest.raises(ValueError, match="LOUD"):
        setup_logging("loud")
    assert (root.level, list(root.handlers)) == before
    assert RedactingFormatter().format(logging.makeLogRecord({"msg": "x"}))
    assert sys.stdout is not None


SERVICE = """
import logging, threading, voicespan
log = logging.getLogger("bot")
with voicespan.session(id="call-7") as session:
    turn = session.user_turn(input="text")
    with turn.llm(model="m"):
        log.info("thinking of bob@example.com")
    def work():
        with turn.use():
            log.warning("in a thread")
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    turn.end()
"""


def test_a_service_writes_json_by_its_environment_alone(tmp_path: Path) -> None:
    """An unmodified service prints JSON lines with its turn's trace id, and the spans have the same one."""
    program = tmp_path / "service.py"
    program.write_text(SERVICE)
    environ = {
        "PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path), "OTEL_SERVICE_NAME": "bot",
        "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "VOICESPAN_LOG_FORMAT": "json",
    }  # fmt: skip
    command = [sys.executable, "-m", "voicespan", "run", "--", "python", str(program)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = {line["message"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(found) == {"Session started", "thinking of [EMAIL]", "in a thread", "Session ended"}
    assert found["in a thread"]["trace_id"] == found["thinking of [EMAIL]"]["trace_id"]
    assert found["thinking of [EMAIL]"]["service"] == "bot"
    assert found["thinking of [EMAIL]"]["session_id"] == "call-7"


def test_every_runbook_that_is_named_exists() -> None:
    """The page behind each `resolution` is part of the documentation."""
    root = Path(__file__).parents[1]
    assert [path for path in logs.RUNBOOKS.values() if not (root / path).is_file()] == []


def test_fields_with_what_was_said_are_left_out(lines: Lines) -> None:
    """Frameworks put transcripts into fields of their lines; a plain word is a field of the service's own."""
    extra = {"lk.pii.user_input": "a secret", "gen_ai.input.messages": "a secret", "text": "mine", "http.route": "/x"}
    logging.getLogger("livekit.agents").info("received", extra=extra)
    line = lines.last()
    assert "secret" not in str(line)
    assert (line["text"], line["http.route"]) == ("mine", "/x")


@pytest.mark.parametrize(
    ("logger", "message", "written"),
    [
        ("pipecat.services.tts_service", "Voice#0: Generating TTS [a secret]", "Voice#0: Generating TTS […"),
        ("pipecat.services.x.stt", "Transcription: [a secret]", "Transcription: […"),
        (
            "pipecat.services.x.llm",
            "TextModel#1: Creating response: secret",
            "TextModel#1: Creating response: …",
        ),
        ("pipecat.processors.x", "TextFilter#0: started", "TextFilter#0: started"),
        ("pipecat.services.x.llm", "Model#0 TTFB: 0.3", "Model#0 TTFB: 0.3"),
        ("bot", "User said: hello", "User said: hello"),
    ],
)
def test_pipecats_lines_do_not_tell_what_was_said(logger: str, message: str, written: str) -> None:
    """What Pipecat writes about text stays a line, without the text; the bot's own lines are its own."""
    assert logs._without_speech(logger, message) == written
