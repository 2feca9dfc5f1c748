"""gRPC between a real client and a real server, of threads and of asyncio."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

import voicespan
from voicespan import metrics, settings
from voicespan import names as n
from voicespan.integrations import grpc as integration
from voicespan.integrations.grpc.client import _address

from .speech import FRAMES, SERVICE, AioSpeech, Speech, aio_opened, aio_serving, opened, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from .conftest import Telemetry

KINDS = ("GrpcClientInstrumentor", "GrpcServerInstrumentor", "GrpcAioClientInstrumentor", "GrpcAioServerInstrumentor")


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    made = [getattr(integration, kind)() for kind in KINDS]
    for each in made:
        each.instrument()
    yield
    for each in made:
        each.uninstrument()


def sides(telemetry: Telemetry) -> tuple[ReadableSpan, ReadableSpan]:
    """Return the two spans of one call: that of the client and that of the server."""
    client, server = telemetry.wait(2)
    assert (client.kind, server.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    return client, server


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def status(span: ReadableSpan) -> tuple[object, object, StatusCode]:
    found = attributes(span)
    return found.get("rpc.response.status_code"), found.get("error.type"), span.status.status_code


def related(client: ReadableSpan, server: ReadableSpan) -> bool:
    assert client.context is not None
    return server.parent is not None and server.parent.span_id == client.context.span_id


def numbers() -> Iterator[bytes]:
    for number in range(3):
        yield bytes([number])


async def aio_numbers() -> AsyncIterator[bytes]:
    for number in numbers():
        yield number


def talk(channel: Any, kind: str) -> object:
    """Hold one call of each kind with the client of threads."""
    path = f"/{SERVICE}/{kind}"
    if kind == "Say":
        return channel.unary_unary(path)(b"hello")
    if kind == "Stream":
        return len(list(channel.unary_stream(path)(b"hello")))
    if kind == "Gather":
        return channel.stream_unary(path)(numbers())
    return b"".join(channel.stream_stream(path)(numbers()))


async def aio_talk(channel: Any, kind: str) -> object:
    """Hold one call of each kind with the client of asyncio."""
    path = f"/{SERVICE}/{kind}"
    if kind == "Say":
        return await channel.unary_unary(path)(b"hello")
    if kind == "Stream":
        return len([frame async for frame in channel.unary_stream(path)(b"hello")])
    if kind == "Gather":
        return await channel.stream_unary(path)(aio_numbers())
    return b"".join([each async for each in channel.stream_stream(path)(aio_numbers())])


ANSWERS = {"Say": b"hello", "Stream": FRAMES, "Gather": b"\0\1\2", "Talk": b"\0\1\2"}


@pytest.mark.covers("C-T08", "C-T04", "F-EP06")
@pytest.mark.parametrize("kind", ANSWERS)
def test_each_kind_of_call_is_two_related_spans(telemetry: Telemetry, kind: str) -> None:
    """With threads, a call of any kind is a client span with a server span below it, in which the handler runs."""
    speech = Speech()
    with serving(speech) as address, opened(address) as channel:
        assert talk(channel, kind) == ANSWERS[kind]
        client, server = sides(telemetry)
    assert related(client, server)
    assert (client.name, server.name) == (f"{SERVICE}/{kind}", kind)
    assert attributes(client)["rpc.method"] == attributes(server)["rpc.method"] == f"{SERVICE}/{kind}"
    assert status(client) == status(server) == ("OK", None, StatusCode.UNSET)
    assert server.context is not None
    assert set(speech.inside) == {server.context.span_id}
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.covers("C-T08", "F-EP06")
@pytest.mark.parametrize("kind", ANSWERS)
async def test_each_kind_of_call_with_asyncio(telemetry: Telemetry, kind: str) -> None:
    """With asyncio, the same, whether a handler is a coroutine, a generator, or writes its responses."""
    speech = AioSpeech()
    async with aio_serving(speech) as address, aio_opened(address) as channel:
        assert await aio_talk(channel, kind) == ANSWERS[kind]
        await asyncio.sleep(0.05)
    client, server = sides(telemetry)
    assert related(client, server)
    assert (client.name, server.name) == (f"{SERVICE}/{kind}", kind)
    assert status(client) == status(server) == ("OK", None, StatusCode.UNSET)
    assert server.context is not None
    assert set(speech.inside) == {server.context.span_id}


def test_with_call_and_future(telemetry: Telemetry) -> None:
    """The two other ways to make a call are spans as well, and give what gRPC gives."""
    with serving(Speech()) as address, opened(address) as channel:
        method = channel.unary_unary(f"/{SERVICE}/Say")
        response, call = method.with_call(b"hello", 5, (("key", "value"),))
        assert (response, call.code()) == (b"hello", grpc.StatusCode.OK)
        assert method.future(b"hello", metadata=[("key", "value")]).result() == b"hello"
        spans = telemetry.wait(4)
    assert [span.kind for span in spans] == [SpanKind.CLIENT, SpanKind.SERVER] * 2
    assert all(span.status.status_code is StatusCode.UNSET for span in spans)


@pytest.mark.parametrize(
    ("request_", "code", "at_client", "at_server"),
    [
        (b"fail", "INTERNAL", StatusCode.ERROR, StatusCode.ERROR),
        (b"raise", "UNKNOWN", StatusCode.ERROR, StatusCode.ERROR),
        (b"refuse", "INVALID_ARGUMENT", StatusCode.ERROR, StatusCode.UNSET),
    ],
)
@pytest.mark.parametrize("aio", [False, True])
async def test_a_failure_has_its_code_on_both_sides(
    telemetry: Telemetry, request_: bytes, code: str, at_client: StatusCode, at_server: StatusCode, aio: bool
) -> None:
    """The status is on both spans; what the client did wrong is no error of the server."""
    if aio:
        async with aio_serving(AioSpeech()) as address, aio_opened(address) as channel:
            with pytest.raises(grpc.RpcError):
                await channel.unary_unary(f"/{SERVICE}/Say")(request_)
    else:
        with serving(Speech()) as address, opened(address) as plain, pytest.raises(grpc.RpcError):
            plain.unary_unary(f"/{SERVICE}/Say")(request_)
    client, server = sides(telemetry)
    assert status(client) == (code, code, at_client)
    assert status(server) == (code, code if at_server is StatusCode.ERROR else None, at_server)


def test_an_unreachable_worker(telemetry: Telemetry) -> None:
    """A worker that is not there leaves one client span with UNAVAILABLE."""
    with opened("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(f"/{SERVICE}/Say")(b"hello")
    (span,) = telemetry.wait(1)
    assert status(span) == ("UNAVAILABLE", "UNAVAILABLE", StatusCode.ERROR)
    assert attributes(span)["server.port"] == 1


def test_a_stream_that_is_cancelled(telemetry: Telemetry) -> None:
    """A stream that its reader cancels ends both spans at once, and neither is an error."""
    with serving(Speech()) as address, opened(address) as channel:
        stream = channel.unary_stream(f"/{SERVICE}/Stream")(b"endless")
        next(stream)
        stream.cancel()
        client, server = sides(telemetry)
    assert status(client) == status(server) == ("CANCELLED", None, StatusCode.UNSET)


def test_a_stream_that_nobody_reads_to_its_end(telemetry: Telemetry) -> None:
    """A stream that is dropped half-read ends both spans."""
    with serving(Speech()) as address, opened(address) as channel:
        for _ in channel.unary_stream(f"/{SERVICE}/Stream")(b"endless"):
            break
        gc.collect()
        client, server = sides(telemetry)
    assert status(client) == status(server) == ("CANCELLED", None, StatusCode.UNSET)


def test_a_stream_that_is_never_begun(telemetry: Telemetry) -> None:
    """A stream of which nothing is read has a span as well, from the call on."""
    with serving(Speech()) as address, opened(address) as channel:
        stream = channel.unary_stream(f"/{SERVICE}/Stream")(b"hello")
        stream.cancel()
        # The server may have heard of it or not.
        telemetry.until(lambda: any(span.kind is SpanKind.CLIENT for span in telemetry.spans))
        (client,) = [span for span in telemetry.spans if span.kind is SpanKind.CLIENT]
    assert status(client) == ("CANCELLED", None, StatusCode.UNSET)


async def test_aio_streams_that_are_cancelled_or_dropped(telemetry: Telemetry) -> None:
    """With asyncio, a stream that is cancelled, one that is dropped and one that is never read end their spans."""
    async with aio_serving(AioSpeech()) as address, aio_opened(address) as channel:
        method = channel.unary_stream(f"/{SERVICE}/Stream")
        stream = method(b"endless")
        await stream.read()
        stream.cancel()
        await asyncio.sleep(0.1)
        async for _ in method(b"endless"):
            break
        gc.collect()
        await asyncio.sleep(0.1)
        unread = method(b"hello")
        await asyncio.sleep(0.1)
        del unread
        gc.collect()
        await asyncio.sleep(0.1)
    clients = [span for span in telemetry.wait(6) if span.kind is SpanKind.CLIENT]
    assert [status(span)[0] for span in clients] == ["CANCELLED"] * 3
    assert all(span.status.status_code is StatusCode.UNSET for span in telemetry.spans)


async def test_an_aio_call_whose_task_is_cancelled(telemetry: Telemetry) -> None:
    """A unary call whose waiting task is cancelled ends both spans, and cancellation passes through."""
    speech = AioSpeech()
    async with aio_serving(speech) as address, aio_opened(address) as channel:

        async def call() -> bytes:
            answer: bytes = await channel.unary_unary(f"/{SERVICE}/Say")(b"wait")
            return answer

        task = asyncio.create_task(call())
        await asyncio.to_thread(speech.begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
    client, server = sides(telemetry)
    assert status(client) == status(server) == ("CANCELLED", None, StatusCode.UNSET)


async def test_a_deadline(telemetry: Telemetry) -> None:
    """A call that takes longer than its deadline is an error on both sides."""
    async with aio_serving(AioSpeech()) as address, aio_opened(address) as channel:
        with pytest.raises(grpc.RpcError):
            await channel.unary_unary(f"/{SERVICE}/Say")(b"wait", timeout=0.2)
        await asyncio.sleep(0.1)
    client, server = sides(telemetry)
    assert status(client) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", StatusCode.ERROR)
    assert status(server)[0] in ("DEADLINE_EXCEEDED", "CANCELLED")


async def test_what_grpc_gives_stays_what_it_is(telemetry: Telemetry) -> None:
    """Calls keep their type and their methods: metadata, code, cancel."""
    async with aio_serving(AioSpeech()) as address, aio_opened(address) as channel:
        assert issubclass(channel.__class__, grpc.aio.Channel)
        call = channel.unary_stream(f"/{SERVICE}/Stream")(b"hello")
        assert isinstance(call, grpc.aio.UnaryStreamCall)
        assert len([frame async for frame in call]) == FRAMES
        assert await call.code() is grpc.StatusCode.OK
        assert call.done()
    with serving(Speech()) as address, opened(address) as plain:
        assert isinstance(plain.unary_unary("/a/b"), grpc.UnaryUnaryMultiCallable)
        stream = plain.unary_stream(f"/{SERVICE}/Stream")(b"hello")
        assert issubclass(type(stream), grpc.Call)
        assert len(list(stream)) == FRAMES
        assert stream.code() is grpc.StatusCode.OK


async def test_interceptors_of_the_service_run_inside(telemetry: Telemetry) -> None:
    """A service's own interceptor is called, and what it cancels or reads is still one span."""
    seen: list[str] = []

    class Own(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.extend(key for key, _ in details.metadata or ())
            return await continuation(details, request)

    async with (
        aio_serving(AioSpeech()) as address,
        aio_opened(address, interceptors=[Own()]) as channel,
    ):
        assert await channel.unary_unary(f"/{SERVICE}/Say")(b"hello") == b"hello"
    sides(telemetry)
    assert "traceparent" in seen


@pytest.mark.covers("F-R24")
def test_calls_are_measured_in_seconds(telemetry: Telemetry) -> None:
    """Both sides record the duration of a call, with the fully qualified method and its status."""
    with serving(Speech()) as address, opened(address) as channel:
        talk(channel, "Stream")
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/{SERVICE}/Say")(b"fail")
        telemetry.wait(4)
    for side in ("client", "server"):
        points = {point.attributes["rpc.method"]: point for point in telemetry.points(f"rpc.{side}.call.duration")}
        assert set(points) == {f"{SERVICE}/Stream", f"{SERVICE}/Say"}
        assert points[f"{SERVICE}/Say"].attributes["error.type"] == "INTERNAL"
        assert "error.type" not in points[f"{SERVICE}/Stream"].attributes
        assert all(0 < point.sum < 30 for point in points.values())


@pytest.mark.covers("C-E08", "F-TR11", "F-TR21")
def test_a_worker_and_the_commands_to_it_are_traced_and_timed(telemetry: Telemetry) -> None:
    """Synthesis is a call in two processes, and so is each command, with a span below until it was applied."""
    with serving(CommandedSpeech()) as address, opened(address) as channel:
        with telemetry.tracers.get_tracer("agent").start_as_current_span("agent") as agent:
            talk(channel, "Stream")
            for command in (b"PAUSE", b"RESUME", b"STOP"):
                assert channel.unary_unary(f"/{SERVICE}/Say")(command) == command
        telemetry.wait(1 + 2 + 3 * 3)
    spans = {span.context.span_id: span for span in telemetry.spans if span.context is not None}
    assert {span.context.trace_id for span in telemetry.spans if span.context} == {agent.get_span_context().trace_id}
    controls = sorted((span for span in spans.values() if span.name == n.SPAN_CONTROL), key=lambda s: s.start_time or 0)
    assert [attributes(span)[n.VOICE_CONTROL_COMMAND] for span in controls] == ["PAUSE", "RESUME", "STOP"]
    for control in controls:
        assert control.parent is not None
        server = spans[control.parent.span_id]
        assert (server.kind, server.name) == (SpanKind.SERVER, "Say")
        assert (server.start_time or 0) <= (control.start_time or 0) < (control.end_time or 0) <= (server.end_time or 0)
    calls = {point.attributes["rpc.method"]: point.count for point in telemetry.points("rpc.server.call.duration")}
    assert calls == {f"{SERVICE}/Stream": 1, f"{SERVICE}/Say": 3}


class CommandedSpeech(Speech):
    """A worker that takes commands."""

    def say(self, request: bytes, context: Any) -> bytes:
        with metrics.control(request.decode()):
            return super().say(request, context)


@pytest.mark.covers("F-AT08", "C-T03")
@pytest.mark.parametrize("aio", [False, True])
async def test_the_worker_is_named_by_its_caller(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, aio: bool
) -> None:
    """With VOICESPAN_WORKER_ID at the worker, its caller's span and synthesis stage carry `voice.worker.id`."""
    settings.reset(settings.Settings(worker_id="tts-cosy@0"))
    with voicespan.session() as session:
        turn = session.user_turn(input="text")
        with turn.tts(text="hello", sample_rate=16_000) as tts:
            if aio:
                async with aio_serving(AioSpeech()) as address, aio_opened(address) as channel:
                    await aio_talk(channel, "Stream")
            else:
                with serving(Speech()) as address, opened(address) as plain:
                    talk(plain, "Stream")
                    telemetry.until(lambda: len(telemetry.spans) >= 2)
        assert turn.record.stages[0].attributes["voice.worker.id"] == "tts-cosy@0"
        stage = tts.span_context()
    settings.reset()
    client = next(span for span in telemetry.spans if span.kind is SpanKind.CLIENT)
    assert attributes(client)["voice.worker.id"] == "tts-cosy@0"
    assert client.parent is not None
    assert client.parent.span_id == stage.span_id


def test_probes_and_excluded_services_have_no_span(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither health checks nor services that the environment excludes are traced."""
    monkeypatch.setenv("OTEL_PYTHON_GRPC_EXCLUDED_SERVICES", f"other.Service, {SERVICE}")
    with serving(Speech()) as address, opened(address) as channel:
        assert talk(channel, "Say") == b"hello"
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
    assert telemetry.spans == []


@pytest.mark.parametrize("aio", [False, True])
async def test_a_call_has_one_span_also_where_opentelemetry_s_own_is_added(telemetry: Telemetry, aio: bool) -> None:
    """OpenTelemetry's interceptors and instrumentors, which a service adds by hand, give no second span."""
    stock: Any = pytest.importorskip("opentelemetry.instrumentation.grpc", reason="not installed")
    for kind in ("Client", "Server"):
        getattr(stock, f"GrpcInstrumentor{kind}")().instrument()
        getattr(stock, f"GrpcAioInstrumentor{kind}")().instrument()
    if aio:
        async with (
            aio_serving(AioSpeech(), interceptors=[stock.aio_server_interceptor()]) as address,
            aio_opened(address, interceptors=stock.aio_client_interceptors()) as channel,
        ):
            await aio_talk(channel, "Say")
        sides(telemetry)
    else:
        from opentelemetry.instrumentation.grpc import grpcext

        intercept: Any = grpcext.intercept_channel

        with (
            serving(Speech(), interceptors=[stock.server_interceptor()]) as address,
            opened(address) as plain,
        ):
            assert intercept(plain, stock.client_interceptor()).unary_unary(f"/{SERVICE}/Say")(b"hello")
            sides(telemetry)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tts-0:7001", ("tts-0", 7001)),
        ("dns:///tts.svc:7001", ("tts.svc", 7001)),
        ("ipv4:10.0.0.1:50", ("10.0.0.1", 50)),
        ("[::1]:50", ("::1", 50)),
        ("tts-0", ("tts-0", None)),
        ("unix:/tmp/worker", (None, None)),
        ("ipv4:10.0.0.1:50,10.0.0.2:50", (None, None)),
    ],
)
def test_the_address_of_a_target(target: str, expected: tuple[str | None, int | None]) -> None:
    """Host and port are read from the forms of a target that name one server."""
    found = _address((target,), {})
    assert (found.get("server.address"), found.get("server.port")) == expected
