"""Log lines as JSON, each with the trace and span of the stage it was written in.

    from voicespan.logs import setup_logging
    setup_logging("INFO")

or, without a change of code, `VOICESPAN_LOG_FORMAT=json`. One object per line on stdout, with the fields of
`docs/logs.md`; every string is redacted. `structlog` takes part by `processor`, loguru by `loguru_sink`.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from opentelemetry import trace

from voicespan import names as n
from voicespan import settings
from voicespan.content_names import verdicts
from voicespan.context import LiveSpan
from voicespan.emit import recorder
from voicespan.redaction import redact
from voicespan.sessions import events

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from voicespan.finished import FinishedTurn

RUNBOOKS: dict[str, str] = {
    "ConnectionError": "docs/runbooks/worker-unavailable.md",
    "RpcError": "docs/runbooks/worker-unavailable.md",
    "TimeoutError": "docs/runbooks/high-end-to-end-latency.md",
    "APITimeoutError": "docs/runbooks/high-end-to-end-latency.md",
    "RateLimitError": "docs/runbooks/rate-limit-spike.md",
    "RedisError": "docs/runbooks/redis-connection-errors.md",
    "MemoryError": "docs/runbooks/high-memory.md",
    "OutOfMemoryError": "docs/runbooks/gpu-memory-exhaustion.md",
}
"""Where to read on, by the class of an exception or one of its bases; a service adds its own."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_ORIGIN = "voicespan_origin"
_ADDRESSES = ("client_ip", "client_address", "client.address")
_CIRCUMSTANCES = {
    n.SESSION_ID: "session_id",
    n.VOICE_TRANSPORT: "transport",
    n.GEN_AI_REQUEST_MODEL: "model_id",
    n.VOICE_WORKER_ID: "worker",
}
_WHO_FIELDS = {
    "service": n.SERVICE_NAME,
    "instance": n.SERVICE_INSTANCE_ID,
    "environment": n.DEPLOYMENT_ENVIRONMENT_NAME,
}
_WHO: list[Any] = [None, {}]
_IPV4_KEPT, _IPV6_KEPT = 24, 48
_MAX_DEPTH = 8


_FIRST_AUDIO_NS = round(next(limit.value for limit in n.THRESHOLDS if limit.on == n.SPAN_TTS_FIRST_AUDIO) * 1e9)


class Origin:
    """Where a line was written: the current span, and the session and stage behind it. Taken when it is written."""

    __slots__ = ("circumstances", "context")

    def __init__(self) -> None:
        span = trace.get_current_span()
        self.context = span.get_span_context()
        self.circumstances: Mapping[str, object] = span.subject.circumstances() if isinstance(span, LiveSpan) else {}

    def put(self, line: MutableMapping[str, Any]) -> None:
        """Add ids, session, model, transport and worker to a line that does not have them."""
        if self.context.is_valid:
            line.setdefault("trace_id", f"{self.context.trace_id:032x}")
            line.setdefault("span_id", f"{self.context.span_id:016x}")
            line.setdefault("trace_flags", f"{self.context.trace_flags:02x}")
        for key, field in _CIRCUMSTANCES.items():
            if key in self.circumstances:
                line.setdefault(field, self.circumstances[key])


class JSONFormatter(logging.Formatter):
    """Formats a record as one JSON object; `extra` becomes further fields. The record is not changed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return _encode(self.line(record))

    def line(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a record, in the order in which they are written."""
        line: dict[str, Any] = {
            "timestamp": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD and key != _ORIGIN}
        if "event" in extra:
            line["event"] = extra.pop("event")
        (getattr(record, _ORIGIN, None) or Origin()).put(line)
        line.update(who())
        line.update(_unsaid(extra))
        _mask_addresses(line)
        if record.exc_info and record.exc_info[1] is not None:
            line.update(error_fields(record.exc_info[1]))
        elif record.exc_text:
            line["traceback"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return line


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
    events.disabled = False
    recorder().watch = report
    return handler


def report(turn: FinishedTurn) -> None:
    """Write a line for a turn whose synthesis was slow to speak (event `high_latency`)."""
    slow = turn.get(n.SPAN_TTS_FIRST_AUDIO)
    if slow is None or slow.end_ns - slow.start_ns <= _FIRST_AUDIO_NS:
        return
    tts = turn.get(n.SPAN_TTS)
    fields = {
        "event": "high_latency",
        "fal_ms": round((slow.end_ns - slow.start_ns) / 1e6, 1),
        "session_id": turn.session_id,
        "trace_id": f"{turn.trace_id:032x}",
        "span_id": f"{slow.span_id:016x}",
    }
    own = {} if tts is None else tts.attributes
    fields |= {field: own[key] for key, field in _CIRCUMSTANCES.items() if key in own}
    events.warning("High FAL detected", extra=fields)


def keep_origins() -> None:
    """Have each record remember where it was written, for handlers that format it in another thread."""
    make = logging.getLogRecordFactory()
    if getattr(make, "voicespan", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.__dict__[_ORIGIN] = Origin()
        return record

    factory.voicespan = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)


def processor(_logger: object, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the fields of a line to structlog's event, redacted; put it before the renderer.

    structlog's `event` is the message; a machine name is given as `event_name`.
    """
    line: dict[str, Any] = {
        "timestamp": event_dict.pop("timestamp", None) or timestamp(time.time()),
        "level": str(event_dict.pop("level", method)).upper(),
        "logger": event_dict.pop("logger", None) or getattr(_logger, "name", None) or "",
        "message": event_dict.pop("event", ""),
    }
    if "event_name" in event_dict:
        line["event"] = event_dict.pop("event_name")
    error = _error_of(event_dict.pop("exc_info", None))
    Origin().put(line)
    line.update(who())
    line.update(_unsaid(event_dict))
    _mask_addresses(line)
    if error is not None:
        line.update(error_fields(error))
    return _redacted(line)


def loguru_sink(message: Any) -> None:
    """Write a message of loguru as a JSON line: `logger.add(loguru_sink, catch=True)`."""
    record = message.record
    line: dict[str, Any] = {
        "timestamp": timestamp(record["time"].timestamp()),
        "level": record["level"].name,
        "logger": record["name"] or "",
        "message": _without_speech(record["name"] or "", record["message"]),
    }
    Origin().put(line)
    line.update(who())
    line.update(_unsaid(record["extra"]))
    _mask_addresses(line)
    if record["exception"] is not None and record["exception"].value is not None:
        line.update(error_fields(record["exception"].value))
    sys.stdout.write(_encode(_redacted(line)) + "\n")


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
        _WHO[:] = provider, {field: str(found[name]) for field, name in _WHO_FIELDS.items() if name in found}
    known: dict[str, str] = _WHO[1]
    return known


def error_fields(error: BaseException) -> dict[str, str]:
    """Return type, message and traceback of an exception, and where to read on."""
    fields = {
        "error_type": type(error).__name__,
        "error_message": str(error),
        "traceback": "".join(traceback.format_exception(error)).rstrip(),
    }
    found = next((RUNBOOKS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in RUNBOOKS), None)
    if found is not None:
        fields["resolution"] = f"See {found}"
    return fields


def masked(address: str) -> str:
    """Return the network of a client's address: /24 of IPv4, /48 of IPv6; what is no address becomes `masked`."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "masked"
    kept = _IPV4_KEPT if found.version == 4 else _IPV6_KEPT  # noqa: PLR2004
    return str(ipaddress.ip_network((found, kept), strict=False).network_address)


def _mask_addresses(line: MutableMapping[str, Any]) -> None:
    if settings.current().log_client_address:
        return
    for key in _ADDRESSES:
        if key in line:
            line[key] = masked(str(line[key]))


_SPOKEN = re.compile(
    r"(generating|finished|tts request|transcri|text|said|speaking|response|messages|delta|turn\.|update event)"
    r"[^\[:#]*?(\[|: \[?| - )",
    re.IGNORECASE,
)
"""What precedes the words of a conversation in Pipecat's messages; `#` is in the names of its objects."""
_LAST: list[tuple[int, str]] = [(0, "")]


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


def _redacted(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _clean(value) for key, value in line.items()}


def _clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bool | int | float | None):
        return value
    if depth < _MAX_DEPTH:  # deeper, or in circles, is text
        if isinstance(value, dict):
            return {str(key): _clean(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_clean(each, depth + 1) for each in value]
    return redact(_words(value))


def _words(value: object) -> str:
    try:
        return str(value)
    except Exception:  # somebody's own __str__
        return f"<{type(value).__name__}>"


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_words, check_circular=True, skipkeys=True)


def _encode(line: Mapping[str, Any]) -> str:
    try:
        return _json.encode(line)
    except (TypeError, ValueError, RecursionError):
        return _json.encode({key: _words(value) for key, value in line.items()})
