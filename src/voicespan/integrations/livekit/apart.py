"""The framework's own telemetry, kept apart from ours.

Its spans stay what they are for LiveKit Cloud and for a provider that the service gives it; without either there are
none. In our context a stand-in takes the place of each: children of other libraries and log lines belong to the turn
or stage, never to a trace that is not exported here, and what it writes onto its spans (prompts, transcripts) does not
reach ours. The Cloud's exporters are never attached to the providers that voicespan has made.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider

from voicespan.context import LiveSpan, bound
from voicespan.diagnostics import say
from voicespan.guard import swallowed
from voicespan.stage import Stage
from voicespan.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.util import types

    from voicespan.context import Subject

_ITS_OWN = ("lk.", "gen_ai.", "langfuse.", "exception.", "error.", "rpc.")
"""Attributes that the framework sets; others on the current span are the service's."""
_USER_CODE = "on_user_turn_completed"

declined: weakref.WeakSet[Turn] = weakref.WeakSet()
"""Turns that the service has just decided not to answer."""


class StandIn(LiveSpan):
    """What is current in place of one of the framework's spans: a stage, turn or session of ours, and its own span."""

    __slots__ = ("name", "native")

    def __init__(self, name: str, subject: Subject, native: trace.Span | None) -> None:
        super().__init__(subject)
        self.name = name
        self.native = native

    def get_span_context(self) -> trace.SpanContext:
        """Return our identity; that of the session once the turn is over."""
        subject = self.subject
        if isinstance(subject, Turn) and not subject.open:
            return subject.session.span_context()
        return subject.span_context()

    def is_recording(self) -> bool:
        """Whether the framework has a reader for its span: else it need not write down the conversation."""
        return self.name == _USER_CODE or (self.native is not None and self.native.is_recording())

    def set_attribute(self, key: str, value: types.AttributeValue) -> None:
        """Set the framework's attributes on its own span only, and the service's on both."""
        if self.native is not None:
            self.native.set_attribute(key, value)
        if not key.startswith(_ITS_OWN):
            self.subject.set(key, value)

    def set_attributes(self, attributes: Mapping[str, types.AttributeValue]) -> None:
        """Set several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Add an event to the framework's span; the one that says "no answer on purpose" is kept."""
        if self.native is not None:
            self.native.add_event(name, attributes, timestamp)
        if self.name == _USER_CODE and isinstance(self.subject, Turn):
            if name == "stop_response":
                declined.add(self.subject)
            elif name == "exception":
                self.subject.failed(str((attributes or {}).get("exception.type", "error")))

    def add_link(self, context: trace.SpanContext, attributes: types.Attributes = None) -> None:
        """Add a link to the framework's span."""
        if self.native is not None:
            self.native.add_link(context, attributes)

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Record an exception; one of the service's own code between utterance and reply fails the turn."""
        if self.native is not None:
            self.native.record_exception(exception, attributes, timestamp, escaped)
        if self.name == _USER_CODE and isinstance(self.subject, Turn):
            self.subject.failed(exception)

    def set_status(self, status: trace.Status | trace.StatusCode, description: str | None = None) -> None:
        """Set the status of the framework's span."""
        if self.native is not None:
            self.native.set_status(status, description)

    def update_name(self, name: str) -> None:
        """Rename the framework's span."""
        if self.native is not None:
            self.native.update_name(name)

    def end(self, end_time: int | None = None) -> None:
        """End the framework's span."""
        if self.native is not None:
            self.native.end(end_time)


class Tracer(trace.Tracer):
    """Starts the framework's spans with its own tracer, and gives stand-ins for them."""

    def __init__(self, native: trace.Tracer) -> None:
        self.native = native

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        attributes: types.Attributes = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        """Start a span whose parent is the framework's, so that its own tree stays whole."""
        given = trace.get_current_span(context)
        parent = getattr(given, "native", None) if isinstance(given, LiveSpan) else given
        own = Context() if parent is None else trace.set_span_in_context(parent, Context())
        native = self.native.start_span(
            name, own, kind, attributes, links, start_time, record_exception, set_status_on_exception
        )
        subject = _subject()
        if subject is None:
            return native
        return StandIn(name, subject, None if isinstance(native, trace.NonRecordingSpan) else native)

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self,
        name: str,
        context: Context | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        attributes: types.Attributes = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[trace.Span]:
        """Start a span and make its stand-in current."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with trace.use_span(span, end_on_exit, record_exception, set_status_on_exception):
            yield span


def _subject() -> Subject | None:
    """Return what of ours the running code works on: its stage or turn, else the session."""
    current = trace.get_current_span()
    if isinstance(current, LiveSpan) and isinstance(current.subject, Stage):
        return current.subject
    found = bound()
    if found is not None:
        return found.session if isinstance(found, Turn) and not found.open else found
    return current.subject if isinstance(current, LiveSpan) else None


def carry(before: trace.Span) -> None:
    """Let a block of ours keep the framework's span that was current around it, as the parent of its next."""
    now = trace.get_current_span()
    native = getattr(before, "native", None)
    if native is not None and isinstance(now, LiveSpan) and now is not before:
        now.native = native  # type: ignore[attr-defined]


def keep_tracer_apart(tracer: Any) -> None:
    """Take the global provider, which is ours, away from the framework's tracer, and put stand-ins before it."""
    if tracer._tracer_provider is trace.get_tracer_provider():  # noqa: SLF001
        tracer.set_provider(trace.NoOpTracerProvider())
    else:
        set_provider(tracer.set_provider, tracer, (tracer._tracer_provider,), {})  # noqa: SLF001


def set_provider(wrapped: Any, tracer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Hook of `_DynamicTracer.set_provider`: whatever provider it gets, its spans are stood in for."""
    provider = args[0] if args else kwargs.get("tracer_provider")
    if provider is trace.get_tracer_provider() and not isinstance(provider, trace.NoOpTracerProvider):
        say(
            "livekit.provider",
            "livekit: the service gives LiveKit the provider that voicespan exports with; its spans stay apart, or "
            "LiveKit Cloud would receive ours",
            level="debug",
        )
        provider = trace.NoOpTracerProvider()
    wrapped(provider)
    try:
        if not isinstance(tracer._tracer, Tracer):  # noqa: SLF001
            tracer._tracer = Tracer(tracer._tracer)  # noqa: SLF001
    except Exception as error:
        swallowed("livekit tracer", error)


def get_logger_provider(wrapped: Any, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Hook of the Cloud's look at the global logger provider: it makes its own instead of adopting this one."""
    provider = wrapped(*args, **kwargs)
    return NoOpLoggerProvider() if isinstance(provider, LoggerProvider) else provider


def set_logger_provider(wrapped: Any, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Hook of the Cloud's own provider becoming the global one: only where there is none."""
    from opentelemetry._logs import get_logger_provider as current

    if not isinstance(current(), LoggerProvider):
        wrapped(*args, **kwargs)


def job_attributes(_wrapped: Any, _module: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> dict[str, Any]:
    """Hook of what every measurement carries: ids of room and job, each a new series for every call. None of it."""
    return {}
