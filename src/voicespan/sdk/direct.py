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
    from voicespan.sdk.wire import Frame, Writer


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
        self._tracer = tracer
        self._seen: object = None
        self._processor: Processor | None = None
        self._writer: Writer | None = None
        self._frame: Frame | None = None

    def take(self, turn: FinishedTurn) -> bool:
        """Write the turn and queue it; return False, and do nothing, where it has to become spans."""
        try:
            processor = self._current()
            if processor is None:
                return False
            return self._write(processor, turn)
        except Exception as error:
            swallowed("writing a turn", error)
            return False

    def _current(self) -> Processor | None:
        """The processor that takes turns; looked for again whenever somebody has added one."""
        there = getattr(getattr(self._provider, "_active_span_processor", None), "_span_processors", None)
        if there is not self._seen:
            self._seen, self._processor = there, _only(self._provider, self._tracer, there)
            self._writer = None
        # A tracer may be switched off, and on again.
        return self._processor if self._processor is not None and self._tracer._is_enabled() else None  # type: ignore[attr-defined]  # noqa: SLF001

    def _write(self, processor: Processor, turn: FinishedTurn) -> bool:
        from voicespan.sdk.export import Written
        from voicespan.sdk.wire import Frame, Unfit, Writer

        tracer: Any = self._tracer
        if self._writer is None:
            self._writer = Writer(tracer._span_limits, content=processor.content)  # noqa: SLF001
        if self._frame is None or self._frame.resource is not tracer.resource:  # the child of a fork has another one
            self._frame = Frame(tracer.resource, tracer._instrumentation_scope)  # noqa: SLF001
        try:
            spans = self._writer.spans(turn)
        except Unfit:
            return False
        processor.take_turn(Written(self._frame, spans, len(turn.spans)))
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
