"""What a finished turn tells that no duration of a span does, each recorded in the context of its stage.

The GenAI metrics are those that the conventions ask for beside the spans.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context

from voicespan import names as n
from voicespan.metrics import instruments
from voicespan.metrics.instruments import record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.finished import FinishedSpan, FinishedTurn
    from voicespan.metrics.labels import Value
    from voicespan.record import Detection

_GEN_AI = (n.GEN_AI_OPERATION_NAME, n.GEN_AI_PROVIDER_NAME, n.GEN_AI_REQUEST_MODEL, n.ERROR_TYPE)
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
        record(n.METRIC_VOICE_SESSION_ERRORS, 1, {n.ERROR_TYPE: str(kind)}, _context(turn, turn.root))


def detected(detections: Iterable[Detection], turn: FinishedTurn | None) -> None:
    """Record what the speech detector said, also where no turn came of it."""
    vad = turn.get(n.SPAN_VAD) if turn is not None else None
    context = _context(turn, vad) if turn is not None and vad is not None else None
    for event, decided_ns, real_ns in detections:
        labels: dict[str, Value | None] = {n.VOICE_VAD_EVENT: event}
        record(n.METRIC_VOICE_VAD_EVENTS, 1, labels, context)
        if real_ns is not None:
            record(n.METRIC_VOICE_VAD_DETECTION_DURATION, max(0, decided_ns - real_ns) / 1e9, labels, context)


def _value(turn: FinishedTurn, span: FinishedSpan, metric: str, attribute: str) -> None:
    value = span.attributes.get(attribute)
    if isinstance(value, float | int):
        model = span.attributes.get(n.GEN_AI_REQUEST_MODEL)
        record(metric, value, {n.GEN_AI_REQUEST_MODEL: _word(model)}, _context(turn, span))


def _gen_ai(turn: FinishedTurn, span: FinishedSpan) -> None:
    context = _context(turn, span)
    attributes = {key: _word(span.attributes.get(key)) for key in _GEN_AI}
    if attributes[n.GEN_AI_OPERATION_NAME] is None:
        attributes[n.GEN_AI_OPERATION_NAME] = "chat"
    elsewhere = _recorded_by_client(attributes[n.GEN_AI_PROVIDER_NAME])
    if not elsewhere:
        record(n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION, span.duration_ns / 1e9, attributes, context)
    first = span.attributes.get(n.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK)
    if isinstance(first, float | int):
        record(n.METRIC_GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK, first, attributes, context)
    if elsewhere:
        return
    del attributes[n.ERROR_TYPE]
    discarded = True if span.attributes.get(n.VOICE_GENERATION_DISCARDED) is True else None
    for kind, attribute in _TOKENS.items():
        tokens = span.attributes.get(attribute)
        if isinstance(tokens, int):
            labels: dict[str, Value | None] = {
                **attributes,
                n.GEN_AI_TOKEN_TYPE: kind,
                n.VOICE_GENERATION_DISCARDED: discarded,
            }
            record(n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE, tokens, labels, context)


def _recorded_by_client(provider: Value | None) -> bool:
    """Whether the instrumentation of the provider's own client records these metrics already."""
    module = sys.modules.get("opentelemetry.instrumentation.openai_v2")
    if module is None or provider not in ("openai", None):
        return False
    return bool(getattr(module.OpenAIInstrumentor(), "is_instrumented_by_opentelemetry", False))


def _word(value: object) -> Value | None:
    return value if isinstance(value, str) else None


def _context(turn: FinishedTurn, span: FinishedSpan) -> Context:
    """Return a context with this span, so that the measurement's exemplar is its trace."""
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if turn.sampled else trace.TraceFlags.DEFAULT)
    identity = trace.SpanContext(turn.trace_id, span.span_id, is_remote=False, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(identity), Context())
