from __future__ import annotations

import asyncio
import gc
import inspect
import time
from array import array
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
from opentelemetry import trace

from voicespan import diagnostics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from voicespan.finished import FinishedTurn
    from voicespan.testing import VoiceRecorder
    from voicespan.turn import Turn


def finished(voice: VoiceRecorder, turn: Turn) -> FinishedTurn:
    turn.committed()
    turn.end()
    return voice.turns[0]


class Tokens:
    """A response object as client libraries return it: an asynchronous iterator with attributes of its own."""

    def __init__(self, voice: VoiceRecorder, *items: Any) -> None:
        self.voice = voice
        self.items = list(items)
        self.request_id = "req-1"
        self.taken = 0

    def __aiter__(self) -> Tokens:
        return self

    async def __anext__(self) -> Any:
        if not self.items:
            raise StopAsyncIteration
        self.voice.clock.advance(ms=100)
        self.taken += 1
        return self.items.pop(0)


@pytest.mark.covers("B-T02", "B-M02")
async def test_first_and_last_token_come_from_the_stream(voice: VoiceRecorder) -> None:
    """The milestone ends with the first token that has content, the stage with the last one."""
    turn = voice.session().user_turn()
    with turn.llm() as llm:
        assert [token async for token in llm.stream(Tokens(voice, "", "a", "b"))] == ["", "a", "b"]
        voice.clock.advance(ms=500)
    spans = finished(voice, turn)
    assert spans["llm.ttft"].duration_ns == 200_000_000
    assert spans["llm"].duration_ns == 300_000_000
    assert spans["llm"].attributes["voice.llm.token.count"] == 2


@pytest.mark.covers("B-M08")
async def test_time_that_the_consumer_holds_a_token_is_not_the_models(voice: VoiceRecorder) -> None:
    """The consumer's time is reported apart and taken out of the token rate."""
    turn = voice.session().user_turn()
    with turn.llm() as llm:
        async for _ in llm.stream(Tokens(voice, "a", "b", "c")):
            voice.clock.advance(ms=400)
    attributes = finished(voice, turn)["llm"].attributes
    assert attributes["voice.stage.consumer_wait_s"] == pytest.approx(1.2)
    assert attributes["voice.llm.token.rate"] == pytest.approx(2 / 0.2, rel=0.01)


async def test_nothing_is_read_ahead(voice: VoiceRecorder) -> None:
    """The source gives an item only when the consumer asks for one."""
    source = Tokens(voice, "a", "b", "c")
    stream = voice.session().user_turn().llm().stream(source)
    await anext(stream)
    assert source.taken == 1


async def test_stream_keeps_type_and_attributes(voice: VoiceRecorder) -> None:
    """A wrapped response is still what the client library returned."""
    stream = voice.session().user_turn().llm().stream(Tokens(voice, "a"))
    assert isinstance(stream, Tokens)
    assert stream.request_id == "req-1"


async def test_stage_is_current_during_a_step_only(voice: VoiceRecorder) -> None:
    """The producer runs inside the stage, the consumer's code between the steps does not."""
    turn = voice.session().user_turn()
    seen = []

    async def tokens() -> AsyncGenerator[str, None]:
        for _ in range(2):
            seen.append(trace.get_current_span().get_span_context().span_id)
            yield "t"

    llm = turn.llm()
    async for _ in llm.stream(tokens()):
        assert not trace.get_current_span().get_span_context().is_valid
    assert seen == [llm.span_context().span_id] * 2


async def test_stream_without_a_block_ends_its_stage(voice: VoiceRecorder) -> None:
    """A stage that is only a stream is over when the stream is."""
    turn = voice.session().user_turn()
    async for _ in turn.llm().stream(Tokens(voice, "a")):
        pass
    voice.clock.advance(s=1)
    assert finished(voice, turn)["llm"].duration_ns == 100_000_000


async def test_asend_athrow_and_aclose_reach_the_generator(voice: VoiceRecorder) -> None:
    """A generator behind the wrapper is driven and closed as without it."""
    log: list[str] = []

    async def echo() -> AsyncGenerator[str, str]:
        try:
            received = yield "first"
            while True:
                try:
                    received = yield f"got {received}"
                except LookupError:
                    received = yield "caught"
        finally:
            log.append("closed")

    turn = voice.session().user_turn()
    stream = turn.llm().stream(echo())
    assert inspect.isasyncgen(stream) or hasattr(stream, "asend")
    assert await anext(stream) == "first"
    assert await stream.asend("x") == "got x"
    assert await stream.athrow(LookupError()) == "caught"
    await stream.aclose()
    assert log == ["closed"]
    assert finished(voice, turn)["llm"].attributes["voice.stage.cancelled"] is True


async def test_failure_in_the_stream_passes_and_is_kept(voice: VoiceRecorder) -> None:
    """The consumer gets the producer's own exception, the stage its type and message."""

    async def broken() -> AsyncGenerator[str, None]:
        yield "a"
        raise ConnectionResetError("model gone")

    turn = voice.session().user_turn()
    with pytest.raises(ConnectionResetError, match="model gone"):
        async for _ in turn.llm().stream(broken()):
            pass
    span = finished(voice, turn)["llm"]
    assert (span.error, span.attributes["error.type"]) == ("model gone", "ConnectionResetError")


def test_plain_generators_are_watched_too(voice: VoiceRecorder) -> None:
    """Synchronous synthesizers give frames, lengths and the end as well."""

    def frames() -> Generator[bytes, None, None]:
        for _ in range(3):
            voice.clock.advance(ms=50)
            yield bytes(640)

    turn = voice.session().user_turn()
    with turn.tts(voice="amy", sample_rate=16_000, text="one two three") as tts:
        assert len(list(tts.stream(frames()))) == 3
    span = finished(voice, turn)["tts"]
    assert span.attributes["voice.audio.frame.count"] == 3
    assert span.attributes["voice.audio.duration_s"] == pytest.approx(0.06)
    assert span.attributes["voice.tts.real_time_factor"] == pytest.approx(0.15 / 0.06)


def test_closing_a_plain_generator_cancels(voice: VoiceRecorder) -> None:
    """A synthesizer that is stopped in the middle is cancelled, and its own clean-up runs."""
    log = []

    def frames() -> Generator[bytes, None, None]:
        try:
            while True:
                yield b"x"
        finally:
            log.append("closed")

    turn = voice.session().user_turn()
    stream = turn.tts().stream(frames())
    next(stream)
    stream.close()
    assert log == ["closed"]
    assert finished(voice, turn)["tts"].attributes["voice.stage.cancelled"] is True


@pytest.mark.covers("B-M12")
async def test_chunks_of_chat_completions_are_understood(voice: VoiceRecorder) -> None:
    """Role-only and usage-only chunks are no tokens; the billed token counts are taken from the last chunk."""

    def chunk(content: str | None = None, **more: Any) -> SimpleNamespace:
        delta = SimpleNamespace(content=content, tool_calls=None)
        return SimpleNamespace(**{"choices": [SimpleNamespace(delta=delta)], "usage": None} | more)

    usage = SimpleNamespace(prompt_tokens=20, completion_tokens=2)
    source = Tokens(voice, chunk(None), chunk("a"), chunk("b"), chunk(choices=[], usage=usage))
    turn = voice.session().user_turn()
    with turn.llm(model="m") as llm:
        async for _ in llm.stream(source):
            pass
    attributes = finished(voice, turn)["llm"].attributes
    assert attributes["voice.llm.token.count"] == 2
    assert attributes["gen_ai.usage.input_tokens"] == 20
    assert attributes["gen_ai.usage.output_tokens"] == 2
    assert attributes["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.2)


async def test_what_cannot_be_iterated_is_left_alone(voice: VoiceRecorder) -> None:
    """A wrong argument meets the service's own error, not one of ours."""
    answer = object()
    assert voice.session().user_turn().llm().stream(answer) is answer  # type: ignore[type-var]


def test_failed_calls_are_named_by_their_grpc_status(voice: VoiceRecorder) -> None:
    """A gRPC error is known by its status code and details, not by the client library's class."""

    class RpcError(Exception):
        def code(self) -> SimpleNamespace:
            return SimpleNamespace(name="UNAVAILABLE")

        def details(self) -> str:
            return "worker gone"

    turn = voice.session().user_turn()
    with pytest.raises(RpcError), turn.tts():
        raise RpcError
    span = finished(voice, turn)["tts"]
    assert (span.error, span.attributes["error.type"]) == ("worker gone", "UNAVAILABLE")


def test_a_stream_that_is_dropped_ends_its_stage(voice: VoiceRecorder) -> None:
    """A consumer that breaks off and forgets the stream has cancelled it: the turn does not wait for the stage."""
    turn = voice.session().user_turn()
    for _ in turn.llm().stream(iter("abc")):
        voice.clock.advance(ms=10)
        break
    voice.clock.advance(s=5)
    llm = finished(voice, turn)["llm"]
    assert llm.attributes["voice.stage.cancelled"] is True
    assert llm.duration_ns == 10_000_000  # let go of 10 ms after its only token


def test_a_block_ends_its_stage_itself(voice: VoiceRecorder) -> None:
    """Inside a `with` block a consumer that has read enough has cancelled nothing, and the stage lasts to its end."""
    turn = voice.session().user_turn()
    with turn.llm() as llm:
        for _ in llm.stream(iter("abc")):
            break
        voice.clock.advance(ms=10)
        llm.token()
    assert "voice.stage.cancelled" not in finished(voice, turn)["llm"].attributes
    assert turn.record.stages[0].count == 2


async def test_a_cancelled_consumer_ends_the_stage(voice: VoiceRecorder) -> None:
    """A task that is cancelled while it holds an item lets go of the stream, and the stage is over."""
    turn = voice.session().user_turn()
    held = asyncio.Event()

    async def consume() -> None:
        async for _ in turn.llm().stream(Tokens(voice, "a", "b")):
            held.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(consume())
    await held.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    del task
    assert [stage.open for stage in turn.record.stages] == [False]
    assert finished(voice, turn)["llm"].attributes["voice.stage.cancelled"] is True


@pytest.mark.parametrize("moment", range(3))
def test_the_collector_may_come_at_any_time(voice: VoiceRecorder, moment: int) -> None:
    """A stream that is part of a cycle is dropped by the collector, while locks of ours are held: nothing waits."""
    turn = voice.session().user_turn()
    stream = turn.llm().stream(iter("abc"))
    list(zip(range(moment), stream, strict=False))
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    with diagnostics.counters._lock, turn.session.lock:
        began = time.monotonic()
        gc.collect()
        assert time.monotonic() - began < 5
    assert [stage.open for stage in turn.record.stages] == [False]


class Connection(Tokens):
    """A stream that is entered as well, as those of the `openai` client."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


async def test_a_stream_that_is_entered_is_watched(voice: VoiceRecorder) -> None:
    """`async with stream` gives the watched stream, and leaving it early cancels the stage."""
    turn = voice.session().user_turn()
    async with turn.llm().stream(Connection(voice, "a", "b")) as stream:
        assert [token async for token in stream] == ["a", "b"]
    async with turn.llm().stream(Connection(voice, "a", "b")) as stream:
        assert await anext(stream) == "a"
    assert stream.closed
    whole, cut = turn.record.stages
    assert (whole.count, whole.cancelled, whole.open) == (2, False, False)
    assert (cut.count, cut.cancelled, cut.open) == (1, True, False)


async def test_a_manager_of_a_stream_is_watched(voice: VoiceRecorder) -> None:
    """What only gives the stream when it is entered is no token: the stage ends with the stream that it gives."""

    class Manager:
        async def __aenter__(self) -> Tokens:
            voice.clock.advance(ms=50)
            return Tokens(voice, "", "a")

        async def __aexit__(self, *_: object) -> None:
            pass

    turn = voice.session().user_turn()
    async with turn.llm().stream(Manager()) as stream:  # type: ignore[type-var]
        assert [token async for token in stream] == ["", "a"]
    spans = finished(voice, turn)
    assert spans["llm.ttft"].duration_ns == 250_000_000
    assert "voice.stage.cancelled" not in spans["llm"].attributes


async def test_a_response_that_gives_streams_is_watched(voice: VoiceRecorder) -> None:
    """Audio that is read by `iter_bytes()` of a response that a manager gave is the stage's."""

    class Response:
        status = 200

        def iter_bytes(self) -> Tokens:
            return Tokens(voice, bytes(640), bytes(640))

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    turn = voice.session().user_turn()
    async with turn.tts(sample_rate=16_000).stream(Response()) as response:  # type: ignore[type-var]
        assert response.status == 200
        assert len([frame async for frame in response.iter_bytes()]) == 2
    spans = finished(voice, turn)
    assert spans["tts"].attributes["voice.audio.duration_s"] == pytest.approx(0.04)
    assert spans["tts.first_audio"].duration_ns == 100_000_000


async def test_what_is_awaited_is_watched(voice: VoiceRecorder) -> None:
    """A call object with `__await__` lasts until it is answered."""

    class Call:
        code = "OK"

        def __await__(self) -> Generator[Any, None, str]:
            yield from asyncio.sleep(0).__await__()
            voice.clock.advance(ms=70)
            return "text"

    turn = voice.session().user_turn()
    call = turn.llm().stream(Call())  # type: ignore[type-var]
    assert call.code == "OK"
    assert await call == "text"
    assert finished(voice, turn)["llm.ttft"].duration_ns == 70_000_000


def test_what_can_be_iterated_twice_still_can(voice: VoiceRecorder) -> None:
    """An iterable that is no stream gives its items each time; the first time is the stage's."""
    turn = voice.session().user_turn()
    tokens = turn.llm().stream(["a", "b"])
    assert [list(tokens), list(tokens)] == [["a", "b"]] * 2
    assert finished(voice, turn)["llm"].attributes["voice.llm.token.count"] == 2


async def test_events_around_tokens_are_no_tokens(voice: VoiceRecorder) -> None:
    """Typed streams of client libraries count what they generate, once."""
    delta = SimpleNamespace(content="a", tool_calls=None)
    usage = SimpleNamespace(prompt_tokens=3, completion_tokens=1)
    events = [
        SimpleNamespace(type="message_start"),
        SimpleNamespace(type="response.created"),
        SimpleNamespace(type="chunk", chunk=SimpleNamespace(choices=[SimpleNamespace(delta=delta)], usage=usage)),
        SimpleNamespace(type="content.delta", delta="a"),
        SimpleNamespace(type="response.output_text.delta", delta="b"),
        SimpleNamespace(type="content_block_delta"),
    ]
    turn = voice.session().user_turn()
    async for _ in turn.llm().stream(Tokens(voice, *events)):
        pass
    attributes = finished(voice, turn)["llm"].attributes
    assert attributes["voice.llm.token.count"] == 3
    assert attributes["gen_ai.usage.input_tokens"] == 3


@pytest.mark.parametrize("frame", [np.zeros(320, np.int16), np.zeros(320, np.float32), array("h", [0] * 320)])
def test_frames_that_are_arrays_have_their_length(voice: VoiceRecorder, frame: Any) -> None:
    """A number of an array is a sample, whatever its width."""
    turn = voice.session().user_turn()
    with turn.tts(sample_rate=16_000) as tts:
        tts.frame(frame)
    assert finished(voice, turn)["tts"].attributes["voice.audio.duration_s"] == pytest.approx(0.02)
