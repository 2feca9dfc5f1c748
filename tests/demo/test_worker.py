"""The speech worker, called over gRPC."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from voicespan.demo import pcm, scenarios, synthesis, worker
from voicespan.demo.synthesis import Frames, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def speech() -> AsyncIterator[Worker]:
    """Give the agent's connection to a worker that serves."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((worker.handler(worker.Worker("tts-test@0")),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Worker(f"127.0.0.1:{port}") as connection:
        yield connection
    await server.stop(grace=None)


async def all_of(frames: Frames) -> bytes:
    """Return the whole speech."""
    return b"".join([frame async for frame in frames])


async def test_streams_frames_of_speech(speech: Worker) -> None:
    """The frames have 20 ms each, and together they are speech of a plausible length."""
    async with speech.synthesize("We open at eight.", "en-us") as frames:
        got = [frame async for frame in frames]
    assert {len(frame) for frame in got} == {pcm.FRAME_BYTES}
    sound = b"".join(got)
    assert 0.7 < pcm.seconds(sound) < 2.5
    assert pcm.peak(sound[: pcm.FRAME_BYTES]) >= pcm.AUDIBLE, "the first frame is heard"


@pytest.mark.parametrize("packets", [[b"\1" * 700, b"\2" * 1000, b"\3"], [b"\1" * 640, b"\2" * 640], [b"\1"], []])
async def test_packets_of_any_length_become_frames(packets: list[bytes]) -> None:
    """What a worker sends is cut into 20 ms, whatever its packets; only the last frame is filled up."""

    async def call() -> AsyncIterator[bytes]:
        for packet in packets:
            yield packet

    got = [frame async for frame in Frames(synthesis.Request("", ""), lambda *_, **__: call(), None)]
    sound = b"".join(packets)
    assert {len(frame) for frame in got} <= {pcm.FRAME_BYTES}
    assert b"".join(got).rstrip(b"\0") == sound
    assert len(got) == -(-len(sound) // pcm.FRAME_BYTES)


async def test_says_who_speaks(speech: Worker) -> None:
    """The worker's name is in the metadata of the response."""
    async with speech.synthesize("We open at eight.", "en-us") as frames:
        assert await frames.worker_id() == "tts-test@0"
        await all_of(frames)


async def test_fails_where_the_scenario_wants_it(speech: Worker) -> None:
    """A scenario whose speech fails ends with INTERNAL."""
    async with speech.synthesize(scenarios.named("broken").reply, "en-us") as frames:
        with pytest.raises(grpc.aio.AioRpcError, match="vocoder") as caught:
            await all_of(frames)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_pauses_and_resumes(speech: Worker) -> None:
    """A paused stream stops before its end and goes on when it is resumed; nothing is lost."""
    text = scenarios.named("story").reply
    async with speech.synthesize(text, "en-us") as frames:
        whole = pcm.seconds(await all_of(frames))
    async with speech.synthesize(text, "en-us") as frames:
        source = aiter(frames)
        before = [await anext(source)]
        await frames.pause()
        coming = asyncio.ensure_future(anext(source))
        while coming in (await asyncio.wait([coming], timeout=1))[0]:  # what was under way arrives, then no more
            before.append(await coming)
            coming = asyncio.ensure_future(anext(source))
        await frames.resume()
        after = [await coming, *[frame async for frame in source]]
    assert len(before) < len(after)
    assert pcm.seconds(b"".join(before + after)) == pytest.approx(whole, rel=0.05)


async def test_commands_about_an_ended_stream_do_nothing(speech: Worker) -> None:
    """A pause that comes too late is no error."""
    async with speech.synthesize("We open at eight.", "en-us") as frames:
        await all_of(frames)
        await frames.pause()
        await frames.resume()


async def test_leaving_the_block_stops_the_worker(speech: Worker) -> None:
    """A reply that is given up is cancelled: the next request is answered at once."""
    async with speech.synthesize(scenarios.named("story").reply, "en-us") as frames:
        await anext(aiter(frames))
    with pytest.raises(asyncio.CancelledError):
        await frames.worker_id()
        await all_of(frames)
    async with speech.synthesize("We open at eight.", "en-us") as frames:
        assert await all_of(frames)


async def test_a_worker_that_is_not_there_yet_is_waited_for(free_port: int) -> None:
    """A request made before the worker listens is answered once it does."""
    async with Worker(f"127.0.0.1:{free_port}") as connection:
        waiting = asyncio.ensure_future(all_of(connection.synthesize("We open at eight.", "en-us")))
        await asyncio.sleep(0.1)
        serving = asyncio.ensure_future(worker.serve(free_port, seed=0))
        assert await waiting
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_commands_to_nobody_do_nothing(free_port: int) -> None:
    """A worker that is gone has nothing to pause."""
    async with Worker(f"127.0.0.1:{free_port}") as connection:
        await connection.synthesize("hello", "en-us").pause()


def test_messages_carry_their_fields() -> None:
    """What goes over the wire is plain JSON."""
    assert b'"text": "hello"' in synthesis.encoded(synthesis.Request("hello", "en-us"))
    assert synthesis.encoded(synthesis.Command("PAUSE", "x")) == b'{"command": "PAUSE", "stream": "x"}'
