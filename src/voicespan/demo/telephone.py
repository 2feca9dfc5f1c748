"""The caller's telephone: microphone and speaker on one clock, a jitter buffer, honest reports of what was heard."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from voicespan.demo import pcm, protocol
from voicespan.demo.microphone import Microphone
from voicespan.demo.recording import Recording

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from voicespan.demo.microphone import Utterance

_FRAME_NS = pcm.FRAME_MS * 1_000_000
_JITTER_FRAMES = 2
_AHEAD_FRAMES = 6
"""So many frames of a speech come at once."""
_LONGEST_LOSS = 5
_PAUSE_NS = 500_000_000
_FIRST_EXCHANGES = 5
_MOST_EXCHANGES = 50
_GOOD_ROUND_TRIP_NS = 5_000_000
_EXCHANGE_EVERY_FRAMES = 100


@dataclass(slots=True)
class Playing:
    """A speech of the agent, as the speaker sees it; times are of the caller's clock."""

    number: int
    traceparent: str
    frames: deque[bytes] = field(default_factory=deque)
    played: int = 0
    buffering: bool = True
    cleared: bool = False
    whole: bool = False
    heard_ns: int | None = None
    stopped_ns: int | None = None
    arrived_ns: int = 0
    arrivals: int = 0
    off_ns: int = 0
    """Sum of what the frames were off their time by, behind the first few, which are sent ahead."""
    empty: int = 0
    """Slots of the speaker without a frame, since the last one with one."""
    missing: int = 0
    """Such slots in the middle of the speech; what lasts longer is a pause of the agent."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def arrive(self, frame: bytes, now_ns: int) -> None:
        """Take a frame off the line."""
        self.frames.append(frame)
        self.arrivals += 1
        if self.arrivals > _AHEAD_FRAMES and now_ns - self.arrived_ns < _PAUSE_NS:
            self.off_ns += abs(now_ns - self.arrived_ns - _FRAME_NS)
        self.arrived_ns = now_ns


class Telephone:
    """A call from the caller's side, used as an asynchronous context manager.

    Its clock is the machine's with `clock_offset_ns` added, so that nothing works only because both ends share one.
    """

    def __init__(self, url: str, *, seed: int = 0, clock_offset_ns: int = 0, in_vain: int = 0) -> None:
        """Prepare a call; `in_vain` says how often it was tried before, without success."""
        self._in_vain = in_vain
        self.recording = Recording()
        self.speeches: list[Playing] = []
        self.began_ns = 0
        self.clock_offset_ns = clock_offset_ns
        self.hung_up = False
        self._url = url
        self._microphone = Microphone(self.recording, seed)
        self._new_speech = asyncio.Event()
        self._round_trips_ns: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.room = None
        self._lost = False

    async def __aenter__(self) -> Self:
        self._connection: ClientConnection = await connect(self._url, compression=None, open_timeout=10)
        self._tasks = [asyncio.create_task(self._read())]
        await self._set_clock()
        self.began_ns = self._now_ns()
        if self._in_vain:
            await self._tell(protocol.TROUBLE, error="connection_error")
        await self._tell(protocol.START, at=self.began_ns, again=self._in_vain)
        self._tasks.append(asyncio.create_task(self._run()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.close()

    def say(self, name: str, sound: bytes) -> Utterance:
        """Begin to make this sound; the utterance's `done` is set when it is over."""
        return self._microphone.say(name, sound)

    @property
    def utterances(self) -> list[Utterance]:
        """What was said."""
        return self._microphone.utterances

    async def speech(self, number: int) -> Playing | None:
        """Wait until the agent's speech with this number, from 0, is heard, and return it; None when it hangs up."""
        while len(self.speeches) <= number and not self.lost:
            self._new_speech.clear()
            await self._new_speech.wait()
        if self.lost:
            return None
        await self.speeches[number].heard.wait()
        return self.speeches[number]

    async def hang_up(self) -> None:
        """Leave."""
        self.hung_up = True
        await self._tell(protocol.HANG_UP, at=self._now_ns())
        await self._connection.close()

    @property
    def lost(self) -> bool:
        """Whether the agent has closed the connection."""
        return self._lost

    def machine_ns(self, caller_ns: int) -> int:
        """Return the machine's monotonic time for one of the caller's."""
        return caller_ns - self.clock_offset_ns

    # The line

    async def _read(self) -> None:
        try:
            async for message in self._connection:
                now_ns = self._now_ns()
                if isinstance(message, bytes):
                    if self.speeches:
                        self.speeches[-1].arrive(message, now_ns)
                else:
                    await self._control(protocol.decoded(message), now_ns)
        except ConnectionClosed:
            pass
        finally:
            self._lose()

    async def _control(self, message: protocol.Message, now_ns: int) -> None:
        match message["type"]:
            case protocol.PONG:
                self._round_trips_ns.append(now_ns - message["t0"])
                await self._tell(protocol.CLOCK, t0=message["t0"], t1=message["t1"], t2=message["t2"], t3=now_ns)
            case protocol.TURN:
                if self.utterances:
                    self.utterances[-1].traceparent = message["traceparent"]
            case protocol.SPEECH:
                self.speeches.append(Playing(message["speech"], message["traceparent"]))
                self._new_speech.set()
            case protocol.COMPLETE:
                self.speeches[-1].whole = True
            case protocol.CLEAR:
                self.speeches[-1].frames.clear()
                self.speeches[-1].whole = False
                self.speeches[-1].cleared = True

    async def _tell(self, kind: str, **fields: int | str) -> None:
        try:
            await self._connection.send(protocol.encoded(kind, **fields))
        except ConnectionClosed:
            self._lose()

    async def _set_clock(self) -> None:
        """Exchange time stamps until one round trip was short; an agent that is busy just then spoils some."""
        for count in range(1, _MOST_EXCHANGES):
            await self._ping()
            await asyncio.sleep(0.02)
            if count >= _FIRST_EXCHANGES and min(self._round_trips_ns, default=10**9) < _GOOD_ROUND_TRIP_NS:
                break

    def _lose(self) -> None:
        """The connection is gone: nobody need wait for a speech any more."""
        self._lost = True
        self._new_speech.set()

    async def _ping(self) -> None:
        await self._tell(protocol.PING, t0=self._now_ns())

    # Microphone and speaker

    async def _run(self) -> None:
        """Every 20 ms: the microphone's last slot goes out, and the speaker gets the next one."""
        self.recording.heard += pcm.SILENCE
        while not self.lost:
            due_ns = self._slot_begin_ns(self._slots + 1)
            await asyncio.sleep(max(0, due_ns - self._now_ns()) / 1e9)
            # A host that was away for longer than a slot has heard nothing then: its speaker had run dry.
            late = self._now_ns() - due_ns > _FRAME_NS
            await self._send(self._microphone.captured())
            await self._play(None if late or not self.speeches else self.speeches[-1], due_ns)
            if self._slots % _EXCHANGE_EVERY_FRAMES == 0:
                await self._ping()

    async def _send(self, frame: bytes) -> None:
        try:
            await self._connection.send(frame)
        except ConnectionClosed:
            self._lose()

    async def _play(self, speech: Playing | None, slot_ns: int) -> None:
        """Give the speaker the slot that begins at `slot_ns`."""
        if speech is not None and speech.cleared:
            speech.cleared, speech.buffering = False, True
            await self._report_stop(speech, slot_ns)
        if speech is not None and speech.buffering and (len(speech.frames) >= _JITTER_FRAMES or speech.whole):
            speech.buffering = False
        if speech is None or speech.buffering or not speech.frames:
            self.recording.heard += pcm.SILENCE
            if speech is not None and not speech.frames:
                await self._ran_dry(speech, slot_ns)
            return
        self.recording.heard += speech.frames.popleft()
        speech.missing += speech.empty if speech.played and speech.empty <= _LONGEST_LOSS else 0
        speech.empty = 0
        speech.played += 1
        if speech.heard_ns is None:
            speech.heard_ns = slot_ns
            speech.heard.set()
            await self._tell(protocol.HEARD, speech=speech.number, at=slot_ns, **self._waited(slot_ns))

    def _waited(self, slot_ns: int) -> dict[str, int]:
        """How long the caller has waited for this speech, unless it still speaks or has not spoken yet."""
        if self._microphone.speaking is not None or not self.utterances:
            return {}
        return {"waited": max(0, slot_ns - self.began_ns - self.utterances[-1].end * 1_000_000_000 // pcm.RATE)}

    async def _ran_dry(self, speech: Playing, slot_ns: int) -> None:
        speech.buffering = True
        if not speech.whole:
            speech.empty += 1
        elif not speech.stopped.is_set():
            speech.stopped.set()
            await self._report_stop(speech, slot_ns)
            await self._report_quality(speech)

    async def _report_quality(self, speech: Playing) -> None:
        await self._tell(
            protocol.REPORT,
            jitter=speech.off_ns // max(1, speech.arrivals - _AHEAD_FRAMES),
            delay=min(self._round_trips_ns) // 2,
            frames=speech.played,
            missing=speech.missing,
        )

    async def _report_stop(self, speech: Playing, at_ns: int) -> None:
        speech.stopped_ns = at_ns
        await self._tell(protocol.STOPPED, speech=speech.number, at=at_ns, played=speech.played)

    @property
    def _slots(self) -> int:
        """How many slots the microphone has finished."""
        return self._microphone.slots

    def _slot_begin_ns(self, slot: int) -> int:
        return self.began_ns + slot * _FRAME_NS

    def _now_ns(self) -> int:
        return time.monotonic_ns() + self.clock_offset_ns
