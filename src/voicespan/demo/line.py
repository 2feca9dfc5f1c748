"""The agent's end of a call: the caller's frames come in, the agent's speech goes out in real time.

What the caller reports (when it heard, when it was silent, its clock) becomes marks of session and turn here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from fastapi import WebSocket, WebSocketDisconnect

from voicespan import metrics
from voicespan.demo import pcm, protocol, truth

if TYPE_CHECKING:
    from voicespan import Session, Turn

_SERVICE_STOPS = 1012
"""What the server says to every WebSocket on SIGTERM (RFC 6455, code registry)."""
AUDIO = "AudioFrame"
"""What a binary message is called where messages are counted."""
_FRAME_S = pcm.FRAME_MS / 1000
_LEAD_S = 0.1
"""Frames leave this much before they are due to play, so that the network's jitter is not heard."""
_ANCHORS = 8
"""So many of the caller's words on when its samples were taken are kept."""
_AHEAD_FRAMES = 50
"""How much may wait here; the speech worker is held back beyond it."""


@dataclass(frozen=True, slots=True)
class Silenced:
    """The caller has silenced the reply to speak; noticed at `at`, of this machine's clock where that is known."""

    at: int | None


class Line:
    """One call, used as an asynchronous context manager: it owns the tasks that read, write and speak."""

    def __init__(self, websocket: WebSocket, session: Session) -> None:
        self._websocket = websocket
        self._session = session
        self._incoming: asyncio.Queue[bytes | Silenced | None] = asyncio.Queue()
        self._outgoing: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._taken: deque[tuple[int, int]] = deque(maxlen=_ANCHORS)
        """From which sample on, and when it was taken, on the caller's clock."""
        self.speaker = Speaker(self._send, dropped=self._dropped)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(task) for task in (self._read(), self._write(), self.speaker.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def frames(self) -> AsyncIterator[bytes | Silenced]:
        """Yield the caller's frames as they come, until the caller hangs up or the connection is lost."""
        while (came := await self._incoming.get()) is not None:
            yield came

    def spoken_at(self, sample: int) -> int | None:
        """Return when the caller spoke this sample, on this machine's clock; None while its clock is unknown."""
        if not self._taken:
            return None
        first, at_ns = next((each for each in reversed(self._taken) if each[0] <= sample), self._taken[0])
        return self._session.remote_clock.local_ns(at_ns + (sample - first) * 1_000_000_000 // pcm.RATE)

    def announce(self, turn: Turn, *, initiator: str = "user") -> None:
        """Tell the caller which trace its utterance has, or what the agent says by itself."""
        self._send(
            protocol.encoded(protocol.TURN, traceparent=turn.traceparent, session=self._session.id, initiator=initiator)
        )

    def hearing(self, words: int) -> None:
        """Tell the caller that it is heard."""
        self._send(protocol.encoded(protocol.HEARING, words=words))

    def understood(self, text: str) -> None:
        """Tell the caller what it has said, and that it will be answered."""
        self._send(protocol.encoded(protocol.UNDERSTOOD, transcript=text))
        self._send(protocol.encoded(protocol.ANSWERING))

    def saying(self, text: str) -> None:
        """Tell the caller the words of the sound that follows."""
        self._send(protocol.encoded(protocol.SAYING, delta=text))

    def _send(self, item: str | bytes) -> None:
        """Put a message or a frame in the queue, and count it."""
        if isinstance(item, bytes):
            self._session.audio_out(item)
            metrics.message_sent(AUDIO)
        else:
            metrics.message_sent(protocol.decoded(item)["type"])
        self._outgoing.put_nowait(item)

    def _dropped(self, frames: int) -> None:
        """Count frames that nobody will hear: the caller has interrupted."""
        for _ in range(frames):
            self._session.audio_out(b"", dropped="pause")

    async def _read(self) -> None:
        try:
            while True:
                received = await self._websocket.receive()
                now_ns = time.monotonic_ns()
                if received["type"] == "websocket.disconnect":
                    self._disconnected(received.get("code"))
                    break
                if received.get("bytes") is not None:
                    with metrics.message_received(AUDIO):
                        self._session.audio_in(received["bytes"])
                        self._incoming.put_nowait(received["bytes"])
                    continue
                message = protocol.decoded(received["text"])
                with metrics.message_received(message["type"]):
                    last = self._control(message, now_ns)
                if last:
                    break
        finally:
            self._incoming.put_nowait(None)

    def _disconnected(self, code: int | None) -> None:
        """The connection is gone: the caller has left, unless it is this service that stops."""
        if code == _SERVICE_STOPS:
            self._session.end("error", error=ConnectionAbortedError("the service stops"))
        else:
            self._session.hung_up()

    def _control(self, message: protocol.Message, now_ns: int) -> bool:
        """Take a message; whether it was the last."""
        if (answer := self._session.clock_exchange(message, received_ns=now_ns)) is not None:
            self._send(protocol.encoded(**answer))
            return False
        local_ns = self._session.remote_clock.local_ns
        match message["type"]:
            case protocol.PING:
                self._send(protocol.encoded(protocol.PONG, t0=message["t0"], t1=now_ns, t2=time.monotonic_ns()))
            case protocol.CLOCK:
                self._session.remote_clock.exchange(message["t0"], message["t1"], message["t2"], message["t3"])
            case protocol.START:
                self._taken.append((0, message["at"]))
                self._session.media_up(at=local_ns(message["at"]))
                if message.get("again"):
                    metrics.client_reconnected()
            case protocol.MICROPHONE:
                if self._taken and self._taken[-1][0] == message["sample"]:
                    self._taken.pop()
                self._taken.append((message["sample"], message["at"]))
            case protocol.CANCEL:
                self._incoming.put_nowait(Silenced(local_ns(message["at"])))
            case protocol.TROUBLE:
                metrics.client_error(message["error"])
            case protocol.HEARD:
                self.speaker.heard(message["speech"], local_ns(message["at"]))
                if "waited" in message:
                    metrics.client_mark("playback_start", message["waited"] / 1e9)
            case protocol.REPORT:
                self._quality(message)
            case protocol.STOPPED:
                at = message.get("at")
                self.speaker.stopped(message["speech"], local_ns(at) if at is not None else None, message["played"])
            case protocol.HANG_UP:
                self._session.hung_up(at=local_ns(message["at"]))
                return True
        return False

    @staticmethod
    def _quality(message: protocol.Message) -> None:
        """Take the caller's word on how the last speech came over the line."""
        frames, missing = message["frames"], message["missing"]
        metrics.audio_quality(
            "transmit",
            jitter_s=message["jitter"] / 1e9,
            delay_s=message["delay"] / 1e9,
            loss=missing / max(1, frames + missing),
        )

    async def _write(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # gone: `_read` knows, too
            while True:
                item = await self._outgoing.get()
                await (self._websocket.send_bytes(item) if isinstance(item, bytes) else self._websocket.send_text(item))


@dataclass(slots=True)
class _Speech:
    """Everything that the agent says in one turn; kept until the caller has heard it, because it may be resumed."""

    number: int
    turn: Turn
    frames: list[bytes] = field(default_factory=list)
    sent: int = 0
    whole: bool = False
    told_whole: bool = False
    held: bool = False


class Speaker:
    """Sends speech in real time, a little ahead; it can hold its tongue, go on, or drop the rest."""

    def __init__(self, send: Callable[[str | bytes], None], *, dropped: Callable[[int], None] = lambda _: None) -> None:
        self._send = send
        self._dropped = dropped
        self._speech: _Speech | None = None
        self._given_up: Turn | None = None
        self._count = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._plays_until = 0.0

    @property
    def turn(self) -> Turn | None:
        """The turn that the caller hears now, or is about to."""
        return self._speech.turn if self._speech else None

    @property
    def held(self) -> Turn | None:
        """The turn whose speech is held back now."""
        return self._speech.turn if self._speech and self._speech.held else None

    async def play(self, turn: Turn, frame: bytes) -> None:
        """Add a frame to the speech of this turn; waits while there is enough in store, or while held.

        Frames of a speech that was dropped are dropped, too: who makes them may not know yet.
        """
        if turn is self._given_up:
            self._dropped(1)
            return
        if self._speech is None or self._speech.turn is not turn:
            self._count += 1
            self._speech = _Speech(self._count, turn)
            self._send(protocol.encoded(protocol.SPEECH, speech=self._count, traceparent=turn.traceparent))
        speech = self._speech
        speech.frames.append(frame)
        self._changed.set()
        while speech is self._speech and (speech.held or len(speech.frames) - speech.sent > _AHEAD_FRAMES):
            self._room.clear()
            await self._room.wait()

    def finish(self, turn: Turn) -> None:
        """Say that nothing more comes in this turn."""
        if self._speech is not None and self._speech.turn is turn:
            self._speech.whole = True
            self._changed.set()

    def hold(self) -> None:
        """Fall silent at once, and remember where."""
        if self._speech is not None and not self._speech.held:
            self._speech.held = True
            self._send(protocol.encoded(protocol.CLEAR, speech=self._speech.number))
            self._speech.turn.audio_cleared()

    def resume(self) -> None:
        """Go on where the caller heard the last frame before `hold`."""
        if self._speech is not None and self._speech.held:
            self._speech.held = self._speech.told_whole = False
            self._speech.turn.audio_resumed()
            self._wake()

    def drop(self) -> None:
        """Forget the rest."""
        self.hold()
        if self._speech is not None:
            self._given_up = self._speech.turn
            self._dropped(len(self._speech.frames) - self._speech.sent)
        self._speech = None
        self._wake()

    def heard(self, number: int, at: int | None) -> None:
        """Take the caller's report: the first sample came out of its speaker."""
        if self._speech is not None and self._speech.number == number:
            self._speech.turn.audio_heard(at=at)

    def stopped(self, number: int, at: int | None, played: int) -> None:
        """Take the caller's report: silent, after so many frames of this speech; when, where it says so itself."""
        speech = self._speech
        if speech is None or speech.number != number:
            return
        if at is not None:
            speech.turn.audio_stopped(at=at)
        if speech.held:
            speech.sent = played
        elif speech.whole:
            self._speech = None
            self._wake()

    async def run(self) -> None:
        """Send what is due until cancelled."""
        while True:
            speech = self._speech
            if speech is None or speech.held or not self._waits(speech):
                self._changed.clear()
                await self._changed.wait()
            elif (early_s := self._plays_until - _LEAD_S - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            else:
                self._send_next(speech)

    def _waits(self, speech: _Speech) -> bool:
        return speech.sent < len(speech.frames) or (speech.whole and not speech.told_whole)

    def _send_next(self, speech: _Speech) -> None:
        if speech.sent == len(speech.frames):
            speech.told_whole = True
            self._send(protocol.encoded(protocol.COMPLETE, speech=speech.number))
            return
        if speech.sent == 0:
            truth.note("agent.first_frame", "", traceparent=speech.turn.traceparent)
        self._send(speech.frames[speech.sent])
        speech.turn.audio_sent(_FRAME_S)
        speech.sent += 1
        self._plays_until = max(self._plays_until, time.monotonic()) + _FRAME_S
        self._room.set()

    def _wake(self) -> None:
        self._changed.set()
        self._room.set()
