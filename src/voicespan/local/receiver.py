"""The HTTP side of the local store: OTLP in, the page and its JSON out."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from google.rpc.status_pb2 import Status as RpcStatus
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from voicespan.local import page
from voicespan.local.access import OwnOriginOnly, TokenOnly
from voicespan.local.api import Api, as_json
from voicespan.local.body import Limits, RefusedError, drain, read_body
from voicespan.local.form import JSON, PROTOBUF, MalformedRequestError
from voicespan.local.headers import SecurityHeaders
from voicespan.local.hosts import LocalHostsOnly
from voicespan.local.intake import SIGNALS
from voicespan.local.progress import Progress
from voicespan.local.schema import StoreError
from voicespan.local.transfer import Transfer
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from google.protobuf.message import Message
    from starlette.types import ASGIApp

    from voicespan.local.intake import Intake
    from voicespan.local.live import Live
    from voicespan.local.status import Status

_MAX_HELD = 8
_RETRY_AFTER_S = 1
_GRPC_CODES = {400: 3, 408: 4, 413: 8, 415: 3, 503: 14}  # google.rpc.Code


def application(
    intake: Intake,
    live: Live,
    status: Status,
    *,
    token: str | None = None,
    allowed_hosts: Iterable[str] = (),
    limits: Limits | None = None,
) -> ASGIApp:
    """Return the ASGI application that brings requests to `intake` and answers from its store.

    With a token only who knows it is answered. Without one, requests for other host names than this machine's own and
    `allowed_hosts` are refused: else a web page could reach the receiver under a name of its own (DNS rebinding).
    """
    receiver = _Receiver(intake, limits or Limits())
    guard = Middleware(TokenOnly, token) if token else Middleware(LocalHostsOnly, allowed=tuple(allowed_hosts))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        live.open()
        yield
        live.close()

    starlette = Starlette(
        routes=[
            *(Route(f"/v1/{signal}", partial(receiver.take, signal), methods=["POST"]) for signal in SIGNALS),
            *Api(intake.store.reader, live, content=intake.content).routes(),
            *status.routes(),
            *Transfer(intake).routes(),
            *Progress(intake.store, live, content=intake.content).routes(),
            *page.routes(),
            Route("/health", receiver.health),
        ],
        middleware=[guard, Middleware(OwnOriginOnly)],
        lifespan=lifespan,
    )
    return SecurityHeaders(starlette)


class _Receiver:
    """The endpoints of OTLP. The event loop reads; decoding and storing happen in the thread of the intake."""

    def __init__(self, intake: Intake, limits: Limits) -> None:
        self.intake = intake
        self.limits = limits
        self.held = asyncio.Semaphore(_MAX_HELD)  # bounds the memory that bodies take; others wait unread

    async def take(self, signal: str, request: Request) -> Response:
        """Take a request of this signal and answer when it is stored, or say why not."""
        try:
            form = _form(request)
            async with self.held:
                body = await read_body(request, self.limits)
                return _message(form, await asyncio.wrap_future(self.intake.take(signal, form, body)))
        except RefusedError as refused:
            await drain(request, self.limits)
            return _refusal(request, refused.status, str(refused))
        except MalformedRequestError as malformed:
            return _refusal(request, 400, str(malformed))
        except StoreError as error:
            return _refusal(request, 503, str(error), {"Retry-After": str(_RETRY_AFTER_S)})
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    async def health(self, _: Request) -> Response:
        """Say that this is a voicespan receiver, which, and whether it keeps what is said."""
        return as_json(
            {
                "service": "voicespan",
                "version": __version__,
                "pid": os.getpid(),
                "database": str(self.intake.store.path),
                "content": self.intake.content,
            }
        )


def _form(request: Request) -> str:
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form not in (PROTOBUF, JSON):
        raise RefusedError(415, f"content type {form!r} is not {PROTOBUF} or {JSON}")
    return form


def _message(form: str, answer: Message) -> Response:
    if form == PROTOBUF:
        return Response(answer.SerializeToString(), media_type=PROTOBUF)
    from google.protobuf.json_format import MessageToDict

    return as_json(MessageToDict(answer))


def _refusal(request: Request, status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Return the reason as google.rpc.Status, in the form of the request as OTLP says."""
    headers = {"Connection": "close", **(headers or {})}  # what is left of the request is not read
    code = _GRPC_CODES[status]
    if request.headers.get("content-type", "").startswith(PROTOBUF):
        body = RpcStatus(code=code, message=reason).SerializeToString()
        return Response(body, status, headers, media_type=PROTOBUF)
    return Response(json.dumps({"code": code, "message": reason}), status, headers, media_type=JSON)
