"""Log lines: one JSON object each, with the stage that they were written in, and no secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.handlers
import pickle
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

import voicespan
from voicespan import emit, events, logs, metrics, settings, threads
from voicespan.logs import JSONFormatter, RedactingFormatter, setup_logging
from voicespan.redaction import redact_identity

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
    monkeypatch.setattr(events, "enabled", False)
    monkeypatch.setattr(events, "_told", {})
    hooks = sys.excepthook, threading.excepthook
    monkeypatch.setattr(emit, "_recorder", emit.BackgroundRecorder())
    found = Lines()
    root.handlers[:] = [setup_logging("DEBUG", stream=found.stream)]
    yield found
    logging.setLogRecordFactory(factory)
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    sys.excepthook, threading.excepthook = hooks


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


def test_work_given_to_other_threads_keeps_its_origin(
    lines: Lines, voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stage gives to an executor, a thread or a timer, and callbacks of its futures, has the stage's ids."""
    monkeypatch.setattr(threads, "_installed", [])
    before = ThreadPoolExecutor.submit, Future.add_done_callback, threading.Thread.start
    log = logging.getLogger("bot")
    release = threading.Event()
    try:
        threads.install()
        with ThreadPoolExecutor(1) as pool, voice.session("call-7") as session:
            turn = session.user_turn(input="text")
            with turn.llm(model="m"):
                expected = trace.get_current_span().get_span_context()
                pool.submit(log.info, "executor").result()
                future = pool.submit(release.wait, 5)
                future.add_done_callback(lambda _: log.info("callback"))
                release.set()
                started = [threading.Thread(target=log.info, args=("thread",)), threading.Timer(0, log.info, ["timer"])]
                for thread in started:
                    thread.start()
                for thread in started:
                    thread.join()
            assert voicespan_turn_in(pool) is turn
            pool.submit(asyncio.run, asyncio.sleep(0)).result()
        pool = ThreadPoolExecutor(1)
        pool.submit(log.info, "outside").result()
        pool.shutdown()
    finally:
        ThreadPoolExecutor.submit, Future.add_done_callback, threading.Thread.start = before  # type: ignore[method-assign]
    found = {line["message"]: line for line in lines.all() if line["logger"] == "bot"}
    assert {name for name, line in found.items() if line.get("span_id") == f"{expected.span_id:016x}"} == {
        "executor", "callback", "thread", "timer",
    }  # fmt: skip
    assert {line.get("session_id") for line in found.values()} == {"call-7", None}
    assert "trace_id" not in found["outside"]


def voicespan_turn_in(pool: ThreadPoolExecutor) -> object:
    """The current turn, as work in a pool sees it."""
    return pool.submit(voicespan.current_turn).result()


def test_a_thread_that_outlives_its_turn_belongs_to_nobody(
    lines: Lines, voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that the first turn happens to start does not give its ids to all that it does later on."""
    monkeypatch.setattr(threads, "_installed", [])
    before = ThreadPoolExecutor.submit, Future.add_done_callback, threading.Thread.start
    work: queue.SimpleQueue[str] = queue.SimpleQueue()
    log = logging.getLogger("bot")

    def write_two() -> None:
        log.info(work.get())
        log.info(work.get())

    try:
        threads.install()
        with voice.session() as session:
            turn = session.user_turn(input="text")
            with turn.llm(model="m"):
                thread = threading.Thread(target=write_two)
                thread.start()
                work.put("inside")
                while not any(line["message"] == "inside" for line in lines.all()):
                    time.sleep(0.01)
        voice.settle(5)
        work.put("later")
        thread.join()
    finally:
        ThreadPoolExecutor.submit, Future.add_done_callback, threading.Thread.start = before  # type: ignore[method-assign]
    found = {line["message"]: line for line in lines.all()}
    assert found["inside"]["trace_id"] == f"{turn.trace_id:032x}"
    assert not {"trace_id", "session_id"} & set(found["later"])


def test_the_threads_of_a_pool_belong_to_nobody(
    lines: Lines, voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that a stage happens to start does other work without that stage's ids, even while its turn is open."""
    monkeypatch.setattr(threads, "_installed", [])
    before = ThreadPoolExecutor.submit, Future.add_done_callback, threading.Thread.start
    try:
        threads.install()
        turn = voice.session("call-7").user_turn(input="text")
        with ThreadPoolExecutor(1) as pool:
            with turn.llm(model="m"):
                pool.submit(logging.getLogger("bot").info, "inside").result()
            pool.submit(logging.getLogger("bot").info, "later").result()
    finally:
        ThreadPoolExecutor.submit, Future.add_done_callback, threading.Thread.start = before  # type: ignore[method-assign]
    found = {line["message"]: line for line in lines.all()}
    assert found["inside"]["trace_id"] == f"{turn.trace_id:032x}"
    assert "trace_id" not in found["later"]


def test_a_record_keeps_its_origin_and_error_on_its_way_to_another_process(lines: Lines, voice: VoiceRecorder) -> None:
    """What a queue handler or a socket handler passes on has ids, session and error as fields, not as a message."""
    kept: list[logging.LogRecord] = []
    handler = logging.handlers.QueueHandler(queue.SimpleQueue())
    handler.enqueue = kept.append  # type: ignore[assignment,method-assign]
    log = logging.getLogger("aside")
    log.propagate = False
    log.handlers[:] = [handler]
    with voice.session("call-7") as session:
        turn = session.user_turn(input="text")
        with turn.llm(model="m"):
            try:
                fail(TimeoutError("late"))
            except TimeoutError:
                log.exception("failed")
    log.handlers.clear()
    for protocol in (1, pickle.HIGHEST_PROTOCOL):  # 1 is the socket handler's
        passed = logging.makeLogRecord(pickle.loads(pickle.dumps(kept[0].__dict__, protocol)))
        line = json.loads(RedactingFormatter().format(passed))
        assert (line["message"], line["error_type"]) == ("failed", "TimeoutError")
        assert line["resolution"].endswith("high-end-to-end-latency.md")
        assert (line["trace_id"], line["session_id"], line["model_id"]) == (f"{turn.trace_id:032x}", "call-7", "m")


def test_lines_under_spans_of_other_libraries_name_the_session(lines: Lines, voice: VoiceRecorder) -> None:
    """A line that a library writes inside its own span has that span's id, and the session and model of the stage."""
    identity = trace.SpanContext(7, 8, is_remote=False, trace_flags=trace.TraceFlags(1))
    with voice.session("call-7") as session:
        turn = session.user_turn(input="text")
        with turn.llm(model="m"), trace.use_span(trace.NonRecordingSpan(identity)):
            logging.getLogger("httpx").info("request")
    line = next(line for line in lines.all() if line["message"] == "request")
    assert (line["span_id"], line["session_id"], line["model_id"]) == (f"{8:016x}", "call-7", "m")


@pytest.mark.covers("C-L02", "C-Q10")
def test_levels_and_times_have_one_form(lines: Lines) -> None:
    """Whatever a level is called it is one of the five; structlog's time, in any form, is UTC with microseconds."""
    logging.addLevelName(25, "NOTICE")
    logging.getLogger("bot").log(25, "x")
    assert lines.last()["level"] == "INFO"
    forms = {"2025-10-05T14:32:15Z", "2025-10-05T16:32:15.000000+02:00", 1759674735.0}
    events_ = [{"event": "x", "timestamp": form} for form in forms]
    assert {logs.processor(None, "warn", event)["timestamp"] for event in events_} == {"2025-10-05T14:32:15.000000Z"}
    names = {name: logs.processor(None, name, {"event": "x"})["level"] for name in ("warn", "exception", "fatal")}
    assert names == {"warn": "WARNING", "exception": "ERROR", "fatal": "CRITICAL"}


def test_extra_does_not_replace_what_a_line_is(lines: Lines) -> None:
    """A field of the service's own that is called as one of the first four gets an underscore."""
    logging.getLogger("bot").info("x", extra={"level": "high", "timestamp": 7, "logger": "mine"})
    line = lines.last()
    assert (line["level"], line["level_"]) == ("INFO", "high")
    assert (line["logger"], line["logger_"], line["timestamp_"]) == ("bot", "mine", 7)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], "\ud800", {"\udfff": 1}, {"a": {float("nan")}}])
def test_every_line_is_json_for_strict_readers(lines: Lines, value: object) -> None:
    """Numbers that JSON does not have, and halves of a character, do not make a line unreadable."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    for formatter in (JSONFormatter(), RedactingFormatter()):
        text = formatter.format(logging.makeLogRecord({"msg": "x", "value": value, "kept": 7}))
        assert json.loads(text.encode(), parse_constant=refuse)["kept"] == 7


def test_a_session_is_named_as_on_its_spans(lines: Lines) -> None:
    """A session whose id is a phone number has the same pseudonym in lines as in spans."""
    logging.getLogger("bot").info("x", extra={"session_id": "+15551234567"})
    assert lines.last()["session_id"] == redact_identity("+15551234567") != "[PHONE]"


def test_keys_are_redacted(lines: Lines) -> None:
    """A name of a field, at any depth, is a string that leaves as well."""
    logging.getLogger("bot").info("x", extra={"bob@example.com": 1, "by": {"bob@example.com": [{"+15551234567": 1}]}})
    assert "bob@" not in lines.stream.getvalue()
    assert "+1555" not in lines.stream.getvalue()
    assert lines.last()["by"] == {"[EMAIL]": [{"[PHONE]": 1}]}


@pytest.mark.covers("C-L12")
@pytest.mark.parametrize(
    "kind", ["worker_unavailable", "model_not_found", "timeout", "internal", "model_error", "connection_error",
             "websocket", "UNAVAILABLE", "builtins.TimeoutError", "openai.RateLimitError"],
)  # fmt: skip
def test_every_error_type_has_a_runbook(lines: Lines, kind: str) -> None:
    """An error that is named without an exception says where to read on, too; each value of `error.type` has a page."""
    logging.getLogger("bot").error("failed", extra={"error_type": kind})
    page = lines.last()["resolution"].removeprefix("See ")
    assert (Path(__file__).parents[1] / page).is_file()


@pytest.mark.covers("C-L21", "C-L22", "C-L23", "C-L24")
def test_levels_of_our_own_lines_say_what_to_do(lines: Lines, voice: VoiceRecorder) -> None:
    """Timings are DEBUG, models and barge-ins INFO, what was mended or is slow WARNING, lost turns ERROR."""
    with metrics.model_load("cosy"):
        pass
    metrics.model_unloaded("cosy", "lru_eviction")
    metrics.audio_quality("receive", jitter_s=0.2)
    session = voice.session("call-7", transport="websocket")
    lost = session.user_turn(input="text")
    llm = lost.llm(model="m")
    llm.fail("timeout")
    llm.end()
    lost.end()
    mended = session.user_turn(input="text")
    llm = mended.llm(model="m")
    llm.fail("RateLimitError")
    llm.end()
    with mended.llm(model="m"), mended.tts() as tts:
        tts.audio(1)
    mended.audio_sent(1)
    voice.clock.advance(ms=2000)
    mended.end()
    cut = session.user_turn(input="text")
    with cut.llm(model="m"), cut.tts() as tts:
        tts.audio(5)
    cut.audio_sent(5)
    voice.clock.advance(ms=1000)
    over = session.user_turn()
    cut.interrupted()
    cut.audio_stopped()
    over.committed()
    over.end()
    for turn in voice.settle(20):
        events.turn_over(turn)
    found = {(line.get("event"), line["level"]) for line in lines.all()}
    assert {
        ("model.loaded", "INFO"), ("model.unloaded", "INFO"), ("high_jitter", "WARNING"), ("turn.failed", "ERROR"),
        ("turn.recovered", "WARNING"), ("barge_in", "INFO"), ("turn.over", "DEBUG"),
    } <= found  # fmt: skip
    by_event = {line["event"]: line for line in lines.all() if "event" in line}
    assert by_event["model.loaded"]["model_id"] == "cosy"
    assert by_event["turn.failed"]["error_type"] == "timeout"
    assert by_event["turn.failed"]["trace_id"] == f"{lost.trace_id:032x}"
    assert by_event["turn.failed"]["resolution"].endswith("high-end-to-end-latency.md")
    assert by_event["turn.recovered"]["trace_id"] == f"{mended.trace_id:032x}"
    assert by_event["barge_in"]["barge_in_ms"] >= 0
    assert (by_event["turn.over"]["session_id"], by_event["turn.over"]["transport"]) == ("call-7", "websocket")


@pytest.mark.covers("C-L18")
def test_a_worker_that_cannot_be_reached_is_an_error(lines: Lines, voice: VoiceRecorder) -> None:
    """`Failed to connect to worker` has session, type, message, traceback, runbook and trace, once a second."""
    address = {"server.address": "localhost", "server.port": 7001}
    identity = trace.SpanContext(7, 8, is_remote=False, trace_flags=trace.TraceFlags(1))
    with voice.session("call-7"):
        for _ in range(3):
            try:
                fail(ConnectionRefusedError("Worker tts-cosy@0 not reachable"))
            except ConnectionRefusedError as error:
                message = "Failed to connect to worker"
                events.unreachable("worker.unreachable", message, error, address, identity)
    (line,) = [line for line in lines.all() if line.get("event") == "worker.unreachable"]
    assert (line["message"], line["level"]) == ("Failed to connect to worker", "ERROR")
    assert (line["session_id"], line["trace_id"]) == ("call-7", f"{7:032x}")
    assert (line["error_type"], line["address"]) == ("ConnectionRefusedError", "localhost:7001")
    assert line["error_message"] == "Worker tts-cosy@0 not reachable"
    assert line["traceback"].startswith("Traceback")
    assert line["resolution"].endswith("worker-unavailable.md")


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
    identity = trace.SpanContext(7, 8, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(identity)):
        call = voice.session("call-7", transport="websocket", model="cosy", attributes={"client.address": "10.1.2.3"})
    with call:
        pass
    started, ended = lines.all()
    assert (started["model_id"], started["client_ip"]) == ("cosy", "10.1.2.0")
    assert (started["trace_id"], started["span_id"]) == (f"{7:032x}", f"{8:016x}")
    assert (started["message"], started["event"], started["level"]) == ("Session started", "session.started", "INFO")
    assert (started["session_id"], started["transport"]) == ("call-7", "websocket")
    assert (ended["event"], ended["reason"]) == ("session.ended", "normal")
    assert ended["trace_id"] == started["trace_id"]  # that of the connection, wherever the session ends


@pytest.mark.covers("C-L16", "C-L19", "C-Q11", "C-Q12")
def test_slow_first_audio_is_a_warning(lines: Lines, voice: VoiceRecorder) -> None:
    """A turn whose synthesis took longer than its limit to speak is a line, found by `high_latency` and its trace."""
    session = voice.session("session-abc")
    voice.clock.advance(ms=3000)  # first audio counts from the first text that is handed over, not from here
    turn = session.user_turn(input="text")
    voice.clock.advance(ms=200)
    with turn.tts(model="cosyvoice2-en-base") as tts:
        voice.clock.advance(ms=520)
        tts.audio(0.02)
    turn.audio_sent(0.02)
    (finished,) = voice.settle(5)
    events.turn_over(finished)
    line = next(line for line in lines.all() if line.get("event") == "high_latency")
    assert (line["level"], line["message"]) == ("WARNING", "High FAL detected")
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
