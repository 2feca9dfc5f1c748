"""What stands in for the world: a telephone line with a caller, and a server that speaks the realtime protocol.

Both keep real time, and note in a journal what really happened and when.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self

from websockets.asyncio.server import ServerConnection, serve

RATE = 24_000
FRAME_S = 0.02
FRAME = round(RATE * FRAME_S) * 2
LOUD, QUIET = b"\x00\x10" * (FRAME // 2), bytes(FRAME)
CERTAIN_MS = 60
"""How long the server hears sound before it takes it for speech."""


class Journal:
    """What happened, in nanoseconds of Unix time."""

    def __init__(self) -> None:
        self.notes: defaultdict[str, list[int]] = defaultdict(list)
        self._news = asyncio.Event()

    def note(self, what: str, at_ns: int | None = None) -> None:
        self.notes[what].append(time.time_ns() if at_ns is None else at_ns)
        self._news.set()
        self._news = asyncio.Event()

    async def wait(self, what: str, count: int = 1, timeout_s: float = 15) -> None:
        async with asyncio.timeout(timeout_s):
            while len(self.notes[what]) < count:
                await self._news.wait()


class Line:
    """The caller: a microphone into which a script speaks, and a player that knows how far it is."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.loud_frames = 0
        self.waiting: list[tuple[str, bytes]] = []
        self.item: str | None = None
        self.played_ms = 0
        self.muted = False
        self.late_s = 0.0
        """How late this machine was with its own audio."""

    def speak(self, seconds: float) -> None:
        self.loud_frames = round(seconds / FRAME_S)

    async def microphone(self) -> AsyncIterator[bytes]:
        """Give a frame every 20 ms, when its last sample was recorded."""
        loop, speaking = asyncio.get_running_loop(), False
        begun_s = loop.time()
        for count in itertools.count(1):
            due_s = begun_s + count * FRAME_S
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            late_s = loop.time() - due_s
            self.late_s = max(self.late_s, late_s)
            end_ns = time.time_ns() - round(late_s * 1e9)
            if self.loud_frames and not speaking:
                self.journal.note("speech", end_ns - round(FRAME_S * 1e9))
            elif speaking and not self.loud_frames:
                self.journal.note("silence", end_ns - round(FRAME_S * 1e9))
            speaking = self.loud_frames > 0
            self.loud_frames = max(0, self.loud_frames - 1)
            self._play()
            if not self.muted:
                yield LOUD if speaking else QUIET

    def play(self, item: str, audio: bytes) -> None:
        """Play at once, or behind what is playing."""
        if not self.waiting:
            self.journal.note("heard")
            self.due_s = asyncio.get_running_loop().time()
        self.waiting.append((item, audio))

    def _play(self) -> None:
        """Drop what is played out."""
        now_s = asyncio.get_running_loop().time()
        while self.waiting:
            item, audio = self.waiting[0]
            if item != self.item:
                self.item, self.played_ms = item, 0
            length_s = len(audio) / 2 / RATE
            if self.due_s + length_s > now_s:
                return
            self.waiting.pop(0)
            self.due_s += length_s
            self.played_ms += round(length_s * 1e3)
            if not self.waiting:
                self.journal.note("played out", time.time_ns() - round((now_s - self.due_s) * 1e9))

    def stop(self) -> tuple[str, int] | None:
        """Fall silent; return what was playing, and how much of it was heard in milliseconds."""
        if not self.waiting:
            return None
        self._play()
        now_s = asyncio.get_running_loop().time()
        item = self.waiting[0][0] if self.waiting else str(self.item)
        heard_ms = (self.played_ms if item == self.item else 0) + round((now_s - self.due_s) * 1e3)
        self.waiting.clear()
        self.journal.note("quiet")
        return item, heard_ms


@dataclasses.dataclass
class Answer:
    """How the model answers once."""

    seconds: float = 1.0
    wait_s: float = 0.3
    call: tuple[str, dict[str, Any]] | None = None
    error: str | None = None
    pace: float = 4.0
    """How much faster than real time the audio comes."""
    says: str | None = None
    """Text in place of speech."""


class Server:
    """A realtime server for one call after another; its answers are a script, and so is what it hears in sounds."""

    def __init__(
        self,
        journal: Journal,
        *answers: Answer,
        transcript_s: float = 0.2,
        transcripts: Sequence[str] = (),
        beta: bool = False,
    ) -> None:
        self.journal = journal
        self.answers = list(answers)
        self.transcripts = list(transcripts)
        self.transcript_s = transcript_s
        self.beta = beta
        self.url = ""
        self.calls = 0
        self.socket: ServerConnection | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(self._call, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _call(self, socket: ServerConnection) -> None:
        self.calls += 1
        self.socket = socket
        call = ServerCall(self, socket, f"sess_{self.calls}")
        await call.hold()


class ServerCall:
    """One call as the server sees it."""

    def __init__(self, server: Server, socket: ServerConnection, session_id: str) -> None:
        self.server, self.socket, self.journal = server, socket, server.journal
        self.ids = itertools.count(1)
        self.detection: dict[str, Any] | None = {"type": "server_vad"}
        self.session: dict[str, Any] = {
            "type": "realtime", "object": "realtime.session", "id": session_id, "model": "gpt-realtime",
            "output_modalities": ["audio"], "instructions": "",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": RATE}, "transcription": None,
                    "turn_detection": {
                        "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
                        "create_response": True, "interrupt_response": True,
                    },
                },
                "output": {"format": {"type": "audio/pcm", "rate": RATE}, "voice": "marin"},
            },
        }  # fmt: skip
        self.position_ms = self.loud_ms = self.quiet_ms = self.kept_ms = 0
        self.item: str | None = None
        self.response: asyncio.Task[None] | None = None
        self.why = "client_cancelled"
        self.tasks: set[asyncio.Task[None]] = set()
        self.takes: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "response.create": self._create,
            "response.cancel": self._cancel,
            "conversation.item.create": self._add,
            "conversation.item.truncate": self._truncate,
            "conversation.item.delete": self._delete,
        }

    @property
    def input(self) -> dict[str, Any]:
        found: dict[str, Any] = self.session["audio"]["input"]
        return found

    async def send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{next(self.ids)}", **fields}
        with contextlib.suppress(Exception):
            await self.socket.send(json.dumps(event))

    def spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def hold(self) -> None:
        await self.send("session.created", session=self.session)
        with contextlib.suppress(Exception):
            async for message in self.socket:
                event = json.loads(message)
                take = self.takes.get(event["type"])
                if take is not None:
                    await take(event)
        for task in list(self.tasks):
            task.cancel()

    async def _update(self, event: dict[str, Any]) -> None:
        for name, value in event["session"].items():
            if name != "audio":
                self.session[name] = value
        for side, told in (event["session"].get("audio") or {}).items():
            for name, value in told.items():
                if value is not None and isinstance(self.session["audio"][side].get(name), dict):
                    self.session["audio"][side][name] |= value
                else:
                    self.session["audio"][side][name] = value
        await self.send("session.updated", session=self.session)

    # The user

    async def _append(self, event: dict[str, Any]) -> None:
        audio = base64.b64decode(event["audio"])
        for start in range(0, len(audio), FRAME):
            await self._listen(loud=any(audio[start : start + FRAME]))

    async def _listen(self, *, loud: bool) -> None:
        self.position_ms += 20
        self.kept_ms += 20
        self.loud_ms = self.loud_ms + 20 if loud else 0
        self.quiet_ms = 0 if loud else self.quiet_ms + 20
        detection = self.input["turn_detection"]
        if detection is None:
            return
        waits_ms = detection.get("silence_duration_ms", 500) if detection["type"] == "server_vad" else 700
        if self.item is None and self.loud_ms >= CERTAIN_MS:
            self.item = f"item_{next(self.ids)}"
            padding_ms = detection.get("prefix_padding_ms", 300) if detection["type"] == "server_vad" else 0
            start_ms = max(0, self.position_ms - self.loud_ms - padding_ms)
            self.journal.note("speech started")
            await self.send("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=self.item)
            if detection.get("interrupt_response", True):
                self._stop("turn_detected")
        elif self.item is not None and self.quiet_ms >= waits_ms:
            item, self.item = self.item, None
            self.journal.note("speech stopped")
            await self.send("input_audio_buffer.speech_stopped", audio_end_ms=self.position_ms, item_id=item)
            await self._committed(item)
            if detection.get("create_response", True) and self.session["type"] == "realtime":
                self._respond()

    async def _committed(self, item: str) -> None:
        self.kept_ms = 0
        self.journal.note("committed")
        await self.send("input_audio_buffer.committed", item_id=item, previous_item_id=None)
        if self.input.get("transcription"):
            self.spawn(self._transcribe(item))

    async def _transcribe(self, item: str) -> None:
        words = self.server.transcripts.pop(0) if self.server.transcripts else "how cold is it"
        await asyncio.sleep(self.server.transcript_s)
        self.journal.note("transcript")
        await self.send(
            "conversation.item.input_audio_transcription.completed", item_id=item, content_index=0,
            transcript=words, usage={"type": "duration", "seconds": 1},
        )  # fmt: skip

    async def _commit(self, event: dict[str, Any]) -> None:
        if self.kept_ms < 100:
            code = "input_audio_buffer_commit_empty"
            await self._fail(code, event.get("event_id"))
        else:
            await self._committed(f"item_{next(self.ids)}")

    async def _fail(self, code: str, event_id: str | None, kind: str = "invalid_request_error") -> None:
        error = {"type": kind, "code": code, "message": code, "param": None, "event_id": event_id}
        await self.send("error", error=error)

    # The model

    async def _create(self, event: dict[str, Any]) -> None:
        if self.response is not None:
            await self._fail("conversation_already_has_active_response", event.get("event_id"))
        else:
            self._respond(beside=(event.get("response") or {}).get("conversation") == "none")

    async def _cancel(self, event: dict[str, Any]) -> None:
        if self.response is None:
            await self._fail("response_cancel_not_active", event.get("event_id"))
        self._stop("client_cancelled")

    def _stop(self, why: str) -> None:
        if self.response is not None:
            self.why = why
            self.response.cancel()

    def _respond(self, *, beside: bool = False) -> None:
        self.journal.note("request")
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        if self.response is None:
            self.response = self.spawn(self._answer(answer, beside=beside))

    async def _answer(self, answer: Answer, *, beside: bool) -> None:
        name = f"resp_{next(self.ids)}"
        told: dict[str, Any] = {
            "id": name, "object": "realtime.response", "status": "in_progress", "status_details": None, "output": [],
            "usage": None, "conversation_id": None if beside else "conv_1",
        }  # fmt: skip
        item = f"item_{next(self.ids)}"
        try:
            await asyncio.sleep(0.02)
            await self.send("response.created", response=told)
            await asyncio.sleep(answer.wait_s - 0.02)
            if answer.error is not None:
                error = {"type": "server_error", "code": answer.error, "message": answer.error}
                told |= {"status": "failed", "status_details": {"type": "failed", "error": error}}
            elif answer.call is not None:
                await self._call_function(name, item, *answer.call)
                told["status"] = "completed"
            else:
                await self._speak(name, item, answer)
                told["status"] = "completed"
            told["usage"] = {"total_tokens": 40, "input_tokens": 30, "output_tokens": 10}
        except asyncio.CancelledError:
            if self.socket.close_code is not None or self.why == "":
                raise
            told |= {"status": "cancelled", "status_details": {"type": "cancelled", "reason": self.why}}
        self.response = None
        self.journal.note("response done")
        await self.send("response.done", response=told)

    async def _speak(self, response: str, item: str, answer: Answer) -> None:
        message: dict[str, Any] = {"id": item, "object": "realtime.item", "type": "message", "role": "assistant"}
        fields = {"response_id": response, "output_index": 0}
        parts = {**fields, "item_id": item, "content_index": 0}
        added = {**message, "status": "in_progress", "content": []}
        await self.send("response.output_item.added", **fields, item=added)
        self.journal.note("first audio")
        if answer.says is not None:
            for word in answer.says.split():
                await self.send("response.output_text.delta", **parts, delta=word)
                await asyncio.sleep(0.05)
        else:
            piece = base64.b64encode(LOUD * 5).decode()
            kind = "response.audio.delta" if self.server.beta else "response.output_audio.delta"
            for _ in range(round(answer.seconds / FRAME_S / 5)):
                await self.send(kind, **parts, delta=piece)
                await asyncio.sleep(5 * FRAME_S / answer.pace)
            await self.send("response.output_audio.done", **parts)
        done = {**message, "status": "completed", "content": [{"type": "output_audio", "transcript": "It is nine."}]}
        await self.send("response.output_item.done", **fields, item=done)

    async def _call_function(self, response: str, item: str, name: str, arguments: dict[str, Any]) -> None:
        call_id, text = f"call_{next(self.ids)}", json.dumps(arguments)
        fields = {"response_id": response, "output_index": 0}
        call: dict[str, Any] = {
            "id": item, "object": "realtime.item", "type": "function_call", "call_id": call_id, "name": name,
        }  # fmt: skip
        await self.send("response.output_item.added", **fields, item={**call, "status": "in_progress", "arguments": ""})
        self.journal.note("call")
        done = {"item_id": item, "call_id": call_id, "name": name, "arguments": text}
        await self.send("response.function_call_arguments.done", **fields, **done)
        await self.send("response.output_item.done", **fields, item={**call, "status": "completed", "arguments": text})

    # The conversation

    async def _add(self, event: dict[str, Any]) -> None:
        item = {"id": f"item_{next(self.ids)}", "object": "realtime.item", "status": "completed", **event["item"]}
        if item["type"] == "function_call_output":
            self.journal.note("result")
        await self.send("conversation.item.added", item=item, previous_item_id=None)

    async def _truncate(self, event: dict[str, Any]) -> None:
        self.journal.note("truncated")
        fields = {name: event[name] for name in ("item_id", "content_index", "audio_end_ms")}
        await self.send("conversation.item.truncated", **fields)

    async def _delete(self, event: dict[str, Any]) -> None:
        await self.send("conversation.item.deleted", item_id=event["item_id"])
