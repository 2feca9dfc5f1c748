"""What a user or an evaluation says of a turn afterwards: an event of its trace, sent when it is known.

    voicespan.score(trace_id, "helpful", 1.0, label="thumbs_up")

It is the event `gen_ai.evaluation.result` of OpenTelemetry's GenAI conventions, in a log record that carries the trace
id. It goes where spans go, also where no other log record is sent (`OTEL_LOGS_EXPORTER=none`, the default).
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.diagnostics import say
from voicespan.guard import guarded

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.resources import Resource

    from voicespan.sdk.batch import Batcher
    from voicespan.turn import Turn

_SCOPE = "voicespan"
_TRACE_DIGITS = 32

_lock = threading.Lock()
_process: list[tuple[Resource, list[Batcher[Any]]]] = []
_providers: list[LoggerProvider] = []


@guarded
def score(
    turn: Turn | str | int,
    name: str,
    value: float | None = None,
    *,
    label: str | None = None,
    explanation: str | None = None,
) -> None:
    """Say how good a turn was; any time, from any process and thread.

    `turn` is the turn, or its trace id (32 hex digits, or the number), which is what a client gets and brings back.
    `value` is a number on a scale of the caller's own, `label` a word for it; at least one of the two is given. The
    `explanation` is content: it is sent only where VOICESPAN_CONTENT is on. A later score of the same name takes the
    place of an earlier one where turns are shown.

    Never raises; a score that makes no sense is counted, and said on stderr.
    """
    provider = _provider()
    if provider is not None:
        provider.get_logger(_SCOPE).emit(record(_trace_id(turn), name, value, label, explanation))


def record(
    trace_id: int, name: str, value: float | None = None, label: str | None = None, explanation: str | None = None
) -> LogRecord:
    """Return the event.

    Raises:
        ValueError: there is no name, or neither value nor label.

    """
    import time

    from opentelemetry._logs import LogRecord
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if not name or (value is None and label is None):
        raise ValueError("a score has a name, and a value or a label")
    said = {
        n.GEN_AI_EVALUATION_NAME: name,
        n.GEN_AI_EVALUATION_SCORE_VALUE: None if value is None else float(value),
        n.GEN_AI_EVALUATION_SCORE_LABEL: label,
        n.GEN_AI_EVALUATION_EXPLANATION: explanation,
    }
    # Of the turn as a whole: its trace, and none of its spans.
    span = NonRecordingSpan(SpanContext(trace_id, 0, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    return LogRecord(
        timestamp=time.time_ns(),
        context=set_span_in_context(span),
        event_name=n.EVENT_EVALUATION_RESULT,
        attributes={key: given for key, given in said.items() if given is not None},
    )


def _trace_id(turn: Turn | str | int) -> int:
    if isinstance(turn, str):
        number = int(turn, 16) if len(turn) == _TRACE_DIGITS else 0
    else:
        number = turn if isinstance(turn, int) else turn.trace_id
    if not 0 < number < 1 << 128:
        raise ValueError(f"{turn!r} is no trace id ({_TRACE_DIGITS} hex digits)")
    return number


def begin(resource: Resource, batchers: list[Batcher[Any]]) -> None:
    """Remember who sends, and where the queues of this process are listed: the first score makes one."""
    _process[:] = [(resource, batchers)]


def finish() -> None:
    """Send what is queued; for the end of the process."""
    for provider in _providers:
        provider.shutdown()


def forget() -> None:
    """Forget the process and what it sent with: for tests."""
    _process.clear()
    _providers.clear()


def _provider() -> LoggerProvider | None:
    with _lock:
        if not _providers:
            if not _process:
                say("scores", "no score is sent: voicespan is not switched on in this process")
                return None
            _providers.append(_made(*_process[0]))
        return _providers[0]


def _made(resource: Resource, batchers: list[Batcher[Any]]) -> LoggerProvider:
    from opentelemetry.sdk._logs import LoggerProvider

    from voicespan.sdk.batch import Limits
    from voicespan.sdk.exporters import makers
    from voicespan.sdk.logs import LogBatchProcessor

    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for maker in makers("logs", {**os.environ, "OTEL_LOGS_EXPORTER": os.environ.get("OTEL_TRACES_EXPORTER", "")}):
        processor = LogBatchProcessor(maker, Limits.read(os.environ, "OTEL_BLRP"))
        batchers.append(processor.batcher)
        provider.add_log_record_processor(processor)
    return provider
