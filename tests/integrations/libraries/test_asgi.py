"""WebSockets of a real FastAPI service behind uvicorn, with OpenTelemetry's instrumentation of FastAPI."""

from __future__ import annotations

import asyncio
import importlib
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi
import fastapi.responses
import httpx
import pytest
import uvicorn
import websockets
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import SpanKind, StatusCode

import voicespan
from voicespan import emit
from voicespan import names as n
from voicespan.connection import Connection, offered
from voicespan.integrations import known
from voicespan.metrics.level import connections
from voicespan.metrics.messages import messages
from voicespan.metrics.start import start
from voicespan.stagemap.document import parse
from voicespan.stagemap.install import install

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from voicespan.finished import FinishedTurn

    from .conftest import Telemetry

Socket = fastapi.WebSocket
pytest.importorskip("opentelemetry.instrumentation.fastapi", reason="the instrumentation of FastAPI is not installed")


@contextmanager
def serving(app: fastapi.FastAPI) -> Iterator[str]:
    """Serve with uvicorn on a thread; give the address without its scheme."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            threading.Event().wait(0.01)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def turns(telemetry: Telemetry) -> list[FinishedTurn]:
    """The turns that this process has finished."""
    found: list[FinishedTurn] = []
    emit.recorder().watch = found.append
    return found


def service(handler: Callable[[Socket], Any]) -> fastapi.FastAPI:
    """Return a service that is instrumented as the distribution does it."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    known.fix_stock()
    app = fastapi.FastAPI()
    app.websocket("/call/{number}")(handler)
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
    return app


async def hold_a_call(address: str, *messages: str) -> list[str]:
    """Send messages and return their answers; the caller hangs up."""
    async with websockets.connect(f"ws://{address}/call/7?token=secret") as socket:
        answers = []
        for message in messages:
            await socket.send(message)
            answers.append(str(await socket.recv()))
        return answers


def setup_span(telemetry: Telemetry) -> ReadableSpan:
    (span,) = [span for span in telemetry.spans if span.kind is SpanKind.SERVER]
    return span


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def index(turn: FinishedTurn) -> object:
    return turn.root.attributes["voice.turn.index"]


async def echo(socket: Socket) -> None:
    """Answer every message, and let the end of the connection end the handler."""
    await socket.accept()
    while True:
        await socket.send_text(await socket.receive_text())


async def test_a_connection_is_one_span_and_its_messages_are_none(telemetry: Telemetry) -> None:
    """A WebSocket is the span of its set-up, which has ended before the first message; messages leave nothing."""
    ended: list[int] = []

    async def handler(socket: Socket) -> None:
        await socket.accept()
        ended.append(len(telemetry.spans))
        for _ in range(50):
            await socket.send_text(await socket.receive_text())

    with serving(service(handler)) as address:
        assert await hold_a_call(address, *["frame"] * 50) == ["frame"] * 50
    assert ended == [1]
    (span,) = telemetry.spans
    assert span.name == "GET /call/{number}"
    found = attributes(span)
    assert found["http.route"] == "/call/{number}"
    assert (found["http.request.method"], found["http.response.status_code"]) == ("GET", 101)
    assert "secret" not in str(found)


@pytest.mark.covers("A-U09", "E-U05", "F-IN33", "F-TR19")
async def test_requests_are_opentelemetry_s_and_counted(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request, a streamed one, a refused and a failed one are a span and a measurement each, with stable names."""
    conventions: Any = importlib.import_module("opentelemetry.instrumentation._semconv")
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    monkeypatch.setattr(conventions._OpenTelemetrySemanticConventionStability, "_initialized", False)
    app = service(echo)

    @app.get("/tts/{what}")
    async def tts(what: str) -> fastapi.responses.StreamingResponse:
        if what == "fail":
            raise RuntimeError("no model")
        if what == "refuse":
            raise fastapi.HTTPException(429)

        async def frames() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"frame"

        return fastapi.responses.StreamingResponse(frames())

    with serving(app) as address:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            codes = [(await client.get(f"/tts/{what}")).status_code for what in ("say", "refuse", "fail")]
    assert codes == [200, 429, 500]
    assert [span.name for span in telemetry.spans] == ["GET /tts/{what}"] * 3
    assert [attributes(span)["http.response.status_code"] for span in telemetry.spans] == codes
    points = telemetry.points("http.server.request.duration")
    assert sorted(point.attributes["http.response.status_code"] for point in points) == codes
    assert {point.attributes["http.route"] for point in points} == {"/tts/{what}"}


async def refuse(socket: Socket) -> None:
    """Close before accepting."""
    await socket.close()


async def break_down(_socket: Socket) -> None:
    """Fail before accepting."""
    raise RuntimeError("no model")


@pytest.mark.parametrize(("handler", "status", "error"), [(refuse, 403, None), (break_down, 500, "RuntimeError")])
async def test_a_connection_that_is_not_made(
    telemetry: Telemetry, handler: Callable[[Socket], Any], status: int, error: str | None
) -> None:
    """A connection that is refused or whose handler fails first has the status of the answer."""
    with serving(service(handler)) as address, pytest.raises(websockets.InvalidStatus):
        await hold_a_call(address)
    span = setup_span(telemetry)
    assert attributes(span)["http.response.status_code"] == status
    assert attributes(span).get("error.type") == error
    assert (span.status.status_code is StatusCode.ERROR) is (error is not None)


async def test_the_client_s_context_is_taken_over(telemetry: Telemetry) -> None:
    """A client that sends `traceparent` is the parent of the set-up."""
    with serving(service(echo)) as address:
        headers = {"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"}
        async with websockets.connect(f"ws://{address}/call/7", additional_headers=headers):
            pass
    span = setup_span(telemetry)
    assert span.parent is not None
    assert format(span.parent.span_id, "x") == "123456789abcdef"


async def answer_by_stages(socket: Socket) -> None:
    """Own code that asks for the current session, and begins none."""
    await socket.accept()
    async for message in socket.iter_text():
        session = voicespan.current_session()
        assert session is not None
        turn = session.user_turn(input="text")
        with turn.llm(model="m") as llm:
            llm.token()
        turn.end()
        await socket.send_text(message)


async def test_a_connection_becomes_a_session_when_it_is_asked_for(
    telemetry: Telemetry, turns: list[FinishedTurn]
) -> None:
    """What asks for the session in a handler gets the connection's: one for the call, linked to the set-up."""
    with serving(service(answer_by_stages)) as address:
        assert await hold_a_call(address, "a", "b") == ["a", "b"]
        telemetry.until(lambda: len(turns) == 2)
    assert [index(turn) for turn in turns] == [1, 2]
    assert len({turn.session_id for turn in turns}) == 1
    span = setup_span(telemetry)
    assert span.context is not None
    roots = [turn.root for turn in turns]
    assert all(root.attributes["voice.transport"] == "websocket" for root in roots)
    assert all(span.context.span_id in {link.context.span_id for link in root.links} for root in roots)


async def test_a_connection_that_nobody_asks_is_no_session(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A WebSocket without stages (a dashboard, a chat) begins no session."""
    begun: list[str] = []
    monkeypatch.setattr("voicespan.sessions.Session._say", lambda *_args, **_kw: begun.append("session"))
    with serving(service(echo)) as address:
        await hold_a_call(address, "a")
    assert begun == []


async def begin_own(socket: Socket) -> None:
    """Own code that begins its session, with an id of its own."""
    await socket.accept()
    with voicespan.session("call-7", transport="sip") as session:
        assert voicespan.current_session() is session
        async for message in socket.iter_text():
            session.user_turn(input="text").end()
            await socket.send_text(message)


async def begin_late(socket: Socket) -> None:
    """Something has asked for the session before the service's own code begins it."""
    await socket.accept()
    early = voicespan.current_session()
    assert early is not None
    turn = early.user_turn(input="text")
    session = voicespan.session("call-7", transport="sip")
    assert session is early
    async for message in socket.iter_text():
        turn.end()
        await socket.send_text(message)
    session.end()


@pytest.mark.parametrize("handler", [begin_own, begin_late])
async def test_a_session_of_the_service_s_own_is_the_only_one(
    telemetry: Telemetry, turns: list[FinishedTurn], handler: Callable[[Socket], Any]
) -> None:
    """Where the service begins a session, early or late, that one is the connection's."""
    with serving(service(handler)) as address:
        await hold_a_call(address, "a")
        telemetry.until(lambda: bool(turns))
    assert {(turn.session_id, turn.root.attributes["voice.transport"]) for turn in turns} == {("call-7", "sip")}


async def test_what_outlives_a_connection_begins_no_session(telemetry: Telemetry) -> None:
    """A task that is still there when the caller has gone finds no session."""
    found: list[object] = []
    tasks: list[asyncio.Task[None]] = []
    connections: list[Connection | None] = []
    gone = threading.Event()

    async def linger() -> None:
        await asyncio.to_thread(gone.wait, 10)
        found.append(voicespan.current_session())

    async def handler(socket: Socket) -> None:
        connections.append(offered())
        tasks.append(asyncio.create_task(linger()))
        await socket.close()

    with serving(service(handler)) as address:
        with pytest.raises(websockets.InvalidStatus):
            await hold_a_call(address)
        (connection,) = connections
        assert connection is not None
        telemetry.until(lambda: connection._over)
        gone.set()
        telemetry.until(lambda: bool(found))
    assert found == [None]


async def test_two_sessions_of_one_connection_stay_two(telemetry: Telemetry) -> None:
    """A connection that carries several calls is none of them."""
    found: list[object] = []

    async def handler(socket: Socket) -> None:
        first, second = voicespan.session("a"), voicespan.session("b")
        found.extend([first.id, second.id, voicespan.current_session()])
        await socket.close()

    with serving(service(handler)) as address, pytest.raises(websockets.InvalidStatus):
        await hold_a_call(address)
    assert found == ["a", "b", None]


async def test_the_stages_of_a_map_use_the_connection(
    telemetry: Telemetry, turns: list[FinishedTurn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage map without a session takes the connection for it; two calls at once are two sessions."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    install(parse({"stages": {"llm": "mapped_app:think"}}))
    import mapped_app  # type: ignore[import-not-found]

    async def handler(socket: Socket) -> None:
        await socket.accept()
        async for message in socket.iter_text():
            await socket.send_text(await mapped_app.think(message))

    with serving(service(handler)) as address:
        await asyncio.gather(hold_a_call(address, "a", "b"), hold_a_call(address, "c"))
        telemetry.until(lambda: len(turns) >= 2)
    assert [index(turn) for turn in turns] == [1, 1]
    assert len({turn.session_id for turn in turns}) == 2


async def leave(socket: Socket) -> None:
    """The caller hangs up in the silence: nothing was said yet."""
    await socket.accept()
    session = voicespan.current_session()
    assert session is not None
    session.user_turn(input="text")
    await socket.send_text(await socket.receive_text())
    await socket.receive_text()


async def test_a_caller_who_hangs_up_was_not_answered(telemetry: Telemetry, turns: list[FinishedTurn]) -> None:
    """The end of the connection ends the session: the open turn is `no_reply`, `user_left`."""
    with serving(service(leave)) as address:
        await hold_a_call(address, "a")
        telemetry.until(lambda: bool(turns))
    (turn,) = turns
    assert turn.outcome == "no_reply"
    assert turn.root.attributes["voice.turn.no_reply.reason"] == "user_left"


async def speak_on(socket: Socket) -> None:
    """A minute of speech has left for the caller when she hangs up, and the handler takes no notice."""
    await socket.accept()
    async for message in socket.iter_text():
        session = voicespan.current_session()
        assert session is not None
        session.user_turn(input="text").audio_sent(60)
        await socket.send_text(message)


async def test_a_caller_who_hangs_up_hears_no_more(telemetry: Telemetry, turns: list[FinishedTurn]) -> None:
    """What was still to be played when the caller left was not heard, also where the handler ends in an orderly way."""
    with serving(service(speak_on)) as address:
        await hold_a_call(address, "a")
        telemetry.until(lambda: bool(turns))
    assert turns[0]["playback"].duration_ns < 30e9


async def test_a_connection_is_offered_only_in_its_handler(telemetry: Telemetry) -> None:
    """Where a server runs handlers in a task of its own, nothing of a connection is there when its handler is over."""
    inside: list[object] = []

    async def handler(socket: Socket) -> None:
        await socket.accept()
        inside.append(offered())

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(_message: Any) -> None:
        pass

    scope = {
        "type": "websocket", "path": "/call/7", "raw_path": b"/call/7", "query_string": b"", "headers": [],
        "scheme": "ws", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9), "subprotocols": [], "root_path": "",
    }  # fmt: skip
    await service(handler)(scope, receive, send)
    assert isinstance(inside[0], Connection)
    assert offered() is None
    assert voicespan.current_session() is None
    assert not trace.get_current_span().get_span_context().is_valid


async def test_work_in_a_handler_belongs_to_the_connection(telemetry: Telemetry) -> None:
    """A span that is made in a handler outside of turns hangs on the set-up, in its trace."""

    async def handler(socket: Socket) -> None:
        await socket.accept()
        with trace.get_tracer("app").start_as_current_span("look up the caller"):
            pass

    with serving(service(handler)) as address:
        async with websockets.connect(f"ws://{address}/call/7") as socket:
            await socket.wait_closed()
        telemetry.until(lambda: len(telemetry.spans) == 2)
    (inner,) = [span for span in telemetry.spans if span.name == "look up the caller"]
    outer = setup_span(telemetry)
    assert outer.context is not None
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """Read the metrics of this test."""
    made = InMemoryMetricReader()
    provider = MeterProvider([made], shutdown_on_exit=False)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    messages.start()
    connections.start()
    start()
    yield made
    provider.shutdown()
    messages.start()
    connections.start()


def told(reader: InMemoryMetricReader, name: str) -> dict[tuple[Any, ...], Any]:
    """The numbers of a metric, by the values of its labels in order of their names."""
    data = reader.get_metrics_data()
    return {
        tuple(value for _, value in sorted((point.attributes or {}).items())): getattr(point, "value", None)
        for each in (data.resource_metrics if data is not None else ())
        for scope in each.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    }


@pytest.mark.covers("C-M08", "C-M09", "C-M11", "C-E07")
async def test_messages_of_an_unchanged_service_are_counted(telemetry: Telemetry, reader: InMemoryMetricReader) -> None:
    """Messages by kind and direction, their bytes, open connections and close codes are metrics, and no spans."""
    inside: list[Any] = []

    async def handler(socket: Socket) -> None:
        await socket.accept()
        inside.append(told(reader, n.METRIC_VOICE_CONNECTION_ACTIVE))
        while (message := await socket.receive())["type"] == "websocket.receive":
            await socket.send_bytes(message.get("bytes") or b"1234")

    with serving(service(handler)) as address:
        async with websockets.connect(f"ws://{address}/call/7") as socket:
            sent: list[str | bytes] = ['{"type": "SessionStart", "x": 1}', "h\u00e4", *[bytes(320)] * 21]
            for message in sent:
                await socket.send(message)
                await socket.recv()
            await socket.close(4001)
        while not told(reader, n.METRIC_VOICE_CONNECTION_CLOSED):  # noqa: ASYNC110 - nobody tells it
            await asyncio.sleep(0.01)
    assert inside == [{("websocket",): 1}]
    assert told(reader, n.METRIC_VOICE_CONNECTION_ACTIVE) == {("websocket",): 0}
    assert told(reader, n.METRIC_VOICE_MESSAGES) == {
        ("receive", "SessionStart"): 1, ("receive", "text"): 1, ("receive", "binary"): 21, ("transmit", "binary"): 23,
    }  # fmt: skip
    assert told(reader, n.METRIC_VOICE_MESSAGE_IO) == {("receive",): 32 + 3 + 21 * 320, ("transmit",): 8 + 21 * 320}
    assert told(reader, n.METRIC_VOICE_CONNECTION_CLOSED) == {("4001", "websocket"): 1}
    assert len(telemetry.spans) == 1


async def test_what_a_service_counts_itself_counts_once(telemetry: Telemetry, reader: InMemoryMetricReader) -> None:
    """Where the service counts messages and connections by its own names, only those are there."""
    inside: list[Any] = []

    async def handler(socket: Socket) -> None:
        await socket.accept()
        with voicespan.metrics.connection("websocket"):
            inside.append(told(reader, n.METRIC_VOICE_CONNECTION_ACTIVE))
            for _ in range(12):
                message = await socket.receive_text()
                with voicespan.metrics.message_received("Control"):
                    await socket.send_text(message)
                    voicespan.metrics.message_sent("Error")

    with serving(service(handler)) as address:
        await hold_a_call(address, *["x"] * 12)
        while not told(reader, n.METRIC_VOICE_CONNECTION_CLOSED):  # noqa: ASYNC110 - nobody tells it
            await asyncio.sleep(0.01)
    assert inside == [{("websocket",): 1}]
    assert told(reader, n.METRIC_VOICE_CONNECTION_ACTIVE) == {("websocket",): 0}
    assert told(reader, n.METRIC_VOICE_MESSAGES) == {("receive", "Control"): 12, ("transmit", "Error"): 12}
    assert told(reader, n.METRIC_VOICE_MESSAGE_IO) == {("receive",): 12, ("transmit",): 12}


async def test_a_refused_connection_was_never_open(telemetry: Telemetry, reader: InMemoryMetricReader) -> None:
    """A connection that the service refuses is neither counted as open nor as closed."""

    async def handler(socket: Socket) -> None:
        await socket.close()

    with serving(service(handler)) as address, pytest.raises(websockets.InvalidStatus):
        await hold_a_call(address)
    assert told(reader, n.METRIC_VOICE_CONNECTION_ACTIVE) == {}
    assert told(reader, n.METRIC_VOICE_CONNECTION_CLOSED) == {}
