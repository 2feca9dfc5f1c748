"""A caller behind a telephone gateway: the gateway's side of Twilio's media streams over a WebSocket.

The agent is the server. Its sound is queued and played at the pace of a telephone; `clear` drops what waits, and a
`mark` comes back once everything before it was played.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from voicespan.demo import pcm
from voicespan.demo.microphone import Microphone
from voicespan.demo.recording import Recording
from voicespan.latency import mulaw

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from voicespan.demo.microphone import Utterance

_FRAME_NS = pcm.FRAME_MS * 1_000_000
_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}


class GatewayPhone:
    """One call, used as an asynchronous context manager."""

    def __init__(self, url: str, *, seed: int = 0) -> None:
        self.recording = Recording()
        self.lost = False
        self.room = None
        self._url = url
        self._microphone = Microphone(self.recording, seed)
        self._speaker: deque[bytes | str] = deque()
        """Frames of sound, and between them the names of marks."""
        self._rest = b""
        self._number = 0
        self._stream = f"MZ{secrets.token_hex(16)}"

    async def __aenter__(self) -> Self:
        self._connection: ClientConnection = await connect(self._url, compression=None, open_timeout=10)
        await self._tell("connected", protocol="Call", version="1.0.0")
        start = {
            "streamSid": self._stream,
            "accountSid": f"AC{secrets.token_hex(16)}",
            "callSid": f"CA{secrets.token_hex(16)}",
            "tracks": ["inbound"],
            "mediaFormat": _FORMAT,
            "customParameters": {},
        }
        await self._tell("start", start=start)
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.close()

    def say(self, name: str, sound: bytes) -> Utterance:
        """Begin to make this sound; the utterance's `done` is set when it is over."""
        return self._microphone.say(name, sound)

    async def hang_up(self) -> None:
        """Leave."""
        await self._tell("stop", stop={})
        await self._connection.close()

    async def _tell(self, event: str, **fields: Any) -> None:
        self._number += 1
        message = {"event": event, "sequenceNumber": str(self._number), "streamSid": self._stream, **fields}
        try:
            await self._connection.send(json.dumps(message))
        except ConnectionClosed:
            self.lost = True

    async def _read(self) -> None:
        try:
            async for text in self._connection:
                await self._take(json.loads(text))
        except (ConnectionClosed, ValueError, KeyError):
            pass
        finally:
            self.lost = True

    async def _take(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "media":
                sound = self._rest + mulaw.decode(base64.b64decode(message["media"]["payload"]))
                whole = len(sound) - len(sound) % pcm.FRAME_BYTES
                self._speaker.extend(pcm.frames(sound[:whole]))
                self._rest = sound[whole:]
            case "mark":
                self._speaker.append(str(message["mark"]["name"]))
            case "clear":
                marks = [each for each in self._speaker if isinstance(each, str)]
                self._speaker.clear()
                self._rest = b""
                for name in marks:
                    await self._tell("mark", mark={"name": name})

    async def _run(self) -> None:
        """Every 20 ms: a frame goes out, and one is played."""
        began_ns = time.monotonic_ns()
        self.recording.heard += pcm.SILENCE  # the first frame is played when the microphone's first slot is over
        while not self.lost:
            due_ns = began_ns + (self._microphone.slots + 1) * _FRAME_NS
            await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            payload = base64.b64encode(mulaw.encode(self._microphone.captured())).decode()
            at_ms = self._microphone.slots * pcm.FRAME_MS
            media = {"track": "inbound", "chunk": str(self._microphone.slots), "timestamp": str(at_ms)}
            await self._tell("media", media={**media, "payload": payload})
            self.recording.heard += await self._played()

    async def _played(self) -> bytes:
        """Return the sound of this slot; marks on the way to it were reached."""
        while self._speaker:
            next_ = self._speaker.popleft()
            if isinstance(next_, bytes):
                return next_
            await self._tell("mark", mark={"name": next_})
        rest, self._rest = self._rest, b""
        return rest.ljust(pcm.FRAME_BYTES, b"\0")
