"""Where it is decided whether a turn is written straight into bytes, or becomes spans of the SDK.

Bytes are for a pipeline in which nobody else looks at a span: a provider and samplers of the SDK, one span processor,
which is ours, and in it the SDK's exporter for OTLP over HTTP. Everything else gets spans, and so does a single turn
with something in it that the SDK would change or leave out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, Tracer, TracerProvider, sampling

from voicespan.guard import swallowed

if TYPE_CHECKING:
    from voicespan.finished import FinishedTurn
    from voicespan.sdk.export import Written
    from voicespan.sdk.wire import Frame


class Processor(Protocol):
    """What is needed of a `BatchProcessor`."""

    takes_turns: bool
    content: bool

    def take_turn(self, turn: Written) -> None:
        """Queue a turn."""


class Direct:
    """Writes the turns of one provider's tracer, where that may be. For one thread at a time."""

    def __init__(self, provider: TracerProvider, tracer: object) -> None:
        self._provider = provider
        self._tracer: Any = tracer
        self._seen: object = None
        self._way: _Way | None = None

    def take(self, turn: FinishedTurn) -> bool:
        """Write the turn and queue it; return False, and do nothing, where it has to become spans."""
        try:
            there = getattr(getattr(self._provider, "_active_span_processor", None), "_span_processors", None)
            if there is not self._seen:  # looked at again whenever somebody has added one
                processor = _only(self._provider, self._tracer, there)
                self._way = None if processor is None else _Way(processor, self._tracer)
                self._seen = there
            # A tracer may be switched off, and on again.
            if self._way is None or not self._tracer._is_enabled():  # noqa: SLF001
                return False
            return self._way.take(turn)
        except Exception as error:
            swallowed("writing a turn", error)
            return False


class _Way:
    """From turns to the queue of one processor."""

    def __init__(self, processor: Processor, tracer: Any) -> None:
        from voicespan.sdk import export, wire

        self._tracer = tracer
        self._take = processor.take_turn
        self._writer = wire.Writer(tracer._span_limits, content=processor.content)  # noqa: SLF001
        self._unfit, self._written, self._frame_of = wire.Unfit, export.Written, wire.Frame
        self._frame = self._new_frame()

    def _new_frame(self) -> Frame:
        return self._frame_of(self._tracer.resource, self._tracer._instrumentation_scope)  # noqa: SLF001

    def take(self, turn: FinishedTurn) -> bool:
        if self._frame.resource is not self._tracer.resource:  # the child of a fork has another one
            self._frame = self._new_frame()
        try:
            spans = self._writer.spans(turn)
        except self._unfit:
            return False
        self._take(self._written(len(turn.spans), self._frame, spans))
        return True


def _only(provider: TracerProvider, tracer: object, processors: object) -> Processor | None:
    """The one processor that there is, if all is as it has to be."""
    if not (
        type(provider) is TracerProvider
        and type(tracer) is Tracer
        and type(getattr(provider, "_active_span_processor", None)) is SynchronousMultiSpanProcessor
        and _is_known(provider.sampler)
        and isinstance(processors, tuple)
        and len(processors) == 1
    ):
        return None
    processor: Any = processors[0]
    return processor if getattr(processor, "takes_turns", False) is True else None


def _is_known(sampler: sampling.Sampler) -> bool:
    """Whether a sampler is the SDK's own, and all that it asks: they look at the trace id and the parent alone."""
    inner = [each for each in vars(sampler).values() if isinstance(each, sampling.Sampler)]
    return type(sampler).__module__ == sampling.__name__ and all(map(_is_known, inner))
