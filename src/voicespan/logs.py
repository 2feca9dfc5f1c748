"""Log lines as JSON, each with the trace and span of the stage it was written in.

    from voicespan.logs import setup_logging
    setup_logging("INFO")

or, without a change of code, `VOICESPAN_LOG_FORMAT=json`. One object per line on stdout, with the fields of
`docs/logs.md`; every string is redacted. structlog takes part by `processor`, loguru by `loguru_sink`; where the
environment asks for JSON, both do so by themselves (`voicespan.loggers`).
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from opentelemetry import trace

from voicespan import events, settings
from voicespan import names as n
from voicespan.content_names import verdicts
from voicespan.context import LiveSpan, subject
from voicespan.emit import recorder
from voicespan.guard import swallowed
from voicespan.redaction import redact, redact_identity

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from types import TracebackType

RUNBOOKS: dict[str, str] = {
    "APIConnectionError": "docs/runbooks/component-error-rate.md",
    "APIStatusError": "docs/runbooks/component-error-rate.md",
    "APITimeoutError": "docs/runbooks/high-end-to-end-latency.md",
    "ConnectionClosed": "docs/runbooks/client-errors.md",
    "ConnectionError": "docs/runbooks/worker-unavailable.md",
    "MemoryError": "docs/runbooks/high-memory.md",
    "OutOfMemoryError": "docs/runbooks/gpu-memory-exhaustion.md",
    "RateLimitError": "docs/runbooks/rate-limit-spike.md",
    "RedisError": "docs/runbooks/redis-connection-errors.md",
    "RpcError": "docs/runbooks/worker-unavailable.md",
    "TimeoutError": "docs/runbooks/high-end-to-end-latency.md",
    "WebSocketDisconnect": "docs/runbooks/client-errors.md",
    # Values of `error.type` that are no classes.
    "DEADLINE_EXCEEDED": "docs/runbooks/high-end-to-end-latency.md",
    "UNAVAILABLE": "docs/runbooks/worker-unavailable.md",
    "connection_error": "docs/runbooks/redis-connection-errors.md",
    "internal": "docs/runbooks/session-errors.md",
    "model_error": "docs/runbooks/component-error-rate.md",
    "model_not_found": "docs/runbooks/session-errors.md",
    "session_error": "docs/runbooks/session-errors.md",
    "timeout": "docs/runbooks/high-end-to-end-latency.md",
    "websocket": "docs/runbooks/client-errors.md",
    "worker_unavailable": "docs/runbooks/worker-unavailable.md",
}
"""Where to read on, by the class of an exception or one of its bases, or by `error.type`; a service adds its own."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_ORIGIN = "voicespan_origin"
WRITTEN = "voicespan_written"
"""On a record that a handler of the service's own has written to stdout or stderr (`voicespan.loggers`)."""
_OWN = _STANDARD | {_ORIGIN, WRITTEN}
_ADDRESSES = ("client_ip", "client_address", "client.address")
_FIRST = frozenset({"timestamp", "level", "logger", "message"})
"""What a field of the service's own cannot replace: it gets an underscore behind its name."""
_OF_STRUCTLOG = ("_logger", "_name", "_record", "_from_structlog")
_TRACEBACK = "\nTraceback (most recent call last):"
WHO_FIELDS = {
    "service": n.SERVICE_NAME,
    "instance": n.SERVICE_INSTANCE_ID,
    "environment": n.DEPLOYMENT_ENVIRONMENT_NAME,
}
"""Fields of a line by the attribute of the resource that they are."""
_WHO: list[Any] = [None, {}]
_IPV4_KEPT, _IPV6_KEPT = 24, 48
_MAX_DEPTH = 8


class Origin:
    """Where a line was written: the current span, and the session and stage behind it. Taken when it is written."""

    __slots__ = ("circumstances", "context", "failure")

    def __init__(self, error: BaseException | None = None) -> None:
        span = trace.get_current_span()
        self.context = span.get_span_context()
        found = span.subject if isinstance(span, LiveSpan) else subject() if self.context.is_valid else None
        self.circumstances: Mapping[str, object] = {} if found is None else found.circumstances()
        self.failure: BaseException | Mapping[str, str] | None = error

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a record pass to another process, as handlers with sockets and queues do: as plain data."""
        failure = error_fields(self.failure) if isinstance(self.failure, BaseException) else self.failure
        known = {key: str(self.circumstances[key]) for key in events.CIRCUMSTANCES if key in self.circumstances}
        context = (self.context.trace_id, self.context.span_id, int(self.context.trace_flags))
        return _restored, (context, known, failure)

    def put(self, line: MutableMapping[str, Any]) -> None:
        """Add ids, session, model, transport and worker to a line that does not have them."""
        if self.context.is_valid:
            line.setdefault("trace_id", f"{self.context.trace_id:032x}")
            line.setdefault("span_id", f"{self.context.span_id:016x}")
            line.setdefault("trace_flags", f"{self.context.trace_flags:02x}")
        for key, field in events.CIRCUMSTANCES.items():
            if key in self.circumstances:
                line.setdefault(field, self.circumstances[key])


def _restored(context: tuple[int, int, int], known: Mapping[str, object], failure: Mapping[str, str] | None) -> Origin:
    made = Origin.__new__(Origin)
    trace_id, span_id, flags = context
    made.context = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
    made.circumstances, made.failure = known, failure
    return made


class JSONFormatter(logging.Formatter):
    """Formats a record as one JSON object; `extra` becomes further fields. The record is not changed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return _encode(self.line(record))

    def line(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a record, in the order in which they are written."""
        extra = {key: value for key, value in vars(record).items() if key not in _OWN}
        message, error = _message(record), record.exc_info[1] if record.exc_info else None
        if isinstance(record.msg, Mapping):  # structlog leaves its event to the handler
            message, error = _taken_apart(dict(record.msg), extra, error)
        elif message.startswith('{"') and message.endswith("}"):  # structlog has rendered it, for a handler of its own
            message, error = _parsed(message, extra, error)
        origin = getattr(record, _ORIGIN, None)
        origin = origin if isinstance(origin, Origin) else Origin()
        failure = origin.failure if error is None else error
        if error is None and failure is not None:  # a queue handler has put the traceback behind the message
            message = message.partition(_TRACEBACK)[0]
        name = record.name
        line = _line(record.created, record.levelno or logging.INFO, name, message, extra, origin, failure)
        if failure is None and record.exc_text:
            line["traceback"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return line


def _line(
    when_s: float,
    level: int,
    logger: str,
    message: object,
    extra: Mapping[str, Any],
    origin: Origin,
    failure: BaseException | Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the fields of a line, whichever library it comes from."""
    line: dict[str, Any] = {
        "timestamp": timestamp(when_s),
        "level": level_name(level),
        "logger": logger,
        "message": message,
    }
    if "event" in extra:
        line["event"] = extra["event"]
    origin.put(line)
    line.update(who())
    for key, value in _unsaid(extra).items():
        line[f"{key}_" if key in _FIRST else key] = value
    if not settings.current().log_client_address:
        for key in _ADDRESSES:
            if key in line:
                line[key] = masked(str(line[key]))
    if failure is not None:
        line.update(error_fields(failure) if isinstance(failure, BaseException) else failure)
    elif isinstance(kind := extra.get("error_type"), str) and (found := _runbook(kind)):
        line.setdefault("resolution", found)
    return line


def _taken_apart(event: dict[str, Any], extra: dict[str, Any], error: Any) -> tuple[Any, Any]:
    """Move the fields of structlog's event to the others, and return its message and exception."""
    message = event.pop("event", "")
    if "event_name" in event:
        event["event"] = event.pop("event_name")
    error = _error_of(event.pop("exc_info", None)) or error
    for key in (*_OF_STRUCTLOG, *_FIRST):
        event.pop(key, None)
        extra.pop(key, None)
    if "exception" in event:
        event["traceback"] = event.pop("exception")
    extra.update(event)
    return message, error


def _parsed(message: str, extra: dict[str, Any], error: Any) -> tuple[Any, Any]:
    try:
        event = json.loads(message)
    except ValueError:
        return message, error
    return _taken_apart(event, extra, error) if "event" in event else (message, error)


class RedactingFormatter(JSONFormatter):
    """The same, with every string redacted: message, arguments, extra fields, error text and traceback."""

    def line(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields, redacted."""
        return _redacted(super().line(record))


def setup_logging(
    log_level: str | int = "INFO", *, stream: TextIO | None = None, runbooks: Mapping[str, str] | None = None
) -> logging.Handler:
    """Write JSON lines to `stream` (stdout) from the root logger, in place of its other stream handlers.

    `runbooks` adds to `RUNBOOKS`. Handlers that write elsewhere stay. Returns the handler.

    Raises:
        ValueError: there is no such level.

    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(RedactingFormatter())
    root = logging.getLogger()
    root.setLevel(log_level.upper() if isinstance(log_level, str) else log_level)
    for other in list(root.handlers):
        if type(other) is logging.StreamHandler:
            root.removeHandler(other)
    root.addHandler(handler)
    RUNBOOKS.update(runbooks or {})
    keep_origins()
    _say_what_nobody_catches()
    events.enabled = True
    recorder().watch = events.turn_over
    if (scrape := sys.modules.get("voicespan.metrics.scrape")) is not None:
        scrape.announce()
    return handler


def keep_origins() -> None:
    """Have each record remember where it was written, for handlers that format it in another thread or process."""
    make = logging.getLogRecordFactory()
    if getattr(make, "voicespan", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            record.__dict__[_ORIGIN] = Origin(record.exc_info[1] if record.exc_info else None)
        except Exception as error:
            swallowed("log record", error)
        return record

    factory.voicespan = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)


def _say_what_nobody_catches() -> None:
    """Have an exception that ends the process, or a thread, be a line before Python prints it."""
    if getattr(sys.excepthook, "voicespan", False):
        return
    process, thread = sys.excepthook, threading.excepthook

    def process_ends(kind: type[BaseException], error: BaseException, trace_: TracebackType | None) -> None:
        if isinstance(error, Exception):
            events.say(logging.CRITICAL, "Process ended by an exception", "process.failed", error)
        process(kind, error, trace_)

    def thread_ends(told: threading.ExceptHookArgs) -> None:
        if isinstance(told.exc_value, Exception):
            name = told.thread.name if told.thread is not None else None
            message, event = "Thread ended by an exception", "thread.failed"
            events.say(logging.ERROR, message, event, told.exc_value, thread_name=name)
        thread(told)

    process_ends.voicespan = True  # type: ignore[attr-defined]
    sys.excepthook, threading.excepthook = process_ends, thread_ends


def processor(_logger: object, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the fields of a line to structlog's event, redacted; put it before the renderer.

    structlog's `event` is the message; a machine name is given as `event_name`.
    """
    when_s = _unix_s(event_dict.get("timestamp"))
    level = _LEVELS.get(str(event_dict.get("level", method)).lower(), logging.INFO)
    name = str(event_dict.get("logger") or getattr(_logger, "name", None) or "")
    extra: dict[str, Any] = {}
    message, error = _taken_apart(dict(event_dict), extra, None)
    return _redacted(_line(when_s, level, name, message, extra, Origin(), error))


def loguru_sink(message: Any) -> None:
    """Write a message of loguru as a JSON line: `logger.add(loguru_sink, catch=True)`, without `enqueue`."""
    sys.stdout.write(_encode(loguru_line(message)) + "\n")


def loguru_line(message: Any) -> dict[str, Any]:
    """Return the fields of a message of loguru, redacted."""
    record = message.record
    name, error = record["name"] or "", record["exception"]
    text = _without_speech(name, record["message"])
    failure = None if error is None else error.value
    when_s = record["time"].timestamp()
    return _redacted(_line(when_s, record["level"].no, name, text, record["extra"], Origin(), failure))


def _unsaid(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields that do not hold what was said, by the names of conventions and frameworks (`lk.pii.…`).

    A plain word is a field of the service's own: it has chosen to write that.
    """
    if not any("." in key and verdicts[key] for key in extra):
        return extra
    return {key: value for key, value in extra.items() if "." not in key or not verdicts[key]}


def _without_speech(logger: str, message: str) -> str:
    """Return a message of Pipecat's without the words that were said: it writes them behind a bracket or a colon."""
    if not logger.startswith("pipecat."):
        return message
    found = _SPOKEN.search(message)
    return message if found is None else f"{message[: found.end()]}…"


def timestamp(unix_s: float) -> str:
    """Return a time as ISO 8601 in UTC with microseconds and `Z`."""
    microseconds = round(unix_s * 1_000_000)
    whole_s, rest = divmod(microseconds, 1_000_000)
    return f"{_second(whole_s)}.{rest:06d}Z"


def who() -> dict[str, str]:
    """Return the service, its instance and environment, as the resource of this process says them."""
    provider = trace.get_tracer_provider()
    if _WHO[0] is not provider:
        found = getattr(getattr(provider, "resource", None), "attributes", {})
        _WHO[:] = provider, {field: str(found[name]) for field, name in WHO_FIELDS.items() if name in found}
    known: dict[str, str] = _WHO[1]
    return known


def error_fields(error: BaseException) -> dict[str, str]:
    """Return type, message and traceback of an exception, and where to read on."""
    fields = {
        "error_type": type(error).__name__,
        "error_message": _words(error),
        "traceback": "".join(traceback.format_exception(error)).rstrip(),
    }
    found = next((found for kind in type(error).__mro__ if (found := _runbook(kind.__name__))), None)
    if found is not None:
        fields["resolution"] = found
    return fields


def _runbook(kind: str) -> str | None:
    """Return where to read on about an `error.type`, which may be the full name of a class."""
    found = RUNBOOKS.get(kind) or RUNBOOKS.get(kind.rpartition(".")[2])
    return None if found is None else f"See {found}"


def level_name(level: int) -> str:
    """Return DEBUG, INFO, WARNING, ERROR or CRITICAL; a level between two of them counts as the lower one."""
    return next((name for least, name in _NAMES if level >= least), "DEBUG")


def masked(address: str) -> str:
    """Return the network of a client's address: /24 of IPv4, /48 of IPv6; what is no address becomes `masked`."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "masked"
    kept = _IPV4_KEPT if found.version == 4 else _IPV6_KEPT  # noqa: PLR2004
    return str(ipaddress.ip_network((found, kept), strict=False).network_address)


_SPOKEN = re.compile(
    r"(generating|finished|tts request|transcri|text|said|speaking|response|messages|delta|turn\.|update event)"
    r"[^\[:#]*?(\[|: \[?| - )",
    re.IGNORECASE,
)
"""What precedes the words of a conversation in Pipecat's messages; `#` is in the names of its objects."""
_LAST: list[tuple[int, str]] = [(0, "")]
_NAMES = ((50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"))
_LEVELS = {
    "critical": logging.CRITICAL, "fatal": logging.CRITICAL, "exception": logging.ERROR, "error": logging.ERROR,
    "err": logging.ERROR, "failure": logging.ERROR, "warning": logging.WARNING, "warn": logging.WARNING,
    "info": logging.INFO, "debug": logging.DEBUG, "notset": logging.DEBUG,
}  # fmt: skip
"""Levels by the names of structlog's methods."""


def _second(whole_s: int) -> str:
    last_s, text = _LAST[0]
    if last_s != whole_s:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_s))
        _LAST[0] = whole_s, text
    return text


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit: the line is worth more than the error
        return f"{record.msg!s} {record.args!r}"


def _error_of(given: Any) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return given[1]  # type: ignore[no-any-return]
    return sys.exc_info()[1] if given else None


def _unix_s(given: Any) -> float:
    """Return the time that structlog's processor has taken, in whichever form; else now."""
    if isinstance(given, float | int):
        return float(given)
    try:
        moment = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        return time.time()
    return moment.timestamp()


class _Keys(dict[str, str]):
    """Names of fields that were seen, and how they are written; bounded, because services make up names."""

    def __missing__(self, key: str) -> str:
        if len(self) >= _MAX_KEYS:
            self.clear()
        clean = self[key] = redact(key)
        return clean


_keys = _Keys()
_MAX_KEYS = 1024
_PLAIN = frozenset({"timestamp", "level"})
"""Fields in which nothing can be found: nobody but us writes them."""


def _redacted(line: Mapping[str, Any]) -> dict[str, Any]:
    clean = {_keys[key]: value if value is None or key in _PLAIN else _clean(value) for key, value in line.items()}
    if isinstance(identity := line.get("session_id"), str):
        clean["session_id"] = redact_identity(identity)  # as on spans, so that the two find each other
    return clean


def _clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bool | int | float | None):
        return value
    if depth < _MAX_DEPTH:  # deeper, or in circles, is text
        if isinstance(value, dict):
            return {_keys[_words(key)]: _clean(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_clean(each, depth + 1) for each in value]
    return redact(_words(value))


def _words(value: object) -> str:
    try:
        return str(value)
    except Exception:  # somebody's own __str__
        return f"<{type(value).__name__}>"


_json = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), default=_words, check_circular=True, skipkeys=True, allow_nan=False
)
_ascii = json.JSONEncoder(separators=(",", ":"), default=_words)


def _encode(line: Mapping[str, Any]) -> str:
    """Return a line as JSON that every reader takes: no NaN, no circle, no half of a surrogate pair."""
    try:
        text = _json.encode(line)
    except (TypeError, ValueError, RecursionError):
        line = {_words(key): _encodable(value) for key, value in line.items()}
        text = _json.encode(line)
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return _ascii.encode(line)
    return text


def _encodable(value: Any) -> Any:
    try:
        _json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return _words(value)
    return value
