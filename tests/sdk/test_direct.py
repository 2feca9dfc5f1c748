"""Turns are written as bytes where nobody else looks at spans, and are spans of the SDK as soon as somebody does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from tests.processes.receiver import Receiver

from voicespan import breath, diagnostics, settings
from voicespan.emit import BackgroundRecorder
from voicespan.sdk import wire
from voicespan.sdk.batch import DROPPED, SENT, Limits
from voicespan.sdk.export import BatchProcessor, Written
from voicespan.sessions import Session
from voicespan.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing has been said or counted, and the settings are the defaults."""
    settings.reset(Settings(exit_timeout_s=20))
    diagnostics.forget()
    yield
    settings.reset()
    diagnostics.forget()


class Process:
    """A provider with our queue in it, a recorder without a thread, and a receiver."""

    def __init__(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        of_exporter = options.pop("exporter", {})
        limits = options.pop("limits", None)
        exporter = OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces", **of_exporter)
        self.processor = BatchProcessor(exporter, limits=limits)
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(self.processor)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.provider)
        self.recorder = BackgroundRecorder()
        self.recorder._thread = self  # type: ignore[assignment]
        self.written: list[Written] = []
        monkeypatch.setattr(self.processor, "take_turn", self._note(self.processor.take_turn))

    def _note(self, take: Any) -> Any:
        def call(turn: Written) -> None:
            self.written.append(turn)
            take(turn)

        return call

    def call(self, turns: int = 1, **attributes: Any) -> None:
        """One call with so many plain turns; its spans are sent."""
        with Session(self.recorder, "call-7", transport="websocket", attributes=attributes) as session:
            for _ in range(turns):
                turn = session.user_turn()
                turn.speech_ended(at=time.monotonic_ns())
                turn.transcript()
                turn.committed()
                with turn.llm(model="small") as llm:
                    llm.token()
                    self.provider.get_tracer("httpx").start_span("POST").end()
                with turn.tts(voice="amy") as tts:
                    tts.audio(0.02)
                    turn.audio_sent(0.001)
                turn.end()
        self.recorder.drain()
        assert self.provider.force_flush(20_000)

    def close(self) -> None:
        self.provider.shutdown()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of OTLP over HTTP."""
    with Receiver() as made:
        yield made


def test_turns_leave_as_bytes_beside_the_spans_of_others(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns are written; a span of another library in a turn is its stage's child, in the same request."""
    process = Process(receiver, monkeypatch)
    process.call(turns=2)
    assert [turn.count for turn in process.written] == [12, 12]
    (request,) = receiver.traces
    spans = [span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]
    assert len(spans) == 26
    stages = {span.span_id: span for span in spans if span.name == "llm"}
    posts = [span for span in spans if span.name == "POST"]
    assert len(posts) == 2
    assert {post.parent_span_id for post in posts} == set(stages)
    assert all(stages[post.parent_span_id].trace_id == post.trace_id for post in posts)
    assert len({each.resource.SerializeToString() for each in request.resource_spans}) == 1
    assert process.processor.batcher.counts.get(SENT) == 26
    process.close()


class Own(Sampler):
    """Somebody's own sampler."""

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        return ALWAYS_ON.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "own"


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ParentBased(ALWAYS_ON), TraceIdRatioBased(1.0)])
def test_samplers_of_the_sdk_let_turns_be_written(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, sampler: Sampler
) -> None:
    """What OTEL_TRACES_SAMPLER names looks at ids and parents alone."""
    process = Process(receiver, monkeypatch, sampler=sampler)
    process.call()
    assert len(process.written) == 1
    process.close()


@pytest.mark.parametrize("sampler", [Own(), ParentBased(Own()), ParentBased(ALWAYS_ON, local_parent_sampled=Own())])
def test_somebodys_sampler_makes_spans(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, sampler: Sampler) -> None:
    """A sampler that is not the SDK's gets a pipeline of ordinary spans."""
    process = Process(receiver, monkeypatch, sampler=sampler)
    process.call()
    assert process.written == []
    assert len(receiver.spans) == 13
    process.close()


def test_a_processor_that_is_added_sees_spans_from_then_on(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds a span processor in the middle of a call gets the next turn as ordinary spans."""
    process = Process(receiver, monkeypatch)
    process.call()
    ended: list[str] = []

    class Noting(SpanProcessor):
        def on_end(self, span: Any) -> None:
            ended.append(span.name)

    process.provider.add_span_processor(Noting())
    process.call()
    assert len(process.written) == 1
    assert len(ended) == 13
    assert len(receiver.spans) == 26
    process.close()


def test_other_exporters_get_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the SDK's own exporter for OTLP over HTTP posts bodies; a subclass may do anything with spans."""

    class Own(OTLPSpanExporter):
        pass

    assert BatchProcessor(OTLPSpanExporter()).takes_turns
    assert not BatchProcessor(InMemorySpanExporter()).takes_turns
    assert not BatchProcessor(Own()).takes_turns
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    assert not BatchProcessor(OTLPSpanExporter()).takes_turns


def test_a_disabled_sdk_sends_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OTEL_SDK_DISABLED nothing is written either."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    process = Process(receiver, monkeypatch)
    process.call()
    assert process.written == []
    assert receiver.traces == []
    process.close()


def test_a_turn_over_a_limit_goes_the_sdks_way(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK drops what is over a limit, and its counters say so; turns within the limits are written."""
    process = Process(receiver, monkeypatch, span_limits=SpanLimits(max_span_attributes=20))
    process.call()
    assert len(process.written) == 1
    process.call(**{f"own.{number}": number for number in range(20)})
    assert len(process.written) == 1
    (root,) = [span for span in receiver.spans if span.name == "voice.turn" and span.dropped_attributes_count]
    assert len(root.attributes) == 20
    process.close()


def test_a_value_of_another_type_goes_the_sdks_way(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list among the attributes arrives as one."""
    process = Process(receiver, monkeypatch)
    process.call(tags=["a", "b"])
    assert process.written == []
    (root,) = [span for span in receiver.spans if span.name == "voice.turn"]
    (tags,) = [pair.value for pair in root.attributes if pair.key == "tags"]
    assert [value.string_value for value in tags.array_value.values] == ["a", "b"]
    process.close()


def test_headers_and_compression_are_the_exporters(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body is posted by the SDK's exporter, with its headers and its compression."""
    process = Process(receiver, monkeypatch, exporter={"headers": {"x-key": "k"}, "compression": Compression.Gzip})
    process.call()
    assert len(process.written) == 1
    assert receiver.headers[0]["x-key"] == "k"
    assert receiver.headers[0]["content-encoding"] == "gzip"
    assert len(receiver.spans) == 13
    process.close()


def test_a_writer_that_fails_costs_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing raises, the turn becomes spans, and the failure is counted."""
    process = Process(receiver, monkeypatch)

    def broken(*_: object) -> bytes:
        raise RuntimeError("broken")

    monkeypatch.setattr(wire.Writer, "spans", broken)
    process.call()
    assert len(receiver.spans) == 13
    assert diagnostics.counters.get("internal_error") == 1
    process.close()


def test_written_turns_are_counted_as_their_spans(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queue, batches and losses count spans: a turn of twelve is twelve, and a batch holds whole turns."""
    process = Process(receiver, monkeypatch, limits=Limits(queue=40, batch=30, delay_s=3600))
    batcher = process.processor.batcher
    batcher._thread = process  # type: ignore[assignment]  # nobody sends
    with Session(process.recorder, "call-7") as session:
        for _ in range(5):
            session.agent_turn("say").end()
            session.user_turn(input="text").end()
    process.recorder.drain()
    spans = sum(written.count for written in process.written)
    assert batcher.unsent + batcher.counts.get(DROPPED) == spans
    assert batcher.unsent <= 40
    taken = sum(each.count for each in batcher._take() if isinstance(each, Written))
    assert 0 < taken <= 30
    assert batcher.unsent + batcher.counts.get(DROPPED) + taken == spans


def test_a_request_is_bounded_in_bytes(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns with long attributes fill a request before its count of spans does."""
    process = Process(receiver, monkeypatch, limits=Limits(size=10_000))
    process.call(turns=6, long="x" * 5_000)
    assert len(process.written) == 6
    assert len(receiver.traces) >= 3
    assert len(receiver.spans) == 78
    process.close()


def test_work_on_many_turns_lets_others_run(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finished turns the thread lets go of the interpreter, however many end at once."""
    pauses: list[float] = []
    monkeypatch.setattr(breath, "WORK_NS", -1)
    monkeypatch.setattr(time, "sleep", pauses.append)
    process = Process(receiver, monkeypatch)
    for _ in range(10):
        session = Session(process.recorder, "call-7")
        session.user_turn().committed()
        session.end()
    process.recorder.drain()
    assert pauses.count(breath.REST_S) >= 10
    process.close()


def test_the_end_does_not_rest(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left at the end of a process is finished without a pause: there is little time for it."""
    pauses: list[float] = []
    process = Process(receiver, monkeypatch)
    monkeypatch.setattr(breath, "WORK_NS", -1)
    monkeypatch.setattr(time, "sleep", pauses.append)
    for _ in range(10):
        Session(process.recorder, "call-7").user_turn().committed()
    assert process.recorder.shut_down(within_s=60) == 0
    assert breath.REST_S not in pauses
    process.close()
