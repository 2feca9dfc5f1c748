"""A process that starts as the service would, speaks one turn, and tells what it has seen of itself.

`python -m voicespan.doctor.turn REPORT SEND_MS MODULE...` writes JSON to REPORT, and sends for so long at most.
The modules are imported after the start, as a service would import them: who sets a second provider or instruments a
library again does it there.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation import auto_instrumentation

from voicespan import diagnostics

_MS = 1_000_000
_AGAIN = "Attempting to instrument while already instrumented"


class _Doubles(logging.Handler):
    """Hears of libraries that are instrumented again, and by whom."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note one."""
        if record.getMessage() == _AGAIN:
            self.found.append(diagnostics.caller(__name__))


def main(report: str, send_ms: str, *modules: str) -> None:
    """Start, import, speak, and write the report."""
    heard: list[tuple[str, str]] = []
    diagnostics.listener = lambda key, message: heard.append((key, message))
    doubles = _Doubles()
    logging.getLogger("opentelemetry.instrumentation.instrumentor").addHandler(doubles)
    auto_instrumentation.initialize()
    broken = [problem for module in modules if (problem := _import(module))]
    told = _speak(int(send_ms)) | {"said": heard, "doubles": doubles.found, "broken": broken}
    Path(report).write_text(json.dumps(told), encoding="utf-8")


def _import(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        return f"{module}: {type(error).__name__}: {error}"
    return None


def _speak(send_ms: int) -> dict[str, Any]:
    """Speak a turn of the past second, with a reply, and send it."""
    import voicespan
    from voicespan import distro
    from voicespan.emit import recorder

    now_ns = time.monotonic_ns()
    with voicespan.session() as session:
        turn = session.user_turn(at=now_ns - 900 * _MS)
        turn.speech_ended(at=now_ns - 500 * _MS)
        turn.committed(at=now_ns - 300 * _MS)
        turn.transcript(at=now_ns - 300 * _MS)
        turn.audio_sent(0.02, at=now_ns - 100 * _MS)
        turn.audio_heard(at=now_ns - 80 * _MS)
        turn.audio_stopped(at=now_ns - 60 * _MS)
        turn.end()
    recorder().drain()
    provider = trace.get_tracer_provider()
    flush = getattr(provider, "force_flush", lambda _: True)
    return {
        "loaded": sorted(distro.loaded),
        "provider": f"{type(provider).__module__}.{type(provider).__qualname__}",
        "trace_id": f"{turn.trace_id:032x}",
        "exporters": any(name.strip() != "none" for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",")),
        "sampled": turn.record.sampled,
        "sent": send_ms > 0 and flush(send_ms) is not False,
        "counters": diagnostics.counters.snapshot(),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
