"""Endpoints that do not take what is sent: `voicespan doctor` says why and what to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.processes.receiver import Receiver, black_hole, nobody

from voicespan.distro import set_defaults
from voicespan.doctor import delivery
from voicespan.local.server import Receiver as Viewer

if TYPE_CHECKING:
    from voicespan.doctor.check import Check


def examined(monkeypatch: pytest.MonkeyPatch, **environ: str) -> dict[str, Check]:
    """What is said of each signal in this environment."""
    wanted = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3", **environ}
    set_defaults(wanted)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    return {check.name: check for check in delivery.examine()}


def test_every_signal_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of each signal that is sent is taken by a real receiver."""
    with Receiver() as receiver:
        found = examined(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_LOGS_EXPORTER="otlp")
    assert {name: check.verdict for name, check in found.items()} == {"traces": "ok", "metrics": "ok", "logs": "ok"}
    assert sorted(receiver.paths) == ["/v1/logs", "/v1/metrics", "/v1/traces"]


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection fails, with what to do."""
    with nobody() as url:
        found = examined(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert found["traces"].verdict == found["metrics"].verdict == "fail"
    assert found["traces"].message.endswith("did not take an empty request: connection refused")
    assert "voicespan ui" in found["traces"].remedy


def test_no_such_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that does not exist fails, with the variable that has it."""
    found = examined(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.invalid:4318")
    assert found["traces"].verdict == "fail"
    assert found["traces"].remedy == "check the host name in OTEL_EXPORTER_OTLP_ENDPOINT"


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that never answers fails within its time-out, with a question about the protocol."""
    with black_hole() as url:
        found = examined(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")
    assert found["traces"].message.endswith("no answer in time")
    assert "is that an OTLP port for http/protobuf?" in found["traces"].remedy


@pytest.mark.parametrize(("status", "words"), [(403, "OTEL_EXPORTER_OTLP_HEADERS"), (404, "without /v1/traces")])
def test_an_answer_that_is_no_success(monkeypatch: pytest.MonkeyPatch, status: int, words: str) -> None:
    """A request that is refused by an answer fails, with what usually helps."""
    with Receiver(status) as receiver:
        found = examined(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert f"{status} " in found["traces"].message
    assert words in found["traces"].remedy


def test_a_token_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that asks for a token fails, with the variable that brings it along."""
    with Viewer(port=0, token="a-token-of-sixteen-letters") as viewer:
        found = examined(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=viewer.endpoint)
    assert found["traces"].verdict == "fail"
    assert "401" in found["traces"].message
    assert "OTEL_EXPORTER_OTLP_HEADERS" in found["traces"].remedy


def test_the_usual_port_of_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 4317 with OTLP over HTTP is the mistake that is named before anything is sent."""
    found = examined(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317")
    assert found["traces"].verdict == "fail"
    assert "use port 4318, or OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in found["traces"].remedy


def test_a_grpc_server_is_asked_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of OTLP over gRPC on any other port fails with the question whether it speaks HTTP."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        found = examined(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    finally:
        server.stop(0).wait()
    assert found["traces"].verdict == "fail"
    assert "is that an OTLP port for http/protobuf?" in found["traces"].remedy


def test_exporters_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is to be sent, that is a warning, with the variable; log records are sent nowhere by default."""
    found = examined(monkeypatch, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    assert {name: check.verdict for name, check in found.items()} == {"traces": "warn", "metrics": "warn", "logs": "ok"}
    assert "OTEL_TRACES_EXPORTER=otlp" in found["traces"].remedy


def test_an_exporter_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that is not installed fails, with the usual one."""
    found = examined(monkeypatch, OTEL_TRACES_EXPORTER="zipkin", OTEL_METRICS_EXPORTER="none")
    assert found["traces"].verdict == "fail"
    assert found["traces"].remedy == "OTEL_TRACES_EXPORTER=otlp"
