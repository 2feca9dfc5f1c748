"""Clients of HTTP inside a stage, by OpenTelemetry's instrumentations."""

from __future__ import annotations

import importlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.trace import SpanKind

import voicespan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .conftest import Telemetry

ANSWER = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}},
]}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers everything like a chat model."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.parents.append(self.headers.get("traceparent"))  # type: ignore[attr-defined]
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """A server that keeps the contexts it was sent, as `parents`."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.parents = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


async def by_httpx(url: str) -> None:
    import httpx

    async with httpx.AsyncClient() as client:
        await client.get(url)


async def by_requests(url: str) -> None:
    import requests

    requests.get(url, timeout=5)  # noqa: ASYNC210 - nothing else runs here


async def by_aiohttp(url: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url) as response:
        await response.read()


async def by_openai(url: str) -> None:
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key="k") as client:
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello?"}])


def instrumentor(module: str, name: str) -> Any:
    found = pytest.importorskip(f"opentelemetry.instrumentation.{module}", reason=f"{module} is not instrumented here")
    return getattr(found, name)()


@pytest.mark.parametrize(
    ("call", "module", "name"),
    [
        (by_httpx, "httpx", "HTTPXClientInstrumentor"),
        (by_requests, "requests", "RequestsInstrumentor"),
        (by_aiohttp, "aiohttp_client", "AioHttpClientInstrumentor"),
        (by_openai, "httpx", "HTTPXClientInstrumentor"),
    ],
)
async def test_a_request_is_a_child_of_the_stage(
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    server: ThreadingHTTPServer,
    call: Callable[[str], Awaitable[None]],
    module: str,
    name: str,
) -> None:
    """A request that is made inside a stage is its child, with stable names, and the server gets its context."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    conventions: Any = importlib.import_module("opentelemetry.instrumentation._semconv")
    monkeypatch.setattr(conventions._OpenTelemetrySemanticConventionStability, "_initialized", False)
    names = [name, "HTTPX2ClientInstrumentor"] if call is by_openai else [name]
    instrumentors = [instrumentor(module, each) for each in names]
    for each in instrumentors:
        each.instrument()
    try:
        with voicespan.session() as session:
            turn = session.user_turn(input="text")
            with turn.llm(model="m") as llm:
                await call(f"http://127.0.0.1:{server.server_address[1]}/")
                stage = llm.span_context()
    finally:
        for each in instrumentors:
            each.uninstrument()
    requests = [span for span in telemetry.spans if span.kind is SpanKind.CLIENT]
    assert len(requests) == 1
    (span,) = requests
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (stage.trace_id, stage.span_id)
    assert (span.attributes or {})["http.request.method"] in ("GET", "POST")
    assert span.context is not None
    assert format(span.context.span_id, "016x") in server.parents[0]  # type: ignore[attr-defined]
