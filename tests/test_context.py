from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace

import voicespan
from voicespan import context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from voicespan.testing import VoiceRecorder


def current() -> trace.SpanContext:
    return trace.get_current_span().get_span_context()


@pytest.mark.covers("C-T01")
def test_stage_is_the_current_span_of_its_block(voice: VoiceRecorder) -> None:
    """Inside a stage the current span is that stage, and the block restores what was there before."""
    session = voice.session()
    turn = session.user_turn()
    with turn.llm() as llm:
        inside = current()
        llm.token()
    assert not current().is_valid
    turn.committed()
    turn.end()
    assert inside.span_id == voice.turns[0]["llm"].span_id
    assert inside.trace_id == turn.trace_id


def test_stages_nest(voice: VoiceRecorder) -> None:
    """A stage inside another one's block is current while it runs, then the outer one again."""
    turn = voice.session().user_turn()
    with turn.llm():
        outer = current()
        with turn.tts():
            assert current().span_id != outer.span_id
        assert current() == outer


def test_between_turns_the_connection_is_current(voice: VoiceRecorder) -> None:
    """In a session the current span is its turn's, and the connection's while no turn is open."""
    connection = trace.SpanContext(7, 9, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(connection)), voice.session() as session:
        assert current() == connection
        turn = session.user_turn()
        assert current().trace_id == turn.trace_id
        turn.committed()
        turn.end()
        assert current() == connection
    links = {link.attributes["voice.link.type"]: link.context for link in voice.turns[0].root.links}
    assert links["connection"].trace_id == 7


def test_headers_carry_the_stage(voice: VoiceRecorder) -> None:
    """The traceparent that a request made inside a stage sends is the stage's own."""
    turn = voice.session().user_turn()
    headers: dict[str, str] = {}
    with turn.tts() as tts:
        propagate.inject(headers)
        tts.audio()
    turn.committed()
    turn.end()
    span = voice.turns[0]["tts"]
    assert headers["traceparent"] == f"00-{turn.trace_id:032x}-{span.span_id:016x}-01"


def test_traceparent_of_an_unsampled_turn_says_so(voice: VoiceRecorder) -> None:
    """Others learn from the flags that a turn is not recorded."""
    voice.sampled = False
    assert voice.session().user_turn().traceparent.endswith("-00")


def test_current_turn_falls_back_to_the_session(voice: VoiceRecorder) -> None:
    """A bound turn that is over gives way to the session's open one."""
    with voice.session() as session:
        first = session.user_turn()
        with first.use():
            assert voicespan.current_turn() is first
            first.committed()
            first.end()
            second = session.user_turn()
            assert voicespan.current_turn() is second
        assert voicespan.current_session() is session
    assert voicespan.current_session() is None
    assert voicespan.current_turn() is None


def test_work_during_a_cough_belongs_to_the_reply(voice: VoiceRecorder) -> None:
    """While an onset is undecided, what runs in the session belongs to the turn that is being answered."""
    with voice.session() as session:
        reply = session.user_turn()
        reply.committed()
        reply.audio_sent(5.0)
        voice.clock.advance(s=1)
        cough = session.user_turn()
        assert current().trace_id == reply.trace_id
        cough.dismissed()
        reply.audio_stopped()
        reply.end()
        asked = session.user_turn()
        assert current().trace_id == asked.trace_id


def test_turn_is_passed_to_a_thread(voice: VoiceRecorder) -> None:
    """A worker thread takes a turn over by `use()`, and is left as it was."""
    turn = voice.session().user_turn()
    seen: list[object] = []

    def work() -> None:
        with turn.use():
            seen.append((voicespan.current_turn(), current().span_id))
        seen.append(voicespan.current_turn())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    assert seen == [(turn, turn.span_context().span_id), None]


def test_attributes_of_the_current_span_land_on_the_stage(voice: VoiceRecorder) -> None:
    """What other code sets on the current span is found on the stage: attributes, events, an ERROR status."""
    turn = voice.session().user_turn()
    with turn.tool("lookup"):
        span = trace.get_current_span()
        span.set_attribute("customer.tier", "gold")
        span.set_attributes({"cache.hit": True})
        span.add_event("cache", {"size": 3})
        span.record_exception(ValueError("handled"))
        span.update_name("ignored")
        span.end()
    with turn.llm():
        trace.get_current_span().set_status(trace.StatusCode.ERROR, "quota")
    turn.committed()
    turn.end()
    tool, llm = voice.turns[0]["execute_tool lookup"], voice.turns[0]["llm"]
    assert tool.attributes["customer.tier"] == "gold"
    assert tool.attributes["cache.hit"] is True
    assert [event.name for event in tool.events] == ["cache", "exception"]
    assert tool.error is None
    assert llm.error == "quota"


async def test_generator_closed_by_another_task_is_silent(
    voice: VoiceRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream that is begun in one task and closed in another logs nothing and disturbs nobody's context."""
    turn = voice.session().user_turn()

    async def tokens() -> AsyncIterator[str]:
        with turn.llm() as llm:
            for token in "abc":
                llm.token()
                yield token

    generator = tokens()
    with caplog.at_level(logging.DEBUG):
        await asyncio.create_task(anext_of(generator))
        await asyncio.create_task(close(generator))
    assert not current().is_valid
    assert caplog.records == []
    turn.committed()
    turn.end()
    assert voice.turns[0]["llm"].attributes["voice.stage.cancelled"] is True


async def anext_of(generator: AsyncIterator[str]) -> str:
    return await generator.__anext__()


async def close(generator: AsyncIterator[str]) -> None:
    await generator.aclose()  # type: ignore[attr-defined]


async def test_cancelled_stage_is_no_error(voice: VoiceRecorder) -> None:
    """A task that is cancelled inside a stage leaves it cancelled, not failed."""
    turn = voice.session().user_turn()
    began = asyncio.Event()

    async def generate() -> None:
        with turn.llm():
            began.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(generate())
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    turn.committed()
    turn.end()
    llm = voice.turns[0]["llm"]
    assert llm.attributes["voice.stage.cancelled"] is True
    assert llm.error is None


def test_marks_from_many_threads_are_all_taken(voice: VoiceRecorder) -> None:
    """Eight threads that report tools of one turn at once lose none."""
    turn = voice.session().user_turn()
    ready = threading.Barrier(8)

    def work() -> None:
        ready.wait()
        for _ in range(20):
            with turn.tool("lookup"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turn.committed()
    turn.end()
    assert len(voice.turns[0].all("execute_tool lookup")) == 160


def test_another_runtime_context_is_used_by_its_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenTelemetry keeps its context otherwise (OTEL_PYTHON_CONTEXT), blocks go through its functions."""
    assert context._current() == (context._get_current, context._attach)
    assert context._get_current() is otel_context.get_current()
    monkeypatch.setattr(otel_context, "_RUNTIME_CONTEXT", object())
    assert context._current() == (otel_context.get_current, otel_context.attach)
