"""A service with the endpoint mounted, a page that uses the tracker, and the turns that come of it."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from fastapi.responses import HTMLResponse, PlainTextResponse

import voicespan
from voicespan.clock import RemoteClock
from voicespan.emit import recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from voicespan.client.endpoint import Taken
    from voicespan.finished import FinishedTurn

PAGE = """<!doctype html><title>call</title>
<body>
<script src="/api/performance-tracker.js"></script>
<script>
const perfTracker = new PerformanceTracker(
  {enableLogging: true, sendToServer: true, serverEndpoint: "/api/metrics", aggregationInterval: 10000});
window.perfTracker = perfTracker;
</script>
</body>"""
WAIT_S = 15
T = TypeVar("T")


class Service:
    """What the test sees of the service."""

    def __init__(self, **options: Any) -> None:
        self.app = FastAPI()
        self.taken: list[Taken] = []
        self.turns: list[FinishedTurn] = []
        self.headers: list[str | None] = []
        self.messages: list[dict[str, Any]] = []
        self.sockets: list[WebSocket] = []
        reports = voicespan.client_reports(on_report=self.taken.append, **options)
        self.door: Any = reports.routes[0].endpoint.__self__  # type: ignore[attr-defined]
        self.app.mount("/api", reports)
        self.app.get("/")(self.page)
        self.app.get("/work")(self.work)
        self.app.websocket("/talk")(self.talk)
        self.app.websocket("/clock")(self.compare)
        self.clock = RemoteClock()
        self.address = ""

    async def page(self) -> HTMLResponse:
        """Give the page."""
        return HTMLResponse(PAGE)

    async def work(self, request: Request) -> PlainTextResponse:
        """Remember which turn a request names."""
        self.headers.append(request.headers.get("traceparent"))
        return PlainTextResponse("done")

    async def talk(self, socket: WebSocket) -> None:
        """Name a turn to the client, and remember what it says."""
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                message = await socket.receive_json()
                self.messages.append(message)
                await socket.send_json(message.get("echo", {}))

    async def compare(self, socket: WebSocket) -> None:
        """Compare clocks with the client."""
        await socket.accept()
        with voicespan.session() as session, contextlib.suppress(WebSocketDisconnect):
            self.clock = session.remote_clock
            while True:
                await socket.send_json(session.clock_exchange(await socket.receive_json()))

    def marks(self) -> dict[str, float]:
        """Every mark that was taken, by name: the client's milliseconds."""
        return {name: at for each in self.taken for turn in each.report.turns for name, at in turn.marks.items()}

    def finished(self, trace_id: int) -> FinishedTurn:
        """Wait for a turn to be over."""
        return wait_for(lambda: next((turn for turn in self.turns if turn.trace_id == trace_id), None))


def wait_for(find: Callable[[], T | None]) -> T:
    """Return what is found in the end."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if found := find():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Service]:
    """Serve on a free port of this machine."""
    service = Service(**options)
    server = uvicorn.Server(uvicorn.Config(service.app, port=0, log_level="warning", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, daemon=True)
    recorder().watch = service.turns.append
    thread.start()
    try:
        wait_for(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        service.address = f"http://127.0.0.1:{port}"
        yield service
    finally:
        recorder().watch = None
        server.should_exit = True
        thread.join(WAIT_S)
