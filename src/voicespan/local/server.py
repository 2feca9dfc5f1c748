"""The receiver as an object: servers in threads of their own, for the command line, the demo and tests."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import uvicorn

from voicespan.local import port as ports
from voicespan.local.access import new_token, sender_headers, with_token
from voicespan.local.body import Limits
from voicespan.local.forward import Forward
from voicespan.local.grpc import GrpcDoor
from voicespan.local.intake import Intake
from voicespan.local.live import Live
from voicespan.local.receiver import application
from voicespan.local.status import Status
from voicespan.local.store import Store
from voicespan.sdk.endpoint import is_loopback

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from voicespan.local.retention import Retention

DEFAULT_PORT = 4318
"""The port of OTLP over HTTP."""

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 2


class Receiver:
    """Receives OTLP on this machine and keeps it; use it as a context manager, or call start and stop.

    `database` is the file to keep turns in; without one they are gone when the receiver stops. `port` is taken when it
    is free, else the next free one; 0 is any. `grpc_port` is for OTLP over gRPC, None for none. `content` keeps what is
    said. A `token` is asked of everyone; where others than this machine can reach `host`, there is always one. What is
    taken is handed on to the OTLP endpoint `forward` as well.
    """

    def __init__(
        self,
        *,
        port: int = DEFAULT_PORT,
        database: Path | str | None = None,
        host: str = "127.0.0.1",
        allowed_hosts: Iterable[str] = (),
        token: str | None = None,
        grpc_port: int | None = None,
        content: bool = False,
        trace_link: str | None = None,
        retention: Retention | Mapping[str, int | None] | None = None,
        limits: Limits | None = None,
        forward: str | None = None,
    ) -> None:
        self.host = host
        self.wanted_port = port
        self.port = port
        self.moved: str | None = None
        """Why the port is not the one that was asked for; None when it is."""
        self.token = token if token or is_loopback(host) else new_token()
        """What everyone who asks has to know; None when only this machine can ask."""
        self.content = content
        self.grpc = GrpcDoor()
        self._grpc_port = grpc_port
        self._trace_link = trace_link
        self._forward = forward
        self.forward: Forward | None = None
        self._database = None if database is None else Path(database)
        self._allowed_hosts = (ports.bracketed(host), *allowed_hosts)
        self._retention = retention
        self._limits = limits or Limits()
        self._store: Store | None = None
        self._intake: Intake | None = None
        self._live: Live | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """The address that a service sends to (OTEL_EXPORTER_OTLP_ENDPOINT)."""
        return f"http://{ports.reachable(self.host)}:{self.port}"

    @property
    def reachable(self) -> str:
        """The same as other machines write it, where they can reach it."""
        return f"http://{ports.known(self.host)}:{self.port}"

    @property
    def send(self) -> dict[str, str]:
        """The variables that let a service send here."""
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.reachable}
        return (
            endpoint if self.token is None else {**endpoint, "OTEL_EXPORTER_OTLP_HEADERS": sender_headers(self.token)}
        )

    @property
    def page(self) -> str:
        """The address that a browser opens."""
        return with_token(f"{self.reachable}/", self.token)

    @property
    def store(self) -> Store:
        """The store that is received into, while the receiver runs."""
        if self._store is None:
            raise RuntimeError("the receiver is not started")
        return self._store

    def start(self) -> Self:
        """Open the store and begin to listen; when this returns, requests are answered.

        Raises:
            StoreError: the database cannot be used.
            OSError: the host is not of this machine, or no port can be had.

        """
        with ExitStack() as on_failure:
            listening = ports.listen(self.host, self.wanted_port)
            on_failure.callback(listening.close)
            on_failure.callback(self.stop)
            self._start(listening)
            on_failure.pop_all()
        return self

    def _start(self, listening: socket.socket) -> None:
        self.port = listening.getsockname()[1]
        if self.wanted_port not in (0, self.port):
            self.moved = f"port {self.wanted_port} is taken by {ports.holder(self.wanted_port)}"
        self._store = Store(self._database, retention=self._retention)
        self._live = live = Live(self._store)
        self._intake = intake = Intake(self._store, content=self.content, forward=self._forwarding())
        if self._grpc_port is not None:
            self.grpc.open(intake, self._limits, host=self.host, port=self._grpc_port, token=self.token)
        config = uvicorn.Config(
            application(
                intake,
                live,
                Status(intake, self.grpc, send=self.send, trace_link=self._trace_link),
                token=self.token,
                allowed_hosts=self._allowed_hosts,
                limits=self._limits,
            ),
            log_config=None,  # else it would set the log levels of a service that runs on uvicorn itself
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        )
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="voicespan-receiver", daemon=True
        )
        self._thread.start()
        _wait_until_started(server, self._thread)

    def _forwarding(self) -> Forward | None:
        self.forward = None if self._forward is None else Forward(self._forward)
        return self.forward

    def stop(self) -> None:
        """Answer what has arrived, then close; harmless when it is stopped already."""
        server, thread, store = self._server, self._thread, self._store
        self._server = self._thread = self._store = None
        self.grpc.close()
        if self._live is not None:
            self._live.close()
            self._live = None
        if server is not None and thread is not None:
            server.should_exit = True
            thread.join()
        if self._intake is not None:
            self._intake.close()
            self._intake = None
        if store is not None:
            store.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > until:
            raise RuntimeError("the receiver did not start")
        time.sleep(0.005)
