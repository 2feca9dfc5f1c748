"""Asking a program over HTTP, with what its answer tells of its clock."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_TIMEOUT_S = 5.0
_PAUSE_S = 0.25
_OK = 200


class Unanswered(Exception):
    """Nobody answered, or nobody who speaks HTTP; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered; `skew_s` is how far that clock is before ours, `unsure_s` how wrong this may be."""

    status: int
    body: bytes
    skew_s: float | None = None
    unsure_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it was a success."""
        return self.status == _OK

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Program:
    """Somebody at an address; a user and password in it are sent as such."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()

    def ask(self, path: str = "", body: bytes | None = None, *, parameters: Mapping[str, str] = {}) -> Answer:
        """Get, or post the body; every status is an answer.

        Raises:
            Unanswered: there was none.

        """
        try:
            request = urllib.request.Request(self._address(path, parameters), body, dict(self._headers()))  # noqa: S310
            if request.type not in {"http", "https"}:
                raise Unanswered(f"{self.url} is no address: write http://HOST:PORT")
            return _answered(request)
        except urllib.error.URLError as error:
            raise Unanswered(_words(error.reason)) from None
        except (OSError, ValueError, HTTPException) as error:
            raise Unanswered(_words(error)) from None

    @property
    def shown(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")

    def _address(self, path: str, parameters: Mapping[str, str]) -> str:
        return self.shown + path + (f"?{urlencode(parameters)}" if parameters else "")

    def _headers(self) -> Iterable[tuple[str, str]]:
        parts = urlsplit(self.url)
        if parts.username is not None:
            pair = f"{parts.username}:{parts.password or ''}".encode()
            yield "Authorization", f"Basic {base64.b64encode(pair).decode()}"
        yield from self.headers


def _answered(request: urllib.request.Request) -> Answer:
    asked_s, began_s = time.time(), time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as got:  # noqa: S310 - http and https only, see above
            status, body, date = got.status, got.read(), got.headers.get("Date")
    except urllib.error.HTTPError as error:
        status, body, date = error.code, error.read(), error.headers.get("Date")
    half_s = (time.monotonic() - began_s) / 2
    # The header has whole seconds: the moment was half a second later, on average.
    try:
        skew_s = None if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - asked_s - half_s
    except ValueError:
        skew_s = None
    return Answer(status, body, skew_s, half_s + 0.5)


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, ConnectionRefusedError):
        return "connection refused"
    if isinstance(reason, HTTPException):
        return "whoever answers does not speak HTTP"
    return str(getattr(reason, "strerror", None) or reason)


def within(wait_s: float, seen: Callable[[], bool]) -> bool:
    """Look again and again until something is seen; return whether it was, in time."""
    until_s = time.monotonic() + wait_s
    while not seen():
        if time.monotonic() >= until_s:
            return False
        time.sleep(_PAUSE_S)
    return True
