"""The end of the process: open turns are closed and what is queued is sent, VOICESPAN_EXIT_TIMEOUT_S long in all."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from voicespan import hooked, scores, settings
from voicespan.diagnostics import number, say
from voicespan.sdk.batch import NO_ANSWER
from voicespan.sdk.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    from voicespan.sdk.batch import Batcher


class MetricTarget(Protocol):
    """What the end of the process needs to know of an exporter of metrics."""

    target: str
    unsent: bool
    reason: str

    def hurry(self) -> None:
        """Retry no more where nobody listens."""


INTERPRETER_S = 0.2
"""What is kept of the time-out for the interpreter's own end, which takes 0.13 s on a slow machine."""

_deadlines_s: list[float] = []  # empty until the process ends, then one


def leaving() -> bool:
    """Return whether the process is at its end: what is not sent is then said once, for all signals."""
    return bool(_deadlines_s)


def remaining_s() -> float:
    """Return how long sending may still take: the whole time-out while the process is not at its end."""
    if not _deadlines_s:
        return settings.current().exit_timeout_s
    return max(0.0, _deadlines_s[0] - time.monotonic())


def close(batcher: Batcher[Any]) -> None:
    """Send what the batcher holds, then end it; say what could not be sent."""
    batcher.close()
    if not batcher.wait(remaining_s()) and not leaving():
        say(f"export.{batcher.what}.shutdown", f"shut down, and not sent: {_unsent(batcher)}")


def _unsent(batcher: Batcher[Any]) -> str:
    return f"{number(batcher.unsent, batcher.what)} to {batcher.target} ({batcher.reason or NO_ANSWER})"


class Step:
    """Work for the end of the process, on a thread that is started beforehand: at exit none can be started."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name = name
        self._work = work
        self.arm()

    def arm(self) -> None:
        """Start the thread that waits for `begin`."""
        self._go: SimpleQueue[None] = SimpleQueue()
        self.done = Latch()
        self._thread: threading.Thread | None = threading.Thread(target=self._wait, name=self._name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    def begin(self) -> None:
        """Do the work now, on the thread; if none can be had, here."""
        if self._thread is None:
            self.arm()
        if self._thread is None:
            self._run()
        else:
            self._go.put(None)

    def _wait(self) -> None:
        self._go.get()
        self._run()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            say(f"exit.{self._name}", f"at exit, {self._name} went wrong: {error!r}")
        self.done.open()


class Shutdown:
    """What is to be done at the end of this process, once: at exit or on SIGTERM, whichever comes first."""

    def __init__(
        self,
        tracers: TracerProvider | None,
        meters: MeterProvider | None,
        batchers: list[Batcher[Any]],
        metric_targets: list[MetricTarget],
        logs: Callable[[], None] | None = None,
    ) -> None:
        self._batchers = batchers
        self._metric_targets = metric_targets
        self._turns_closed = Latch()
        self._turns_left = 0
        self._begun = self._in_multiprocessing = False
        self._tracers, self._meters, self._logs = tracers, meters, logs
        self._steps = [Step("voicespan-exit-spans", self._end_spans)]
        if meters is not None:
            self._steps.append(Step("voicespan-exit-metrics", self._end_metrics))
        if logs is not None:
            self._steps.append(Step("voicespan-exit-logs", logs))

    def install(self) -> None:
        """Run at exit, in the children of a fork too, and on SIGTERM unless the service handles that itself."""
        atexit.register(self.run)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork, after_in_child=self._arm_in_child)
        if settings.current().sigterm and threading.current_thread() is threading.main_thread():
            self._handle_sigterm()

    def run(self) -> None:
        """Close the open turns and send everything; return after VOICESPAN_EXIT_TIMEOUT_S at the latest."""
        first, self._begun = not self._begun, True
        if first:
            _deadlines_s.append(time.monotonic() + settings.current().exit_timeout_s - INTERPRETER_S)
            for step in self._steps:
                step.begin()
        for step in self._steps:  # also when a signal comes while the exit is under way
            step.done.wait(remaining_s())
        if first:
            self._say_what_is_lost()
            hooked.explain(at_end=True)

    def _say_what_is_lost(self) -> None:
        unsent = [_unsent(batcher) for batcher in self._batchers if batcher.unsent]
        unsent += [
            f"the last metrics to {it.target} ({it.reason or NO_ANSWER})" for it in self._metric_targets if it.unsent
        ]
        kept = [
            f"{number(it.kept_at_end, it.what)} in {it.place} ({it.reason or NO_ANSWER})"
            for it in self._batchers
            if it.kept_at_end
        ]
        if self._turns_left:
            unsent.append(f"{number(self._turns_left, 'turn')} (no time to write them)")
        said = [f"not sent: {'; '.join(unsent)}"] if unsent else []
        said += [f"kept on disk, to be sent later: {'; '.join(kept)}"] if kept else []
        if said:
            say("exit", f"at exit, {', and '.join(said)}")

    def _end_spans(self) -> None:
        emit = sys.modules.get("voicespan.emit")
        if emit is not None:
            try:
                self._turns_left = emit.shutdown(remaining_s() / 2)
            except Exception as error:
                say("exit.turns", f"at exit, closing the open turns went wrong: {error!r}")
        self._turns_closed.open()
        for batcher in self._batchers:
            batcher.close()
        viewer = sys.modules.get("voicespan.viewer")
        if viewer is not None:
            try:
                viewer.finish(remaining_s() / 4)
            except Exception as error:
                say("exit.viewer", f"at exit, telling the viewer went wrong: {error!r}")
        scores.finish()
        if self._tracers is not None:
            self._tracers.shutdown()  # also the processors that others added

    def _end_metrics(self) -> None:
        self._turns_closed.wait(remaining_s() / 2)  # closing a turn may count something
        for target in self._metric_targets:
            target.hurry()
        if self._meters is not None and not getattr(self._meters, "_shutdown", False):
            self._meters.shutdown(timeout_millis=remaining_s() * 1000)

    def _handle_sigterm(self) -> None:
        try:
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._on_sigterm)
        except ValueError:  # not in the main interpreter
            return

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == 1:
            # The kernel does not end process 1 by a signal that it does not handle, so the calls go on.
            say(
                "exit.pid1",
                "SIGTERM does not end this service, because it is process 1 and does not handle it: "
                "start it with an init (docker run --init), or handle SIGTERM",
            )
            return
        self.run()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    def _before_fork(self) -> None:
        # A process of multiprocessing leaves by os._exit after its own finalizers, which it clears when it begins.
        util = sys.modules.get("multiprocessing.util")
        if util is not None and not self._in_multiprocessing:
            self._in_multiprocessing = True
            util.register_after_fork(self, _finalize_with)

    def _arm_in_child(self) -> None:
        _deadlines_s.clear()
        self._begun = False
        self._turns_closed = Latch()
        for step in self._steps:
            step.arm()


def _finalize_with(shutdown: Shutdown) -> None:
    util = sys.modules["multiprocessing.util"]
    util.Finalize(shutdown, shutdown.run, exitpriority=0)
