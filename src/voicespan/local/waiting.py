"""What a turn in progress waits for, in words: a hung turn is the one that somebody looks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from voicespan.record import GAP_NS

if TYPE_CHECKING:
    from voicespan.local.open_turn import OpenStage, OpenTurn


class Wait(NamedTuple):
    """What a turn does, as the end of a sentence that begins with it, and since when (Unix time in seconds)."""

    words: str
    since_s: float | None
    goes_on: bool = False
    """It is no wait but something that is under way."""

    def clause(self, now_s: float) -> str:
        """Return the words with how long it has lasted by now."""
        if self.since_s is None:
            return self.words
        length = f"{max(0.0, now_s - self.since_s):.1f} s"
        return f"{self.words}, {length} so far" if self.goes_on else f"{self.words}, for {length}"

    def sentence(self, now_s: float) -> str:
        """Return the clause as a sentence."""
        clause = self.clause(now_s)
        return f"{clause[:1].upper()}{clause[1:]}."


def waiting(turn: OpenTurn, told_s: float) -> Wait:
    """Return what the turn does or waits for; `told_s` is when this was told, by the clock of its service."""
    marks = turn.marks
    if turn.initiator == "user" and "committed" not in marks:
        return _listening(turn)
    if "paused" in marks:
        return Wait("holds its reply back, because the user speaks", marks["paused"])
    if "silent" in marks:
        return Wait("is interrupted; waits for what the user says", marks["silent"])
    if "first_sent" not in marks:
        return _without_sound(turn)
    if told_s < marks.get("plays_until", 0.0) + GAP_NS / 1e9:
        return _playing(turn)
    return _played(turn)


def lost(turn: OpenTurn, told_s: float, silent_s: float) -> str:
    """Return the sentence for a turn whose process said nothing for `silent_s`; `told_s` is when it was last told."""
    last = waiting(turn, told_s).clause(told_s)
    return f"Its process fell silent {silent_s:.0f} s ago: killed, or stopped. The last it told: {last}."


def _listening(turn: OpenTurn) -> Wait:
    speech_end_s = turn.marks.get("speech_end")
    if speech_end_s is None:
        return Wait("hears the user speak", turn.start_s, goes_on=True)
    return Wait("waits for the turn decision", speech_end_s)


def _playing(turn: OpenTurn) -> Wait:
    heard_s = turn.marks.get("heard", turn.marks["first_sent"])
    if not turn.filler:
        return Wait("plays", turn.marks.get("answer", heard_s), goes_on=True)
    stage = _blocking([stage for stage in turn.stages if not stage.filler])
    behind = f" and {_wait_for(stage).words}" if stage is not None else ""
    return Wait(f"plays a filler{behind}", heard_s, goes_on=True)


def _played(turn: OpenTurn) -> Wait:
    """What was sent is played out."""
    out_s = turn.marks.get("plays_until")
    stage = _blocking(turn.stages)
    if stage is None:
        return Wait(
            "waits for the answer behind the filler, but no stage runs" if turn.filler else "is played out", out_s
        )
    if stage.component in ("tts", "realtime") and stage.first_s is not None:
        return Wait(f"waits for more sound of {stage.name}", out_s)
    return _wait_for(stage)


def _without_sound(turn: OpenTurn) -> Wait:
    stage = _blocking(turn.stages)
    if stage is not None:
        return _wait_for(stage)
    done = [stage for stage in turn.stages if not stage.aside and stage.end_s is not None]
    last = max(done, key=lambda stage: stage.end_s or 0.0, default=None)
    if last is None:
        return Wait("waits for a stage to begin", turn.marks.get("committed", turn.start_s))
    if last.error is not None:
        return Wait(f"waits for another attempt: {last.name} failed ({last.error})", last.end_s)
    if last.component in ("tts", "realtime") and last.first_s is not None:
        return Wait("waits for audio to leave the server", last.first_s)
    return Wait(f"waits for the next stage: nothing runs since {last.name} ended", last.end_s)


def _blocking(stages: tuple[OpenStage, ...] | list[OpenStage]) -> OpenStage | None:
    """The open stage that the reply waits for: the one that is furthest on the way to the ear."""
    open_ = [stage for stage in stages if stage.end_s is None and not stage.aside]
    return max(open_, key=lambda stage: (_nearness(stage), stage.start_s), default=None)


def _nearness(stage: OpenStage) -> int:
    """How far on the way to the ear the stage stands; what has handed its text on, or has none yet, is not waited for.

    Not everybody says when the synthesizer gets its text: alone, it is taken to have it.
    """
    match stage.component:
        case "realtime":
            return 4
        case "tts":
            return 0 if stage.first_s is None and stage.handed_s is None else 4
        case "tool":
            return 3
        case "llm":
            return 2 if stage.handed_s is None else -1
        case _:
            return 1


def _wait_for(stage: OpenStage) -> Wait:
    label = stage.label
    match stage.component:
        case "tts" | "realtime" if stage.first_s is not None:
            return Wait("waits for audio to leave the server", stage.first_s)
        case "tts" | "realtime":
            since_s = stage.start_s if stage.handed_s is None else stage.handed_s
            return Wait(f"waits for the first sound of {stage.name}", since_s)
        case "tool":
            return Wait(f"waits for the tool {label}" if label else "waits for a tool", stage.start_s)
        case "llm" if stage.handed_s is not None:
            return Wait(f"waits for more text of {label or stage.name}", stage.handed_s)
        case "llm" if stage.first_s is not None:
            return Wait(f"waits for a whole sentence of {label or stage.name}", stage.first_s)
        case "llm":
            return Wait(f"waits for the first token of {label or stage.name}", stage.start_s)
        case "asr":
            return Wait("waits for the transcript" + (f" of {label}" if label else ""), stage.start_s)
        case _:
            return Wait(f"waits for {stage.name}", stage.start_s)
