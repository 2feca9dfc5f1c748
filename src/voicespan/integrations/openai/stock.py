"""The client's stock instrumentation (`opentelemetry-instrumentation-openai-v2`) beside ours.

Its metrics and events stay. Its span of a chat is left out where a stage `llm` is the span of the same request;
requests outside of turns, and inside tools, keep it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry import trace

from voicespan.context import LiveSpan, subject
from voicespan.integrations.openai.call import opens
from voicespan.sessions import current_turn
from voicespan.stage import Llm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.util import types


class StandIn(LiveSpan):
    """What is current in place of the stock span: the stage or turn that it would have been a child of."""

    __slots__ = ()

    def set_attribute(self, key: str, value: types.AttributeValue) -> None:
        """Do nothing: the stage has its attributes."""

    def set_attributes(self, attributes: Mapping[str, types.AttributeValue]) -> None:
        """Do nothing: the stage has its attributes."""

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Do nothing: events of the stock span are the conversation."""

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Do nothing: the stage takes the failure itself."""

    def set_status(self, status: trace.Status | trace.StatusCode, description: str | None = None) -> None:
        """Do nothing: the stage takes the failure itself."""


class Tracer(trace.Tracer):
    """Starts the stock spans, or stands in for them."""

    def __init__(self, native: trace.Tracer) -> None:
        self._native = native

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
        """Start a span, unless the request is a stage of ours or is about to become one."""
        current = subject()
        told = isinstance(current, Llm) and current.open
        if current is not None and name.startswith("chat") and (told or opens(current_turn(), "llm")):
            return StandIn(current)
        return self._native.start_span(
            name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
        )

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
        """Start a span and make it current."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with trace.use_span(span, end_on_exit, record_exception, set_status_on_exception):
            yield span


class _Provider(trace.TracerProvider):
    """Gives such tracers of another provider, the global one unless told."""

    def __init__(self, native: trace.TracerProvider | None) -> None:
        self._native = native

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        """Return a tracer of the provider, with stand-ins."""
        return Tracer((self._native or trace.get_tracer_provider()).get_tracer(*args, **kwargs))


def stand_in(module: Any) -> None:
    """Have the stock instrumentor, which is being imported, use such a provider."""

    def instrument(wrapped: Any, _instrumentor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        provider = kwargs.get("tracer_provider")
        if not isinstance(provider, _Provider):
            kwargs = {**kwargs, "tracer_provider": _Provider(provider)}
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "OpenAIInstrumentor._instrument", instrument)
