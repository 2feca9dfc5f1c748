"""Logfire to another back end, as its documentation has it: `send_to_logfire=False`, the address by OTEL_* variables.

HOW is `spans` (logfire.span) or `tracer` (OpenTelemetry's tracer through Logfire's provider). The console is off: it
would be what costs most.
"""

from __future__ import annotations

from typing import Any, Self

import logfire
from opentelemetry import trace

from workers.twelve import nested, traced
from workers.worker import Way, each, run


class Span:
    """A block of Logfire's."""

    __slots__ = ("_span",)

    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        self._span = logfire.span(name, **attributes)

    def __enter__(self) -> Self:
        self._span.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._span.__exit__(*error)

    def set(self, attributes: dict[str, Any]) -> None:
        self._span.set_attributes(attributes)


def start(how: str) -> Way:
    logfire.configure(service_name="bench", send_to_logfire=False, console=False)
    if how == "tracer":
        tracer = trace.get_tracer("bench")
        return Way(each(lambda session_id: traced(tracer, session_id)), logfire.force_flush)
    return Way(each(lambda session_id: nested(Span, session_id)), logfire.force_flush)


if __name__ == "__main__":
    run(start, "logfire")
