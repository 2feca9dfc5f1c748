"""Back ends that are not well: each takes connections and requests, and answers in its own wrong way."""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    Answer = Callable[[socket.socket], bool]
    """Answers one request; returns whether the connection stays."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class BackEnd:
    """A server of OTLP over HTTP that reads every request, keeps the ids of its spans, and answers by `answer`."""

    def __init__(self, answer: Answer, *, context: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.spans: list[bytes] = []
        self.requests_s: list[float] = []
        """When each request for spans came, on the monotonic clock."""
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._context = context
        self._open: list[socket.socket] = []
        self._closed = threading.Event()

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.getsockname()[1]}"

    @property
    def arrived(self) -> int:
        """How many different spans were in the requests."""
        return len(set(self.spans))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._closed.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as file:
                while self._take(file.readline(), file) and self.answer(connection):
                    pass

    def _take(self, first: bytes, file: BinaryIO) -> bool:
        """Read one request; return whether there was one."""
        if not first:
            return False
        fields = {}
        while line := file.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            fields[name.lower()] = value.strip()
        body = file.read(int(fields.get("content-length", "0")))
        if first.split()[1:2] == [b"/v1/traces"]:
            self.requests_s.append(time.monotonic())
            body = gzip.decompress(body) if fields.get("content-encoding") == "gzip" else body
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span.span_id for scope in each.scope_spans for span in scope.spans]
        return True


def says(data: bytes, *, stays: bool = True) -> Answer:
    """Return an answer of these bytes."""

    def answer(connection: socket.socket) -> bool:
        connection.sendall(data)
        return stays

    return answer


def status(line: str, *fields: str) -> Answer:
    """Return an answer with this status line and these header fields, and no body."""
    head = "\r\n".join([f"HTTP/1.1 {line}", "Content-Length: 0", *fields])
    return says(f"{head}\r\n\r\n".encode())


def hangs(connection: socket.socket) -> bool:
    """Never answer."""
    while connection.recv(1):
        pass
    return False


def half(connection: socket.socket) -> bool:
    """Begin to answer, and hang up in the middle."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf of")
    return False


def resets(connection: socket.socket) -> bool:
    """Reset the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def without_end(connection: socket.socket) -> bool:
    """Answer with a body that never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65_536)


def after(seconds: float) -> Answer:
    """Return an answer that comes so late."""

    def answer(connection: socket.socket) -> bool:
        time.sleep(seconds)
        connection.sendall(OK)
        return True

    return answer


def certificate(folder: Path) -> ssl.SSLContext:
    """Return a server's side of TLS, with a certificate that nobody trusts."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", folder / "tls.key", "-out", folder / "tls.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context
