"""A log record of a trace: as it is received, and as the local store gives it back."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from voicespan.local.content import EVENT_NAME, strip_log
from voicespan.local.decode import MAX_TIME_NS, TRACE_ID_BYTES, plain, plain_map, source_of
from voicespan.local.form import MalformedRequestError, read
from voicespan.local.part import SPAN_ID_BYTES

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

    from voicespan.local.decode import Source
    from voicespan.local.span import Attributes, Value

MAX_LOG_BYTES = 1 << 18

_LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
_NUMBERS_PER_LEVEL = 4
WARNING = _LEVELS.index("WARN") * _NUMBERS_PER_LEVEL + 1
"""The severity from which on a log record is a warning, or worse."""

_OTHER_LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL", "NOTICE": "INFO"}
_NO_TRACE = bytes(TRACE_ID_BYTES)
_NO_SPAN = bytes(SPAN_ID_BYTES)
_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class ReceivedLog:
    """A log record of a request that belongs to a trace; `time_ns` is Unix time in nanoseconds."""

    trace_id: bytes
    span_id: bytes | None
    time_ns: int
    severity: int
    """The number of OTLP: 1 to 24, 0 where the sender gave none."""
    body: str
    attributes: Attributes
    source: Source


@dataclass(frozen=True, slots=True)
class Log:
    """A log record of any service. Ids are lower-case hex, times Unix time in nanoseconds."""

    trace_id: str
    span_id: str | None
    time_ns: int
    severity: int
    body: str
    service: str = ""
    attributes: Attributes = field(default_factory=dict)

    @property
    def level(self) -> str:
        """The name of the severity: `INFO`, `WARN`; empty where the sender gave none."""
        if not 0 < self.severity <= len(_LEVELS) * _NUMBERS_PER_LEVEL:
            return ""
        return _LEVELS[(self.severity - 1) // _NUMBERS_PER_LEVEL]


class Logs(NamedTuple):
    """The log records of a request that belong to a trace, how many belong to none, and what could not be used."""

    logs: list[ReceivedLog]
    without_trace: int = 0
    rejected: int = 0
    reason: str = ""
    left_out: int = 0
    """How many values were left out because they hold what was said."""


def decode_logs(form: str, body: bytes, *, content: bool = True) -> Logs:
    """Return the log records of an ExportLogsServiceRequest in this form; without `content`, less what was said.

    A record whose trace id is not one belongs to no trace, as OTLP says.

    Raises:
        MalformedRequestError: the body is no such message, or no record of it is usable.

    """
    found = checked(read(ExportLogsServiceRequest, form, body), content=content)
    if found.rejected and not found.logs and not found.without_trace:
        raise MalformedRequestError(f"no log record of {found.rejected} is usable: {found.reason}", found.rejected)
    return found


def checked(request: ExportLogsServiceRequest, *, content: bool) -> Logs:
    """Return the usable log records of a request; without `content`, less what was said.

    Raises:
        MalformedRequestError: a resource is too large.

    """
    logs: list[ReceivedLog] = []
    without_trace = problems = left_out = 0
    reason = ""
    for of_resource in request.resource_logs:
        for of_scope in of_resource.scope_logs:
            source = source_of(of_resource.resource, of_scope.scope)
            for record in of_scope.log_records:
                problem = _problem(record)
                if problem is not None:
                    problems += 1
                    reason = reason or problem
                elif len(record.trace_id) != TRACE_ID_BYTES or record.trace_id == _NO_TRACE:
                    without_trace += 1
                else:
                    left_out += 0 if content else strip_log(record)
                    logs.append(_received(record, source))
    return Logs(logs, without_trace, problems, reason, left_out)


def _problem(record: LogRecord) -> str | None:
    """Say why a log record cannot be used; None when it can."""
    if max(record.time_unix_nano, record.observed_time_unix_nano) > MAX_TIME_NS:
        return f"time {record.time_unix_nano or record.observed_time_unix_nano} is later than April 2262"
    if record.ByteSize() > MAX_LOG_BYTES:
        return f"a log record is larger than {MAX_LOG_BYTES} bytes"
    return None


def _received(record: LogRecord, source: Source) -> ReceivedLog:
    attributes: dict[str, Value] = plain_map(record.attributes)
    if record.event_name:
        attributes.setdefault(EVENT_NAME, record.event_name)
    has_span = len(record.span_id) == SPAN_ID_BYTES and record.span_id != _NO_SPAN
    return ReceivedLog(
        trace_id=record.trace_id,
        span_id=record.span_id if has_span else None,
        time_ns=record.time_unix_nano or record.observed_time_unix_nano or time.time_ns(),
        severity=_severity(record),
        body=_text(record.body),
        attributes=attributes,
        source=source,
    )


def _severity(record: LogRecord) -> int:
    """Return the number, or the first one of the level that the text names."""
    number = int(record.severity_number)
    if 0 < number <= len(_LEVELS) * _NUMBERS_PER_LEVEL:
        return number
    name = record.severity_text.strip().upper()
    name = _OTHER_LEVELS.get(name, name)
    return _LEVELS.index(name) * _NUMBERS_PER_LEVEL + 1 if name in _LEVELS else 0


def _text(body: AnyValue) -> str:
    value = plain(body)
    return "" if value is None else value if isinstance(value, str) else _json(value)
