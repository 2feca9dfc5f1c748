"""Starts a script as a user would start a service, and keeps what it said."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BIN = Path(sys.executable).parent
INSTRUMENT = (sys.executable, "-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()")
RUN = (sys.executable, "-c", "from voicespan.cli import main; main(prog_name='voicespan')", "run", "--")

ONE_SPAN = """
from opentelemetry import trace
with trace.get_tracer("app").start_as_current_span("hello"):
    pass
"""


@dataclass
class Finished:
    """What a process left behind; `lines` are those of voicespan on stderr."""

    code: int
    out: str
    err: str
    wall_s: float

    @property
    def lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("voicespan")]

    def line(self, *words: str) -> str:
        """The only line with all these words."""
        found = [line for line in self.lines if all(word in line for word in words)]
        assert len(found) == 1, f"{len(found)} lines with {words} in:\n{self.err}"
        return found[0]


class Service:
    """A Python script under one of the launchers, started at once; `environ` adds to a clean environment."""

    def __init__(
        self, script: str, launcher: Sequence[str] = RUN, *, command: Sequence[str] | None = None, **environ: str
    ) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
        clean.pop("PYTHONPATH", None)
        clean |= {"OTEL_SERVICE_NAME": "svc", "PATH": f"{BIN}{os.pathsep}{clean['PATH']}", "PYTHONUNBUFFERED": "1"}
        clean |= {"VOICESPAN_EXIT_TIMEOUT_S": "20"}  # so that a busy machine gets its things sent
        clean |= {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}  # those that happen to be installed only take time
        clean |= {"OTEL_PYTHON_DISTRO": "voicespan"} if launcher is INSTRUMENT else {}
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            [*launcher, *(command or (sys.executable, "-c", dedent(script)))],
            env={name: value for name, value in (clean | environ).items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, text: str) -> None:
        """Wait until the process has printed this line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == text:
                return
        out, err = self.process.communicate()
        raise AssertionError(f"ended without {text!r}: {out}{err}")

    def finish(self, timeout_s: float = 30) -> Finished:
        """Wait for its end."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"still running after {timeout_s} s: {out}{err}") from None
        return Finished(self.process.returncode, out, err, time.monotonic() - self._started)


def run(script: str = ONE_SPAN, launcher: Sequence[str] = RUN, **environ: str) -> Finished:
    """Start the script and wait for its end."""
    return Service(script, launcher, **environ).finish()
