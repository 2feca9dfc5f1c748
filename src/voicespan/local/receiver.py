"""The HTTP side of the local store: OTLP in, the page and its JSON out. One process, one machine, no authentication."""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from voicespan.local import decode, page
from voicespan.local.api import Api, as_json
from voicespan.local.body import Limits, RefusedError, drain, read_body
from voicespan.local.hosts import LocalHostsOnly
from voicespan.local.live import Live
from voicespan.local.schema import StoreError
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from google.protobuf.message import Message

    from voicespan.local.store import Store

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_MAX_WAITING = 32
_RETRY_AFTER_S = 1
_GRPC_CODES = {400: 3, 408: 4, 413: 8, 415: 3, 503: 14}  # google.rpc.Code
_NOT_STORED = {"metrics": ExportMetricsServiceResponse, "logs": ExportLogsServiceResponse}


def application(
    store: Store, *, allowed_hosts: Iterable[str] = (), limits: Limits | None = None, live: Live | None = None
) -> Starlette:
    """Return the ASGI application that receives into `store` and answers from it.

    Requests for other host names than this machine's own and `allowed_hosts` are refused: else a web page could reach
    the receiver under a name of its own (DNS rebinding).
    """
    endpoint = _Receiver(store, limits or Limits())
    live = live or Live(store)
    api = Api(store.reader, live)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        live.open()
        yield
        live.close()
        endpoint.writer.shutdown(wait=True)

    return Starlette(
        routes=[
            Route("/v1/traces", endpoint.traces, methods=["POST"]),
            *(Route(f"/v1/{signal}", endpoint.not_stored(signal), methods=["POST"]) for signal in _NOT_STORED),
            *api.routes(),
            *page.routes(),
            Route("/health", endpoint.health),
        ],
        middleware=[Middleware(LocalHostsOnly, allowed=tuple(allowed_hosts))],
        lifespan=lifespan,
    )


class _Receiver:
    """The endpoints. Inserting happens in one thread of its own: the event loop goes on reading meanwhile."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self.store = store
        self.limits = limits
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="voicespan-store")
        self.waiting = asyncio.Semaphore(_MAX_WAITING)  # bounds the memory that bodies take; others wait unread

    async def traces(self, request: Request) -> Response:
        """Take an ExportTraceServiceRequest; the answer comes when it is stored."""

        async def store(media_type: str, body: bytes) -> Message:
            loop = asyncio.get_running_loop()
            answer: Message = await loop.run_in_executor(self.writer, self._store, media_type, body)
            return answer

        return await self._taken(request, store)

    def _store(self, media_type: str, body: bytes) -> ExportTraceServiceResponse:
        received = (decode.decode_json if media_type == JSON else decode.decode_protobuf)(body)
        self.store.add(received.spans)
        answer = ExportTraceServiceResponse()
        if received.rejected:
            answer.partial_success.rejected_spans = received.rejected
            answer.partial_success.error_message = received.reason
        return answer

    def not_stored(self, signal: str) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that reads a signal and drops it, so that a service that sends it does not complain."""
        answer: Message = _NOT_STORED[signal]()

        async def drop(_media_type: str, _body: bytes) -> Message:
            return answer

        async def endpoint(request: Request) -> Response:
            return await self._taken(request, drop)

        return endpoint

    async def _taken(self, request: Request, take: Callable[[str, bytes], Awaitable[Message]]) -> Response:
        """Read a request, give it to `take` and send its answer, or say why not."""
        try:
            media_type = _media_type(request)
            async with self.waiting:
                return _message(media_type, await take(media_type, await read_body(request, self.limits)))
        except RefusedError as refused:
            await drain(request, self.limits)
            return _refusal(request, refused.status, str(refused))
        except decode.MalformedRequestError as malformed:
            return _refusal(request, 400, str(malformed))
        except StoreError as error:
            return _refusal(request, 503, str(error), {"Retry-After": str(_RETRY_AFTER_S)})
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    async def health(self, _: Request) -> Response:
        """Say that this is a voicespan receiver, and which."""
        return as_json(
            {"service": "voicespan", "version": __version__, "pid": os.getpid(), "database": str(self.store.path)}
        )


def _media_type(request: Request) -> str:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (PROTOBUF, JSON):
        raise RefusedError(415, f"content type {media_type!r} is not {PROTOBUF} or {JSON}")
    return media_type


def _message(media_type: str, answer: Message) -> Response:
    if media_type == PROTOBUF:
        return Response(answer.SerializeToString(), media_type=PROTOBUF)
    from google.protobuf.json_format import MessageToDict

    return as_json(MessageToDict(answer))


def _refusal(request: Request, status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Return the reason as google.rpc.Status, in the form of the request as OTLP says."""
    headers = {"Connection": "close", **(headers or {})}  # what is left of the request is not read
    code = _GRPC_CODES[status]
    if request.headers.get("content-type", "").startswith(PROTOBUF):
        body = Status(code=code, message=reason).SerializeToString()
        return Response(body, status, headers, media_type=PROTOBUF)
    return Response(json.dumps({"code": code, "message": reason}), status, headers, media_type=JSON)
