from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from tests.processes.faulty import BackEnd, half

from voicespan.sdk.endpoint import Endpoint
from voicespan.sdk.export import BodySender, ExporterSender
from voicespan.sdk.exporters import makers
from voicespan.sdk.transport import Transport, fits

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path


class Server:
    """Answers on the paths /ok, /busy, /close and /never, and counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.retry_after = "1"
        self.requests: list[tuple[str, bytes, str | None]] = []
        self.asked = threading.Event()
        self.done = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((self.path, body, self.headers.get("X-Token")))
                if self.path.startswith("/never"):
                    server.asked.set()
                    server.done.wait(20)
                    self.close_connection = True
                    return
                self.send_response(503 if self.path == "/busy" else 200)
                if self.path == "/busy":
                    self.send_header("Retry-After", server.retry_after)
                if self.path == "/close":
                    self.send_header("Connection", "close")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of this test."""
    made = Server()
    made.thread.start()
    yield made
    made.done.set()
    made.http.shutdown()
    made.http.server_close()
    made.thread.join()


def test_requests_share_a_connection(server: Server) -> None:
    """The connection stays open between requests, and header fields and body arrive."""
    transport = Transport()
    for _ in range(3):
        result = transport.request("POST", f"{server.url}/ok?a=1", headers={"X-Token": "t"}, timeout=10, data=b"body")
        assert (result.status_code, result.error, result.content(), result.text()) == (200, None, b"{}", "{}")
    assert server.requests == [("/ok?a=1", b"body", "t")] * 3
    assert server.connections == 1
    transport.close()


def test_a_connection_that_the_server_closes_is_made_anew(server: Server) -> None:
    """`Connection: close` is obeyed, and the next request works."""
    transport = Transport()
    assert [transport.request("POST", f"{server.url}/close", timeout=10, data=b"").status_code for _ in range(2)] == [
        200
    ] * 2
    assert server.connections == 2


def test_status_and_header_fields_are_passed_on(server: Server) -> None:
    """An answer that is no success is a status, not an error; header names are not case-sensitive."""
    transport = Transport()
    result = transport.request("POST", f"{server.url}/busy", timeout=10, data=b"")
    transport.close()
    assert (result.status_code, result.reason, result.headers().get("retry-after")) == (503, "Service Unavailable", "1")


def test_without_time_nothing_is_sent(server: Server) -> None:
    """An attempt for which no time is left has the result of the one before it; without one it has timed out."""
    transport = Transport()
    data = b"a batch"
    first = transport.request("POST", f"{server.url}/busy", timeout=10, data=data)
    assert transport.request("POST", f"{server.url}/busy", timeout=0.0, data=data) is first
    other = transport.request("POST", f"{server.url}/busy", timeout=0.0, data=b"another")
    transport.close()
    assert (other.status_code, type(other.error)) == (None, TimeoutError)
    assert [body for _, body, _ in server.requests] == [data]


@pytest.mark.parametrize(
    ("text", "least_s", "most_s"),
    [
        ("7", 7, 7),
        ("Tue, 31 Dec 2999 23:59:59 GMT", 3_600, 1e12),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("9" * 400, 0, 0),
    ],
)
def test_how_long_a_server_wants_to_be_left_alone(server: Server, text: str, least_s: float, most_s: float) -> None:
    """In seconds or as a date, until the next request; what is neither is nothing."""
    server.retry_after = text
    transport = Transport()
    transport.request("POST", f"{server.url}/busy", timeout=10, data=b"")
    assert least_s <= transport.retry_after_s <= most_s
    transport.request("POST", f"{server.url}/ok", timeout=10, data=b"")
    assert transport.retry_after_s == 0
    transport.close()


def test_a_long_answer_is_not_read_to_its_end() -> None:
    """An answer of any length, said or not, costs 64 kB at most; the connection that it came by is not used again."""
    for head in (b"Content-Length: 99999999\r\n\r\n", b"\r\n"):

        def answer(connection: socket.socket, head: bytes = head) -> bool:
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
            while True:
                connection.sendall(b"x" * 65_536)

        with BackEnd(answer) as back_end:
            transport = Transport()
            result = transport.request("POST", back_end.url, timeout=10, data=b"")
            assert (result.status_code, len(result.content())) == (200, 1 << 16)
            assert transport._connection is None


def test_an_answer_that_breaks_off_is_none(server: Server) -> None:
    """A body that is shorter than was said is an error, so that what was sent is sent again."""
    with BackEnd(half) as back_end:
        transport = Transport()
        result = transport.request("POST", back_end.url, timeout=10, data=b"")
    assert result.status_code is None
    assert transport.is_connection_error(result.error)


def test_no_request_is_longer_than_the_exporter_s_time_out(server: Server) -> None:
    """The exporter counts by the time of day: a clock that is set back does not make it wait for hours."""
    exporter = makers("traces", {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": server.url})[0]()
    transport = exporter._client._transport
    assert transport.longest_s == exporter._client._timeout > 0
    transport.longest_s = 0.05
    result = transport.request("POST", f"{server.url}/never", timeout=12 * 3600, data=b"")
    assert isinstance(result.error, TimeoutError)


def test_a_refusal_is_a_connection_error() -> None:
    """Where nobody listens the result has the error, nothing is raised, and another attempt may succeed."""
    transport = Transport()
    result = transport.request("POST", "http://127.0.0.1:1/", timeout=10, data=b"")
    assert isinstance(result.error, ConnectionRefusedError)
    assert transport.is_connection_error(result.error)
    assert not transport.is_connection_error(ValueError("no"))


def test_a_request_ends_with_its_time(server: Server) -> None:
    """A server that never answers costs the time-out, no more."""
    result = Transport().request("POST", f"{server.url}/never", timeout=0.05, data=b"")
    assert isinstance(result.error, TimeoutError)


def test_close_ends_a_request_under_way(server: Server) -> None:
    """Another thread can end a request that would wait for an hour; nothing is sent afterwards."""
    transport = Transport()
    errors: list[Exception | None] = []
    request = threading.Thread(
        target=lambda: errors.append(transport.request("POST", f"{server.url}/never", timeout=3600, data=b"").error)
    )
    request.start()
    assert server.asked.wait(20)
    began = time.monotonic()
    transport.close()
    request.join(20)
    assert not request.is_alive()
    assert time.monotonic() - began < 20
    assert errors[0] is not None
    assert not transport.is_connection_error(errors[0])
    assert isinstance(transport.request("POST", f"{server.url}/ok", timeout=1, data=b"").error, ConnectionAbortedError)


def test_the_exporter_works_with_it(server: Server) -> None:
    """The SDK's own exporter sends through it."""
    exporter = OTLPSpanExporter(endpoint=f"{server.url}/v1/traces", _transport=Transport())  # type: ignore[call-overload]
    assert exporter.export([]).name == "SUCCESS"
    assert [request[0] for request in server.requests] == ["/v1/traces"]
    exporter.shutdown()


@pytest.mark.parametrize(
    ("url", "environ", "netrc", "does"),
    [
        ("http://x:4318", {}, False, True),
        ("https://x:4318", {}, False, False),
        ("http://x:4318", {"HTTP_PROXY": "http://p"}, False, False),
        ("http://x:4318", {"http_proxy": "http://p"}, False, False),
        ("http://x:4318", {"NETRC": "/n"}, False, False),
        ("http://x:4318", {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "p"}, False, False),
        ("http://x:4318", {}, True, False),
    ],
)
def test_what_requests_does_better_stays_with_it(
    url: str, environ: dict[str, str], netrc: bool, does: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS, proxies, netrc files and credential providers are left to the SDK's own transport."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if netrc:
        (tmp_path / ".netrc").write_text("machine x login a password b")
    endpoint = Endpoint("traces", "http/protobuf", url, "")
    assert fits(OTLPSpanExporter, endpoint, environ) is does


def over_requests(server: Server, path: str) -> OTLPSpanExporter:
    """An exporter that does not send with our transport: as with TLS, proxies and credentials."""
    exporter = OTLPSpanExporter(endpoint=f"{server.url}{path}", timeout=5)
    assert not isinstance(exporter._client._transport, Transport)
    return exporter


@pytest.mark.parametrize("sender", [BodySender, ExporterSender])
def test_requests_are_heeded_too(server: Server, sender: type[ExporterSender[Any]]) -> None:
    """A target that is reached with TLS, or whose exporter encodes by itself, is left alone for as long as it asks."""
    server.retry_after = "30"
    made = sender(over_requests(server, "/busy"), "somewhere", scrub=lambda spans, **_: spans)
    refusal = made.send([])
    made.close()
    assert refusal is not None
    assert (refusal.passing, refusal.after_s) == (True, 30)


def test_an_answer_ends_what_was_asked_for(server: Server) -> None:
    """What a server asked for holds until its next answer."""
    exporter: Any = over_requests(server, "/ok")
    sender = BodySender(exporter, "somewhere", scrub=lambda spans, **_: spans)
    transport = exporter._client._transport
    transport.retry_after_s = 30
    assert sender.send([]) is None
    assert transport.retry_after_s == 0
    sender.close()
