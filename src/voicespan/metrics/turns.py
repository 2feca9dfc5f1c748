"""What a finished turn tells that no duration of a span does, each with the span of its stage as its exemplar.

The GenAI metrics are those that the conventions ask for beside the spans.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.metrics import instruments
from voicespan.metrics.series import series

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.finished import FinishedSpan, FinishedTurn
    from voicespan.metrics.series import Moment
    from voicespan.record import Detection

_MODEL = (n.GEN_AI_REQUEST_MODEL,)
_REQUEST = (n.GEN_AI_OPERATION_NAME, n.GEN_AI_PROVIDER_NAME, n.GEN_AI_REQUEST_MODEL)
_OUTCOME = (*_REQUEST, n.ERROR_TYPE)
_USAGE = (*_REQUEST, n.GEN_AI_TOKEN_TYPE, n.VOICE_GENERATION_DISCARDED)
_OPERATIONS = frozenset({"chat", "speech_to_text", "text_to_speech"})
_TOKENS = {"input": n.GEN_AI_USAGE_INPUT_TOKENS, "output": n.GEN_AI_USAGE_OUTPUT_TOKENS}


def measure(turn: FinishedTurn, *, gen_ai: bool = True) -> None:
    """Record what the turn tells; without `gen_ai` not what its framework records itself."""
    if not instruments.wanted():
        return
    for span in turn.spans:
        component = span.attributes.get(n.VOICE_COMPONENT)
        if component == "tts":
            _value(turn, span, n.METRIC_VOICE_TTS_REAL_TIME_FACTOR, n.VOICE_TTS_REAL_TIME_FACTOR)
        elif component == "llm":
            _value(turn, span, n.METRIC_VOICE_LLM_TOKEN_RATE, n.VOICE_LLM_TOKEN_RATE)
        if gen_ai and (span.attributes.get(n.GEN_AI_OPERATION_NAME) in _OPERATIONS or component == "realtime"):
            _gen_ai(turn, span)
    if not turn.late and turn.outcome in ("error", "timeout"):
        kind = turn.root.attributes.get(n.ERROR_TYPE, turn.outcome)
        series.add(n.METRIC_VOICE_SESSION_ERRORS, 1, (n.ERROR_TYPE,), (str(kind),), _moment(turn, turn.root))


def detected(detections: Iterable[Detection], turn: FinishedTurn | None) -> None:
    """Record what the speech detector said, also where no turn came of it."""
    vad = turn.get(n.SPAN_VAD) if turn is not None else None
    moment = _moment(turn, vad) if turn is not None and vad is not None else None
    for event, decided_ns, real_ns in detections:
        series.add(n.METRIC_VOICE_VAD_EVENTS, 1, (n.VOICE_VAD_EVENT,), (event,), moment)
        if real_ns is not None:
            detection_s = max(0, decided_ns - real_ns) / 1e9
            series.add(n.METRIC_VOICE_VAD_DETECTION_DURATION, detection_s, (n.VOICE_VAD_EVENT,), (event,), moment)


def _value(turn: FinishedTurn, span: FinishedSpan, metric: str, attribute: str) -> None:
    value = span.attributes.get(attribute)
    if isinstance(value, float | int):
        series.add(metric, value, _MODEL, (_word(span, n.GEN_AI_REQUEST_MODEL),), _moment(turn, span))


def _gen_ai(turn: FinishedTurn, span: FinishedSpan) -> None:
    moment = _moment(turn, span)
    provider, error = _word(span, n.GEN_AI_PROVIDER_NAME), _word(span, n.ERROR_TYPE)
    request = _word(span, n.GEN_AI_OPERATION_NAME) or "chat", provider, _word(span, n.GEN_AI_REQUEST_MODEL)
    elsewhere = _recorded_by_client(provider)
    if not elsewhere:
        duration_s = span.duration_ns / 1e9
        series.add(n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION, duration_s, _OUTCOME, (*request, error), moment)
    first_s = span.attributes.get(n.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK)
    if isinstance(first_s, float | int):
        series.add(n.METRIC_GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK, first_s, _OUTCOME, (*request, error), moment)
    if elsewhere:
        return
    discarded = True if span.attributes.get(n.VOICE_GENERATION_DISCARDED) is True else None
    for kind, attribute in _TOKENS.items():
        tokens = span.attributes.get(attribute)
        if isinstance(tokens, int):
            series.add(n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE, tokens, _USAGE, (*request, kind, discarded), moment)


def _recorded_by_client(provider: str | None) -> bool:
    """Whether the instrumentation of the provider's own client records these metrics already."""
    module = sys.modules.get("opentelemetry.instrumentation.openai_v2")
    if module is None or provider not in ("openai", None):
        return False
    return bool(getattr(module.OpenAIInstrumentor(), "is_instrumented_by_opentelemetry", False))


def _word(span: FinishedSpan, key: str) -> str | None:
    value = span.attributes.get(key)
    return value if isinstance(value, str) else None


def _moment(turn: FinishedTurn, span: FinishedSpan) -> Moment | None:
    return (time.time_ns(), turn.trace_id, span.span_id) if turn.sampled else None
