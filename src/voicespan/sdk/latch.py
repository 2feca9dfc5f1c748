"""A gate that opens once. Unlike `threading.Event` it may be used by a signal handler that interrupted its user."""

from __future__ import annotations

import threading


class Latch:
    """Closed until `open()`; any number of threads may wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._opened = False

    def open(self) -> None:
        """Let everybody pass, now and later."""
        if not self._opened:
            self._opened = True
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is open, at most `timeout_s` seconds; return whether it is."""
        if self._opened:
            return True
        if not self._lock.acquire(timeout=max(0.0, timeout_s)):
            return False
        self._lock.release()
        return True
