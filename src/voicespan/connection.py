"""A client's connection, which becomes a session when something asks for one: a stage, a mark, the service's own code.

At most one session comes of it. Nothing is recorded for the connection itself but its set-up.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

from voicespan.context import LiveSpan
from voicespan.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry import trace
    from opentelemetry.util.types import AttributeValue

    from voicespan.sessions import EndReason, Session

_offered: ContextVar[Connection | None] = ContextVar("voicespan_connection", default=None)
_EXCEPTION = "exception"


def _nothing() -> None:
    """Do nothing."""


def offered() -> Connection | None:
    """Return the connection that this task works for."""
    return _offered.get()


class Connection:
    """One connection. `setup` is the span of its set-up, which ends before the call begins.

    It is also the subject of the current span: what belongs to no turn hangs on the set-up.
    """

    def __init__(self, setup: trace.Span, transport: str) -> None:
        self.begun: Session | None = None
        """The session of this connection, as soon as there is one."""
        self._setup = setup
        self._transport = transport
        self._by_itself = False
        self._claims = 0
        self._over = False
        self._lock = threading.Lock()
        self.span = LiveSpan(self)
        self.counted_by_service: Callable[[], None] = _nothing
        """Called where the service counts the connection itself."""

    def offer(self) -> None:
        """Offer the session to this task and those that it starts."""
        _offered.set(self)

    def withdraw(self) -> None:
        """Offer it no more in this task, unless another connection has taken its place."""
        if _offered.get() is self:
            _offered.set(None)

    def session(self) -> Session | None:
        """Return the connection's session, which begins now at the latest; None where it has several, or is over."""
        with self._lock:
            if self.begun is None and not self._claims and not self._over:
                from voicespan.emit import recorder
                from voicespan.sessions import Session

                self.begun = Session(recorder(), transport=self._transport, connection=self._setup.get_span_context())
                self._by_itself = True
            return self.begun

    def claim(self) -> Session | None:
        """Return the session that has begun by itself, for the service's own code to go on with; None if none has."""
        with self._lock:
            self._claims += 1
            if self._by_itself and self._claims == 1 and self.begun is not None and self.begun.open:
                return self.begun
            return None

    def claimed(self, session: Session) -> Session:
        """Take a session that the service has begun for this connection's; where it begins more, none is."""
        with self._lock:
            self.begun = session if self._claims == 1 else None
        return session

    @guarded
    def close(self, reason: EndReason, error: BaseException | None) -> None:
        """End the session, if it has begun by itself: else its owner ends it. None begins any more."""
        self._over = True
        if self._by_itself and self.begun is not None:
            self.begun.end(reason, error=error)

    # A subject of the current span

    def span_context(self) -> trace.SpanContext:
        """Return the identity of the current turn, else that of the set-up."""
        return self._setup.get_span_context() if self.begun is None else self.begun.span_context()

    def set(self, key: str, value: AttributeValue) -> None:
        """Set an attribute of the set-up while that lasts, then of the session."""
        if self._setup.is_recording():
            self._setup.set_attribute(key, value)
        elif self.begun is not None:
            self.begun.set(key, value)

    def event(self, name: str, **attributes: AttributeValue) -> None:
        """Add an event to the set-up while that lasts, then to the current turn; how the connection ended is none."""
        if self._setup.is_recording():
            self._setup.add_event(name, attributes)
        elif self.begun is not None and name != _EXCEPTION:
            self.begun.event(name, **attributes)

    def fail(self, error: BaseException | str) -> None:
        """Fail the set-up while that lasts. What ends a call is seen at its end."""
        if self._setup.is_recording():
            from opentelemetry.trace import StatusCode

            self._setup.set_status(StatusCode.ERROR, str(error))

    def circumstances(self) -> Mapping[str, object]:
        """Return those of the session."""
        return {} if self.begun is None else self.begun.circumstances()
