"""The client's stock instrumentation beside ours: nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("opentelemetry.instrumentation.openai_v2", reason="the stock instrumentation is not installed")

from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor as StockInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from voicespan.integrations.openai import OpenAIInstrumentor

from .test_calls import ASKED, asked, chat, chat_threaded, provided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integrations.leaving import Leaving

    from .conftest import Turns

pytestmark = pytest.mark.alone


@pytest.fixture(params=["ours first", "stock first"])
def stock(request: pytest.FixtureRequest) -> Iterator[tuple[InMemorySpanExporter, InMemoryMetricReader]]:
    """Instrument the client twice, in either order; give what the stock instrumentation exports."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    instrumentor, ours = StockInstrumentor(), OpenAIInstrumentor()  # type: ignore[no-untyped-call]
    if request.param == "stock first":
        ours.uninstrument()
    instrumentor.instrument(skip_dep_check=True, tracer_provider=provider, meter_provider=meters)
    if request.param == "stock first":
        ours.instrument(skip_dep_check=True)
    yield exporter, reader
    if request.param == "stock first":
        ours.uninstrument()
        instrumentor.uninstrument()
        ours.instrument(skip_dep_check=True)
    else:
        instrumentor.uninstrument()
    meters.shutdown()


@pytest.mark.parametrize("ask", [chat, chat_threaded], ids=lambda each: each.__name__)
async def test_one_span_for_a_request(
    turns: Turns, stock: tuple[InMemorySpanExporter, InMemoryMetricReader], ask: Callable[..., Any]
) -> None:
    """In a turn the stage is the span of a request, in whichever order both wrap it; the stock metrics go on."""
    exporter, reader = stock
    async with provided() as (_, client):
        async with asked(turns):
            assert await ask(client) == 5
        (turn,) = turns.all()
        (llm,) = turn.all("llm")
        assert exporter.get_finished_spans() == ()
        assert llm.attributes["voice.llm.token.count"] == 3
        assert llm.attributes["gen_ai.usage.output_tokens"] == 3
        assert not [key for key in llm.attributes if "message" in key]
        told = reader.get_metrics_data()
        assert told is not None
        names = {
            each.name
            for resource in told.resource_metrics
            for scope in resource.scope_metrics
            for each in scope.metrics
        }
        assert "gen_ai.client.operation.duration" in names


async def test_its_spans_outside_of_stages(
    turns: Turns, stock: tuple[InMemorySpanExporter, InMemoryMetricReader]
) -> None:
    """Without a turn, and inside a tool, the stock span stays; there it is the tool's child."""
    exporter, _ = stock
    async with provided() as (_, client):
        await client.chat.completions.create(model="brain-1", messages=ASKED)
        async with asked(turns) as turn_:
            with turn_.tool("look_up"):
                await client.chat.completions.create(model="brain-1", messages=ASKED)
    (turn,) = turns.all()
    alone, inside = exporter.get_finished_spans()
    assert alone.parent is None
    assert inside.parent is not None
    assert inside.parent.span_id == turn["execute_tool look_up"].span_id
    assert turn.all("llm") == []


@pytest.mark.parametrize("capture", ["span_only", "event_only", "span_and_event"])
async def test_what_it_captures_does_not_leave(
    turns: Turns, leaving: Leaving, monkeypatch: pytest.MonkeyPatch, capture: str
) -> None:
    """Prompts, replies and tool calls on its spans or log records do not leave, unless content is wanted."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", capture)
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    instrumentor = StockInstrumentor()  # type: ignore[no-untyped-call]
    instrumentor.instrument(skip_dep_check=True, tracer_provider=leaving.tracers, logger_provider=leaving.loggers)
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"place": "Oslo"}'}}
    told: list[Any] = [
        {"role": "system", "content": "You are brief."}, *ASKED, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "minus four"},
    ]  # fmt: skip
    try:
        async with provided() as (_, client), asked(turns) as turn:
            await client.chat.completions.create(model="brain-1", messages=told)
            with turn.tool("look_up"):
                await client.chat.completions.create(model="brain-1", messages=told)
                async for _chunk in await client.chat.completions.create(model="brain-1", messages=told, stream=True):
                    pass
    finally:
        instrumentor.uninstrument()
    words = {"You are brief", "how cold is it", "Oslo", "minus four", "It is nine."}
    assert "chat brain-1" in leaving.names()
    assert {word for word in words if word in leaving.text()} == set()
    assert {word for word in words if word in leaving.text(wanted=True)} == words
