"""Handing on what the receiver takes: the same requests, as they came, to another OTLP endpoint such as a Collector."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from voicespan.diagnostics import say
from voicespan.sdk.transport import Transport

if TYPE_CHECKING:
    from voicespan.sdk.transport import Result

MAX_WAITING = 256
"""Requests that may wait to be handed on; what comes on top is dropped, and counted."""
_TRIES = 4
_PAUSE_S = 0.25
_TIMEOUT_S = 5.0
_PASSING = frozenset({408, 429, 502, 503, 504})


class Forward:
    """Hands requests on to `endpoint` from a thread of its own: nobody waits for it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.sent = 0
        """Requests that were taken."""
        self.lost = 0
        """Requests that were not, or for which there was no room."""
        self.reason = ""
        """Why the last one was not taken."""
        self._waiting: queue.Queue[tuple[str, str, bytes] | None] = queue.Queue(MAX_WAITING)
        self._transport = Transport()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="voicespan-forward", daemon=True)
        self._thread.start()

    def put(self, signal: str, form: str, body: bytes) -> None:
        """Hand on a request of this signal and media type."""
        try:
            self._waiting.put_nowait((signal, form, body))
        except queue.Full:
            self._lose(f"more than {MAX_WAITING} requests wait for it")

    def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until what was put is handed on, for at most so long."""
        until = time.monotonic() + timeout_s
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)

    def close(self, timeout_s: float = 5.0) -> None:
        """Hand on what waits, for at most so long, and end."""
        self.flush(timeout_s)
        self._closing.set()
        self._transport.close()
        with suppress(queue.Full):  # then it is at work, and sees that we close
            self._waiting.put_nowait(None)
        self._thread.join(timeout_s)
        with suppress(queue.Empty):
            while True:
                self.lost += self._waiting.get_nowait() is not None

    def _run(self) -> None:
        while not self._closing.is_set():
            request = self._waiting.get()
            if request is not None:
                self._send(*request)
            self._waiting.task_done()

    def _send(self, signal: str, form: str, body: bytes) -> None:
        for attempt in range(_TRIES):
            result = self._transport.request(
                "POST", f"{self.endpoint}/v1/{signal}", headers={"Content-Type": form}, timeout=_TIMEOUT_S, data=body
            )
            if result.status_code is not None and result.status_code not in _PASSING:
                break
            if self._closing.wait(_PAUSE_S * 2**attempt):
                break
        if result.status_code == 200:  # noqa: PLR2004
            self.sent += 1
        else:
            self._lose(_why(result))

    def _lose(self, reason: str) -> None:
        self.lost += 1
        self.reason = reason
        say("forward", f"{self.endpoint} does not get all requests: {reason}")


def _why(result: Result) -> str:
    return str(result.error) if result.status_code is None else f"status {result.status_code} {result.reason}"
