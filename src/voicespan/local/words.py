"""What is said about a turn in words: why the user waited, and lengths of time as a reader wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from voicespan.local.score import Score
    from voicespan.local.turn import Turn

NS_PER_MS = 1_000_000

_MOST = 0.5
"""A largest share below this is not the cause by itself: the second one is told as well."""

_TRIGGERS = {
    "greeting": "greeting",
    "say": "an announcement",
    "no_input": "after the user said nothing",
    "tool_result": "the result of a tool",
    "handoff": "hand-over",
}
_NO_REPLY = {
    "superseded": "The user spoke again before anything was heard.",
    "user_left": "The user left before anything was heard.",
    "no_speech": "Nothing was said: no words were found in what was heard.",
    "suppressed": "The agent chose not to answer.",
}
_NOT_WAITED = ("no_speech", "suppressed")
_SHARES = {
    "endpoint": "for the turn decision (endpoint)",
    "asr": "for the recognizer{} (asr)",
    "llm": "for the model{} (llm)",
    "tool": "for the tool{}",
    "sentence": "for a whole sentence of the model{} (sentence)",
    "tts": "for the voice{} (tts)",
    "send": "for audio to leave the server (send)",
    "network": "for audio to reach the ear (network)",
    "realtime": "for the realtime model{}",
    "unattributed": "that no stage explains",
}
_STAGES = {
    "asr": "the recognizer",
    "llm": "the model",
    "tool": "the tool",
    "tts": "the voice",
    "realtime": "the realtime model",
}


def cause(turn: Turn) -> str:
    """Return what happened in a turn: how long the user waited and for what, and what failed or cut it off."""
    if not turn.complete:
        return "The root span has not arrived: the turn is still open, or its process was killed."
    if turn.initiator == "agent":
        return f"{_by_itself(turn)}{_recovery(turn)}{_ending(turn)}"
    if turn.response_ns is None or turn.no_reply_reason in _NOT_WAITED:
        return _without_wait(turn)
    if turn.unanswered:
        return _unanswered(turn, seconds(turn.response_ns))
    return f"The user waited {seconds(turn.response_ns)}{_blame(turn)}.{_filler(turn)}{_recovery(turn)}{_ending(turn)}"


def _blame(turn: Turn) -> str:
    """The largest share of the silence, and the second where the first is not most of it."""
    if not turn.response_ns or turn.bottleneck not in turn.shares:
        return ""
    first_ns = turn.shares[turn.bottleneck]
    words = f": {_share(turn.bottleneck, turn.culprit, first_ns, turn.response_ns)}"
    others = [(share_ns, stage) for stage, share_ns in turn.shares.items() if stage != turn.bottleneck]
    if first_ns >= _MOST * turn.response_ns or not others:
        return words
    second_ns, second = max(others)
    return f"{words} and {_share(second, None, second_ns, turn.response_ns)}"


def _share(stage: str, name: str | None, share_ns: int, whole_ns: int) -> str:
    words = _SHARES.get(stage, f"for {stage}").format(f" {name}" if name else "")
    return f"{seconds(share_ns)} ({percent(share_ns, whole_ns)}) {words}"


def _filler(turn: Turn) -> str:
    """What was heard first only bridged the wait: say when the answer came."""
    if turn.answer_ns is None:
        return ""
    tool = f"; the tool {turn.tool} took {seconds(turn.tool_ns)} of it" if turn.tool and turn.tool_ns else ""
    return f" That was a filler: the answer came after {seconds(turn.answer_ns)}{tool}."


def _unanswered(turn: Turn, waited: str) -> str:
    """Nobody answered: what ended the wait comes first, then what took the time until then."""
    blame = _blame(turn)
    if turn.bottleneck == "llm" and turn.llm_ttft_ns is None and turn.outcome != "error":
        blame += ", which gave no token"
    if turn.outcome == "error":
        # A stage that fails at once is the cause, whatever took the time before.
        slow = turn.bottleneck is not None and (turn.failed or "").startswith(turn.bottleneck)
        return f"The user waited {waited} and heard nothing, because {_failure(turn)}{blame if slow else ''}."
    if turn.outcome == "timeout":
        return f"The user waited {waited} and heard nothing, because the turn timed out{blame}."
    match turn.no_reply_reason:
        case "user_left":
            return f"The user left after {waited} of silence{blame}."
        case "superseded":
            return f"The user spoke again after {waited} of silence{blame}."
        case _:
            return f"The user waited {waited} and heard nothing, because the turn ended without a reply{blame}."


def _without_wait(turn: Turn) -> str:
    if turn.no_reply_reason in _NO_REPLY:
        return _NO_REPLY[turn.no_reply_reason]
    if turn.error:
        words = _failure(turn)
        return f"{words[0].upper()}{words[1:]}."
    return "The trace does not tell how long the user waited."


def _by_itself(turn: Turn) -> str:
    trigger = _TRIGGERS.get(turn.trigger or "", "")
    why = f" by itself ({trigger})" if trigger else " by itself"
    if _was_heard(turn):
        since = f", {seconds(turn.first_audio_ns)} after the media was up" if turn.first_audio_ns is not None else ""
        return f"The agent spoke{why}{since}."
    if turn.outcome == "error":
        unheard = _failure(turn)
    elif turn.outcome == "timeout":
        unheard = "the turn timed out"
    else:
        unheard = "the user left" if turn.no_reply_reason == "user_left" else "nothing was heard"
    return f"The agent was to speak{why}, but {unheard}."


def _was_heard(turn: Turn) -> bool:
    """Whether audio of a turn without a response was played."""
    return turn.outcome in ("completed", "interrupted", None) or turn.measurement_point is not None


def _failure(turn: Turn) -> str:
    """What failed, and how, as the end of a sentence."""
    stage, _, name = (turn.failed or "").partition(" ")
    what = f"{_STAGES.get(stage, stage)} {name}".rstrip() if stage else "the turn"
    return f"{what} failed ({turn.failure or turn.error or 'no reason given'})"


def _recovery(turn: Turn) -> str:
    """A failure that did not cost the reply cost time all the same."""
    if turn.outcome not in ("completed", "interrupted") or not turn.failed:
        return ""
    made_good = "the reply came all the same" if turn.failed.startswith("tool") else "another attempt succeeded"
    return f" On the way {_failure(turn)}{f'; {made_good}' if turn.outcome == 'completed' else ''}."


def _ending(turn: Turn) -> str:
    """What cut the reply off."""
    if turn.outcome == "interrupted":
        silent = "" if turn.silenced_ns is None else f"; it was silent after {seconds(turn.silenced_ns)}"
        return f" Then the user interrupted the reply{silent}."
    if turn.initiator == "agent" and not _was_heard(turn):
        return ""
    if turn.outcome == "error":
        return f" Then {_failure(turn)} and cut the reply off."
    if turn.outcome == "no_reply":
        left = turn.no_reply_reason == "user_left"  # what was heard was only a filler
        return " Then the user left without an answer." if left else " No answer followed."
    return " Then the turn ran into its time limit." if turn.outcome == "timeout" else ""


def verdict(score: Score) -> str:
    """Return a score in a few words: `helpful 0.8 (good)`."""
    value = "" if score.value is None else f" {score.value:g}"
    if score.label is None:
        return f"{score.name}{value}"
    return f"{score.name}{value} ({score.label})" if value else f"{score.name}: {score.label}"


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
