"""voicespan: marks, set up from code; everything else at its defaults.

HOW is `traces` for no metrics, which the plain SDK does not make either; without it they are on.
"""

from __future__ import annotations

import os

from opentelemetry import trace

import voicespan
from voicespan import emit
from workers.marked import our_turn
from workers.worker import Way, run

SESSION_TURNS = 10


def start(how: str) -> Way:
    if how == "traces":
        os.environ["OTEL_METRICS_EXPORTER"] = "none"
    voicespan.setup_tracing("bench")
    provider = trace.get_tracer_provider()

    def turns(count: int) -> None:
        for first in range(0, count, SESSION_TURNS):
            with voicespan.session(id=f"call-{first}", transport="websocket") as session:
                for _ in range(min(SESSION_TURNS, count - first)):
                    our_turn(session)

    def flush() -> None:
        emit.recorder().drain()
        provider.force_flush()

    return Way(turns, flush)


if __name__ == "__main__":
    run(start, "voicespan")
