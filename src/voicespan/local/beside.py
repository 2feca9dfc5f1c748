"""`voicespan run --ui`: a command, and the viewer that receives its turns, in one terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import click

from voicespan.local.access import sender_headers
from voicespan.local.browser import open_page
from voicespan.local.options import complaints, kept
from voicespan.local.schema import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from voicespan.local.options import Options
    from voicespan.local.server import Receiver

_SIGNALLED = 128


def run_beside_viewer(command: Sequence[str], environ: Mapping[str, str], options: Options, *, browser: bool) -> int:
    """Run the command with its telemetry sent to a viewer here; return its exit status.

    When the command ends by itself and somebody is at the terminal, the page stays until Ctrl-C.
    """
    try:
        with options.receiver() as receiver:
            for line in complaints(receiver):
                click.echo(f"voicespan: {line}", err=True)
            if options.grpc_port and receiver.grpc.say:  # it was asked for
                click.echo(f"voicespan: {receiver.grpc.say}", err=True)
            click.echo(f"voicespan shows turns at {receiver.page}, {kept(receiver.store.retention)}", err=True)
            if browser:
                open_page(receiver.page)
            return _Command(command, _pointed(environ, receiver)).run(stays=sys.stdin.isatty())
    except (StoreError, OSError) as error:
        raise click.ClickException(f"cannot start: {error}") from None


def _pointed(environ: Mapping[str, str], receiver: Receiver) -> dict[str, str]:
    """Return an environment that sends everything here, whatever it named before."""
    others = ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_METRICS_", "OTEL_EXPORTER_OTLP_LOGS_")
    new = {name: value for name, value in environ.items() if not name.startswith(others)}
    new.pop("VOICESPAN_VIEWER_ENDPOINT", None)
    new |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    if receiver.token is not None:
        new["OTEL_EXPORTER_OTLP_HEADERS"] = sender_headers(receiver.token)
    if receiver.content:
        new["VOICESPAN_CONTENT"] = "true"
    return new


class _Command:
    """The command as a child: signals go to it, and its status is ours."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.command = list(command)
        self.environ = dict(environ)
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = threading.Event()

    def run(self, *, stays: bool) -> int:
        """Run it to its end; `stays`: then wait for Ctrl-C."""
        before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.process = subprocess.Popen(self.command, env=self.environ)  # noqa: S603 - the user's own command
            if self.stopped.is_set():
                self.process.terminate()
            status = self.process.wait()
            status = status if status >= 0 else _SIGNALLED - status
            if stays and not self.stopped.is_set():
                click.echo(f"voicespan: the command ended with status {status}; the page stays until Ctrl-C", err=True)
                self.stopped.wait()
            return status
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.stopped.set()
        # Ctrl-C of a terminal reaches the command as well; any other signal comes to us alone.
        alone = number == signal.SIGTERM or not sys.stdin.isatty()
        if alone and self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
