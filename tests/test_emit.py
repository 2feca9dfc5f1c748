from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased

from voicespan import diagnostics
from voicespan.emit import IN_A_ROW, BackgroundRecorder
from voicespan.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

    from voicespan.finished import FinishedTurn


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A global provider for one test, with everything it exports kept in memory."""
    exporter = InMemorySpanExporter()
    use(TracerProvider(shutdown_on_exit=False), exporter, monkeypatch)
    yield exporter
    exporter.shutdown()


def use(provider: TracerProvider, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)


def wait_for(exporter: InMemorySpanExporter, count: int) -> dict[str, ReadableSpan]:
    deadline = time.monotonic() + 20
    while len(exporter.get_finished_spans()) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return {span.name: span for span in exporter.get_finished_spans()}


def answer(session: Session, length_s: float = 0.001) -> None:
    turn = session.user_turn()
    turn.speech_ended(at=time.monotonic_ns())
    turn.transcript()
    turn.committed()
    with turn.llm(model="m") as llm:
        llm.token()
    with turn.tts(voice="v") as tts:
        tts.audio(0.02)
        turn.audio_sent(length_s)
    turn.end()


PLAIN = {
    "voice.turn", "vad", "vad.endpoint", "asr", "asr.finalize", "llm", "llm.ttft", "llm.first_sentence", "tts",
    "tts.first_audio", "playback", "voice.response",
}  # fmt: skip


@pytest.mark.covers("C-T09", "C-Q08")
def test_turn_reaches_the_exporter_as_ordinary_spans(exported: InMemorySpanExporter) -> None:
    """The twelve spans of a plain turn come out of the provider's own pipeline, in one trace, with real parents."""
    with Session(BackgroundRecorder(), "call-1") as session:
        answer(session)
    spans = wait_for(exported, 12)
    assert set(spans) == PLAIN
    root = spans["voice.turn"].context
    assert {span.context.trace_id for span in spans.values()} == {root.trace_id}
    assert spans["voice.turn"].parent is None
    for child, parent in (("vad", "voice.turn"), ("vad.endpoint", "vad"), ("llm.ttft", "llm"), ("asr.finalize", "asr")):
        identity = spans[child].parent
        assert identity is not None
        assert identity.span_id == spans[parent].context.span_id
    assert spans["voice.turn"].resource.attributes["telemetry.sdk.language"] == "python"
    assert spans["llm"].kind is trace.SpanKind.CLIENT


@contextmanager
def profiled() -> Iterator[list[tuple[str, str]]]:
    """Give the functions that this thread calls in the block: file (empty for one in C) and name."""
    called: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append((Path(frame.f_code.co_filename).name, frame.f_code.co_name))
        elif event == "c_call":
            called.append(("", getattr(argument, "__name__", "")))

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
        del called[-1]  # the one that ends it


@pytest.mark.covers("B-O01", "F-PF02")
def test_a_mark_is_a_few_calls_however_long_the_call() -> None:
    """A mark of the audio path calls a handful of functions, the 5,000th as the first, and none that waits or sends."""
    session = Session(Idle(), "call-1")
    turn = session.user_turn(input="text")
    llm, tts = turn.llm(model="m"), turn.tts(voice="v", text="hello")
    frame, counts = b"\0" * 640, []
    session.audio_in(frame, 0.02)
    llm.token()
    tts.audio(0.02)
    turn.audio_sent(0.02)
    for number in range(5000):
        if number not in (10, 4999):
            session.audio_in(frame, 0.02)
            llm.token()
            tts.audio(0.02)
            turn.audio_sent(0.02)
            continue
        marks: list[Callable[[], None]] = [
            lambda: session.audio_in(frame, 0.02), llm.token, lambda: tts.audio(0.02), lambda: turn.audio_sent(0.02)
        ]  # fmt: skip
        for mark in marks:
            with profiled() as called:
                mark()
            counts.append(len(called))
            assert not {"acquire", "write", "send", "put", "notify", "start_span", "set"} & {name for _, name in called}
    assert max(counts) <= 16
    assert counts[:4] == counts[4:]


@pytest.mark.covers("B-O01", "F-PF01")
def test_a_turn_is_concluded_by_another_thread(exported: InMemorySpanExporter) -> None:
    """What a turn means, its spans and their bytes are no work of the thread that the call is in."""
    recorder = Idle()
    with profiled() as called, Session(recorder, "call-1") as session:
        answer(session)
    background = {"finish.py", "silence.py", "outcome.py", "wire.py", "direct.py", "export.py", "batch.py", "turns.py"}
    assert not background & {file for file, _ in called}
    assert exported.get_finished_spans() == ()
    with profiled() as called:
        recorder.drain()
    assert {"finish.py", "silence.py", "outcome.py"} <= {file for file, _ in called}
    assert {span.name for span in exported.get_finished_spans()} == PLAIN


class Idle(BackgroundRecorder):
    """Does nothing by itself."""

    def _start(self) -> None:
        """Do without a thread."""


def test_turns_that_end_together_are_emitted_in_order(exported: InMemorySpanExporter) -> None:
    """All of those that wait are, each once; one that cannot be takes no other with it."""
    recorder = Idle()
    turns = []
    for _ in range(2 * IN_A_ROW + 3):
        with Session(recorder, "call-1") as session:
            turns.append(session.agent_turn("say"))
    broken = turns[4].trace_id

    def fails(turn: FinishedTurn) -> None:
        if turn.trace_id == broken:
            raise OSError

    recorder.watch = fails
    recorder.drain()
    emitted = [span.context.trace_id for span in exported.get_finished_spans() if span.context is not None]
    assert emitted == [turn.trace_id for turn in turns if turn.trace_id != broken]


def test_what_is_finished_and_not_emitted_at_the_end_is_counted(exported: InMemorySpanExporter) -> None:
    """Where the end comes in the middle of it: what was said to be lost is not sent, all the rest is."""
    recorder = Idle()
    with Session(recorder, "call-1") as session:
        for _ in range(2 * IN_A_ROW):
            session.agent_turn("say")
    begun, go_on = threading.Event(), threading.Event()

    def waits(turn: FinishedTurn) -> None:
        begun.set()
        go_on.wait(30)

    recorder.watch = waits
    thread = threading.Thread(target=recorder.drain)
    thread.start()
    begun.wait(30)
    assert recorder.shut_down(0.05) == 2 * IN_A_ROW - 1
    go_on.set()
    thread.join()
    assert len(exported.get_finished_spans()) == 1


@pytest.mark.covers("C-Q09", "E-Q05")
def test_times_are_wall_clock_and_ids_are_w3c(exported: InMemorySpanExporter) -> None:
    """Spans carry Unix time near now, durations of the monotonic clock, and ids of the W3C lengths."""
    before = time.time_ns()
    with Session(BackgroundRecorder(), "call-1") as session:
        answer(session)
    spans = wait_for(exported, 12)
    for span in spans.values():
        assert span.start_time is not None
        assert span.end_time is not None
        assert before - 10**9 < span.start_time <= span.end_time < time.time_ns() + 10**9
        assert 0 < span.context.trace_id < 2**128
        assert 0 < span.context.span_id < 2**64


def test_open_turns_are_closed_at_shutdown(exported: InMemorySpanExporter) -> None:
    """What is known of a turn that is under way is emitted when the process ends."""
    recorder = BackgroundRecorder()
    turn = Session(recorder, "call-1").user_turn()
    turn.speech_ended(at=time.monotonic_ns())
    turn.committed()
    llm = turn.llm()
    recorder.shut_down()
    del llm
    spans = wait_for(exported, 4)
    attributes = spans["voice.turn"].attributes
    assert attributes is not None
    assert attributes["voice.turn.outcome"] == "error"
    assert attributes["error.type"] == "shutdown"
    assert "voice.unanswered" in spans
    assert "llm" in spans


def test_the_end_takes_no_longer_than_it_may(exported: InMemorySpanExporter) -> None:
    """Turns that there is no time for are counted, and not sent when that was said; also where one is being written."""
    diagnostics.forget()
    recorder = BackgroundRecorder()
    session = Session(recorder, "call-1")
    for _ in range(50):
        session.agent_turn("say")
    assert recorder.shut_down(0) == 50
    assert diagnostics.counters.get("turn.lost.exit") == 50
    recorder.drain()
    assert exported.get_finished_spans() == ()
    busy = BackgroundRecorder()
    Session(busy, "call-2").agent_turn("say")
    with busy._emit_lock:
        assert busy.shut_down(0.05) == 1


def test_every_turn_closes_by_itself(exported: InMemorySpanExporter) -> None:
    """A turn whose reply is played out arrives without another mark, also when no turn was open for a while."""
    session = Session(BackgroundRecorder(), "call-1")
    for count in (12, 24):
        answer(session, length_s=0.05)
        wait_for(exported, count)
        assert len(exported.get_finished_spans()) == count
        time.sleep(0.3)


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, TraceIdRatioBased(0.0)])
def test_sampler_of_the_provider_decides(monkeypatch: pytest.MonkeyPatch, sampler: object) -> None:
    """A turn that the sampler drops is not exported, and its headers say that it is not sampled."""
    exporter = InMemorySpanExporter()
    use(TracerProvider(sampler=sampler, shutdown_on_exit=False), exporter, monkeypatch)  # type: ignore[arg-type]
    recorder = BackgroundRecorder()
    with Session(recorder, "call-1") as session:
        answer(session)
        assert session.user_turn().traceparent.endswith("-00")
    recorder.shut_down()
    assert exporter.get_finished_spans() == ()


def test_span_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's limits apply to our spans as to any."""
    exporter = InMemorySpanExporter()
    limits = SpanLimits(max_span_attributes=3)
    use(TracerProvider(span_limits=limits, shutdown_on_exit=False), exporter, monkeypatch)
    with Session(BackgroundRecorder(), "call-1") as session:
        answer(session)
    for span in wait_for(exporter, 12).values():
        assert len(span.attributes or {}) <= 3


def test_foreign_span_processors_see_every_span(
    exported: InMemorySpanExporter,
) -> None:
    """A processor of somebody else gets our spans at their start, may add to them, and sees them end."""

    class Stamp(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            span.set_attribute("tenant", "acme")

    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(Stamp())
    with Session(BackgroundRecorder(), "call-1") as session:
        answer(session)
    assert all((span.attributes or {}).get("tenant") == "acme" for span in wait_for(exported, 12).values())


def test_without_a_provider_calls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no SDK configured the marks do nothing and are not kept."""
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    recorder = BackgroundRecorder()
    with Session(recorder, "call-1") as session:
        answer(session)
    recorder.shut_down()


def test_switched_off_nothing_is_kept() -> None:
    """A disabled recorder holds no turn: nobody would close those that never end."""
    recorder = BackgroundRecorder(enabled=False)
    session = Session(recorder, "call-1")
    session.user_turn()
    kept = weakref.ref(session)
    del session
    gc.collect()
    assert kept() is None


def test_switched_off_nothing_is_emitted(exported: InMemorySpanExporter) -> None:
    """A disabled recorder neither emits nor changes the current span."""
    recorder = BackgroundRecorder(enabled=False)
    with Session(recorder, "call-1") as session:
        turn = session.user_turn()
        with turn.llm():
            assert not trace.get_current_span().get_span_context().is_valid
        answer(session)
    recorder.shut_down()
    assert exported.get_finished_spans() == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_child_of_a_fork_reports_its_own_turns_only() -> None:
    """After a fork the child's turns come from the child, and the parent's open turn once, from the parent."""
    script = textwrap.dedent("""
        import json, os, sys, time, voicespan
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from voicespan import emit
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        parents = voicespan.session("parent").user_turn()
        parents.committed()
        pid = os.fork()
        if pid == 0:
            childs = voicespan.session("child").user_turn()
            childs.committed()
        emit.shutdown()
        ids = [s.attributes["session.id"] for s in exporter.get_finished_spans() if s.name == "voice.turn"]
        if pid == 0:
            os.write(1, (json.dumps(["child", ids]) + "\\n").encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.write(1, (json.dumps(["parent", ids]) + "\\n").encode())
    """)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert dict(json.loads(line) for line in ran.stdout.splitlines()) == {"child": ["child"], "parent": ["parent"]}


@pytest.mark.covers("F-TR17", "D-M10")
def test_a_set_up_is_a_trace_of_its_own(exported: InMemorySpanExporter) -> None:
    """`voice.session.setup` is as long as the wait for media, or fails with the class of what prevented it."""
    recorder = BackgroundRecorder()
    flows = Session(recorder, "a", transport="sip")
    flows.media_up(at=flows.began_ns + 1)
    flows.media_up()
    flows.end("error", error="internal")
    Session(recorder, "b", transport="sip").end("error", error="invalid_token")
    Session(recorder, "c", transport="sip").hung_up()
    recorder.drain()
    spans = {(span.attributes or {})["session.id"]: span for span in exported.get_finished_spans()}
    assert {span.name for span in spans.values()} == {"voice.session.setup"}
    assert set(spans) == {"a", "b"}
    assert (spans["a"].end_time or 0) - (spans["a"].start_time or 0) == 1
    assert spans["a"].parent is None
    assert spans["a"].kind is trace.SpanKind.SERVER
    assert spans["a"].status.is_unset
    assert (spans["b"].attributes or {})["error.type"] == "invalid_token"
    assert spans["b"].status.status_code is trace.StatusCode.ERROR
