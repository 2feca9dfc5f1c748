"""A turn that is still open, as plain data for a viewer: what was marked so far, in seconds of Unix time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan import names as n

if TYPE_CHECKING:
    from voicespan.record import StageRecord, TurnRecord

MAX_STAGES = 32
"""Of a turn with more stages the last ones are told."""

_NS_PER_S = 1_000_000_000
_LABELS = {"tool": (n.GEN_AI_TOOL_NAME,), "tts": (n.VOICE_TTS_VOICE_NAME, n.GEN_AI_REQUEST_MODEL)}
_LABELS_OF_OTHERS = (n.GEN_AI_REQUEST_MODEL,)


def progress(record: TurnRecord) -> dict[str, Any]:
    """Return what is known of an open turn; nothing of what was said. Other threads may go on writing the record."""
    offset_ns = record.wall_offset_ns
    return {
        "trace_id": f"{record.trace_id:032x}",
        "session_id": record.session_id,
        "turn_index": record.index,
        "initiator": "agent" if record.trigger is not None else "user",
        "trigger": record.trigger,
        "input": None if record.trigger is not None else record.input,
        "start_s": _unix_s(record.onset_ns, offset_ns),
        "filler": record.playback.first_sent_ns is not None and record.playback.filler_only,
        "marks": _marks(record, offset_ns),
        "stages": [_stage(stage, offset_ns) for stage in record.stages[-MAX_STAGES:]],
    }


def _marks(record: TurnRecord, offset_ns: int) -> list[dict[str, Any]]:
    """The moments of the turn in order; `plays_until` is where the playout clock stands, so it may lie ahead."""
    playback, barge_in = record.playback, record.barge_in
    moments = {
        "speech_end": record.detected_ns if record.speech_end_ns is None else record.speech_end_ns,
        "committed": record.committed_ns,
        "transcript": record.transcript_ns,
        "first_sent": playback.first_sent_ns,
        "heard": playback.heard_ns,
        "answer": playback.answer_ns,
        "interrupted": None if barge_in is None else barge_in.detected_ns,
        "silent": None if barge_in is None else barge_in.silent_ns,
        "paused": playback.paused_ns,
        "ended": record.ended_ns,
        "plays_until": None if playback.first_sent_ns is None else playback.out_ns,
    }
    known = sorted((at_ns, name) for name, at_ns in moments.items() if at_ns is not None)
    return [{"name": name, "at_s": _unix_s(at_ns, offset_ns)} for at_ns, name in known]


def _stage(stage: StageRecord, offset_ns: int) -> dict[str, Any]:
    keys = _LABELS.get(stage.component, _LABELS_OF_OTHERS)
    label = next((stage.attributes[key] for key in keys if key in stage.attributes), None)
    failure = stage.failure
    return {
        "component": stage.component,
        "label": None if label is None else str(label),
        "start_s": _unix_s(stage.start_ns, offset_ns),
        "handed_s": _unix_s(stage.handed_ns, offset_ns),
        "first_s": _unix_s(stage.first_ns, offset_ns),
        "end_s": _unix_s(stage.end_ns, offset_ns),
        "error": None if failure is None else failure.kind,
        "filler": stage.filler,
        "aside": stage.background or stage.discarded,
    }


def _unix_s(at_ns: int | None, offset_ns: int) -> float | None:
    return None if at_ns is None else (at_ns + offset_ns) / _NS_PER_S
