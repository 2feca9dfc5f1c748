"""The silence that the user hears, from the real end of speech to the first sample, and what caused how much of it.

The cursor starts at the real end of speech. In the causal order of the generation that was heard, each interval's share
is what of it lies between the cursor and the first sample; then the cursor moves to its end. What no interval covers is
`unattributed`, so that the shares sum to the silence by construction.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from voicespan import names as n
from voicespan.outcome import unmended

if TYPE_CHECKING:
    from voicespan.record import StageRecord, TurnRecord

SpanKey = str | tuple[int, str]
"""A span of the turn: its name where a turn has but one, else the `id` of the record of its stage, and its name."""


_START = attrgetter("start_ns")
_ASKED = {"llm": n.SPAN_LLM, "tool": n.SPAN_EXECUTE_TOOL, "realtime": n.SPAN_REALTIME}
"""What is asked before the voice begins; its component is the name of its share."""
_ENDPOINT = (n.SPAN_VAD, n.SPAN_VAD_ENDPOINT)
_TRANSCRIPT = (n.SPAN_ASR, n.SPAN_ASR_FINALIZE)
_NETWORK = (n.SPAN_PLAYBACK, n.SPAN_PLAYBACK_START)


class Silence(NamedTuple):
    """From when until when the user heard nothing, how the start is known, and whether a reply ended it."""

    start_ns: int
    end_ns: int
    source: str
    answered: bool


Cause = tuple[str, int, int, tuple[SpanKey, ...]]
"""One interval that may account for part of the silence: the share's name, start, end, and the spans that show it."""


def real_speech_end(record: TurnRecord) -> tuple[int, str]:
    """Return when the user really fell silent, and the value of `voice.response.from` that says how it is known."""
    if record.input != "speech":
        return record.onset_ns, "message"
    if record.speech_end_ns is not None:
        return record.speech_end_ns, "speech_end"
    decision_ns = record.detected_ns or record.committed_ns or record.closed_ns
    return max(record.onset_ns, decision_ns - (record.hangover_ns or 0)), "decision"


def speech_end_known(record: TurnRecord) -> bool:
    """Return whether the real end of speech is known as more than the decision itself."""
    return record.speech_end_ns is not None or record.hangover_ns is not None


def silence(record: TurnRecord, outcome: str, speech_end: tuple[int, str]) -> Silence | None:
    """Return the silence that the user heard; None when the agent spoke first or nobody had finished speaking.

    `speech_end` is what `real_speech_end` has returned.
    """
    if record.trigger is not None:
        return None
    start_ns, source = speech_end
    heard_ns = record.playback.first_heard_ns
    if heard_ns is not None:
        return Silence(start_ns, max(start_ns, heard_ns), source, answered=True)
    spoke = record.committed_ns is not None or record.speech_end_ns is not None
    if outcome == "completed" or not spoke or (record.committed_ns is None and record.close == "idle"):
        return None
    return Silence(start_ns, max(start_ns, waited_until(record)), source, answered=False)


def waited_until(record: TurnRecord) -> int:
    """Return when the wait for a reply ended without one: at the failure, the explicit end, or what closed the turn."""
    failure = unmended(record)
    if failure is not None:
        return failure.at_ns
    if record.close == "ended" and record.ended_ns is not None:
        return record.ended_ns
    return record.closed_ns


def divide(silence: Silence, causes: list[Cause]) -> tuple[dict[str, int], list[SpanKey]]:
    """Divide the silence among its causes: nanoseconds by share, and the spans that have one."""
    shares: dict[str, int] = {}
    critical: list[SpanKey] = []
    cursor_ns, heard_ns = silence.start_ns, silence.end_ns
    left_ns = heard_ns - cursor_ns
    for share, start_ns, cause_end_ns, spans in causes:
        end_ns = cause_end_ns if cause_end_ns < heard_ns else heard_ns  # noqa: FURB136 - a call takes longer
        if end_ns <= cursor_ns:
            continue
        share_ns = end_ns - (start_ns if start_ns > cursor_ns else cursor_ns)  # noqa: FURB136
        cursor_ns = end_ns
        if share_ns > 0:
            shares[share] = shares.get(share, 0) + share_ns
            left_ns -= share_ns
            critical += spans
    shares["unattributed"] = left_ns
    return shares, critical


def causes(record: TurnRecord, silence: Silence, voice: StageRecord | None) -> list[Cause]:
    """Return every interval that may account for the silence, in the causal order of the generation that was heard.

    `voice` is the synthesis that was heard first.
    """
    if voice is None and not silence.answered:
        voice = record.last("tts") or record.last("realtime")
    found: list[Cause] = []
    if record.input == "speech":
        _add_listening(found, record, silence.start_ns, voice)
    _add_thinking(found, record, silence.end_ns if voice is None else voice.began_ns, waiting=voice is None)
    if voice is not None:
        _add_speaking(found, record, voice)
    playback = record.playback
    if playback.first_sent_ns is not None and playback.heard_ns is not None:
        found.append(("network", playback.first_sent_ns, playback.heard_ns, _NETWORK))
    return found


def _add_listening(found: list[Cause], record: TurnRecord, start_ns: int, voice: StageRecord | None) -> None:
    """Add the wait for the end-of-turn decision and for the transcript.

    A model that hears for itself does not wait for the transcript, which is made beside it.
    """
    if record.committed_ns is not None:
        found.append(("endpoint", start_ns, record.committed_ns, _ENDPOINT))
    if voice is not None and voice.component == "realtime":
        return
    if record.transcript_ns is not None:
        found.append(("asr", start_ns, record.transcript_ns, _TRANSCRIPT))
    elif (recognizer := record.last("asr")) is not None:
        end_ns = recognizer.ended_by(record.closed_ns)
        found.append(("asr", start_ns, end_ns, ((id(recognizer), n.SPAN_ASR),)))


def _add_thinking(found: list[Cause], record: TurnRecord, spoken_ns: int, *, waiting: bool) -> None:
    """Add the requests to models and tools that were made before the voice began to speak, in order of start."""
    stages = []
    for stage in record.stages:
        if stage.component in _ASKED and _may_cause(stage, spoken_ns, waiting=waiting):
            stages.append(stage)  # noqa: PERF401 - see finish.py
    if len(stages) > 1:
        stages.sort(key=_START)
    for stage in stages:
        component, key = stage.component, id(stage)
        if component == "llm" and stage is stages[-1] and stage.first_ns is not None:
            llm = (key, n.SPAN_LLM)
            first_ns = min(stage.first_ns, spoken_ns)
            found.append(("llm", stage.start_ns, first_ns, (llm, (key, n.SPAN_LLM_TTFT))))
            handed_ns = record.handed_over(stage)
            end_ns = spoken_ns if handed_ns is None else min(handed_ns, spoken_ns)
            found.append(("sentence", first_ns, end_ns, (llm, (key, n.SPAN_LLM_FIRST_SENTENCE))))
        else:
            end_ns = min(stage.ended_by(record.closed_ns), spoken_ns)
            found.append((component, stage.start_ns, end_ns, ((key, _ASKED[component]),)))


def _may_cause(stage: StageRecord, spoken_ns: int, *, waiting: bool) -> bool:
    """Whether what was asked can have delayed the voice: before it, and done or streaming when it began to speak."""
    component = stage.component
    speaks = component == "realtime" and stage.first_ns is not None
    if speaks or stage.discarded or stage.start_ns > spoken_ns:
        return False
    if waiting:
        return not stage.background
    known_ns = stage.first_ns if component == "llm" and stage.first_ns is not None else stage.end_ns
    return known_ns is not None and known_ns <= spoken_ns


def _add_speaking(found: list[Cause], record: TurnRecord, voice: StageRecord) -> None:
    """Add the synthesis that was heard first, with the attempts that failed before it, and the way to the line."""
    for other in record.stages:
        if other.component == "tts" and other.failed and other.start_ns <= voice.start_ns and other is not voice:
            spans = ((id(other), n.SPAN_TTS),)
            found.append(("tts", other.began_ns, other.ended_by(record.closed_ns), spans))
    first_ns = voice.first_ns if voice.first_ns is not None else voice.ended_by(record.closed_ns)
    key = id(voice)
    if voice.component == "realtime":
        own = ((key, n.SPAN_REALTIME), (key, n.SPAN_REALTIME_FIRST_AUDIO))
        found.append(("realtime", voice.began_ns, first_ns, own))
    else:
        own = ((key, n.SPAN_TTS), (key, n.SPAN_TTS_FIRST_AUDIO))
        found.append(("tts", voice.began_ns, first_ns, own))
    sent_ns = record.playback.first_sent_ns
    if voice.first_ns is not None and sent_ns is not None:
        found.append(("send", voice.first_ns, sent_ns, ()))
