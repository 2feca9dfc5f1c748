"""A back end on this machine that takes everything at once and counts what came, once the measuring is over."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from types import TracebackType


@dataclass
class Taken:
    """What came over a while."""

    spans: int = 0
    attributes: int = 0
    requests: int = 0
    size: int = 0
    """Bytes of the bodies, as they were sent."""

    def __iadd__(self, other: Taken) -> Self:
        self.spans += other.spans
        self.attributes += other.attributes
        self.requests += other.requests
        self.size += other.size
        return self


class Sink:
    """Takes OTLP over HTTP on a port of its own."""

    def __init__(self) -> None:
        self._bodies: list[tuple[bytes, bool]] = []
        self._server = _server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes, *, compressed: bool) -> None:
        """Keep the body of a request with spans."""
        if path.endswith("/traces"):
            self._bodies.append((body, compressed))

    def counted(self) -> Taken:
        """Return what came since the last time."""
        bodies, self._bodies = self._bodies, []
        taken = Taken(requests=len(bodies))
        for body, compressed in bodies:
            taken.size += len(body)
            read = ExportTraceServiceRequest.FromString(gzip.decompress(body) if compressed else body)
            spans = [span for each in read.resource_spans for scope in each.scope_spans for span in scope.spans]
            taken.spans += len(spans)
            taken.attributes += sum(len(span.attributes) for span in spans)
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _server(sink: Sink) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sink.take(self.path, body, compressed=self.headers.get("Content-Encoding") == "gzip")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server
