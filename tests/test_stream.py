from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

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
