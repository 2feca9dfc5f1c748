"""A caller in a LiveKit room: its microphone is a track that it publishes, and what the agent publishes is heard.

Every call has a room of its own. The agent is sent there by name, or comes by itself to every new room, as its worker
is registered; the room is deleted at the end, also where the call was broken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, Self

import aiohttp
from livekit import api, rtc
from livekit.rtc.participant import PublishTrackError

from voicespan.demo import pcm
from voicespan.demo.microphone import Microphone
from voicespan.demo.recording import Recording
from voicespan.latency.call import CallFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from voicespan.demo.microphone import Utterance

_FRAME_NS = pcm.FRAME_MS * 1_000_000
_HALF = pcm.FRAME_BYTES // 2
"""WebRTC takes and gives 10 ms at a time."""
_LATE = 2 * pcm.FRAME_SAMPLES
_EARLY = pcm.FRAME_SAMPLES // 2
_SET_UP_S = 20.0
_EMPTY_S = 30
"""The server deletes a room in which nobody is for so long, should this process not come to it."""
_BACKGROUND = "background_audio"
"""What LiveKit Agents calls the track of music or noise behind the agent's voice."""


@dataclass(frozen=True, slots=True)
class Server:
    """A LiveKit server, and the key that makes rooms and tokens there."""

    url: str
    key: str
    secret: str


class RoomPhone:
    """One call, used as an asynchronous context manager.

    `agent` is the name under which the agent's worker is registered, "" for one that comes to every room; `patience_s`
    is how long it may take to join and to subscribe to the caller's track.
    """

    started: ClassVar[bool] = False
    """Whether LiveKit's native threads run in this process: they abort an interpreter that ends beside them."""

    def __init__(self, server: Server, *, agent: str = "", patience_s: float = 10.0, seed: int = 0) -> None:
        self.recording = Recording()
        self.lost = False
        self.room = f"voicespan-{secrets.token_hex(8)}"
        self._server, self._agent, self._patience_s = server, agent, patience_s
        self._microphone = Microphone(self.recording, seed)
        self._joined = asyncio.Event()
        self._heard = asyncio.Event()
        """The agent has a track."""
        self._playing = False
        self._began_ns = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._dial(stack)
            except (api.ServerError, aiohttp.ClientError, rtc.ConnectError, PublishTrackError) as error:
                raise CallFailed(f"{self._server.url}: {_words(error)}") from error
            self._end = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end.aclose()

    def say(self, name: str, sound: bytes) -> Utterance:
        """Begin to make this sound; the utterance's `done` is set when it is over."""
        return self._microphone.say(name, sound)

    async def hang_up(self) -> None:
        """Leave."""
        await self._room.disconnect()

    # The room

    async def _dial(self, stack: contextlib.AsyncExitStack) -> None:
        server = self._server
        interface = api.LiveKitAPI(server.url, server.key, server.secret, failover=False)
        await stack.enter_async_context(interface)
        await self._make_room(interface, stack)
        RoomPhone.started = True
        self._room = self._watched(rtc.Room())
        grants = api.VideoGrants(room_join=True, room=self.room)
        token = api.AccessToken(server.key, server.secret).with_identity("caller").with_grants(grants).to_jwt()
        async with _in_time(_SET_UP_S, "the server did not let the caller in"):
            await self._room.connect(server.url, token, rtc.RoomOptions(connect_timeout=_SET_UP_S / 2))
            stack.push_async_callback(self._room.disconnect)
            published = await self._publish(stack)
        stack.push_async_callback(self._stop)
        self._began_ns = time.monotonic_ns()
        self._tasks.append(asyncio.create_task(self._run()))
        if self._room.remote_participants:
            self._joined.set()
        await self._wait_for_agent(published)

    async def _make_room(self, interface: api.LiveKitAPI, stack: contextlib.AsyncExitStack) -> None:
        agents = [api.RoomAgentDispatch(agent_name=self._agent)] if self._agent else []
        request = api.CreateRoomRequest(name=self.room, empty_timeout=_EMPTY_S, agents=agents)
        try:
            await interface.room.create_room(request)
        except asyncio.CancelledError:  # it may be there all the same
            await _delete(interface, self.room)
            raise
        stack.push_async_callback(_delete, interface, self.room)

    def _watched(self, room: rtc.Room) -> rtc.Room:
        room.on("participant_connected", lambda _: self._joined.set())
        room.on("participant_disconnected", self._on_left)
        room.on("disconnected", self._on_end)
        room.on("track_subscribed", self._on_track)
        return room

    async def _publish(self, stack: contextlib.AsyncExitStack) -> rtc.LocalTrackPublication:
        # Nothing waits in the source: what it is given is sent at once.
        self._source = rtc.AudioSource(pcm.RATE, 1, queue_size_ms=0)
        stack.push_async_callback(self._source.aclose)
        track = rtc.LocalAudioTrack.create_audio_track("microphone", self._source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        return await self._room.local_participant.publish_track(track, options)

    async def _wait_for_agent(self, published: rtc.LocalTrackPublication) -> None:
        who = f"no agent named {self._agent!r}" if self._agent else "no agent"
        async with _in_time(self._patience_s, f"{who} joined the room"):
            await self._joined.wait()
        async with _in_time(self._patience_s, "the agent did not subscribe to the caller's track"):
            await published.wait_for_subscription()
        # One that publishes its track only to speak, or never, is asked all the same.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), self._patience_s)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_left(self, _: rtc.RemoteParticipant) -> None:
        self.lost = not self._room.remote_participants

    def _on_end(self, *_: object) -> None:
        self.lost = True

    def _on_track(self, track: rtc.Track, publication: rtc.RemoteTrackPublication, _: rtc.RemoteParticipant) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO and publication.name != _BACKGROUND:
            self._heard.set()
            self._tasks.append(asyncio.create_task(self._listen(track)))

    # Microphone and speaker

    async def _run(self) -> None:
        """Every 20 ms: a frame goes out."""
        try:
            while not self.lost:
                due_ns = self._began_ns + (self._microphone.slots + 1) * _FRAME_NS
                await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
                sound = self._microphone.captured()
                for half in (sound[:_HALF], sound[_HALF:]):
                    await self._source.capture_frame(rtc.AudioFrame(half, pcm.RATE, 1, len(half) // 2))
                if self._behind() > _LATE:
                    self._be_silent()
        finally:
            self.lost = True

    async def _listen(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream(track, sample_rate=pcm.RATE, num_channels=1, frame_size_ms=pcm.FRAME_MS // 2)
        async with contextlib.aclosing(stream):
            async for event in stream:
                self._hear(bytes(event.frame.data))

    def _hear(self, sound: bytes) -> None:
        """Write down what is played from now on; WebRTC, behind its jitter buffer, gives it when its time has come."""
        if not self._began_ns:
            return  # an agent that was in the room first
        if not self._playing or self._behind() > _LATE:
            self._be_silent()
            self._playing = True
        elif self._behind() < -_EARLY:
            return  # this process was kept from its work: its speaker has played that already
        self.recording.heard += sound

    def _be_silent(self) -> None:
        """Write down that nothing was played until now."""
        self._playing = False
        self.recording.heard += bytes(2 * max(0, self._behind()))

    def _behind(self) -> int:
        """How many samples are missing in what was heard until now."""
        return (time.monotonic_ns() - self._began_ns) * pcm.RATE // 10**9 - len(self.recording.heard) // 2


@contextlib.asynccontextmanager
async def _in_time(wait_s: float, else_: str) -> AsyncIterator[None]:
    """Let the block take so long; then the call has failed."""
    try:
        async with asyncio.timeout(wait_s):
            yield
    except TimeoutError:
        raise CallFailed(f"{else_} within {wait_s:g} s") from None


async def _delete(interface: api.LiveKitAPI, name: str) -> None:
    """Delete a room, with everybody in it; one that cannot be deleted ends by itself when it is empty."""
    with contextlib.suppress(api.ServerError, aiohttp.ClientError, TimeoutError):
        await interface.room.delete_room(api.DeleteRoomRequest(room=name))


def _words(error: Exception) -> str:
    """Return what an error of LiveKit's says."""
    if isinstance(error, api.ServerError):
        return "the key or the secret is refused" if error.status == HTTPStatus.UNAUTHORIZED else _said(error)
    return getattr(error, "message", "") or str(error) or type(error).__name__


def _said(error: api.ServerError) -> str:
    return error.message or f"{error.code}, status {error.status}"
