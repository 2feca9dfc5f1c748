"""Leaves the interpreter to other threads in the middle of long work, above all to the service's event loop."""

from __future__ import annotations

import time

WORK_NS = 250_000
"""How long a thread works at a stretch."""
REST_S = 0.000_1
"""A thread that wants the interpreter takes it when it is let go, but has to wake up first. Who only lets go for a
moment (`time.sleep(0)`) has it back before, and the other one waits anew, for `sys.getswitchinterval()`: 5 ms."""


class Breath:
    """The pauses of one thread's work, which begins now."""

    def __init__(self) -> None:
        self._since_ns = time.monotonic_ns()

    def take(self) -> None:
        """Rest, where the work has lasted long enough."""
        if time.monotonic_ns() - self._since_ns > WORK_NS:
            time.sleep(REST_S)
            self._since_ns = time.monotonic_ns()
