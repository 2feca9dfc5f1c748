"""What the calls of a mapped pipeline mean: the session and turn they belong to, and the mark or stage they are."""

from __future__ import annotations

import enum
import numbers
import threading
import uuid
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from voicespan import diagnostics, hooked
from voicespan.context import bound
from voicespan.pcm import samples
from voicespan.sessions import Session, current_session, session
from voicespan.stagemap.document import DEFAULT_SAMPLE_RATE
from voicespan.stagemap.value import MISSING, Call, matches, read
from voicespan.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from voicespan.stage import Stage
    from voicespan.stagemap.document import Hook, StageMap, Time

MAX_SESSIONS = 10_000
_BYTES_PER_SAMPLE = 2
_NS_PER = {"ns": 1, "ms": 1_000_000, "s": 1_000_000_000}
_PLAIN = (str, bool, int, float)
_BY_VALUE = (str, bytes, int, uuid.UUID)


class Sessions:
    """The sessions that run, by what the service names them: a value, or an object of its own by identity."""

    def __init__(self) -> None:
        self._found: OrderedDict[object, tuple[object, Session]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, name: object, found: Session) -> Session | None:
        """Keep a session under a name; return the one that it takes the name from.

        The oldest goes when there are too many.
        """
        with self._lock:
            before = self._found.pop(_key(name), None)
            self._found[_key(name)] = (name, found)  # the object too: else its id may become another's
            while len(self._found) > MAX_SESSIONS:
                self._found.popitem(last=False)
                diagnostics.counters.add("stagemap.sessions.over_limit")
        return None if before is None or before[1] is found else before[1]

    def find(self, name: object) -> Session | None:
        """Return the session of this name."""
        entry = self._found.get(_key(name))
        return None if entry is None else entry[1]

    def remove(self, names: Iterable[object], found: Session) -> None:
        """Forget the names of a session, but for those that another one has taken."""
        with self._lock:
            for key in map(_key, names):
                if key in self._found and self._found[key][1] is found:
                    del self._found[key]


def _key(name: object) -> object:
    return name if isinstance(name, _BY_VALUE) else ("object", id(name))


class Pipeline:
    """The running service as its stage map describes it. Methods may raise: their callers guard them."""

    def __init__(self, stage_map: StageMap) -> None:
        self.map = stage_map
        self.sessions = Sessions()
        self.source = hooked.source("stage map")
        self.source.missing = self._missing
        self.called: set[str] = set()
        """Functions that were called, once or more."""
        self._names_of: weakref.WeakKeyDictionary[Session, list[object]] = weakref.WeakKeyDictionary()
        self.frames_are_marked = stage_map.has("playback.frame")

    def _ours(self, begun: Session) -> Session:
        """Count a session that nobody else counts."""
        if begun.source is hooked.OWN_CODE:
            self.source.adopt(begun)
        return begun

    def _missing(self) -> str:
        """Return which functions were not seen at all."""
        never = sorted({str(hook.target) for hook in self.map.hooks} - self.called)
        return f"never called: {hooked.listed(never)}" if never else ""

    # Sessions

    def begin_session(self, hook: Hook, call: Call) -> Session:
        """Begin the session that this call is, and remember it by its id and its key."""
        found_id = read(hook.options.get("id"), call)
        transport = read(hook.options.get("transport"), call)
        begun = self._ours(session(None if found_id is None else str(found_id), transport=_text(transport)))
        names = self._names_of[begun] = self._names(hook, call)
        for name in names:
            before = self.sessions.add(name, begun)
            if before is not None and hook.role == "session.start":  # the user has come back: nobody else ends it
                self.forget_session(before)
                before.end("client_disconnect")
        return begun

    def end_session(self, hook: Hook, call: Call) -> None:
        """End the session that this call names."""
        for name in self._names(hook, call):
            found = self.sessions.find(name)
            if found is not None:
                self.forget_session(found)
                found.end()

    def forget_session(self, found: Session) -> None:
        """Forget the names of a session that is over."""
        self.sessions.remove(self._names_of.pop(found, ()), found)

    def _names(self, hook: Hook, call: Call) -> list[object]:
        found = [read(hook.options.get(option), call) for option in ("id", "key")]
        return [name for name in found if name is not None]

    def session_of(self, hook: Hook, call: Call) -> Session | None:
        """Return the session that the hook names, else the current one."""
        if hook.session is None:
            found = current_session()
            return None if found is None else self._ours(found)
        name = read(hook.session, call)
        return None if name is None else self.sessions.find(name)

    # Turns

    def _speaking(self, hook: Hook, call: Call) -> Turn | None:
        """Return the turn that the user's speech belongs to: the latest."""
        found = self.session_of(hook, call)
        return None if found is None else found.turn

    def _replying(self, hook: Hook, call: Call) -> Turn | None:
        """Return the turn that is being answered: the bound one, else the latest that is no mere onset."""
        current = bound()
        if hook.session is None and isinstance(current, Turn) and current.open:
            return current
        found = self.session_of(hook, call)
        return None if found is None else found.replying

    def mark(self, hook: Hook, call: Call) -> Turn | None:
        """Take the call as the mark that the hook says it is; return the turn that it is about."""
        for path, wanted in hook.condition.items():
            if not matches(path.read(call), wanted):
                return None
        at = None if hook.at is None else self._moment(hook.at, call)
        begins = _BEGINNINGS.get(hook.role)
        if begins is not None:
            found = self.session_of(hook, call)
            return None if found is None else begins(found, at, hook, call)
        speech = hook.section == "turn" and hook.kind not in ("interrupted", "suppressed", "handoff", "ended")
        turn = self._speaking(hook, call) if speech else self._replying(hook, call)
        if turn is None:
            diagnostics.counters.add("stagemap.mark.without_turn")
        elif hook.role == "playback.frame":
            turn.audio_sent(self._length_s(hook, call), at)
        else:
            _MARKS[hook.role](turn, at, hook, call)
        return turn

    def _moment(self, time: Time, call: Call) -> int | None:
        """Return a time of the service as monotonic nanoseconds; None, which is now, where it tells none."""
        found = time.path.read(call)
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        at_ns = round(found * _NS_PER[time.unit])
        if time.clock == "monotonic":
            return at_ns
        from voicespan.emit import recorder

        clock = recorder().clock
        now_ns = clock.monotonic_ns()
        return now_ns - at_ns if time.clock == "ago" else at_ns - (clock.time_ns() - now_ns)

    def _length_s(self, hook: Hook, call: Call) -> float:
        audio = MISSING if "audio" in hook.options else _first_audio(call)
        return self.seconds_of(audio, hook, call)

    def seconds_of(self, frame: object, hook: Hook, call: Call) -> float:
        """Return the length of a frame of mono audio, or what the hook has in its place; 0 for what is none."""
        seconds = read(hook.options.get("seconds"), call)
        if isinstance(seconds, numbers.Real):
            return float(seconds)
        length = samples(read(hook.options["audio"], call) if "audio" in hook.options else frame)
        rate = read(hook.options.get("sample_rate"), call) or self.map.sample_rate or DEFAULT_SAMPLE_RATE
        return 0.0 if length is None else length / float(rate)

    # Stages

    def begin_stage(self, hook: Hook, call: Call) -> tuple[Stage, Turn]:
        """Begin the stage that this call is; without an open turn it opens one."""
        turn = self._turn_for_stage(hook, call)
        options: dict[str, Any] = {
            key: read(hook.options[key], call) for key in _OPTIONS[hook.kind] if key in hook.options
        }
        options |= {key: _text(options[key]) for key in _TEXTS if key in options}
        if hook.kind == "tool":
            stage: Stage = turn.tool(str(options.get("name") or hook.target.name.rpartition(".")[2]))
        else:
            if hook.kind in ("tts", "realtime"):
                options["sample_rate"] = int(options.get("sample_rate") or self.map.sample_rate)
            if "remote" in options:
                options["remote"] = bool(options["remote"])
            stage = getattr(turn, hook.kind)(**{key: found for key, found in options.items() if found is not None})
        if hook.kind == "tts":
            self._speak(stage, hook, call)
        set_attributes(stage, hook.attributes, call)
        return stage, turn

    def _turn_for_stage(self, hook: Hook, call: Call) -> Turn:
        found = self.session_of(hook, call)
        if hook.kind == "asr":
            turn = None if found is None else found.turn
            if turn is not None and (self.map.has("turn.speech_started") or turn.record.committed_ns is None):
                return turn
            return (found or self._ours(session())).user_turn()
        turn = self._replying(hook, call)
        if turn is None and found is not None and not self.map.has("turn.committed"):
            turn = found.turn  # nobody tells the decision: that there is an answer shows it
            if turn is not None:
                turn.committed()
        if turn is not None:
            return turn
        if found is not None and self.map.marks_turns:
            return found.agent_turn("say")
        return (found or self._ours(session())).user_turn(input="text")

    def recognised(self, turn: Turn) -> None:
        """Take the final transcript for the decision where the pipeline tells no other."""
        if not self.map.has("turn.committed"):
            turn.committed()

    def _speak(self, stage: Any, hook: Hook, call: Call) -> None:
        text = read(hook.options.get("text"), call)
        if isinstance(text, str):
            stage.text(text)
        worker = read(hook.options.get("worker"), call)
        if worker is not None:
            stage.worker(str(worker))


_OPTIONS = {
    "asr": ("model", "provider", "language", "remote"),
    "llm": ("model", "provider", "remote"),
    "tool": ("name",),
    "tts": ("model", "provider", "voice", "filler", "sample_rate", "remote"),
    "realtime": ("model", "provider", "sample_rate"),
}


_TEXTS = ("model", "provider", "language", "voice", "name")


def _text(found: object) -> str | None:
    """Return a value as text: a service may keep its model as a member of an enum, or as an object."""
    plain = found.value if isinstance(found, enum.Enum) else found
    return None if plain is None else str(plain)


def _agent_turn(found: Session, _at: int | None, hook: Hook, _call: Call) -> Turn:
    return found.agent_turn(hook.options.get("trigger", "say"))  # type: ignore[arg-type]


def _media_up(found: Session, at: int | None, _hook: Hook, _call: Call) -> None:
    found.media_up(at)


def _hung_up(found: Session, at: int | None, _hook: Hook, _call: Call) -> None:
    found.hung_up(at)


_BEGINNINGS: dict[str, Callable[[Session, int | None, Hook, Call], Turn | None]] = {
    "turn.speech_started": lambda found, at, _hook, _call: found.user_turn(at),
    "turn.text": lambda found, at, _hook, _call: found.user_turn(at, input="text"),
    "turn.dtmf": lambda found, at, _hook, _call: found.user_turn(at, input="dtmf"),
    "turn.agent_started": _agent_turn,
    "session.media_up": _media_up,
    "session.hung_up": _hung_up,
}
"""Marks of a session: some of them begin a turn."""

_MARKS: dict[str, Callable[[Turn, int | None, Hook, Call], None]] = {
    "turn.speech_ended": lambda turn, at, _hook, _call: turn.speech_ended(at),
    "turn.committed": lambda turn, at, _hook, _call: turn.committed(at),
    "turn.partial": lambda turn, at, _hook, _call: turn.transcript(at, final=False),
    "turn.transcript": lambda turn, at, _hook, _call: turn.transcript(at),
    "turn.dismissed": lambda turn, _at, _hook, _call: turn.dismissed(),
    "turn.interrupted": lambda turn, at, _hook, _call: turn.interrupted(at),
    "turn.suppressed": lambda turn, _at, _hook, _call: turn.suppressed(),
    "turn.handoff": lambda turn, _at, hook, call: turn.handoff(str(read(hook.options.get("agent"), call))),
    "turn.ended": lambda turn, at, _hook, _call: turn.end(at),
    "playback.heard": lambda turn, at, _hook, _call: turn.audio_heard(at),
    "playback.stopped": lambda turn, at, _hook, _call: turn.audio_stopped(at),
    "playback.clear": lambda turn, at, _hook, _call: turn.audio_cleared(at),
    "playback.paused": lambda turn, at, _hook, _call: turn.audio_paused(at),
    "playback.resumed": lambda turn, at, _hook, _call: turn.audio_resumed(at),
}

BINDS = frozenset({"turn.speech_started", "turn.committed", "turn.text", "turn.dtmf", "turn.agent_started"})
"""Marks whose call, and every task that it starts, works on the turn."""


def set_attributes(stage: Stage, attributes: Mapping[str, Any], call: Call) -> None:
    """Set what can be read at this point of the call, as far as a span can carry it."""
    for key, given in attributes.items():
        found = read(given, call)
        if isinstance(found, _PLAIN):
            stage.set(key, found)


def _first_audio(call: Call) -> object:
    return next((given for given in (*call.args, *call.kwargs.values()) if samples(given) is not None), MISSING)
