"""The stages as every view shows them: one colour for each, wherever it appears."""

from __future__ import annotations

from voicespan import names as n

COLOURS = {
    "endpoint": "#9b9896",
    "asr": "#309eb7",
    "llm": "#6e42ff",
    "tool": "#b8366b",
    "sentence": "#ae96fb",
    "tts": "#f18202",
    "send": "#7fb97a",
    "network": "#157a2c",
    "realtime": "#a034a3",
    "unattributed": "#cdd0d8",
}
"""Colours of the parts of the heard silence; any two can be told apart, on a light and on a dark ground, and by people
whose eyes lack one kind of cones."""

ACCENT = "#5c7cfa"
"""The silence as a whole."""

BAD = "#d6336c"
"""Errors, gaps and interruptions."""

_ALL_COLOURS = {**COLOURS, "silence": ACCENT, "bad": BAD}

_BY_SPAN = {
    n.SPAN_VAD: "endpoint",
    n.SPAN_VAD_ENDPOINT: "endpoint",
    n.SPAN_ASR: "asr",
    n.SPAN_ASR_FINALIZE: "asr",
    n.SPAN_LLM: "llm",
    n.SPAN_LLM_TTFT: "llm",
    n.SPAN_LLM_FIRST_SENTENCE: "sentence",
    n.SPAN_TTS: "tts",
    n.SPAN_TTS_FIRST_AUDIO: "tts",
    n.SPAN_REALTIME: "realtime",
    n.SPAN_REALTIME_FIRST_AUDIO: "realtime",
    n.SPAN_PLAYBACK: "network",
    n.SPAN_PLAYBACK_START: "network",
}

_BAD_SPANS = frozenset({n.SPAN_PLAYBACK_GAP, n.SPAN_BARGE_IN, n.SPAN_UNANSWERED})
_SILENCE_SPANS = frozenset({n.SPAN_RESPONSE, n.SPAN_ANSWER})

MILESTONES = frozenset(
    {
        n.SPAN_VAD_ENDPOINT,
        n.SPAN_ASR_FINALIZE,
        n.SPAN_LLM_TTFT,
        n.SPAN_LLM_FIRST_SENTENCE,
        n.SPAN_TTS_FIRST_AUDIO,
        n.SPAN_REALTIME_FIRST_AUDIO,
        n.SPAN_PLAYBACK_START,
    }
)
"""Spans that cover the latency a stage adds; drawn thinner than the stage."""


def colour_of(span_name: str) -> str | None:
    """Return the colour of a span; None for one that belongs to no stage."""
    stage = stage_of(span_name)
    return None if stage is None else _ALL_COLOURS[stage]


def stage_of(span_name: str) -> str | None:
    """Return what a span belongs to: a stage, `silence`, or `bad`; None for what is none of these."""
    if span_name in _BAD_SPANS:
        return "bad"
    if span_name in _SILENCE_SPANS:
        return "silence"
    return "tool" if span_name.startswith(n.SPAN_EXECUTE_TOOL) else _BY_SPAN.get(span_name)
