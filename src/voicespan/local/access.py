"""Who may ask the receiver: everyone on this machine, else whoever knows the token; and no page of another origin."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from voicespan.sdk.endpoint import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

WITHHELD = "what was said is shown on the viewer's own machine only, and this page is open on another one"
"""Why a request from another machine gets no transcripts and no audio."""

PARAMETER = "token"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,256}")
_BEARER = "bearer "
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSAL = "voicespan answers to those who know its token: open the address that it printed at its start\n"


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(24)


def checked_token(token: str) -> str:
    """Return the token.

    Raises:
        ValueError: it is too short, or has characters that a header cannot carry.

    """
    if _TOKEN.fullmatch(token) is None:
        raise ValueError("a token has 16 to 256 letters, digits or . _ ~ + / -")
    return token


def with_token(address: str, token: str | None) -> str:
    """Return an address that a browser can open."""
    return address if token is None else f"{address}?{PARAMETER}={quote(token, safe='')}"


def sender_headers(token: str) -> str:
    """Return the value of OTEL_EXPORTER_OTLP_HEADERS that lets a service send."""
    return f"authorization=Bearer%20{quote(token, safe='')}"


def is_near(connection: HTTPConnection) -> bool:
    """Return whether who asks is on this machine; what a proxy of this machine passes on comes from where it says."""
    if connection.client is None:
        return False
    host = connection.client.host.removeprefix("::ffff:")  # IPv4 at a socket of IPv6
    server = connection.scope.get("server")
    # From an address to the same address: nobody else has it.
    return is_loopback(host) or (server is not None and host == str(server[0]).removeprefix("::ffff:"))


class TokenOnly:
    """Middleware: 401 without the token, which comes as a bearer token, or as the cookie that its address sets."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, set the cookie, or refuse it."""
        if scope["type"] != "http" or self._is_known(scope):
            await self.app(scope, receive, send)
            return
        answer = self._first_visit(scope) or PlainTextResponse(_REFUSAL, 401, {"WWW-Authenticate": "Bearer"})
        await answer(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        given = headers.get("authorization", "")
        if given[: len(_BEARER)].lower() == _BEARER:
            return self._is_token(given[len(_BEARER) :].strip())
        return self._is_token(HTTPConnection(scope).cookies.get(_cookie_name(scope), ""))

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode("utf-8", "surrogatepass"), self._token)

    def _first_visit(self, scope: Scope) -> Response | None:
        """Return the answer to an address with the token: a cookie in its place, so that it stays in no history."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get(PARAMETER)
        if scope["method"] != "GET" or given is None or not self._is_token(given):
            return None
        rest = urlencode([(key, value) for key, value in query if key != PARAMETER])
        path = "/" + scope["path"].lstrip("/")  # two slashes at the beginning would be another host
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        answer.set_cookie(_cookie_name(scope), given, httponly=True, samesite="strict")
        MutableHeaders(scope=None, raw=answer.raw_headers)["Cache-Control"] = "no-store"
        return answer


class OwnOriginOnly:
    """Middleware: what changes something under /api/ is asked in JSON, and by no page of another origin."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and scope["method"] not in _READING and scope["path"].startswith("/api/"):
            headers = Headers(scope=scope)
            if not _is_own(headers.get("origin"), headers.get("host", "")):
                await JSONResponse({"error": "this page is of another origin"}, 403)(scope, receive, send)
                return
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                await JSONResponse({"error": "the content type is not application/json"}, 415)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_own(origin: str | None, host: str) -> bool:
    return origin is None or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _cookie_name(scope: Scope) -> str:
    # Cookies are of a host, not of its port: each viewer of a machine has its own.
    return f"voicespan_{scope['server'][1]}"
