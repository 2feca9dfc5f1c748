"""What is said about a turn in words: why the user waited, and lengths of time as a reader wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from voicespan.local.turn import Turn

NS_PER_MS = 1_000_000

_INITIATED = {
    "greeting": "greeting",
    "say": "an announcement",
    "no_input": "after the user said nothing",
    "tool_result": "the result of a tool",
    "handoff": "hand-over",
}
_NO_REPLY = {
    "superseded": "the user spoke again before anything was heard",
    "user_left": "the user left before anything was heard",
    "no_speech": "nothing was said",
    "suppressed": "the agent chose not to answer",
}


def cause(turn: Turn) -> str:
    """Return one sentence that says how long the user waited, and for what."""
    if not turn.complete:
        return "The root span has not arrived: the turn is still open, or its process was killed."
    if turn.response_ns is None:
        return _without_response(turn)
    waited = f"The user waited {seconds(turn.response_ns)}"
    if turn.unanswered:
        why = _NO_REPLY.get(turn.no_reply_reason or "", turn.error or turn.outcome or "no reply")
        waited += f" and heard nothing ({why})"
    return f"{waited}{_largest_share(turn)}.{_filler(turn)}{_ending(turn)}"


def _largest_share(turn: Turn) -> str:
    share_ns = turn.shares.get(turn.bottleneck or "")
    if not share_ns or not turn.response_ns:
        return ""
    part = f"; {seconds(share_ns)} ({percent(share_ns, turn.response_ns)}) of it"
    return f"{part} no stage explains" if turn.bottleneck == "unattributed" else f"{part} was {turn.bottleneck}"


def _filler(turn: Turn) -> str:
    """What was heard first only bridged the wait: say when the answer came."""
    return f" That was a filler; the answer came after {seconds(turn.answer_ns)}." if turn.answer_ns is not None else ""


def _ending(turn: Turn) -> str:
    if turn.outcome == "interrupted" and turn.silenced_ns is not None:
        return f" Interrupted: silent after {seconds(turn.silenced_ns)}."
    if turn.outcome == "error" and turn.error and not turn.unanswered:
        return f" Then it failed: {turn.error}."
    return ""


def _without_response(turn: Turn) -> str:
    if turn.initiator == "agent":
        words = _INITIATED.get(turn.trigger or "", "")
        sentence = "The agent spoke by itself" + (f" ({words})" if words else "")
        if turn.first_audio_ns is not None:
            sentence += f", {seconds(turn.first_audio_ns)} after the media was up"
        return f"{sentence}."
    if turn.no_reply_reason in _NO_REPLY:
        words = _NO_REPLY[turn.no_reply_reason]
        return f"{words[0].upper()}{words[1:]}."
    return f"It failed: {turn.error}." if turn.error else "The trace does not tell how long the user waited."


def printable(text: str) -> str:
    """Return the text on one line, without what a terminal would obey: names come from whoever sent the span."""
    text = " ".join(text.split())
    return (
        text
        if text.isprintable()
        else "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    )


def seconds(length_ns: int) -> str:
    """Return a length in seconds, for sentences."""
    return f"{length_ns / NS_PER_S:.2f} s"


def milliseconds(length_ns: int) -> str:
    """Return a length in milliseconds, with one decimal where it matters."""
    length_ms = length_ns / NS_PER_MS
    return f"{length_ms:,.0f} ms" if length_ms >= 10 else f"{length_ms:.1f}".removesuffix(".0") + " ms"  # noqa: PLR2004


def percent(part_ns: int, whole_ns: int) -> str:
    """Return a part of a whole, for readers."""
    share = part_ns / whole_ns * 100
    return f"{share:.0f} %" if share >= 1 else "< 1 %"
