"""When a turn is over: the rules of its end, each as a reason and the moment from which it holds.

`docs/turn-model.md` tells them in words. They hold as long as nothing more is reported: any mark may change them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voicespan.record import Close, TurnRecord
    from voicespan.turn import Turn

ABANDONED_NS = 5_000_000_000
"""Speech that ended this long ago and was not committed was no utterance: no endpointing waits longer."""
LINGER_NS = 2_000_000_000
"""How long a turn whose reply is played out stays open for a further stage or for the client's report."""
SETTLE_NS = 500_000_000
"""What a client has to tell of one moment may come in several reports: so long after the latest all is told."""
FAILED_NS = 10_000_000_000
"""How long a turn without audio waits for another attempt after a failure."""


def due(turn: Turn, *, limit_ns: int, idle_ns: int, reports: bool) -> tuple[Close, int]:
    """Return why the turn ends, and when (monotonic nanoseconds).

    `limit_ns` is returned where only its time limit or a mark ends it; `idle_ns` is how long nothing may happen, and
    `reports` says that the client tells what it plays.
    """
    record = turn.record
    idle_at_ns = record.active_ns + idle_ns
    if record.committed_ns is None and record.trigger is None and record.ended_ns is None:
        return _unheard(turn, idle_at_ns)
    if turn.yielded_ns is not None:
        told_ns = turn.yielded_ns + LINGER_NS
        return "done", told_ns if waits_for_report(record, reports) else min(told_ns, record.active_ns + SETTLE_NS)
    if turn.pending is not None and undecided(turn.pending):
        return "limit", limit_ns
    first_sent_ns, ended_ns = record.playback.first_sent_ns, record.ended_ns
    if ended_ns is not None and first_sent_ns is None:
        return "ended", ended_ns
    if record.busy:
        return "limit", limit_ns
    if first_sent_ns is None:
        failed = record.failure is not None or any(stage.failure is not None for stage in record.stages)
        return "idle", min(idle_at_ns, record.active_ns + FAILED_NS) if failed else idle_at_ns
    if record.playback.paused_ns is not None:
        return "idle", idle_at_ns
    return _played_out(record, idle_ns, reports=reports)


def _unheard(turn: Turn, idle_at_ns: int) -> tuple[Close, int]:
    """Speech that is not committed: over another turn it may have been no utterance."""
    if turn.over is None or not turn.over.open:
        return "idle", idle_at_ns
    detected_ns = turn.record.detected_ns
    return "dismissed", idle_at_ns if detected_ns is None else min(idle_at_ns, detected_ns + ABANDONED_NS)


def _played_out(record: TurnRecord, idle_ns: int, *, reports: bool) -> tuple[Close, int]:
    playback = record.playback
    out_ns = playback.out_ns
    if record.ended_ns is not None:
        return "done", out_ns + LINGER_NS if waits_for_report(record, reports) else out_ns
    quiet_ns = max(out_ns, record.active_ns)
    if playback.filler_only and record.barge_in is None:
        return "idle", quiet_ns + idle_ns
    # What stopped the reply may turn out to be nothing, and the reply go on.
    return "done", quiet_ns + (LINGER_NS if record.barge_in is None else ABANDONED_NS)


def undecided(speech: Turn) -> bool:
    """Return whether speech over a turn may still turn out to be an utterance, or not."""
    return speech.open and speech.record.committed_ns is None


def waits_for_report(record: TurnRecord, reports: bool) -> bool:
    """Return whether a client that `reports` has still to say when it was silent."""
    stopped_ns = record.playback.stopped_ns
    return reports and (stopped_ns is None or stopped_ns < record.playback.last_sent_ns)
