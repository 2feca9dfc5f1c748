"""The turns in progress, as their services tell them, and what was said in those that ended: `POST` from services.

| address | what it takes or gives |
|---|---|
| `GET /api/open` | the turns in progress, the oldest first, each with the sentence that says what it waits for |
| `POST /api/open` | all open turns of one process; it tells them again each interval, and once when there are none |
| `POST /api/content` | what one side said in one turn, from this machine only, where the viewer keeps that |

A process that is silent for three intervals is taken to be gone: what it told last is shown as lost for a while. A turn
whose root span has arrived is in the store, and no longer here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from voicespan.content import MAX_AUDIO_BYTES, MAX_TEXT_BYTES
from voicespan.local.api import as_json
from voicespan.local.body import Limits, RefusedError, drain, read_body
from voicespan.local.open_turn import OpenTurn, number, text
from voicespan.local.schema import StoreError
from voicespan.local.waiting import lost, waiting
from voicespan.sdk.endpoint import is_loopback
from voicespan.viewer import MAX_TURNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

    from voicespan.content import Role
    from voicespan.local.live import Live
    from voicespan.local.store import Store
    from voicespan.local.turn import Turn

SILENT_INTERVALS = 3
LOST_KEPT_S = 600.0
MAX_SENDERS = 64
_MAX_ROOTS = 2000
_MAX_INTERVAL_S = 60.0
_RATES = range(1000, 384_001)
_OPEN_LIMITS = Limits(sent_bytes=2 << 20, body_bytes=4 << 20)
_CONTENT_LIMITS = Limits(sent_bytes=16 << 20, body_bytes=16 << 20)

Sender = tuple[str, str, int]
"""Service, instance, process id."""


@dataclass(slots=True)
class _Report:
    """What one process told last."""

    service: str
    turns: dict[str, OpenTurn]
    beyond: int
    interval_s: float
    told_s: float
    """When, by its own clock (Unix time)."""
    received_s: float = field(default_factory=time.monotonic)

    @property
    def lost(self) -> bool:
        """Whether the process should have told something since."""
        return self.silent_s > SILENT_INTERVALS * self.interval_s

    @property
    def silent_s(self) -> float:
        """For how long it has told nothing."""
        return time.monotonic() - self.received_s

    @property
    def now_s(self) -> float:
        """The time by its own clock; of one that is lost, when it was last heard of."""
        return self.told_s if self.lost else self.told_s + self.silent_s

    def plain(self, turn: OpenTurn) -> dict[str, Any]:
        """Return one of its turns for JSON."""
        now_s, gone = self.now_s, self.lost
        # What it waits for is known as of the report; only how long it has done so goes on.
        words = lost(turn, now_s, self.silent_s) if gone else waiting(turn, self.told_s).sentence(now_s)
        return {
            **turn.plain(),
            "service": self.service,
            "open_s": max(0.0, now_s - turn.start_s),
            "lost": gone,
            "silent_s": self.silent_s if gone else 0.0,
            "waiting": words,
        }


class Progress:
    """The turns in progress, in memory. The endpoints belong to the event loop; roots come from the storing thread."""

    def __init__(self, store: Store, live: Live, *, content: bool = False) -> None:
        self._store = store
        self._live = live
        self._content = content
        self._reports: OrderedDict[Sender, _Report] = OrderedDict()
        self._roots: OrderedDict[str, None] = OrderedDict()
        self._state: frozenset[object] = frozenset()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        store.listen(self._stored)

    def routes(self) -> Iterator[Route]:
        """Yield the routes."""
        yield Route("/api/open", self.open, methods=["GET"])
        yield Route("/api/open", self.told, methods=["POST"])
        yield Route("/api/content", self.said, methods=["POST"])

    async def open(self, _: Request) -> Response:
        """Give the turns in progress."""
        with self._lock:
            self._forget()
            found = [(turn.start_s, report, turn) for report, turn in self._open()]
            beyond = sum(report.beyond for report in self._reports.values())
        found.sort(key=lambda each: each[0])
        turns = [report.plain(turn) for _, report, turn in found[:MAX_TURNS]]
        return as_json({"turns": turns, "beyond": beyond + max(0, len(found) - MAX_TURNS)})

    async def told(self, request: Request) -> Response:
        """Take the open turns of one process in place of those that it told before."""

        def take(told: dict[str, Any]) -> None:
            sender, report = _read(told)
            with self._lock:
                for trace_id in self._roots.keys() & report.turns.keys():
                    del report.turns[trace_id]
                self._reports[sender] = report
                self._reports.move_to_end(sender)
                while len(self._reports) > MAX_SENDERS:
                    self._reports.popitem(last=False)
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(SILENT_INTERVALS * report.interval_s + 0.1, self._changed)
            self._changed()

        return await _taken(request, _OPEN_LIMITS, take)

    async def said(self, request: Request) -> Response:
        """Take what one side said in a turn."""
        if not self._content:
            return as_json({"error": "this viewer keeps nothing that is said: start it with --content"}, 403)
        if request.client is None or not is_loopback(request.client.host):
            return as_json({"error": "what is said is taken from this machine only"}, 403)
        taken: list[_Utterance] = []
        answer = await _taken(request, _CONTENT_LIMITS, lambda told: taken.append(_utterance(told)))
        for utterance in taken:
            try:
                await run_in_threadpool(self._store.add_content, *utterance)
            except StoreError as error:
                return as_json({"error": str(error)}, 503)
            self._live.tell([utterance.trace_id.hex()])
        return answer

    def _stored(self, turns: list[Turn]) -> None:
        """Forget the turns whose root has arrived; called in the storing thread."""
        roots = [turn.trace_id for turn in turns if turn.complete]
        if not roots:
            return
        with self._lock:
            self._roots.update(dict.fromkeys(roots))
            while len(self._roots) > _MAX_ROOTS:
                self._roots.popitem(last=False)
            gone = [
                report.turns.pop(trace_id)
                for report in self._reports.values()
                for trace_id in roots
                if trace_id in report.turns
            ]
        if gone and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed)

    def _open(self) -> Iterable[tuple[_Report, OpenTurn]]:
        return [(report, turn) for report in self._reports.values() for turn in report.turns.values()]

    def _forget(self) -> None:
        """Forget who has nothing to tell or is lost for long, and the oldest of too many that are lost."""
        lost_turns = 0
        for sender, report in reversed(list(self._reports.items())):
            if not report.lost:
                continue
            lost_turns += len(report.turns)
            if not report.turns or report.silent_s > LOST_KEPT_S or lost_turns > MAX_TURNS:
                del self._reports[sender]

    def _changed(self) -> None:
        """Tell the pages where a turn came, went, was lost, or waits for something else."""
        with self._lock:
            self._forget()
            open_ = list(self._open())
        state = frozenset((turn.trace_id, report.lost, waiting(turn, report.told_s).words) for report, turn in open_)
        if state != self._state:
            self._state = state
            self._live.tell_open(len(state))


async def _taken(request: Request, limits: Limits, take: Callable[[dict[str, Any]], object]) -> Response:
    """Read a JSON object and give it to `take`, or say why not."""
    try:
        take(_object(await read_body(request, limits)))
    except RefusedError as refused:
        await drain(request, limits)
        return as_json({"error": str(refused)}, refused.status)
    except (ValueError, RecursionError) as error:
        return as_json({"error": str(error)}, 400)
    except ClientDisconnect:
        return as_json({}, 400)  # nobody reads it
    return as_json({})


def _object(body: bytes) -> dict[str, Any]:
    told = json.loads(body)
    if not isinstance(told, dict):
        raise ValueError("the body is no JSON object")  # noqa: TRY004 - of what came, not of code
    return told


def _read(told: dict[str, Any]) -> tuple[Sender, _Report]:
    """Read what a process tells.

    Raises:
        ValueError: it is not what a process of ours tells.

    """
    turns = told.get("turns")
    if not isinstance(turns, list):
        raise ValueError("turns is no list")  # noqa: TRY004
    service, instance = _named(told, "service") or "unknown_service", _named(told, "instance")
    beyond, pid = told.get("beyond"), told.get("pid")
    report = _Report(
        service=service,
        turns={turn.trace_id: turn for turn in map(OpenTurn.read, turns[:MAX_TURNS])},
        beyond=(beyond if type(beyond) is int and 0 <= beyond < 1 << 31 else 0) + len(turns[MAX_TURNS:]),
        interval_s=min(max(number(told.get("interval_s"), "interval_s"), 0.1), _MAX_INTERVAL_S),
        told_s=number(told.get("now_s", time.time()), "now_s"),
    )
    return (service, instance, pid if type(pid) is int else 0), report


def _named(told: dict[str, Any], key: str) -> str:
    value = told.get(key)
    return text(value) if isinstance(value, str) else ""


class _Utterance(NamedTuple):
    """What one side said in a turn, in the order of `Store.add_content`."""

    trace_id: bytes
    role: Role
    text: str | None
    audio: bytes | None
    sample_rate: int | None


def _utterance(told: dict[str, Any]) -> _Utterance:
    """Read what one side said.

    Raises:
        ValueError: it is nothing of that kind, or too much.

    """
    trace_id = OpenTurn.read({"trace_id": told.get("trace_id"), "start_s": 0}).trace_id
    role, words, audio = told.get("role"), told.get("text"), told.get("audio")
    if role not in ("user", "agent"):
        raise ValueError("role is neither user nor agent")
    # Half a character, which JSON lets through, is a ValueError as well.
    if words is not None and (not isinstance(words, str) or len(words.encode()) > MAX_TEXT_BYTES):
        raise ValueError(f"text is no text of at most {MAX_TEXT_BYTES} bytes")
    pcm: bytes | None = None
    if audio is not None:
        try:
            pcm = base64.b64decode(audio, validate=True)
        except (TypeError, binascii.Error) as error:
            raise ValueError(f"audio is not in base64: {error}") from None
        if len(pcm) > MAX_AUDIO_BYTES:
            raise ValueError(f"audio is longer than {MAX_AUDIO_BYTES} bytes")
    rate = told.get("sample_rate")
    if pcm is not None and (type(rate) is not int or rate not in _RATES):
        raise ValueError(f"sample_rate is no whole number from {_RATES.start} to {_RATES.stop - 1}")
    sample_rate = None if pcm is None else cast("int", rate)
    return _Utterance(bytes.fromhex(trace_id), cast("Role", role), words or None, pcm, sample_rate)
