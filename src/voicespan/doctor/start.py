"""A real start: a process is started as the service would be, speaks one turn, and says what it has loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voicespan import choice
from voicespan.doctor import turn
from voicespan.doctor.check import Check
from voicespan.run import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SERVICE = "voicespan-doctor"
"""The service of the test turn, so that it is in nobody's numbers."""

_TIMEOUT_S = 60.0
_SEND_MS = 10_000
_SAID_ELSEWHERE = ("endpoint", "service-name", "hooked", "settings", "exporter", "export", "choice")
"""Keys of what the process says on stderr that have a check of their own."""


@dataclass(frozen=True, slots=True)
class Started:
    """What a process has told of its start."""

    told: Mapping[str, Any]

    @property
    def trace_id(self) -> str | None:
        """The trace of the turn that was sent; None when none was."""
        sent = (
            self.told["sampled"]
            and self.told["exporters"]
            and self.told["sent"]
            and choice.CONFIGURATOR in self.told["loaded"]
        )
        return str(self.told["trace_id"]) if sent else None


def start(modules: tuple[str, ...], *, send: bool) -> Started | Check:
    """Start it in the environment of this process; return what it told, else why it did not.

    `send`: somebody is there to take the turn.
    """
    with tempfile.TemporaryDirectory(prefix="voicespan-doctor-") as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", turn.__name__, str(report), str(_SEND_MS if send else 0), *modules]
        try:
            done = subprocess.run(  # noqa: S603 - ourselves
                command,
                env=_environ(os.environ, send=send),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Check(
                "start",
                "fail",
                f"{', '.join(modules)} did not end being imported within {_TIMEOUT_S:.0f} s",
                "start the service under `if __name__ == '__main__':`",
            )
        if not report.exists():
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            return Check(
                "start",
                "fail",
                f"a process started here ends at once: {last}",
                f"{sys.executable} -c 'import voicespan'",
            )
        return Started(json.loads(report.read_text(encoding="utf-8")))


def _environ(environ: Mapping[str, str], *, send: bool) -> dict[str, str]:
    """Return the environment of the service, but for what would disturb it or keep the turn."""
    new = environment(environ, SERVICE, None)
    # The process loads the auto-instrumentation itself, so that it hears what is said meanwhile.
    new["PYTHONPATH"] = os.pathsep.join(
        path for path in new["PYTHONPATH"].split(os.pathsep) if not path.endswith("auto_instrumentation")
    )
    for name in ("VOICESPAN_SPOOL_DIR", "VOICESPAN_PROMETHEUS_PORT", "VOICESPAN_LOG_FORMAT"):
        new.pop(name, None)
    new |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    if not send:
        new["VOICESPAN_EXIT_TIMEOUT_S"] = "0"
    if new.get("OTEL_TRACES_SAMPLER", "").strip().endswith("traceidratio"):
        del new["OTEL_TRACES_SAMPLER"]
    return new


def examine(started: Started | Check, modules: tuple[str, ...]) -> Iterator[Check]:
    """Yield what the start was like."""
    if isinstance(started, Check):
        yield started
        return
    told = started.told
    missing = [name for name in choice.GROUPS if name not in told["loaded"]]
    if missing:
        yield Check(
            "start",
            "fail",
            f"a service started here does not load voicespan; its provider is {told['provider']}",
            " ".join(f"{name}={choice.NAME}" for name in missing),
        )
    else:
        imported = f", with {', '.join(modules)}" if modules else ""
        yield Check("start", "ok", f"a process started here loads distro and configurator{imported}")
    for problem in told["broken"]:
        yield Check(
            "start", "fail", f"cannot import {problem}", "run the check in the folder and environment of the service"
        )
    for key, message in told["said"]:
        yield from _said(key, message)
    for where in told["doubles"]:
        yield Check(
            "double instrumentation",
            "warn",
            f"{where} instruments a library that voicespan has instrumented",
            "take the call of instrument() out: voicespan makes it",
        )
    if not missing:
        yield from _counters(told["counters"])
        yield _sent(started)


def _said(key: str, message: str) -> Iterator[Check]:
    family = key.partition(".")[0].partition(":")[0]
    if family in {"second", "taken"}:
        yield Check("second provider", "fail", message, "leave the set-up of providers to voicespan")
    elif family not in _SAID_ELSEWHERE and not key.startswith("chosen"):
        yield Check("start", "warn", message)


def _counters(counts: Mapping[str, int]) -> Iterator[Check]:
    if counts:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield Check("dropped", "warn", f"the test turn alone was counted as {text}", "docs/troubleshooting.md")


def _sent(started: Started) -> Check:
    told = started.told
    if not told["sampled"]:
        return Check(
            "test turn",
            "fail",
            "was not sampled, so nothing is recorded",
            "see OTEL_TRACES_SAMPLER, OTEL_TRACES_EXPORTER and VOICESPAN_DISABLED",
        )
    if not told["exporters"]:
        return Check("test turn", "warn", "was not sent: no exporter", "see the line of the traces")
    if not told["sent"]:
        return Check("test turn", "fail", "was not taken where spans are sent", "see the line of the traces")
    return Check("test turn", "ok", f"sent: trace {told['trace_id']} of {SERVICE}")
