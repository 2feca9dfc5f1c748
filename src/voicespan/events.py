"""Lines that voicespan writes by itself, each with a name for machines (`event`).

Off until `voicespan.logs.setup_logging` switches them on. Their level says what somebody has to do about them: nothing
(DEBUG, INFO), look when there is time (WARNING: it went on, or was mended), look now (ERROR: a user or a connection was
lost), come (CRITICAL: the process has ended).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry import trace

    from voicespan.finished import FinishedSpan, FinishedTurn

log = logging.getLogger("voicespan.events")
enabled = False
"""Whether they are written. Not `log.disabled`, which a service's `dictConfig` sets on every logger that it finds."""

CIRCUMSTANCES = {
    n.SESSION_ID: "session_id",
    n.VOICE_TRANSPORT: "transport",
    n.GEN_AI_REQUEST_MODEL: "model_id",
    n.VOICE_WORKER_ID: "worker",
}
"""Fields of a line by the attribute that they are."""

AGAIN_AFTER_S = 1.0
"""A back end that is away is told of once in this time, however many calls it has failed."""
_MAX_KEYS = 256
_FIRST_AUDIO_NS = round(next(limit.value for limit in n.THRESHOLDS if limit.on == n.SPAN_TTS_FIRST_AUDIO) * 1e9)
_JITTER_S = max(next(metric for metric in n.METRICS if metric.name == n.METRIC_VOICE_AUDIO_FRAME_JITTER).boundaries)
_told: dict[str, float] = {}


@guarded
def say(level: int, message: str, event: str, error: BaseException | None = None, /, **fields: object) -> None:
    """Write a line, without the fields that are None."""
    if not enabled:
        return
    log.disabled = False
    if log.isEnabledFor(level):
        known = {key: value for key, value in fields.items() if value is not None}
        log.log(level, message, extra={"event": event, **known}, exc_info=error)


def ids(context: trace.SpanContext) -> dict[str, str]:
    """Return the fields of a span's identity; none where it has none."""
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


@guarded
def turn_over(turn: FinishedTurn) -> None:
    """Say what a finished turn tells: that it failed or was mended, was slow to speak, or was interrupted."""
    if not enabled or turn.late:
        return
    _slow_to_speak(turn)
    if turn.outcome in ("error", "timeout"):
        failed = next((span for span in turn.spans[1:] if span.error is not None), turn.root)
        _of_turn(logging.ERROR, "Turn failed", "turn.failed", turn, failed, **_failure(failed, turn.outcome))
    elif turn.root.attributes.get(n.VOICE_TURN_RECOVERED):
        for span in turn.spans[1:]:
            if span.error is not None and n.VOICE_COMPONENT in span.attributes:
                what = _failure(span, "error")
                _of_turn(logging.WARNING, "Failure was mended", "turn.recovered", turn, span, **what)
    for span in turn.all(n.SPAN_BARGE_IN):
        if span.attributes.get(n.VOICE_BARGE_IN_PHASE) == "total":
            _of_turn(logging.INFO, "Barge-in", "barge_in", turn, span, barge_in_ms=_ms(span))
    if log.isEnabledFor(logging.DEBUG):
        took = {f"{span.name}_ms": _ms(span) for span in turn.spans}
        _of_turn(logging.DEBUG, "Turn over", "turn.over", turn, turn.root, outcome=turn.outcome, took=took)


def _slow_to_speak(turn: FinishedTurn) -> None:
    slow, tts = turn.get(n.SPAN_TTS_FIRST_AUDIO), turn.get(n.SPAN_TTS)
    if slow is not None and slow.duration_ns > _FIRST_AUDIO_NS:
        own = {} if tts is None else tts.attributes
        known = {field: own[key] for key, field in CIRCUMSTANCES.items() if key in own}
        _of_turn(logging.WARNING, "High FAL detected", "high_latency", turn, slow, fal_ms=_ms(slow), **known)


def _failure(span: FinishedSpan, otherwise: str) -> dict[str, object]:
    kind = str(span.attributes.get(n.ERROR_TYPE, otherwise))
    component = span.attributes.get(n.VOICE_COMPONENT)
    return {"error_type": kind, "error_message": span.error or None, "component": component}


def _of_turn(level: int, message: str, event: str, turn: FinishedTurn, span: FinishedSpan, **fields: Any) -> None:
    identity = {"trace_id": f"{turn.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    transport = turn.root.attributes.get(n.VOICE_TRANSPORT)
    say(level, message, event, **{"session_id": turn.session_id, "transport": transport, **fields}, **identity)


def _ms(span: FinishedSpan) -> float:
    return round(span.duration_ns / 1e6, 1)


@guarded
def unreachable(
    event: str, message: str, error: BaseException | str | None, address: Mapping[str, Any], context: trace.SpanContext
) -> None:
    """Say that a back end cannot be reached; `error` may be its words, where nothing was raised here."""
    where = ":".join(str(address[key]) for key in (n.SERVER_ADDRESS, n.SERVER_PORT) if key in address)
    if not enabled or not _due(f"{event} {where}"):
        return
    raised = error if isinstance(error, BaseException) else None
    words = {} if raised is not None else {"error_type": _UNREACHABLE[event], "error_message": error}
    say(logging.ERROR, message, event, raised, address=where or None, **words, **ids(context))


_UNREACHABLE = {"worker.unreachable": "worker_unavailable", "redis.unreachable": "connection_error"}


def _due(key: str) -> bool:
    now_s = time.monotonic()
    if now_s - _told.get(key, -AGAIN_AFTER_S) < AGAIN_AFTER_S:
        return False
    if len(_told) >= _MAX_KEYS:
        _told.clear()
    _told[key] = now_s
    return True


@guarded
def jittery(direction: str, jitter_s: float) -> None:
    """Say that the network delivers audio less evenly than any bucket of the jitter has it."""
    if enabled and jitter_s > _JITTER_S and _due(f"jitter {direction}"):
        ms = round(jitter_s * 1000, 1)
        say(logging.WARNING, "High audio jitter", "high_jitter", direction=direction, jitter_ms=ms)
