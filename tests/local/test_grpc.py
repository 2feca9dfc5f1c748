"""OTLP over gRPC."""

from __future__ import annotations

import contextlib
import errno
import gzip
import sqlite3
import sys
import threading
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import use_span
from tests.ports import free_port

from voicespan.local import port as ports
from voicespan.local.body import Limits
from voicespan.local.grpc import SERVICES
from voicespan.local.server import Receiver

from .otlp import Trace, log, log_request, metrics_request, request, turn
from .test_decode import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = request(*turn().spans).SerializeToString()
LIMITS = Limits(sent_bytes=200_000, body_bytes=400_000)
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A receiver with a gRPC port."""
    with Receiver(port=0, grpc_port=0, limits=LIMITS) as started:
        yield started


def export(
    receiver: Receiver,
    body: bytes,
    signal: str = "traces",
    *,
    metadata: tuple[tuple[str, str], ...] = (),
    compression: grpc.Compression | None = None,
) -> bytes:
    """Call Export with these bytes; return the answer."""
    assert receiver.grpc.endpoint is not None
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(receiver.grpc.endpoint.removeprefix("http://"), options) as channel:
        call: Callable[..., bytes] = channel.unary_unary(f"/{SERVICES[signal]}/Export")
        return call(body, timeout=30, metadata=metadata, compression=compression)


def refusal(receiver: Receiver, body: bytes, signal: str = "traces", **options: object) -> tuple[grpc.StatusCode, str]:
    """The status and the reason of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        export(receiver, body, signal, **options)  # type: ignore[arg-type]
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), caught.value.details() or ""


def status(receiver: Receiver) -> dict[str, object]:
    answer: dict[str, object] = httpx.get(f"{receiver.endpoint}/api/status").json()
    return answer


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_standard_exporters_are_understood(receiver: Receiver, compression: grpc.Compression) -> None:
    """What the SDK's own exporters send over gRPC is stored: a span, and a log record that belongs to it."""
    assert receiver.grpc.endpoint is not None
    resource = Resource({"service.name": "bot"})
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(
        SimpleSpanProcessor(OTLPSpanExporter(receiver.grpc.endpoint, insecure=True, compression=compression))
    )
    loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
    loggers.add_log_record_processor(
        SimpleLogRecordProcessor(OTLPLogExporter(receiver.grpc.endpoint, insecure=True, compression=compression))
    )
    root = tracers.get_tracer("voicespan").start_span("voice.turn", attributes={"voice.turn.outcome": "completed"})
    with use_span(root, end_on_exit=True):
        loggers.get_logger("bot").emit(body="hello", severity_text="INFO")
    tracers.shutdown()
    loggers.shutdown()

    trace_id = root.get_span_context().trace_id.to_bytes(16)
    row = receiver.store.reader.turn(trace_id.hex())
    assert row is not None
    assert (row.service, row.outcome) == ("bot", "completed")
    logs = receiver.store.reader.ask("SELECT body, severity FROM log WHERE trace_id = ?", [trace_id])
    assert logs == [("hello", 9)]


def test_each_signal_has_its_service(receiver: Receiver) -> None:
    """Traces and logs are stored, metrics are counted, and the answers are those of the protocol."""
    trace = turn()
    before = status(receiver)["not_shown"]
    assert export(receiver, request(*trace.spans).SerializeToString()) == b""
    assert export(receiver, log_request(log(trace, "x")).SerializeToString(), "logs") == b""
    assert export(receiver, metrics_request().SerializeToString(), "metrics") == b""
    assert receiver.store.reader.turn(trace.hex) is not None
    assert isinstance(before, dict)
    assert status(receiver)["not_shown"] == before | {"metrics": before["metrics"] + 5}


def test_answer_says_what_was_left_out(receiver: Receiver) -> None:
    """Unusable spans and log records among usable ones are counted in the answer, with the reason."""
    spans = request(("a", "b", broken(name="")), *turn().spans)
    partial = ExportTraceServiceResponse.FromString(export(receiver, spans.SerializeToString())).partial_success
    assert (partial.rejected_spans, "no name" in partial.error_message) == (1, True)
    logs = log_request(log(Trace(), "x", time_unix_nano=2**63), log(Trace(), "good"))
    answer = ExportLogsServiceResponse.FromString(export(receiver, logs.SerializeToString(), "logs"))
    assert answer.partial_success.rejected_log_records == 1


@pytest.mark.parametrize("signal", sorted(SERVICES))
def test_bad_requests_are_refused(receiver: Receiver, signal: str) -> None:
    """Noise is an invalid argument, and what is too large exhausts a resource, also when it came compressed."""
    assert refusal(receiver, b"\xff\xff", signal)[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(receiver, bytes(500_000), signal)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    bomb = bytes(50 << 20)
    assert len(gzip.compress(bomb)) < LIMITS.body_bytes
    code, _ = refusal(receiver, bomb, signal, compression=grpc.Compression.Gzip)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert export(receiver, b"", signal) == b""


def test_unusable_span_alone_is_refused(receiver: Receiver) -> None:
    """The reason stands in the status."""
    code, reason = refusal(receiver, request(("a", "b", broken(span_id=b"x"))).SerializeToString())
    assert (code, "span id" in reason) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_unknown_methods_are_unknown(receiver: Receiver) -> None:
    """A method that OTLP does not have is not implemented."""
    assert receiver.grpc.endpoint is not None
    with grpc.insecure_channel(receiver.grpc.endpoint.removeprefix("http://")) as channel:
        call: Callable[..., bytes] = channel.unary_unary(f"/{SERVICES['traces']}/Import")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"")
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_locked_database_is_worth_a_retry() -> None:
    """While the database cannot be written the sender is told that it is unavailable, which senders try again."""
    with Receiver(port=0, grpc_port=0) as receiver:
        receiver.store._connection.execute("PRAGMA busy_timeout = 100")
        with contextlib.closing(sqlite3.connect(receiver.store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert refusal(receiver, BODY)[0] == grpc.StatusCode.UNAVAILABLE
        assert export(receiver, BODY) == b""


def test_content_is_left_out_here_as_well() -> None:
    """What was said is kept only where it is wanted, whichever way it comes."""
    trace = turn()
    trace.add("chat", 0, 1, scope="framework", prompt="said")
    body = request(*trace.spans).SerializeToString()
    for content in (False, True):
        with Receiver(port=0, grpc_port=0, content=content) as receiver:
            export(receiver, body)
            kept = [dict(span.attributes) for span in receiver.store.reader.spans(trace.hex) if span.name == "chat"]
            assert kept == [{"prompt": "said"} if content else {}]


def test_token_is_asked_of_senders() -> None:
    """With a token, only calls that carry it are taken."""
    with Receiver(port=0, grpc_port=0, token=TOKEN) as receiver:
        for metadata in ((), (("authorization", "Bearer wrong-token-wrong"),), (("authorization", TOKEN),)):
            assert refusal(receiver, BODY, metadata=metadata)[0] == grpc.StatusCode.UNAUTHENTICATED
        assert receiver.store.reader.count() == 0
        assert export(receiver, BODY, metadata=(("authorization", f"Bearer {TOKEN}"),)) == b""
        assert receiver.store.reader.count() == 1


@pytest.mark.parametrize("noticed", [True, False])
def test_taken_port_is_said_and_no_failure(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], noticed: bool
) -> None:
    """A second viewer does without gRPC, says who has the port and what to set, and HTTP works.

    So it does when the port is taken in the last moment; gRPC has something of its own to say only then.
    """
    if not noticed:
        monkeypatch.setattr(ports, "is_free", lambda *_: True)
    assert receiver.grpc.endpoint is not None
    port = int(receiver.grpc.endpoint.rpartition(":")[2])
    with Receiver(port=0, grpc_port=port) as second:
        said = status(second)["grpc"]
        assert isinstance(said, dict)
        assert said["endpoint"] is None
        assert f"port {port} is taken by process" in said["say"]
        assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in said["say"]
    assert capfd.readouterr().err == "" or not noticed


def test_without_grpcio_a_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where grpcio is not installed, the line names the setting of the service and the extra."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    with Receiver(port=0, grpc_port=0) as receiver:
        assert receiver.grpc.endpoint is None
        assert receiver.grpc.say is not None
        assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in receiver.grpc.say
        assert "pip install 'voicespan[otlp-grpc]'" in receiver.grpc.say


def test_stopped_receiver_leaves_the_port() -> None:
    """After stop the port is free again and no thread is left."""
    before = threads()
    with Receiver(port=0, grpc_port=0) as receiver:
        assert receiver.grpc.endpoint is not None
        port = int(receiver.grpc.endpoint.rpartition(":")[2])
        export(receiver, BODY)
    assert ports.is_free("127.0.0.1", port)
    assert threads() == before


def threads() -> set[threading.Thread]:
    """The threads of gRPC servers."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("voicespan-grpc")}


def test_port_that_may_not_be_had_is_said_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port of the system's own is not worth a viewer: it says so, and takes the rest over HTTP."""

    def denied(*_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ports, "is_free", denied)
    with Receiver(port=0, grpc_port=317) as receiver:
        assert receiver.grpc.endpoint is None
        assert receiver.grpc.say is not None
        assert "port 317: Permission denied" in receiver.grpc.say
        assert httpx.get(f"{receiver.endpoint}/health").status_code == 200


def test_start_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step fails, port, threads and database are let go, and the next start works."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    threads = set(threading.enumerate())
    for place in ("server.Store", "server.Intake", "grpc._handlers", "server.application", "server.uvicorn.Server"):
        port = free_port()
        receiver = Receiver(port=port, grpc_port=0)
        with monkeypatch.context() as patched:
            patched.setattr(f"voicespan.local.{place}", fails)
            with pytest.raises(RuntimeError, match="broken"):
                receiver.start()
        assert [thread for thread in threading.enumerate() if thread not in threads] == []
        with receiver:
            assert (receiver.port, receiver.moved) == (port, None)
