"""Mapped services in real time: several calls at once, real gRPC, threads, and tasks that others cancel."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from voicespan import diagnostics, emit
from voicespan import names as n
from voicespan.emit import BackgroundRecorder
from voicespan.stagemap import install as installing
from voicespan.stagemap.document import parse

from .test_stagemap import _forget_hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.finished import FinishedTurn
    from voicespan.testing import VoiceRecorder

MAP: dict[str, Any] = {
    "session": {"enter": "callbot.speech:call", "id": "arg.call_id"},
    "turn": {"text": "callbot.speech:heard"},
    "stages": {
        "llm": ["callbot.speech:tokens", {"call": "callbot.speech:Client.answer", "model": "remote"}],
        "tts": {"call": "callbot.speech:Servicer.Synthesize", "attributes": {"text.length": "arg.request"}},
    },
}


@pytest.fixture
def turns(voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FinishedTurn]]:
    """The turns of a service that is imported anew, on the real clock."""
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    recorder = BackgroundRecorder()
    monkeypatch.setattr(emit, "_recorder", recorder)
    found: list[FinishedTurn] = []
    recorder.watch = found.append
    installing.install(parse(MAP))
    yield found
    recorder.shut_down()
    for name in [name for name in sys.modules if name.partition(".")[0] == "callbot"]:
        del sys.modules[name]
    _forget_hooks()
    assert diagnostics.counters.get("internal_error") == 0


def ended(found: list[FinishedTurn], count: int) -> list[FinishedTurn]:
    """Close what is open, and return the turns in order of their onset."""
    emit.recorder().shut_down()
    assert len(found) == count
    return sorted(found, key=lambda turn: turn.root.start_ns)


def seconds(turn: FinishedTurn, name: str) -> float:
    """The length of a span in seconds."""
    return turn[name].duration_ns / 1e9


async def test_a_real_servicer_speaks(turns: list[FinishedTurn]) -> None:
    """gRPC takes a mapped async generator for a stream; each request is a turn, a half-read one a cancelled stage."""
    speech = importlib.import_module("callbot.speech")
    server, port = await speech.serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        synthesize: Any = channel.unary_stream("/speech.Speech/Synthesize")
        whole, _ = await asyncio.gather(*[_all(synthesize(bytes(5))) for _ in range(2)])
        assert whole == [speech.FRAME] * 5
        half = synthesize(bytes(500))
        await half.read()
        half.cancel()
        await asyncio.sleep(0.1)
    await server.stop(None)
    first, second, cut = ended(turns, 3)
    assert first.session_id != second.session_id
    for turn in (first, second):
        assert seconds(turn, n.SPAN_TTS_FIRST_AUDIO) == pytest.approx(0.1, abs=0.05)
        assert turn[n.SPAN_TTS].attributes[n.VOICE_AUDIO_DURATION_S] == pytest.approx(0.1)
    assert cut[n.SPAN_TTS].attributes[n.VOICE_STAGE_CANCELLED] is True
    assert cut[n.SPAN_TTS].error is None
    assert seconds(cut, n.SPAN_TTS) < 1


async def _all(stream: Any) -> list[bytes]:
    return [frame async for frame in stream]


async def test_a_real_call_object_lasts_until_its_answer(turns: list[FinishedTurn]) -> None:
    """What `grpc.aio` returns for a call is the stage until it is awaited, and stays a call."""
    speech = importlib.import_module("callbot.speech")
    server, port = await speech.serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = speech.Client(channel).answer(b"yes")
        assert await call == b"YES"
        assert await call.code() is grpc.StatusCode.OK
    await server.stop(None)
    (turn,) = ended(turns, 1)
    assert 0.09 < seconds(turn, n.SPAN_LLM) < 0.3


async def test_calls_at_once_keep_their_turns(turns: list[FinishedTurn]) -> None:
    """Each of twenty calls has its own turn, also where its model is asked in a thread."""
    speech = importlib.import_module("callbot.speech")

    async def hold(number: int) -> None:
        async def body() -> None:
            await speech.heard("hello")
            await asyncio.sleep(0.05)
            assert await asyncio.to_thread(lambda: list(speech.tokens(f"{number} is it"))) == [str(number), "is", "it"]

        await speech.call(f"call-{number}", body)

    await asyncio.gather(*[hold(number) for number in range(20)])
    found = ended(turns, 20)
    assert {turn.session_id for turn in found} == {f"call-{number}" for number in range(20)}
    assert all(turn[n.SPAN_LLM].attributes[n.VOICE_LLM_TOKEN_COUNT] == 3 for turn in found)


async def test_a_task_that_another_cancels_is_silent(
    turns: list[FinishedTurn], caplog: pytest.LogCaptureFixture
) -> None:
    """A call whose task is cancelled in the middle of a stage ends its session, its turn and its stage, quietly."""
    speech = importlib.import_module("callbot.speech")
    began = time.monotonic()

    async def body() -> None:
        await speech.heard("hello")
        async for _ in speech.Servicer().Synthesize(bytes(500), None):
            pass

    task = asyncio.create_task(speech.call("call-1", body))
    await asyncio.sleep(0.3)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    lasted = time.monotonic() - began
    (turn,) = ended(turns, 1)
    assert turn[n.SPAN_TTS].attributes[n.VOICE_STAGE_CANCELLED] is True
    assert turn[n.SPAN_TTS].error is None
    assert seconds(turn, n.SPAN_TTS) <= lasted
    assert caplog.records == []
