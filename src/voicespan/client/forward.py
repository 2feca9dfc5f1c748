"""Taking marks on to the process that has their turn, where the endpoint stands in another one, such as a gateway.

To that process's endpoint this one is a client like any other: it reports by its own clock, compares clocks by the
answers, numbers its reports, and sends one again whose answer was lost. How exactly it knew the moments goes along.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from opentelemetry.instrumentation.utils import suppress_instrumentation

from voicespan import diagnostics
from voicespan.clock import NS_PER_MS
from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voicespan.client.report import TurnMarks
    from voicespan.clock import RemoteClock

CLOCK_HEADER = "Voicespan-Clock"
MAX_OWNERS = 64
MAX_WAITING = 500
_TOGETHER = 15
_GATHER_S = 0.1
_TRIES = 4
_TIMEOUT_S = 2.0
_GREETINGS = 3
_EXCHANGES = 16
_MALFORMED = range(400, 500)


class Forward:
    """Sends marks to the endpoints that `owner` names. From the event loop: `take` never waits."""

    def __init__(self, owner: Callable[[str], str | None], headers: Mapping[str, str] | None = None) -> None:
        """`owner` returns the address of the endpoint for a turn's traceparent; None where that is this process."""
        self._owner = owner
        self._headers = dict(headers or {})
        self._peers: dict[str, _Peer] = {}

    def take(self, marks: TurnMarks, clock: RemoteClock) -> bool:
        """Send the marks to who has their turn; whether somebody else has it."""
        try:
            address = self._owner(marks.traceparent or "")
        except Exception as error:
            swallowed("client_reports(owner=...)", error)
            return False
        if address is None:
            return False
        peer = self._peers.pop(address, None) or _Peer(address, self._headers)
        self._peers[address] = peer  # the one that was needed last stands last
        if len(self._peers) > MAX_OWNERS:
            self._peers.pop(next(iter(self._peers))).retire()
        peer.give(_translated(marks, clock))
        return True


def _translated(marks: TurnMarks, clock: RemoteClock) -> dict[str, Any]:
    """The marks by this machine's clock, and how far off they may be."""
    error_ns = 0

    def local_ms(client_ms: float) -> float:
        nonlocal error_ns
        estimate = clock.estimate(round(client_ms * NS_PER_MS))
        assert estimate is not None
        error_ns = max(error_ns, estimate.error_ns)
        return max(0, estimate.local_ns) / NS_PER_MS

    moments = {mark: local_ms(at) for mark, at in marks.marks.items()}
    phases = [
        {"phase": each.phase, "start_ms": local_ms(each.start_ms), "end_ms": local_ms(each.end_ms)}
        for each in marks.barge_in
    ]
    return {
        "turn": marks.turn,
        "traceparent": marks.traceparent,
        "marks": moments,
        "barge_in": phases,
        "error_ms": marks.error_ms + error_ns / NS_PER_MS,
    }


@dataclass(slots=True)
class _Peer:
    """One endpoint, and the thread that reports to it while there is something to say."""

    address: str
    headers: Mapping[str, str]
    _retired: bool = False
    _waiting: deque[dict[str, Any]] = field(default_factory=deque)
    _news: threading.Event = field(default_factory=threading.Event)
    _client: str = field(default_factory=lambda: secrets.token_hex(16))
    _number: int = 0
    _clocks: dict[str, deque[list[float]]] = field(default_factory=dict)
    _thread: threading.Thread | None = None

    def give(self, marks: dict[str, Any]) -> None:
        """Report these marks soon; when too many wait they are dropped and counted."""
        if len(self._waiting) >= MAX_WAITING:
            diagnostics.counters.add("client.forward_full")
            return
        self._waiting.append(marks)
        self._news.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="voicespan-forward", daemon=True)
            self._thread.start()

    def retire(self) -> None:
        """End when what waits was reported."""
        self._retired = True
        self._news.set()

    def _run(self) -> None:
        try:
            for _ in range(_GREETINGS):  # until there is a clock to place the marks by
                self._deliver([])
            while not self._retired:
                self._news.wait()
                self._news.clear()
                time.sleep(_GATHER_S)
                while self._waiting:
                    self._deliver([self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))])
        except Exception as error:
            swallowed("client.forward", error)

    def _deliver(self, turns: list[dict[str, Any]]) -> None:
        """Report, again where no answer comes, with the same number; what nobody takes is counted and said."""
        self._number += 1
        for attempt in range(_TRIES):
            time.sleep(attempt * _GATHER_S * 3)
            if self._post(turns):
                return
        if turns:
            diagnostics.counters.add("client.forward_lost", len(turns))
            diagnostics.say(
                "client.forward_lost", "a client's marks were not taken by the endpoint that has their turn"
            )

    def _post(self, turns: list[dict[str, Any]]) -> bool:
        """Send a report; whether it needs no further try."""
        sent_ns = time.monotonic_ns()
        clocks = [{"server": name, "exchanges": list(known)} for name, known in self._clocks.items()]
        report = {
            "version": 1, "client": self._client, "number": self._number, "sent_ms": sent_ns / NS_PER_MS,
            "turns": turns, "clocks": clocks,
        }  # fmt: skip
        headers = {"Content-Type": "application/json", **self.headers}
        request = Request(self.address, json.dumps(report).encode(), headers, method="POST")  # noqa: S310
        try:
            with suppress_instrumentation(), urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                clock = answer.headers.get(CLOCK_HEADER, "").split()
        except HTTPError as error:
            return error.code in _MALFORMED and error.code not in (408, 429)
        except (URLError, OSError):
            return False
        if len(clock) == 3:  # noqa: PLR2004 - a name and two times
            stamps = [sent_ns / NS_PER_MS, float(clock[1]), float(clock[2]), time.monotonic_ns() / NS_PER_MS]
            known = self._clocks.setdefault(clock[0], deque(maxlen=_EXCHANGES))
            known.append(stamps)
            while len(self._clocks) > 4:  # noqa: PLR2004 - the schema's limit
                self._clocks.pop(next(iter(self._clocks)))
        return True
