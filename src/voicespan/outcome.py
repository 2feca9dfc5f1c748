"""What the user got from a turn: its outcome, and the failure that cut or prevented the reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voicespan.record import Failure, StageRecord, TurnRecord


def unmended(record: TurnRecord) -> Failure | None:
    """Return the failure that cut or prevented the reply; None when nothing failed or another attempt made it good.

    Where all attempts at a stage failed the last one decided: until then there was a reply to wait for.
    """
    if record.failure is not None:
        return record.failure
    for stage in record.stages:
        if stage.failure is not None:
            return _unmended_stage(record)
    return None


def _unmended_stage(record: TurnRecord) -> Failure | None:
    found = [
        (stage.component, stage.failure)
        for stage in record.stages
        if stage.failure is not None
        and not stage.discarded
        and not any(_mends(other, stage, stage.failure.at_ns) for other in record.stages)
    ]
    if not found:
        return None
    attempts = [failure for component, failure in found if component == found[0][0]]
    return max(attempts, key=lambda failure: failure.at_ns)


def outcome(record: TurnRecord, failure: Failure | None) -> tuple[str, str | None]:
    """Return `voice.turn.outcome` and, for no_reply, its reason: what the user got, first match.

    An end without a reply that nobody decided on has no reason: it must not look like a decision.
    """
    heard = record.playback.first_sent_ns is not None
    replied = heard and not record.playback.filler_only
    if record.barge_in is not None and heard:
        return "interrupted", None
    if failure is not None:
        return "error", None
    if record.close == "limit" or (record.close == "idle" and not replied and not _speechless(record)):
        return "timeout", None
    if replied or record.close == "transferred":
        return "completed", None
    if record.close in ("superseded", "user_left"):
        return "no_reply", record.close
    if record.close == "dismissed" or _speechless(record):
        return "no_reply", "no_speech"
    return "no_reply", "suppressed" if record.suppressed else None


def _mends(other: StageRecord, stage: StageRecord, at_ns: int) -> bool:
    """Whether another attempt made good what failed: the same component, or for a tool the model that took over."""
    kindred = other.component == stage.component or (
        stage.component == "tool" and other.component in ("llm", "realtime")
    )
    sound = other.failure is None and not other.cancelled and not other.discarded
    return kindred and sound and other.end_ns is not None and other.end_ns >= at_ns and other is not stage


def _speechless(record: TurnRecord) -> bool:
    """Whether the user's sound became no words: never committed, or a recognizer that found none."""
    if record.trigger is not None or record.input != "speech":
        return False
    if record.transcript_ns is not None or record.suppressed:
        return False
    recognizers = [stage for stage in record.stages if stage.component == "asr"]
    return record.committed_ns is None or (bool(recognizers) and all(stage.first_ns is None for stage in recognizers))
