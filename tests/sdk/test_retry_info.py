"""How long a target over gRPC wants to be left alone is read from either form in which servers say it."""

from __future__ import annotations

from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from voicespan.sdk import scrub
from voicespan.sdk.export import ExporterSender

if TYPE_CHECKING:
    from collections.abc import Iterator

REASON = "RESOURCE_EXHAUSTED slowly"
ASKED = RetryInfo()
ASKED.retry_delay.seconds, ASKED.retry_delay.nanos = 30, 500_000_000


def details(*messages: Any) -> bytes:
    """Return the details of a status as gRPC's richer error model sends them."""
    packed = []
    for message in messages:
        packed.append(Packed())
        packed[-1].Pack(message)
    made: bytes = Status(code=8, message="slowly", details=packed).SerializeToString()
    return made


class Refusing(TraceServiceServicer):
    """Takes nothing, and says so with this metadata."""

    metadata: tuple[tuple[str, bytes], ...] = ()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - its name in the protocol
        context.set_trailing_metadata(self.metadata)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slowly")


@pytest.fixture
def server() -> Iterator[tuple[Refusing, str]]:
    """Give what refuses, and its address."""
    made, refusing = grpc.server(futures.ThreadPoolExecutor(2)), Refusing()
    add_TraceServiceServicer_to_server(refusing, made)  # type: ignore[no-untyped-call]
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    yield refusing, f"http://127.0.0.1:{port}"
    made.stop(None)


@pytest.mark.parametrize(
    ("metadata", "after_s"),
    [
        ((("google.rpc.retryinfo-bin", ASKED.SerializeToString()),), 30.5),
        ((("grpc-status-details-bin", details(ErrorInfo(reason="load"), ASKED)),), 30.5),
        ((("grpc-status-details-bin", details(ErrorInfo(reason="load"))),), 0.0),
        ((("grpc-status-details-bin", b"\xff\xff"),), 0.0),
        ((), 0.0),
    ],
    ids=["the exporter's header", "details", "details without it", "garbage", "nothing"],
)
def test_a_target_that_asks_to_be_left_alone(
    server: tuple[Refusing, str], metadata: tuple[tuple[str, bytes], ...], after_s: float
) -> None:
    """A refusal says why and for how long, and that it may pass, however often it comes."""
    refusing, url = server
    refusing.metadata = metadata
    exporter = OTLPSpanExporter(endpoint=url, insecure=True, timeout=1)
    sender: ExporterSender[ReadableSpan] = ExporterSender(exporter, url, scrub=scrub.spans)
    span = ReadableSpan("hello", SpanContext(1, 1, is_remote=False), start_time=1, end_time=2)
    for _ in range(2):  # the same line of the exporter's log is not written a second time, and read all the same
        refusal = sender.send([span])
        assert refusal is not None
        assert (refusal.after_s, refusal.passing, refusal.reason) == (after_s, True, REASON)
    sender.close()
