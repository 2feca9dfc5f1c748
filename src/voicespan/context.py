"""What is current: the session or turn of this task or thread, and the OpenTelemetry span that stands for it.

No reset tokens: a block restores what it set only where that is still in place, so that a generator that another task
closes stays silent.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from opentelemetry.util import types

    from voicespan.sessions import Session
    from voicespan.turn import Turn

_scope: ContextVar[Scope | None] = ContextVar("voicespan", default=None)
(_SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, otel_context.Context())
"""What the current span is called in a context; asked for once, since each block of ours makes a context."""


class Subject(Protocol):
    """What a live span stands for: a session, a turn or a stage."""

    def span_context(self) -> trace.SpanContext:
        """Return the identity that children and headers take."""

    def set(self, key: str, value: types.AttributeValue) -> None:
        """Set an attribute."""

    def event(self, name: str, **attributes: types.AttributeValue) -> None:
        """Add an event."""

    def fail(self, error: BaseException | str) -> None:
        """Record a failure."""

    def circumstances(self) -> Mapping[str, object]:
        """Return what is known of the session, the model and the worker, by the names of attributes."""


class LiveSpan(trace.Span):
    """The current OpenTelemetry span inside a block of ours: children hang on it, attributes land on its subject.

    The span itself is made when the turn is finished; ending or renaming it here does nothing.
    """

    __slots__ = ("subject",)

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def get_span_context(self) -> trace.SpanContext:
        """Return the subject's identity, minted when first asked for."""
        return self.subject.span_context()

    def is_recording(self) -> bool:
        """Return True: what is set here is kept."""
        return True

    def set_attribute(self, key: str, value: types.AttributeValue) -> None:
        """Set an attribute of the stage, turn or session."""
        self.subject.set(key, value)

    def set_attributes(self, attributes: Mapping[str, types.AttributeValue]) -> None:
        """Set several attributes."""
        for key, value in attributes.items():
            self.subject.set(key, value)

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Add an event, now; the time stamp is ignored, since it is of the wall clock."""
        self.subject.event(name, **dict(attributes or {}))

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add the event `exception` without failing the subject."""
        self.subject.event(
            "exception",
            **{"exception.type": type(exception).__qualname__, "exception.message": str(exception)},
            **dict(attributes or {}),
        )

    def set_status(self, status: trace.Status | trace.StatusCode, description: str | None = None) -> None:
        """Fail the subject when the status is ERROR."""
        code = status.status_code if isinstance(status, trace.Status) else status
        words = status.description if isinstance(status, trace.Status) else description
        if code is trace.StatusCode.ERROR:
            self.subject.fail(words or "error")

    def update_name(self, name: str) -> None:
        """Do nothing: names are the turn model's."""

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the turn model ends its spans."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Do nothing: the turn model ends its spans."""


def _current() -> tuple[Callable[[], otel_context.Context], Callable[[otel_context.Context], object]]:
    """How OpenTelemetry's current context is read and set: in its variable at once, where it is the usual one.

    Its functions hand on to the variable through two calls; each block of ours does both twice.
    """
    runtime = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    if type(runtime) is ContextVarsRuntimeContext and isinstance(variable, ContextVar):
        return variable.get, variable.set
    return otel_context.get_current, otel_context.attach


_get_current, _attach = _current()


class Scope:
    """One block in which a subject is current; entered and left at most once."""

    __slots__ = ("_attached", "_before", "_outer", "bound", "subject")

    def __init__(self, subject: Subject, bound: Session | Turn) -> None:
        self.subject = subject
        self.bound = bound
        self._outer = _scope.get()
        _scope.set(self)
        self._before = before = _get_current()
        self._attached = attached = otel_context.Context(before)
        dict.__setitem__(attached, _SPAN, LiveSpan(subject))  # nobody has seen it yet: it may be changed
        _attach(attached)

    def close(self) -> bool:
        """Restore what was current before, unless somebody else has set something since; return whether it was so."""
        in_place = _get_current() is self._attached
        if in_place:
            _attach(self._before)
        if _scope.get() is self:
            _scope.set(self._outer)
        return in_place


def bound() -> Session | Turn | None:
    """Return the session or turn that is current in this task or thread."""
    scope = _scope.get()
    return None if scope is None else scope.bound


def subject() -> Subject | None:
    """Return what is current in this task or thread: a stage, turn or session, also under spans of other libraries."""
    scope = _scope.get()
    return None if scope is None else scope.subject


def scope() -> Scope | None:
    """Return the innermost block of this task or thread."""
    return _scope.get()


def bind(to: Scope | None) -> None:
    """Set what is current in this thread, for work that another one has given away."""
    _scope.set(to)
