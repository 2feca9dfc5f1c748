"""The page of `voicespan demo --mic`: a person talks to the agent, and sees each turn as the viewer tells it.

The viewer answers to its own pages only, so this page asks through the agent. The agent serves it where
VOICESPAN_DEMO_VIEWER (`processes.PAGE_VARIABLE`) has the viewer's address, to this machine alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from opentelemetry.instrumentation.utils import suppress_instrumentation
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from voicespan.demo import scenarios
from voicespan.demo.processes import PAGE_VARIABLE
from voicespan.local.hosts import LOCAL_HOSTS, host_name
from voicespan.local.page import STATIC as VIEWER_STATIC
from voicespan.local.page import asset

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
OF_THE_VIEWER = (
    *("style.css", "turn.css", "icon.svg"),
    *("theme.js", "colours.js", "dom.js", "format.js", "stages.js", "strip.js"),
)
"""Its looks, and how it draws a silence."""
_ASKED = {"events": "/api/events", "open": "/api/open"}
_TIMEOUT_S = 10.0
_HOST = re.compile(r"[\w.\[\]-]+(:[\w:\]]*)?")


def serve(app: FastAPI) -> None:
    """Add the page to the agent where the environment names a viewer."""
    viewer = os.environ.get(PAGE_VARIABLE)
    if not viewer:
        return
    for path in (*sorted(STATIC.iterdir()), *(VIEWER_STATIC / name for name in OF_THE_VIEWER)):
        name = "" if path.name == "index.html" else path.name
        app.add_route(f"/{name}", asset(path).__call__)
    passage = _Passage(viewer)
    app.add_route("/viewer/about", passage.about)
    app.add_route("/viewer/turns/{trace_id:str}", passage.turn)
    for name in _ASKED:
        app.add_route(f"/viewer/{name}", passage.ask)
    app.add_middleware(_OwnPageOnly)


class _Passage:
    """What this page may ask the viewer."""

    def __init__(self, viewer: str) -> None:
        self._viewer = viewer.rstrip("/")

    async def about(self, _: Request) -> Response:
        """Say where the viewer is, and what may be asked here."""
        known = [{"question": each.question, "shows": each.title} for each in scenarios.SCENARIOS if each.question]
        return JSONResponse({"viewer": self._viewer, "questions": known}, headers={"Cache-Control": "no-store"})

    async def turn(self, request: Request) -> Response:
        """Give one turn with its spans."""
        trace_id = request.path_params["trace_id"]
        if not trace_id.isalnum():
            return JSONResponse({"error": "no trace id"}, 400)
        return await self._passed(f"/api/turns/{trace_id}")

    async def ask(self, request: Request) -> Response:
        """Pass a question on, and the answer as it comes."""
        return await self._passed(_ASKED[request.url.path.rpartition("/")[2]])

    async def _passed(self, path: str) -> Response:
        client = httpx.AsyncClient(timeout=httpx.Timeout(_TIMEOUT_S, read=None))
        try:
            with suppress_instrumentation():
                answer = await client.send(client.build_request("GET", f"{self._viewer}{path}"), stream=True)
        except httpx.HTTPError as error:
            await client.aclose()
            return JSONResponse({"error": f"the viewer does not answer: {type(error).__name__}"}, 502)
        headers = {"Cache-Control": "no-store", "Content-Type": answer.headers.get("content-type", "application/json")}
        return StreamingResponse(_body(client, answer), answer.status_code, headers)


async def _body(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    async with aclosing(client), aclosing(answer):
        async for chunk in answer.aiter_bytes():
            yield chunk


class _OwnPageOnly:
    """Middleware: answers to the names of this machine, takes calls of its own page only, and lets it reach no other.

    A WebSocket may be opened by any page of any origin, so its origin is looked at, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        known = _HOST.fullmatch(host) is not None and host_name(host) in LOCAL_HOSTS
        if not known or (origin is not None and origin.lower() != f"http://{host.lower()}"):
            await _refuse(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_security(host))
            await send(message)

        await self.app(scope, receive, send_with_headers)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await PlainTextResponse("the demo answers to this machine and its own page only\n", 403)(scope, receive, send)


def _security(host: str) -> dict[str, str]:
    return {
        # Not every browser takes 'self' for WebSockets as well.
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        f" connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    }
