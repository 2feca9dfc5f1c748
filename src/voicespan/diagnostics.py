"""What voicespan says about itself: single lines on stderr, and counts of what went wrong. Never raises."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Level = Literal["debug", "warning"]

REPEAT_AFTER_S = 60.0
"""The same key is said again only after this time."""

_MAX_KEYS = 512
_MAX_COUNTERS = 256
_OTHER = "other"
LOCK_TIMEOUT_S = 0.05
"""So long a count waits for its lock, and then counts without it."""

_said: dict[str, tuple[float]] = {}

listener: Callable[[str, str], None] | None = None
"""Is given every key and message that is due, also those that VOICESPAN_LOG_LEVEL keeps from stderr."""


def say(key: str, message: str, *, level: Level = "warning") -> bool:
    """Write one line `voicespan: <message>` on stderr, at most once a minute for each `key`.

    Returns whether the line was due (also when VOICESPAN_LOG_LEVEL keeps it from being written).
    """
    try:
        if not _due(key):
            return False
        if listener is not None:
            listener(key, message)
        if _shown(level):
            _write(message)
    except Exception:  # a diagnosis must never become the failure
        return False
    return True


def caller(*skipped: str) -> str:
    """Return file and line of who called, past OpenTelemetry, logging and the modules that are `skipped`."""
    frame = sys._getframe()  # noqa: SLF001
    while frame.f_back is not None:
        frame = frame.f_back
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(("opentelemetry.", "logging", "importlib.", __name__, *skipped)):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return "somebody"


def number(count: int, noun: str) -> str:
    """Return `1 span` or `3 spans`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def forget() -> None:
    """Forget what was said and counted: for tests and for the child of a fork."""
    _said.clear()
    counters.clear()


def _due(key: str) -> bool:
    # No lock: a signal handler waits for a thread that may come here while the interrupted thread is here too.
    # Of several threads, the one that takes the expired entry away, or the first that puts one in, speaks.
    now = (time.monotonic(),)
    before = _said.get(key)
    if before is not None:
        if now[0] - before[0] < REPEAT_AFTER_S or _said.pop(key, None) is not before:
            return False
    elif len(_said) >= _MAX_KEYS:
        _said.clear()
    return _said.setdefault(key, now) is now


def _shown(level: Level) -> bool:
    from voicespan import settings

    return settings.current().log_level in {"debug", level}


def _write(message: str) -> None:
    line = f"voicespan: {' '.join(message.split())}\n"
    try:
        if sys.stderr is not None:
            sys.stderr.write(line)
            sys.stderr.flush()
    except RuntimeError:  # a signal handler speaks while the interrupted code was writing
        os.write(2, line.encode(errors="replace"))


class Counters:
    """Named counts, safe to use from any thread; the number of names is bounded, the rest is counted as `other`."""

    def __init__(self, max_names: int = _MAX_COUNTERS) -> None:
        self._max_names = max_names
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Add `count` to `name`."""
        # With a time-out: a signal may have stopped the very thread that holds the lock, and its handler waits for us.
        locked = self._lock.acquire(timeout=LOCK_TIMEOUT_S)
        try:
            if name not in self._counts and len(self._counts) >= self._max_names:
                name = _OTHER
            self._counts[name] = self._counts.get(name, 0) + count
        finally:
            if locked:
                self._lock.release()

    def get(self, name: str) -> int:
        """Return the count of `name`, 0 when there is none."""
        return self._counts.get(name, 0)

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counts, by name."""
        return dict(sorted(self._counts.copy().items()))

    def clear(self) -> None:
        """Set every count to zero. The lock is new: after a fork the old one may be held by a thread that is gone."""
        self._lock = threading.Lock()
        self._counts = {}


counters = Counters()
"""The counts of this process. They are not inherited by the child of a fork."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
