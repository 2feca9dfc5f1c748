"""What is current goes along where a turn gives work to another thread: to an executor, a thread, a callback.

Tasks of asyncio do so by themselves. Work of an executor and callbacks of its futures belong to who has given them, for
as long as they last. A thread may serve others as well later on: it belongs to the stage that has started it while the
turn is open, and to nobody afterwards.
"""

from __future__ import annotations

import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry import context as otel_context
from opentelemetry import trace

from voicespan import context
from voicespan.context import LiveSpan
from voicespan.guard import guarded, swallowed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voicespan.context import Subject
    from voicespan.sessions import Session
    from voicespan.turn import Turn

_POOLS = ("concurrent.", "logging.", "multiprocessing.", "grpc", "anyio.", "uvicorn.", "opentelemetry.", "voicespan.")
"""Whose threads serve everybody: those of modules that begin so."""
_installed: list[bool] = []


@guarded
def install() -> None:
    """Begin, once in a process."""
    if not _installed:
        _installed.append(True)
        wrapt.wrap_function_wrapper(futures, "ThreadPoolExecutor.submit", _submit)
        wrapt.wrap_function_wrapper(futures, "Future.add_done_callback", _submit)
        wrapt.wrap_function_wrapper(threading, "Thread.start", _start)


class Work:
    """A function, to be called in what was current when it was given away."""

    __slots__ = ("_context", "_function", "_scope")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._context = otel_context.get_current()
        self._scope = context.scope()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, and leave the thread as it was."""
        before, scope = otel_context.get_current(), context.scope()
        otel_context.attach(self._context)
        context.bind(self._scope)
        try:
            return self._function(*args, **kwargs)
        finally:
            otel_context.attach(before)
            context.bind(scope)


def _submit(wrapped: Any, _executor: Any, args: Any, kwargs: Any) -> Any:
    """Stand around a method whose first argument is called elsewhere."""
    try:
        if context.bound() is not None or trace.get_current_span().get_span_context().is_valid:
            args = (Work(args[0]), *args[1:])
    except Exception as error:
        swallowed("executor", error)
    return wrapped(*args, **kwargs)


def _start(wrapped: Any, thread: Any, args: Any, kwargs: Any) -> Any:
    try:
        live = trace.get_current_span()
        where = getattr(getattr(thread, "_target", None) or type(thread), "__module__", None) or ""
        if isinstance(live, LiveSpan) and not where.startswith(_POOLS):
            run, current = thread.run, context.bound()
            around = trace.set_span_in_context(LiveSpan(_While(live.subject, current)), otel_context.get_current())

            def run_inside() -> None:
                otel_context.attach(around)
                run()

            thread.run = run_inside
    except Exception as error:
        swallowed("thread", error)
    return wrapped(*args, **kwargs)


class _While:
    """A subject for as long as the turn, or session, is open that was current with it."""

    def __init__(self, subject: Subject, current: Session | Turn | None) -> None:
        self._subject = subject
        self._current = current

    @property
    def _open(self) -> bool:
        return self._current is not None and self._current.open

    def span_context(self) -> trace.SpanContext:
        return self._subject.span_context() if self._open else trace.INVALID_SPAN_CONTEXT

    def set(self, key: str, value: Any) -> None:
        if self._open:
            self._subject.set(key, value)

    def event(self, name: str, **attributes: Any) -> None:
        if self._open:
            self._subject.event(name, **attributes)

    def fail(self, error: BaseException | str) -> None:
        if self._open:
            self._subject.fail(error)

    def circumstances(self) -> Mapping[str, object]:
        return self._subject.circumstances() if self._open else {}
