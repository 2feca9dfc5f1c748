"""What a viewer is told while it happens: the turns in progress, once a second, and what was said in those that ended.

A viewer is a receiver that says so itself, at the address that spans go to when that is on this machine. It is looked
for once there is a turn to tell about, from a thread of its own, and nothing here raises or lets a service wait.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.util.re import parse_env_headers

from voicespan import names as n
from voicespan import settings
from voicespan.breath import Breath
from voicespan.content import Content
from voicespan.diagnostics import say
from voicespan.guard import swallowed
from voicespan.progress import progress
from voicespan.sdk.endpoint import in_use, is_loopback
from voicespan.sdk.transport import Result, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from voicespan.content import Role, Utterance
    from voicespan.emit import BackgroundRecorder
    from voicespan.record import TurnRecord
    from voicespan.sdk.endpoint import Endpoint
    from voicespan.turn import Turn

INTERVAL_S = 1.0
YOUNG_NS = 500_000_000
"""Turns that are younger are not told: most of the noises that are no utterance are gone by then."""
MAX_TURNS = 200
"""How many open turns one report has, the oldest first."""

_FIRST_LOOK_S = 0.6
_LOOK_AGAIN_S = (2.0, 60.0)
"""Where no viewer is, the pauses before the next look grow from the first to the second of these."""
_TIMEOUT_S = 2.0
_ACCEPTED = range(200, 300)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a viewer may be; `headers` are those that spans take there."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, traces: Endpoint | None, environ: Mapping[str, str]) -> Address | None:
        """Return VOICESPAN_VIEWER_ENDPOINT, else the address of the spans when it is HTTP on this machine."""
        said = settings.current()
        named = said.viewer_endpoint
        if named is not None:
            if not _host(named):
                say("viewer", f"VOICESPAN_VIEWER_ENDPOINT={named!r} is no http:// address: ignored")
                return None
            # What the spans take along is for the Collector's eyes, and not for another program's.
            return cls(named.rstrip("/"), {"authorization": f"Bearer {said.token}"} if said.token else {})
        if traces is None or not traces.protocol.startswith("http") or not is_loopback(_host(traces.url)):
            return None
        headers = environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS", environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
        return cls(traces.server, parse_env_headers(headers, liberal=True))

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(_host(self.url))


def _host(url: str) -> str:
    """The host of an http:// URL, else an empty text."""
    with suppress(ValueError):
        parts = urlsplit(url)
        return (parts.hostname or "") if parts.scheme == "http" else ""
    return ""


class Reporter:
    """Tells one viewer about the turns of one recorder, from a daemon thread."""

    def __init__(self, recorder: BackgroundRecorder, address: Address) -> None:
        self.content = Content()
        self.content.wanted = settings.current().content and address.loopback
        self._may_have_content = self.content.wanted
        self._recorder = recorder
        self._address = address
        self._transport = Transport()
        self._connected = False
        self._told = False
        """The viewer's latest list of ours has turns, so it has to be told when there are none."""
        self._busy = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="voicespan-viewer", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Tell what is left, in about this time at most: the process ends, and its turns are closed."""
        self._end.set()
        if self._busy.acquire(timeout=timeout_s / 2):
            try:
                self._report(timeout_s / 2)
            finally:
                self._busy.release()
                self._transport.close()

    def _run(self) -> None:
        least_s, most_s = _LOOK_AGAIN_S
        pause_s, again_s = _FIRST_LOOK_S, least_s
        with suppress_instrumentation():
            while not self._end.wait(pause_s):
                idle = True
                try:
                    with self._busy:
                        idle = self._report(_TIMEOUT_S)
                except Exception as error:
                    swallowed("viewer", error)
                if self._connected or idle:
                    pause_s, again_s = INTERVAL_S, least_s if self._connected else again_s
                else:
                    pause_s, again_s = again_s, min(2 * again_s, most_s)

    def _report(self, timeout_s: float) -> bool:
        """Tell what there is to tell; return whether there was nothing."""
        said = self.content.take()
        now_ns = self._recorder.clock.monotonic_ns()
        turns = self._recorder.open_turns()
        if not (said or self._told or any(_grown(turns, now_ns))):
            return True
        if not self._connected:
            self._look(timeout_s)
        if self._connected:
            breath = Breath()
            told: list[str] = []
            for record in islice(_grown(turns, now_ns), MAX_TURNS):
                told.append(json.dumps(progress(record)))
                breath.take()
            beyond = len(turns) - len(told) if len(told) == MAX_TURNS else 0
            report = {**self._who(), "interval_s": INTERVAL_S, "now_s": time.time(), "beyond": beyond}
            self._post("/api/open", f'{json.dumps(report)[:-1]}, "turns": [{",".join(told)}]}}', timeout_s)
            self._told = bool(told)
        if self.content.wanted:
            for utterance in said:
                self._post("/api/content", json.dumps(_plain(utterance)), timeout_s)
        return False

    def _look(self, timeout_s: float) -> None:
        """Ask whether a viewer is there, and whether it keeps what is said."""
        answer = self._request("GET", "/health", None, timeout_s)
        told: Any = None
        if answer.status_code in _ACCEPTED:
            with suppress(ValueError):
                told = json.loads(answer.body)
        self._connected = isinstance(told, dict) and told.get("service") == "voicespan"
        self.content.wanted = self._connected and self._may_have_content and told.get("content") is True

    def _post(self, path: str, body: str, timeout_s: float) -> None:
        if not self._connected:
            return
        answer = self._request("POST", path, body.encode(), timeout_s)
        if answer.status_code not in _ACCEPTED:
            self._connected = self.content.wanted = False

    def _request(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Result:
        headers = {**self._address.headers, "Content-Type": "application/json"}
        for _ in range(2):  # a connection that was kept open may be gone
            answer = self._transport.request(
                method, self._address.url + path, headers=headers, timeout=timeout_s, data=body
            )
            if answer.error is None:
                break
        return answer

    def _who(self) -> dict[str, Any]:
        attributes = self._recorder.resource_attributes()
        return {
            "service": attributes.get(n.SERVICE_NAME),
            "instance": attributes.get(n.SERVICE_INSTANCE_ID),
            "pid": os.getpid(),
        }


def _grown(turns: list[Turn], now_ns: int) -> Iterator[TurnRecord]:
    """The turns whose trace a viewer will get, without those that have only just begun."""
    for turn in turns:
        record = turn.record
        if record.sampled and turn.open and now_ns - record.onset_ns >= YOUNG_NS:
            yield record


def _plain(utterance: Utterance) -> dict[str, Any]:
    said = utterance.said
    return {
        "trace_id": f"{utterance.trace_id:032x}",
        "role": utterance.role,
        "text": said.text.decode(errors="ignore"),
        "audio": base64.b64encode(said.audio).decode() if said.audio else None,
        "sample_rate": said.sample_rate,
    }


_reporter: Reporter | None = None


def report(recorder: BackgroundRecorder) -> None:
    """Begin to tell about this recorder's turns, where there may be a viewer; again in the child of a fork."""
    global _reporter  # noqa: PLW0603
    try:
        address = Address.read(in_use.get("traces"), os.environ)
        if address is not None:
            _reporter = Reporter(recorder, address)
            _reporter.start()
    except Exception as error:
        swallowed("viewer", error)


def said(turn: Turn, role: Role, text: str, audio: object, sample_rate: int | None) -> None:
    """Take what one side has said in a turn, if a viewer on this machine wants it."""
    if _reporter is not None:
        _reporter.content.add(turn, role, text, audio, sample_rate)


def finish(timeout_s: float) -> None:
    """Tell what is left; for the end of the process."""
    if _reporter is not None:
        _reporter.finish(timeout_s)


def _forget_parents_reporter() -> None:
    global _reporter  # noqa: PLW0603
    _reporter = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_reporter)
