"""From closed turns to OpenTelemetry spans, on a thread of its own, so that a mark costs its caller no span.

The spans go through a tracer of the global provider: samplers, limits, span processors and exporters of anybody see
what they would see from hand-written instrumentation. Where nobody would, a turn is written at once as what leaves the
process in the end (`sdk/direct.py`).
"""

from __future__ import annotations

import math
import os
import random
import sys
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON, Decision, Sampler, SamplingResult

from voicespan import diagnostics, settings, viewer
from voicespan import names as n
from voicespan.breath import Breath
from voicespan.clock import Clock, SystemClock
from voicespan.finish import finish, finish_late
from voicespan.guard import swallowed
from voicespan.metrics import instruments
from voicespan.metrics.calls import calls
from voicespan.metrics.level import tasks
from voicespan.metrics.loop import watch_loop
from voicespan.metrics.turns import detected, measure
from voicespan.sdk.direct import Direct
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Tracer
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes, AttributeValue

    from voicespan.finished import FinishedSpan, FinishedTurn
    from voicespan.record import StageRecord, TurnRecord
    from voicespan.sessions import Session
    from voicespan.turn import Turn

SWEEP_S = 0.1
"""How often open turns are looked at for their end."""
MAX_OPEN_TURNS = 20_000
MAX_CLOSED_TURNS = 10_000
IN_A_ROW = 16
"""So many turns are finished before they are emitted: what either works with stays in the processor's caches."""
_SAMPLES_EVERYTHING = (ALWAYS_ON, DEFAULT_ON)
"""A turn has no parent, so the parent-based default asks nothing but its root sampler."""
_KINDS = {
    "internal": trace.SpanKind.INTERNAL,
    "client": trace.SpanKind.CLIENT,
    "server": trace.SpanKind.SERVER,
}


class _Minted(IdGenerator):
    """Gives our tracer the ids that were minted when the turn and its stages began."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        """Return the turn's trace id."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Return the span's id."""
        return self.span_id


class _Decided(Sampler):
    """Repeats for our tracer the decision that the provider's own sampler took at the onset."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Return the decision to record: turns that are not sampled do not come here."""
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        """Return the name of the sampler."""
        return "voicespan.decided"


class SpanEmitter:
    """Writes finished turns as spans of one tracer provider. Not thread-safe: one thread emits."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._ids = _Minted()
        self._tracer = cast("Tracer", provider.get_tracer("voicespan", __version__))
        # The tracer is ours alone, and both are public attributes of it.
        self._tracer.id_generator = self._ids
        self._tracer.sampler = _Decided()
        self._direct = Direct(provider, self._tracer)

    def emit(self, turn: FinishedTurn) -> None:
        """Write the turn, or start and end every span of it, with its own ids and times."""
        if self._direct.take(turn):
            return
        self._ids.trace_id = turn.trace_id
        for span in turn.spans:
            self._emit(turn, span)

    def _emit(self, turn: FinishedTurn, finished: FinishedSpan) -> None:
        parent: Context = otel_context.Context()
        if finished.parent_id is not None:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            identity = trace.SpanContext(turn.trace_id, finished.parent_id, is_remote=False, trace_flags=flags)
            parent = trace.set_span_in_context(trace.NonRecordingSpan(identity), parent)
        self._ids.span_id = finished.span_id
        span = self._tracer.start_span(
            finished.name,
            context=parent,
            kind=_KINDS[finished.kind],
            attributes=finished.attributes,
            links=[
                trace.Link(
                    trace.SpanContext(link.context.trace_id, link.context.span_id, is_remote=False),
                    dict(link.attributes),
                )
                for link in finished.links
            ],
            start_time=finished.start_ns,
        )
        for event in finished.events:
            span.add_event(event.name, dict(event.attributes), event.time_ns)
        if finished.error is not None:
            span.set_status(trace.Status(trace.StatusCode.ERROR, finished.error or None))
        span.end(finished.end_ns)


class BackgroundRecorder:
    """The recorder of a running service: real clocks and ids, and a daemon thread that finishes and emits turns."""

    def __init__(self, *, clock: Clock | None = None, enabled: bool = True) -> None:
        self.clock: Clock = clock or SystemClock()
        self.enabled = enabled
        self.watch: Callable[[FinishedTurn], None] | None = None
        """Sees each finished turn before it is emitted."""
        self._mint_anew()
        self._sdk: TracerProvider | None = None
        self._open: dict[int, Turn] = {}
        self._closed: deque[Callable[[], None]] = deque()
        self._finished: deque[FinishedTurn] = deque()
        self._wake = threading.Event()
        self._resting = False
        """The recorder's thread waits until it is woken."""
        self._over = False
        """The end of the process had no time for the rest."""
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._spans: SpanEmitter | None = None
        self._emit_lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_weakly(self))

    def _mint_anew(self) -> None:
        """Begin with ids that nobody else has: also in the child of a fork."""
        bits = random.Random().getrandbits  # noqa: S311 - trace ids need no secrecy
        self._new_trace_id: Callable[[], int] = lambda: bits(128) or 1
        self.new_span_id: Callable[[], int] = lambda: bits(64) or 1
        """Returns a fresh 64-bit span id; 0 would mean none. A method would take half as long again."""

    # What sessions need

    def mint(self, session_id: str) -> tuple[int, int, bool]:
        """Return a new trace id, the id of its root span, and the sampling decision of the provider's sampler."""
        trace_id, span_id = self._new_trace_id(), self.new_span_id()
        provider = self._provider()
        if provider is None:
            return trace_id, span_id, self.enabled
        if provider.sampler in _SAMPLES_EVERYTHING:
            return trace_id, span_id, True
        try:
            result = provider.sampler.should_sample(
                otel_context.Context(), trace_id, n.SPAN_TURN, trace.SpanKind.INTERNAL, {n.SESSION_ID: session_id}
            )
        except Exception as error:
            swallowed("sampler", error)
            return trace_id, span_id, True
        return trace_id, span_id, result.decision is Decision.RECORD_AND_SAMPLE

    def _provider(self) -> TracerProvider | None:
        """The SDK's provider, remembered: there is no second one in a process."""
        if self._sdk is None:
            provider = trace.get_tracer_provider()
            self._sdk = provider if isinstance(provider, TracerProvider) else None
        return self._sdk

    def opened(self, turn: Turn) -> None:
        """Supervise the turn until it is closed."""
        if not self.enabled:
            return
        self._open[turn.record.trace_id] = turn
        if self._thread is None:
            self._start()
        elif self._resting:
            self._wake.set()

    def closed(self, turn: Turn) -> None:
        """Finish, measure and emit the turn in the background."""
        self._open.pop(turn.record.trace_id, None)
        if self.enabled:
            self._take(partial(self._closed_turn, turn))  # less for garbage collection to look at than a closure

    def late(self, record: TurnRecord, stage: StageRecord) -> None:
        """Emit a tool that ended after its turn."""
        if self.enabled and record.sampled:
            self._take(lambda: self._finished.append(finish_late(record, stage, self.new_span_id)))

    def began(self, session: Session) -> None:
        """Count the session, and watch the event loop that it lives in."""
        if self.enabled and instruments.wanted():
            calls.opened(session)
            watch_loop()
            self._take(lambda: calls.begun(session))

    def set_up(self, session: Session, at_ns: int, failure: str | None) -> None:
        """Emit `voice.session.setup`: a trace of its own, from the session's begin until media flowed, or not."""
        if self.enabled:
            offset_ns = self.clock.time_ns() - self.clock.monotonic_ns()
            self._take(lambda: self._emit_set_up(session, at_ns, offset_ns, failure))

    def _emit_set_up(self, session: Session, at_ns: int, offset_ns: int, failure: str | None) -> None:
        provider = self._provider()
        if provider is None:
            return
        known = session.circumstances()
        attributes = {
            key: cast("AttributeValue", known[key])
            for key in (n.SESSION_ID, n.VOICE_TRANSPORT, n.VOICE_ROOM_ID)
            if key in known
        }
        span = provider.get_tracer("voicespan.session", __version__).start_span(
            n.SPAN_SESSION_SETUP,
            otel_context.Context(),
            trace.SpanKind.SERVER,
            attributes | ({n.ERROR_TYPE: failure} if failure else {}),
            start_time=min(session.began_ns, at_ns) + offset_ns,
        )
        if failure:
            span.set_status(trace.StatusCode.ERROR)
        span.end(max(session.began_ns, at_ns) + offset_ns)

    def ended(self, session: Session, failure: str | None) -> None:
        """Count the session's end behind that of its turns."""
        if self.enabled and instruments.wanted():
            self._take(lambda: calls.ended(session, session.tally, failure, had_media=session.had_media))

    def _take(self, work: Callable[[], None]) -> None:
        if len(self._closed) >= MAX_CLOSED_TURNS:
            diagnostics.counters.add("turn.dropped.queue_full")
            diagnostics.say("turn.queue_full", f"more than {MAX_CLOSED_TURNS} finished turns wait; some are dropped")
            return
        self._closed.append(work)
        if self._thread is None:
            self._start()
        elif self._resting:
            self._wake.set()

    def _closed_turn(self, turn: Turn) -> None:
        """Record what a turn that is over tells; where it is sampled it is to be emitted."""
        record, session = turn.record, turn.session
        finished = None
        measured = instruments.wanted()
        history = sys.modules.get("voicespan.history")
        if not turn.dropped and (record.sampled or measured or history is not None):
            finished = finish(record, self.new_span_id)
        if measured:
            detected(record.detections, finished)
        if finished is None:
            return
        if history is not None:
            history.history.take(finished)
        if measured:
            session.tally.add(finished)
            measure(finished, gen_ai=session.gen_ai_metrics)
        if record.sampled:
            self._finished.append(finished)

    def _emit_finished(self, breath: Breath | None) -> None:
        while self._finished and not self._over:
            try:
                self._emit(self._finished.popleft())
            except Exception as error:
                swallowed("emit", error)
            if breath is not None:
                breath.take()

    def _emit(self, turn: FinishedTurn) -> None:
        emitter = self._emitter()
        if self.watch is not None:
            self.watch(turn)
        if emitter is not None:
            emitter.emit(turn)
        else:
            diagnostics.counters.add("turn.dropped.no_provider")

    # What a viewer is told

    def open_turns(self) -> list[Turn]:
        """Return the turns that are not closed, in order of their beginning."""
        return list(self._open.values())

    def open_turn(self, trace_id: int) -> Turn | None:
        """Return the turn of this trace while it is open."""
        return self._open.get(trace_id)

    def resource_attributes(self) -> Mapping[str, AttributeValue]:
        """Return who sends the spans."""
        provider = self._provider()
        return {} if provider is None else provider.resource.attributes

    # The thread

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None and self.enabled:
                self._thread = threading.Thread(target=self._run, name="voicespan-recorder", daemon=True)
                self._thread.start()
                viewer.report(self)

    def _run(self) -> None:
        with suppress_instrumentation():  # what exporters and processors do on this thread is not to be traced
            while True:
                # Who finds the thread resting wakes it. While turns are open it comes by itself: waking a thread
                # costs its caller more than all that a turn's end does beside.
                self._resting = True
                if self._open or self._closed:
                    self._resting = False
                    self._wake.wait(SWEEP_S)
                else:
                    self._wake.wait()
                    self._resting = False
                self._wake.clear()
                try:
                    self.sweep()
                    self.drain()
                except Exception as error:
                    swallowed("recorder", error)

    def sweep(self) -> None:
        """Close the turns that are over, and settle what is under way."""
        tasks.settle()
        now_ns = self.clock.monotonic_ns()
        turns, breath = self.open_turns(), Breath()
        for turn in turns:
            if turn.look_ns <= now_ns:
                turn.session.close_if_due(turn, now_ns)
                breath.take()
        for turn in turns[: max(0, len(turns) - MAX_OPEN_TURNS)]:
            diagnostics.counters.add("turn.over_limit")
            turn.session.shut_down(now_ns)

    def drain(self, until_s: float = math.inf) -> None:
        """Finish, measure and emit every closed turn, and count sessions, in order, until this monotonic time."""
        if not self._emit_lock.acquire(timeout=min(max(0.0, until_s - time.monotonic()), threading.TIMEOUT_MAX)):
            return
        try:
            # A service may end a thousand turns at once. At its own end time is short.
            breath, in_a_row = (Breath(), IN_A_ROW) if until_s == math.inf else (None, 1)
            while self._closed and not self._over and time.monotonic() < until_s:
                work = self._closed.popleft()
                try:
                    work()
                except Exception as error:
                    swallowed("finish", error)
                if len(self._finished) >= in_a_row or not self._closed:
                    self._emit_finished(breath)
                if breath is not None:
                    breath.take()
        finally:
            self._emit_lock.release()

    def _emitter(self) -> SpanEmitter | None:
        provider = self._provider()
        if provider is None:
            return None
        if self._spans is None or self._spans.provider is not provider:
            self._spans = SpanEmitter(provider)
        return self._spans

    def shut_down(self, within_s: float = math.inf) -> int:
        """Close every open turn with what is known and emit it: the process ends.

        Returns how many turns there was no time for.
        """
        until_s, now_ns = time.monotonic() + within_s, self.clock.monotonic_ns()
        sessions: set[Session] = {turn.session for turn in self.open_turns()}
        self.drain(until_s)
        for session in sessions:
            if time.monotonic() > until_s:
                break
            session.shut_down(now_ns)
            self.drain(until_s)
        left = len(self._open) + len(self._closed) + len(self._finished)
        if left:
            self._over = True  # what is said to be lost is not sent all the same
            diagnostics.counters.add("turn.lost.exit", left)
        return left

    def after_fork(self) -> None:
        """Start clean in the child: the parent reports the turns that were open."""
        self._open = {}
        self._closed = deque()
        self._finished = deque()
        self._wake = threading.Event()
        self._start_lock = threading.Lock()
        self._emit_lock = threading.Lock()
        self._resting = self._over = False
        self._thread = None
        self._mint_anew()


def _weakly(recorder: BackgroundRecorder) -> Callable[[], None]:
    """Return a call of `after_fork` that does not keep the recorder alive."""
    reference = weakref.ref(recorder)

    def call() -> None:
        if (it := reference()) is not None:
            it.after_fork()

    return call


_recorder: BackgroundRecorder | None = None
_recorder_lock = threading.Lock()


def recorder() -> BackgroundRecorder:
    """Return the recorder of this process."""
    global _recorder  # noqa: PLW0603
    if _recorder is None:
        with _recorder_lock:
            if _recorder is None:
                _recorder = BackgroundRecorder(enabled=not settings.current().disabled)
    return _recorder


def shutdown(within_s: float = math.inf) -> int:
    """Close open turns with what is known and hand their spans to the provider; for the end of the process.

    Returns how many turns there was no time for.
    """
    return 0 if _recorder is None else _recorder.shut_down(within_s)
