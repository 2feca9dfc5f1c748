"""The agent's end of a call: what it sends, in which order, and what it makes of the caller's reports."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from voicespan.demo import pcm, protocol
from voicespan.demo.line import Line, Silenced, Speaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from voicespan import Turn
    from voicespan.testing import VoiceRecorder


class FakeTurn:
    """Takes the speaker's marks."""

    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def __init__(self) -> None:
        self.marks: list[str] = []
        self.sent = 0

    def audio_sent(self, seconds: float) -> None:
        assert seconds == 0.02
        self.sent += 1

    def __getattr__(self, name: str) -> Any:
        return lambda **_: self.marks.append(name)


class Caller:
    """Takes what the speaker sends."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.messages: list[str] = []
        self._changed = asyncio.Event()

    def take(self, item: str | bytes) -> None:
        if isinstance(item, bytes):
            self.frames.append(int.from_bytes(item[:2], "little"))
        else:
            self.messages.append(json.loads(item)["type"])
        self._changed.set()

    async def has(self, count: int) -> None:
        """Wait for so many frames."""
        async with asyncio.timeout(20):
            while len(self.frames) < count:
                self._changed.clear()
                await self._changed.wait()

    async def was_told(self, kind: str, times: int = 1) -> None:
        """Wait for a message."""
        async with asyncio.timeout(20):
            while self.messages.count(kind) < times:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def caller() -> Caller:
    """Give a caller."""
    return Caller()


@pytest.fixture
async def speaker(caller: Caller) -> AsyncIterator[Speaker]:
    """Give a speaker that runs."""
    speaker = Speaker(caller.take)
    running = asyncio.ensure_future(speaker.run())
    yield speaker
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def frame(number: int) -> bytes:
    """Return a frame that can be told from others."""
    return number.to_bytes(2, "little").ljust(pcm.FRAME_BYTES, b"\0")


def a_turn() -> tuple[FakeTurn, Turn]:
    """Return a turn that takes marks, as itself and as what the speaker wants."""
    fake = FakeTurn()
    return fake, cast("Turn", fake)


async def test_sends_every_frame_in_order(speaker: Speaker, caller: Caller) -> None:
    """The speech is announced, its frames come in order, then it is said to be whole."""
    fake, turn = a_turn()
    for number in range(12):
        await speaker.play(turn, frame(number))
    speaker.finish(turn)
    await caller.was_told(protocol.COMPLETE)
    assert caller.frames == list(range(12))
    assert caller.messages == [protocol.SPEECH, protocol.COMPLETE]
    assert fake.sent == 12
    assert speaker.turn is turn, "the caller still hears it"
    speaker.stopped(1, None, 12)
    assert speaker.turn is None


async def test_holds_and_goes_on_where_the_caller_was(speaker: Speaker, caller: Caller) -> None:
    """What the caller had not heard when it was held is sent again, and nothing twice that was heard."""
    fake, turn = a_turn()
    for number in range(20):
        await speaker.play(turn, frame(number))
    speaker.finish(turn)
    await caller.has(8)
    speaker.hold()
    sent = len(caller.frames)
    assert speaker.held is turn
    speaker.stopped(1, None, 5)
    await asyncio.sleep(0.1)
    assert len(caller.frames) == sent, "nothing is sent while held"
    speaker.resume()
    await caller.was_told(protocol.COMPLETE)
    assert caller.frames[sent:] == list(range(5, 20))
    assert fake.marks.count("audio_cleared") == 1
    assert fake.marks.count("audio_resumed") == 1
    assert speaker.held is None


async def test_drops_the_rest(speaker: Speaker, caller: Caller) -> None:
    """What is dropped is cleared at the caller, too, and another turn can speak."""
    fake, turn = a_turn()
    for number in range(20):
        await speaker.play(turn, frame(number))
    await caller.has(3)
    speaker.drop()
    sent = len(caller.frames)
    assert speaker.turn is None
    assert caller.messages[-1] == protocol.CLEAR
    assert fake.marks == ["audio_cleared"]
    _, other = a_turn()
    await speaker.play(other, frame(99))
    await caller.has(sent + 1)
    assert caller.frames[-1] == 99


async def test_what_was_dropped_is_not_taken_up_again(speaker: Speaker, caller: Caller) -> None:
    """A frame of a dropped reply that was already under way begins no new speech."""
    turn = a_turn()[1]
    await speaker.play(turn, frame(1))
    await caller.has(1)
    speaker.drop()
    await speaker.play(turn, frame(2))
    assert speaker.turn is None
    assert caller.messages == [protocol.SPEECH, protocol.CLEAR]


async def test_the_worker_is_held_back(speaker: Speaker, caller: Caller) -> None:
    """Only a second of sound is taken ahead; the rest is waited with until there is room."""
    _, turn = a_turn()

    async def pour() -> None:
        for number in range(120):
            await speaker.play(turn, frame(number))

    pouring = asyncio.ensure_future(pour())
    await caller.has(10)
    assert not pouring.done()
    await asyncio.wait_for(pouring, 20)
    speaker.drop()


async def test_a_held_speech_takes_no_more(speaker: Speaker) -> None:
    """While held, a frame waits; dropping lets go of who waits."""
    _, turn = a_turn()
    await speaker.play(turn, frame(0))
    speaker.hold()
    waiting = asyncio.ensure_future(speaker.play(turn, frame(1)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    speaker.drop()
    await asyncio.wait_for(waiting, 5)


async def test_reports_about_another_speech_are_ignored(speaker: Speaker) -> None:
    """A late report about an earlier speech does not end this one."""
    fake, turn = a_turn()
    await speaker.play(turn, frame(0))
    speaker.finish(turn)
    speaker.heard(7, None)
    speaker.stopped(7, None, 1)
    assert speaker.turn is turn
    assert fake.marks == []


class FakeSocket:
    """A WebSocket with a script: what the caller sends, in order."""

    def __init__(self, *received: dict[str, Any]) -> None:
        self._received = [*received, {"type": "websocket.disconnect", "code": 1000}]
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        return self._received.pop(0)

    async def send_text(self, text: str) -> None:
        self.sent.append(json.loads(text))

    async def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)


def told(kind: str, **fields: int) -> dict[str, Any]:
    """Return a message as the WebSocket gives it."""
    return {"type": "websocket.receive", "text": protocol.encoded(kind, **fields)}


async def test_the_callers_clock_is_understood(voice: VoiceRecorder) -> None:
    """After an exchange of time stamps, a sample of the caller's sound has a time of this machine."""
    begin_ns = voice.clock.monotonic_ns()
    offset_ns = 5_000_000_000
    times = {
        "t0": begin_ns + offset_ns,
        "t1": begin_ns + 1000,
        "t2": begin_ns + 1000,
        "t3": begin_ns + offset_ns + 2000,
    }
    socket = FakeSocket(told(protocol.CLOCK, **times), told(protocol.START, at=begin_ns + offset_ns))
    with voice.session() as session:
        async with Line(cast("Any", socket), session) as line:
            assert line.spoken_at(0) is None, "nothing is known yet"
            assert [frame async for frame in line.frames()] == []
            assert line.spoken_at(pcm.RATE) == begin_ns + 1_000_000_000
    assert session.end_reason == "client_disconnect"


def clock_of(offset_ns: int, at_ns: int) -> dict[str, Any]:
    """Return an exchange that took no time with a caller whose clock is ahead."""
    return told(protocol.CLOCK, t0=at_ns + offset_ns, t1=at_ns, t2=at_ns, t3=at_ns + offset_ns)


async def test_a_page_says_anew_when_its_samples_were_taken(voice: VoiceRecorder) -> None:
    """A sound card that drifts is followed; what was lost before a sample moves those after it, and none before."""
    now_ns, offset_ns = voice.clock.monotonic_ns(), 7_000_000_000
    socket = FakeSocket(
        clock_of(offset_ns, now_ns),
        told(protocol.START, at=now_ns + offset_ns),
        told(protocol.MICROPHONE, sample=0, at=now_ns + offset_ns + 3_000_000),
        told(protocol.MICROPHONE, sample=pcm.RATE, at=now_ns + offset_ns + 1_300_000_000),
        told(protocol.MICROPHONE, sample=pcm.RATE, at=now_ns + offset_ns + 1_304_000_000),
    )
    with voice.session() as session:
        async with Line(cast("Any", socket), session) as line:
            assert [each async for each in line.frames()] == []
            assert line.spoken_at(pcm.RATE // 2) == now_ns + 503_000_000
            assert line.spoken_at(2 * pcm.RATE) == now_ns + 2_304_000_000


async def test_a_page_that_silences_the_reply_says_when(voice: VoiceRecorder) -> None:
    """The moment comes in order with the frames, on this machine's clock."""
    now_ns, offset_ns = voice.clock.monotonic_ns(), 7_000_000_000
    frames = [{"type": "websocket.receive", "bytes": frame(number)} for number in range(2)]
    socket = FakeSocket(
        clock_of(offset_ns, now_ns), frames[0], told(protocol.CANCEL, at=now_ns + offset_ns - 5_000), frames[1]
    )
    with voice.session() as session:
        async with Line(cast("Any", socket), session) as line:
            came = [each async for each in line.frames()]
    assert came == [frame(0), Silenced(now_ns - 5_000), frame(1)]


async def test_a_page_leaves_the_times_to_its_tracker(speaker: Speaker, caller: Caller) -> None:
    """Where a caller says how much was played and not when, the position is taken and no mark is made."""
    fake, turn = a_turn()
    for number in range(12):
        await speaker.play(turn, frame(number))
    await caller.has(8)
    speaker.hold()
    speaker.stopped(1, None, 5)
    assert "audio_stopped" not in fake.marks
    speaker.resume()
    await caller.has(9)
    assert caller.frames[8] == 5
    speaker.stopped(1, 17, 5)
    assert "audio_stopped" in fake.marks


async def test_the_trackers_clock_messages_are_answered(voice: VoiceRecorder) -> None:
    """A page compares clocks by the tracker's own messages."""
    socket = FakeSocket(
        {"type": "websocket.receive", "text": json.dumps({"type": "voicespan.clock", "sent": 12.5})},
    )
    with voice.session() as session:
        async with Line(cast("Any", socket), session) as line:
            assert [each async for each in line.frames()] == []
            await asyncio.sleep(0.01)
    (answer,) = socket.sent
    assert (answer["type"], answer["sent"]) == ("voicespan.clock", 12.5)


async def test_a_ping_is_answered_with_three_times() -> None:
    """The answer carries the caller's time as it came and this machine's two, in order."""
    import voicespan

    socket = FakeSocket(told(protocol.PING, t0=17))
    with voicespan.session() as session:
        async with Line(cast("Any", socket), session) as line:
            assert [frame async for frame in line.frames()] == []
            await asyncio.sleep(0.01)
    (pong,) = socket.sent
    assert (pong["type"], pong["t0"]) == (protocol.PONG, 17)
    assert pong["t1"] <= pong["t2"]


async def test_frames_come_until_the_caller_hangs_up(voice: VoiceRecorder) -> None:
    """The caller's frames are passed on; hanging up ends them and the session."""
    frames = [{"type": "websocket.receive", "bytes": frame(number)} for number in range(3)]
    socket = FakeSocket(*frames, told(protocol.HANG_UP, at=0))
    with voice.session() as session:
        async with Line(cast("Any", socket), session) as line:
            assert [each async for each in line.frames()] == [frame(number) for number in range(3)]
    assert session.end_reason == "client_disconnect"


async def test_a_stopping_service_is_no_caller_who_left(voice: VoiceRecorder) -> None:
    """When the server closes the WebSocket because it stops, the open turn is an error and not the caller's doing."""
    socket = FakeSocket()
    socket._received[-1]["code"] = 1012
    with voice.session() as session:
        turn = session.user_turn()
        turn.committed()
        async with Line(cast("Any", socket), session) as line:
            assert [each async for each in line.frames()] == []
    assert voice.turns[0].outcome == "error"
    assert voice.turns[0].root.attributes["error.type"] == "ConnectionAbortedError"
