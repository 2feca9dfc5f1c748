"""What is hooked in this process, and what came of it: a silent installation says so itself."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from voicespan.diagnostics import number, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.sessions import Session

AFTER_S = 30.0
"""How long after the start a process without a turn explains itself; it does so again at its end."""
_LISTED = 3
_HELPER = "from multiprocessing."
"""How Python begins the command of a process that only helps to start others, or keeps count of what they share."""


class Source:
    """Something that turns come from: a framework, a stage map, the service's own code.

    `onset` is what a turn begins with, in its own words.
    """

    def __init__(self, name: str, version: str = "", onset: str = "onset of speech") -> None:
        self.name = name
        self.version = version
        self.onset = onset
        self.sessions = 0
        self.turns = 0
        self.heard = False
        """There was an onset, whatever came of it."""
        self.missing: Callable[[], str] | None = None
        """Says what else was not seen, where the source knows."""

    def forget(self) -> None:
        """Begin to count anew."""
        self.sessions = self.turns = 0
        self.heard = False

    def adopt(self, session: Session) -> None:
        """Take a session that this source has begun for its own."""
        session.source.sessions -= 1
        self.sessions += 1
        session.source = self

    def __str__(self) -> str:
        title = f"{self.name} {self.version}".rstrip()
        counts = f"{title} hooked, {number(self.sessions, 'session')}, {number(self.turns, 'turn')}"
        missing = self.missing() if self.missing is not None else ""
        if not missing and self.sessions:
            missing = f"{self.onset}, but no end of a turn" if self.heard else f"no {self.onset}"
        return f"{counts}: {missing}" if missing else counts


OWN_CODE = Source("own code", onset="user_turn()")
"""Sessions that nobody else has begun."""

_sources: dict[str, Source] = {}
_libraries: dict[str, str] = {}
_moved: dict[str, str] = {}
_state: set[str] = set()
_recorded: list[Callable[[], bool]] = []


def source(name: str, version: str = "", onset: str = "onset of speech") -> Source:
    """Return the source of this name, which is hooked from now on."""
    return _sources.setdefault(name, Source(name, version, onset))


def library(name: str, version: str) -> None:
    """Note that a library is hooked: it gives spans, and no turns."""
    if name not in _moved:
        _libraries[name] = version


def moved(name: str, version: str) -> None:
    """Note that a version has moved what is relied on, as was said: it is not hooked."""
    _moved[name] = version
    _sources.pop(name, None)
    _libraries.pop(name, None)


def begin(recorded: Callable[[], bool]) -> None:
    """Begin to wait for a turn; `recorded` says whether any span has come."""
    if _recorded:
        return
    _recorded.append(recorded)
    _wait()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_parent=_forked, after_in_child=_in_child)


def _wait() -> None:
    timer = threading.Timer(AFTER_S, explain)
    timer.name = "voicespan-hooked"
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread can be started at the interpreter's end
        timer.start()


def _forked() -> None:
    _state.add("forked")


def _in_child() -> None:
    for each in (OWN_CODE, *_sources.values()):
        each.forget()
    _state.clear()
    _state.add("child")
    _wait()


def explain(*, at_end: bool = False) -> None:
    """Say once what is hooked and what was not seen, unless there was a turn. Never raises."""
    when = "no turn until the end" if at_end else f"no turn after {AFTER_S:g} s"
    try:
        found = _explanation(at_end=at_end)
        if found is not None and "said" not in _state:
            _state.add("said")
            say("hooked", f"{when}: {found}")
    except Exception as error:
        say("hooked", f"could not say what is hooked: {error!r}", level="debug")


def _explanation(*, at_end: bool) -> str | None:
    """Return what there is to say; None where there was a turn, or where it is the business of another process."""
    sources = [*_sources.values(), *([OWN_CODE] if OWN_CODE.sessions else [])]
    sessions = sum(each.sessions for each in sources)
    if any(each.turns for each in sources) or (not sessions and _elsewhere(at_end=at_end)):
        return None
    libraries = ", ".join(f"{name} {version}" for name, version in _libraries.items())
    moved = [f"not hooked, since it has moved something: {name} {version}" for name, version in _moved.items()]
    if sources:
        return "; ".join([*map(str, sources), *([f"also hooked: {libraries}"] if libraries else []), *moved])
    if any(recorded() for recorded in _recorded):
        return None  # a service that holds no calls: its spans are what it has to tell
    if moved:
        return "; ".join([*([f"{libraries} hooked, and none was used"] if libraries else []), *moved])
    if libraries:
        return f"{libraries} hooked, and none was used"
    return (
        "nothing is hooked: no framework that voicespan knows was imported, there is no stage map (VOICESPAN_STAGES), "
        "and nobody called voicespan.session()"
    )


def _elsewhere(*, at_end: bool) -> bool:
    """Whether calls are the business of other processes: of this one's children, or of those beside it.

    A child of a fork (a prefork server's) waits for calls as its siblings do, and says nothing when it goes.
    """
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        return True
    if any(argument.startswith(_HELPER) for argument in sys.orig_argv):
        return True
    started_some = "multiprocessing.popen_fork" in sys.modules  # imported with the first process that is started
    return started_some or "forked" in _state or (at_end and "child" in _state)


def listed(names: list[str]) -> str:
    """Return some of the names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def forget() -> None:
    """Forget everything: for tests."""
    _sources.clear()
    _libraries.clear()
    _moved.clear()
    _state.clear()
    OWN_CODE.forget()
