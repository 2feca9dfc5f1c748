"""The door for reports of clients, as an ASGI application: `app.mount("/api", voicespan.client_reports())`.

| address | what it does |
|---|---|
| `POST /metrics` | takes a report: 204; 400 malformed, 401 token or origin, 413 too large, 429 too often |
| `GET /performance-tracker.js`, `.mjs`, `.d.ts` | the tracker |
| `GET /openapi.json` | the schema of both |

Each answer to a report carries `Voicespan-Clock`: the name of this machine's clock, when the request came and when the
answer left, in milliseconds. With its own two times the client has an exchange of four time stamps.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from voicespan import diagnostics
from voicespan.client import tracker
from voicespan.client.counting import count
from voicespan.client.forward import CLOCK_HEADER, Forward
from voicespan.client.joining import WAIT_S, Joining
from voicespan.client.rate import Rate
from voicespan.client.report import MAX_BYTES, MalformedReportError, Report, read
from voicespan.client.totals import Totals
from voicespan.clock import NS_PER_MS, machine_clock
from voicespan.guard import swallowed
from voicespan.local import body
from voicespan.local.body import RefusedError, read_body
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from voicespan.client.joining import Turns
    from voicespan.client.report import Counters

_BEARER = "bearer "
_METHODS = "POST, OPTIONS"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the endpoint takes: bytes of a report, seconds for it to arrive, and how often in a second, with a burst."""

    body_bytes: int = MAX_BYTES
    seconds: float = 5.0
    client_per_s: float = 10.0
    client_burst: int = 40
    address_per_s: float = 200.0
    address_burst: int = 1000
    """Of one address, refused requests among them. Behind a proxy that hides addresses this is everybody."""
    piece_bytes: int = 4096
    """A report counts once more for its address for each piece that it is longer: so long it takes to read."""
    held: int = 64
    """Requests whose bodies are read at a time."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A report that was accepted, for the first time."""

    report: Report
    news: Counters
    """What its counts have added since the report before."""


def client_reports(
    *,
    origins: Iterable[str] = (),
    token: str | Callable[[str], bool] | None = None,
    limits: Limits | None = None,
    on_report: Callable[[Taken], None] | None = None,
    turns: Turns | None = None,
    owner: Callable[[str], str | None] | None = None,
    owner_headers: Mapping[str, str] | None = None,
) -> Starlette:
    """Return the application that takes the reports of `performance-tracker.js`, and serves it.

    Pages of the service's own origin may report, and those of `origins` ("https://app.example", or "*" for all).
    With `token` a report needs it as a bearer token; a function is asked whether it is good, and must be quick.
    `on_report` is called with each accepted report, on the event loop: it must be quick too. `turns` knows the open
    turns; by default those of this process.

    Where other processes have the turns, `owner` says which: it is asked with the traceparent of a turn that is not
    here, and returns the address of that process's endpoint ("http://10.0.0.7:8000/api/metrics"), None for this one.
    `owner_headers` go along, such as its token.

    Moments of open turns become part of their traces. Nothing is kept of a report that was refused.
    """
    if turns is None:
        from voicespan.emit import recorder

        turns = recorder()
    forward = None if owner is None else Forward(owner, owner_headers)
    door = _Door(tuple(origins), token, limits or Limits(), on_report, turns, forward)
    files = [Route(f"/{name}", partial(_file, name, media), methods=["GET"]) for name, media in tracker.FILES.items()]
    return Starlette(
        routes=[
            Route("/metrics", door.take, methods=["POST"]),
            Route("/metrics", door.preflight, methods=["OPTIONS"]),
            Route("/openapi.json", _schema, methods=["GET"]),
            *files,
        ]
    )


class _Door:
    """Checks in the order of their cost: rate, origin, token, size, form, times."""

    def __init__(
        self,
        origins: tuple[str, ...],
        token: str | Callable[[str], bool] | None,
        limits: Limits,
        on_report: Callable[[Taken], None] | None,
        turns: Turns,
        forward: Forward | None,
    ) -> None:
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._token = token
        self._limits = limits
        self._body_limits = body.Limits(limits.body_bytes, limits.body_bytes, limits.seconds)
        self._on_report = on_report
        self._clients = Rate(limits.client_per_s, limits.client_burst, time.monotonic_ns)
        self._addresses = Rate(limits.address_per_s, limits.address_burst, time.monotonic_ns)
        self._totals = Totals()
        self._server = machine_clock()
        self._joining = Joining(turns, time.monotonic_ns, self._server, forward=forward)
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, request: Request) -> Response:
        """Take a report, or say why not."""
        came_ns = time.monotonic_ns()
        headers = self._cors(request)
        try:
            self._admit(request)
            self._accept(read(await self._body(request)))
        except RefusedError as refused:
            return self._refusal(refused.status, str(refused), headers)
        except MalformedReportError as malformed:
            return self._refusal(400, str(malformed), headers)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        left_ns = time.monotonic_ns()
        headers[CLOCK_HEADER] = f"{self._server} {came_ns / NS_PER_MS:.6f} {left_ns / NS_PER_MS:.6f}"
        return Response(status_code=204, headers=headers)

    async def preflight(self, request: Request) -> Response:
        """Say to a browser whether its page may report."""
        headers = self._cors(request)
        if "Access-Control-Allow-Origin" in headers:
            headers |= {
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": "authorization, content-type",
                "Access-Control-Max-Age": "600",
            }
        return Response(status_code=204, headers=headers)

    # Checks

    def _admit(self, request: Request) -> None:
        self._charge(request)
        if not self._is_allowed(request):
            raise RefusedError(401, "this origin may not report")
        if self._token is not None and not self._is_good(request.headers.get("authorization", "")):
            raise RefusedError(401, "a report needs the token")

    def _charge(self, request: Request, times: int = 1) -> None:
        address = request.client.host if request.client else ""
        if times and not self._addresses.allows(address, times):
            raise RefusedError(429, "too many reports of this address")

    def _is_allowed(self, request: Request) -> bool:
        origin = request.headers.get("origin")
        if origin is None or "*" in self._origins:
            return True
        origin, host = origin.lower(), request.headers.get("host", "").lower()
        return origin in self._origins or origin in (f"http://{host}", f"https://{host}")

    def _is_good(self, authorization: str) -> bool:
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return False
        given = authorization[len(_BEARER) :].strip()
        if callable(self._token):
            try:
                return bool(self._token(given))
            except Exception as error:
                swallowed("client_reports(token=...)", error)
                return False
        return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), str(self._token).encode())

    async def _body(self, request: Request) -> bytes:
        if self._held >= self._limits.held:
            raise RefusedError(429, "too many reports at a time")
        self._held += 1
        try:
            body = await read_body(request, self._body_limits)
        finally:
            self._held -= 1
        self._charge(request, len(body) // self._limits.piece_bytes)
        return body

    # What was accepted

    def _accept(self, report: Report) -> None:
        if not self._clients.allows(report.client):
            raise RefusedError(429, "too many reports of this client")
        try:
            if not self._totals.is_new(report):
                return
            taken = Taken(report, self._totals.news(report))
            count(report, taken.news)
            self._joining.take(report)
            if self._joining and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(WAIT_S, self._retry)
            if self._on_report is not None:
                self._on_report(taken)
        except Exception as error:
            swallowed("client_reports", error)

    def _retry(self) -> None:
        self._timer = None
        try:
            self._joining.retry()
            if self._joining:
                self._timer = asyncio.get_running_loop().call_later(WAIT_S, self._retry)
        except Exception as error:
            swallowed("client_reports", error)

    # Answers

    def _cors(self, request: Request) -> dict[str, str]:
        origin = request.headers.get("origin")
        if origin is None or not self._is_allowed(request):
            return {"Vary": "Origin"}
        return {"Vary": "Origin", "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": CLOCK_HEADER}

    def _refusal(self, status: int, reason: str, headers: dict[str, str]) -> Response:
        diagnostics.counters.add(f"client.refused.{status}")
        extra = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(status, {})
        # What is left of the body is not read, so the connection cannot be used again.
        return JSONResponse({"error": reason}, status, {**headers, **extra, "Connection": "close"})


async def _file(name: str, media_type: str, _: Request) -> Response:
    headers = {
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    return Response(tracker.read(name), headers=headers, media_type=media_type)


async def _schema(_: Request) -> Response:
    return JSONResponse(openapi())


def openapi() -> dict[str, Any]:
    """Return the OpenAPI description of the endpoint."""
    report = Report.model_json_schema(ref_template="#/components/schemas/{model}")
    forms = report.pop("$defs")
    refusals = {
        "400": "The report is malformed, or its times contradict each other.",
        "401": "The token is missing or wrong, or this origin may not report.",
        "408": "The report did not arrive in time.",
        "415": "A content encoding other than gzip and deflate.",
        "413": f"The report is larger than {MAX_BYTES} bytes.",
        "429": "Too many reports; again after Retry-After seconds.",
    }
    clock = "The clock's name, when the request came and when the answer left, in milliseconds."
    taken = {
        "description": "The report was taken, now or before.",
        "headers": {CLOCK_HEADER: {"description": clock, "schema": {"type": "string"}}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Reports of voice clients", "version": __version__},
        "paths": {
            "/metrics": {
                "post": {
                    "summary": "Take a report of performance-tracker.js",
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Report"}}},
                    },
                    "responses": {"204": taken, **{status: {"description": why} for status, why in refusals.items()}},
                }
            }
        },
        "components": {"schemas": {**forms, "Report": report}},
    }
