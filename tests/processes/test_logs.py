"""Log lines of services that are started unchanged: on stdout as JSON, and as OTLP records."""

from __future__ import annotations

import json
import re
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from tests.ports import free_port

from .receiver import Receiver
from .service import run

if TYPE_CHECKING:
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

JSON = {"VOICESPAN_LOG_FORMAT": "json", "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
TURN = """
    import voicespan
    session = voicespan.session(id="call-7", transport="websocket")
    turn = session.user_turn(input="text")
"""
LOGGED = {
    "dictConfig": """
        import logging.config
        logging.config.dictConfig({
            "version": 1, "formatters": {"f": {"format": "%(asctime)s %(message)s"}},
            "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f", "stream": "ext://sys.stdout"}},
            "loggers": {"bot": {"handlers": ["h"], "level": "INFO", "propagate": False}},
        })
        log = logging.getLogger("bot")
    """,
    "basicConfig": """
        import logging, sys
        logging.basicConfig(force=True, level="INFO", stream=sys.stdout, format="%(message)s")
        log = logging.getLogger("bot")
    """,
    "addHandler": """
        import logging, sys
        logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
        handler = logging.StreamHandler(sys.stdout)
        handler.addFilter(lambda record: record.name == "bot")
        logging.getLogger().addHandler(handler)
        log = logging.getLogger("bot")
        log.parent.handlers[0].setLevel("ERROR")
        logging.getLogger("other").info("not by its handlers")
    """,
    "uvicorn": """
        import logging.config, uvicorn
        uvicorn.Config(app=None).configure_logging()
        log = logging.getLogger("uvicorn.access")
    """,
    "structlog": """
        import structlog
        log = structlog.get_logger()
    """,
    "structlog configured": """
        import structlog
        structlog.configure(processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()])
        log = structlog.get_logger()
    """,
    "structlog over logging": """
        import logging, structlog
        structlog.configure(
            processors=[structlog.stdlib.add_log_level, structlog.processors.TimeStamper("iso"),
                        structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
        log = structlog.get_logger("bot")
    """,
    "structlog as text": """
        import json, logging, structlog
        structlog.configure(
            processors=[structlog.stdlib.add_log_level, lambda _logger, _name, event: json.dumps(event)],
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
        log = structlog.get_logger("bot")
    """,
    "loguru": """
        from loguru import logger as log
    """,
}


@pytest.mark.parametrize("way", LOGGED)
def test_a_service_that_sets_up_logging_itself_writes_json(way: str) -> None:
    """Handlers, structlog and loguru of an unchanged service write our lines, redacted and with the turn's ids."""
    if way not in ("dictConfig", "basicConfig", "addHandler"):
        pytest.importorskip(way.split(maxsplit=1)[0])
    inside = 'with turn.llm(model="m"):\n    log.info("mail bob@example.com")\n'
    done = run(dedent(LOGGED[way]) + dedent(TURN) + inside, **JSON)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    (line,) = [line for line in lines if line["message"] == "mail [EMAIL]"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert (line["level"], line["service"], line["session_id"], line["model_id"]) == ("INFO", "svc", "call-7", "m")
    assert len(line["trace_id"]) == 32
    assert "bob@" not in done.out
    assert ("not by its handlers" in {line["message"] for line in lines}) is (way == "addHandler")


@pytest.mark.covers("C-L25")
def test_the_exception_that_ends_a_service_is_its_last_line() -> None:
    """An exception that nobody catches is CRITICAL, with its traceback; one that ends a thread is an error."""
    script = """
        import threading
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()
        raise MemoryError("no room for bob@example.com")
    """
    done = run(script, **JSON)
    assert done.code == 1
    thread, process = (json.loads(line) for line in done.out.splitlines())
    assert (thread["level"], thread["event"], thread["error_type"]) == ("ERROR", "thread.failed", "ZeroDivisionError")
    assert (process["level"], process["event"], process["error_type"]) == ("CRITICAL", "process.failed", "MemoryError")
    assert process["error_message"] == "no room for [EMAIL]"
    assert process["resolution"].endswith("high-memory.md")
    assert "MemoryError" in done.err  # Python says it as ever


@pytest.mark.covers("C-L20", "C-Q04")
def test_the_scrape_endpoint_is_announced() -> None:
    """Where metrics can be scraped is a line at the start."""
    pytest.importorskip("prometheus_client")
    port = free_port()
    done = run("pass", **JSON | {"VOICESPAN_PROMETHEUS_PORT": str(port)})
    (line,) = (json.loads(line) for line in done.out.splitlines())
    assert line["message"] == f"Prometheus metrics available at http://127.0.0.1:{port}/metrics"
    assert (line["level"], line["event"]) == ("INFO", "metrics.available")


def records(receiver: Receiver) -> dict[str, tuple[str, LogRecord]]:
    """Each record with its scope, by its body."""
    return {
        record.body.string_value: (scope.scope.name, record)
        for request in receiver.logs
        for each in request.resource_logs
        for scope in each.scope_logs
        for record in scope.log_records
    }


def attributes(record: LogRecord) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in record.attributes}


def test_lines_are_sent_and_written() -> None:
    """With OTEL_LOGS_EXPORTER=otlp each line is a record in its OTLP form, and stderr has it still as it was."""
    script = dedent(TURN) + dedent("""
    import logging
    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
    log = logging.getLogger("bot")
    with turn.llm(model="m"):
        log.info("mail %s", "bob@example.com", extra={"event": "mailed", "client_ip": "10.1.2.3", "count": 3})
    try:
        raise TimeoutError("late")
    except TimeoutError:
        log.exception("failed")
    print(turn.trace_id)
    """)
    with Receiver() as receiver:
        done = run(script, OTEL_LOGS_EXPORTER="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.code == 0, done.err
    assert "INFO mail bob@example.com" in done.err
    assert "ERROR failed" in done.err
    found = records(receiver)
    scope, mailed = found["mail [EMAIL]"]
    assert (scope, mailed.severity_text, mailed.severity_number, mailed.event_name) == ("bot", "INFO", 9, "mailed")
    assert int.from_bytes(mailed.trace_id, "big") == int(done.out)
    assert mailed.time_unix_nano > 0
    assert attributes(mailed) == {
        "session.id": "call-7", "gen_ai.request.model": "m", "voice.transport": "websocket",
        "client.address": "10.1.2.0", "count": 3,
    }  # fmt: skip
    _, failed = found["failed"]
    own = attributes(failed)
    assert (failed.severity_text, own["exception.type"], own["exception.message"]) == ("ERROR", "TimeoutError", "late")
    assert own["exception.stacktrace"].startswith("Traceback")
