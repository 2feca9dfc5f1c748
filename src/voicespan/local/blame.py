"""Who a turn's wait and its failure are about: which model, tool or voice, where a turn has several of a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from voicespan import names as n

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voicespan.local.span import Attributes, Value
    from voicespan.local.turn import SpanLike

_SPANS = {
    "asr": n.SPAN_ASR,
    "llm": n.SPAN_LLM,
    "sentence": n.SPAN_LLM,
    "tool": n.SPAN_EXECUTE_TOOL,
    "tts": n.SPAN_TTS,
    "realtime": n.SPAN_REALTIME,
}
"""The spans that took a share of the silence."""
_MILESTONES = {"llm": n.SPAN_LLM_TTFT, "tts": n.SPAN_TTS_FIRST_AUDIO, "realtime": n.SPAN_REALTIME_FIRST_AUDIO}
"""What of such a span the user waits for when it goes well."""
_MODELS = (n.SPAN_LLM, n.SPAN_REALTIME)
"""Spans that are called by their model."""
_FAIL = ("asr", "llm", "tool", "tts", "realtime")


class Blame(NamedTuple):
    """The names that a sentence about a turn needs; None is what the trace does not tell."""

    culprit: str | None
    """The model, tool or voice that most of the largest share belongs to; `and 1 more` where it took several."""
    tool: str | None
    """The tool that took longest."""
    failed: str | None
    """The stage that failed and its model, tool or voice (`llm gpt-x`): of an error its cause, else the first that
    another attempt made good."""
    failure: str | None
    """The `error.type` of that stage."""


def blame(
    by_name: Mapping[str, Sequence[SpanLike]], bottleneck: str | None, ending: str | None, silence: Attributes
) -> Blame:
    """Return who is to blame in a turn, whose voice spans are given by name, all tools under one.

    `bottleneck` is the stage with the largest share of the silence, `ending` the `error.type` of the turn, and
    `silence` what the span of the silence says.
    """
    tool = _longest(by_name.get(n.SPAN_EXECUTE_TOOL, ()), ())
    culprit = _culprit(by_name, bottleneck, silence) if bottleneck in _SPANS else None
    failed, failure = _failed(by_name, ending)
    return Blame(culprit, None if tool is None else label(tool, "tool"), failed, failure)


def _culprit(by_name: Mapping[str, Sequence[SpanLike]], stage: str, silence: Attributes) -> str | None:
    spans = by_name.get(_SPANS[stage], ())
    model = _text(silence.get(n.GEN_AI_REQUEST_MODEL))
    if len(spans) == 1 and model and _SPANS[stage] in _MODELS:
        return model  # a copy of what the span says, whose attributes would take a twentieth of storing to read
    waited_for = spans
    if len(spans) > 1:
        waited_for = [span for span in spans if span.attributes.get(n.VOICE_CRITICAL_PATH)]
    if stage == "sentence" and spans:  # of the request that was spoken: the last one
        return label(max(waited_for or spans, key=lambda span: span.start_ns), stage)
    span = _longest(waited_for or spans, by_name.get(_MILESTONES.get(stage, ""), ()))
    name = None if span is None else label(span, stage)
    return f"{name} and {len(waited_for) - 1} more" if name and len(waited_for) > 1 else name


def _longest(spans: Sequence[SpanLike], milestones: Sequence[SpanLike]) -> SpanLike | None:
    """The span that was waited for longest; one with a milestone until that."""
    if len(spans) < 2:  # noqa: PLR2004
        return spans[0] if spans else None
    reached = {milestone.start_ns: milestone.end_ns for milestone in milestones}
    return max(spans, key=lambda span: reached.get(span.start_ns, span.end_ns) - span.start_ns)


def _failed(by_name: Mapping[str, Sequence[SpanLike]], ending: str | None) -> tuple[str | None, str | None]:
    found = [
        (span.start_ns, stage, span)
        for stage in _FAIL
        for span in by_name.get(_SPANS[stage], ())
        if span.error is not None and not span.attributes.get(n.VOICE_GENERATION_DISCARDED)
    ]
    found.sort(key=lambda each: each[0])
    if ending is not None:  # what failed before may have been made good
        found = [each for each in reversed(found) if each[2].attributes.get(n.ERROR_TYPE) == ending]
    if not found:
        return None, None
    _, stage, span = found[0]
    name = label(span, stage)
    return (stage if name is None else f"{stage} {name}"), _text(span.attributes.get(n.ERROR_TYPE))


def label(span: SpanLike, stage: str) -> str | None:
    """Return what a stage's span is called by: its model, its tool, or its voice with the worker that speaks it."""
    said = span.attributes
    if stage == "tool":
        return _text(said.get(n.GEN_AI_TOOL_NAME)) or span.name.partition(" ")[2] or None
    if stage != "tts":
        return _text(said.get(n.GEN_AI_REQUEST_MODEL))
    voice = _text(said.get(n.VOICE_TTS_VOICE_NAME)) or _text(said.get(n.GEN_AI_REQUEST_MODEL))
    worker = _text(said.get(n.VOICE_WORKER_ID))
    return f"{voice} on {worker}" if voice and worker else voice or worker


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) and value else None
