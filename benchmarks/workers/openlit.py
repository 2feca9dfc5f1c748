"""OpenLIT at its defaults, with an empty list of prices so that it does not fetch one from the network.

HOW is `spans` (openlit.start_trace) or `tracer` (OpenTelemetry's tracer through its provider).
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openlit
from opentelemetry import trace

from workers.twelve import nested, traced
from workers.worker import Way, each, run

if TYPE_CHECKING:
    from collections.abc import Iterator


class Span:
    """A block of OpenLIT's."""

    __slots__ = ("_span",)

    def __init__(self, span: Any) -> None:
        self._span = span

    def set(self, attributes: dict[str, Any]) -> None:
        self._span.set_metadata(attributes)


@contextmanager
def span(name: str, attributes: dict[str, Any]) -> Iterator[Span]:
    with openlit.start_trace(name) as made:
        made.set_metadata(attributes)
        yield Span(made)


def start(how: str) -> Way:
    with tempfile.TemporaryDirectory() as folder:
        prices = Path(folder, "prices.json")
        prices.write_text('{"chat": {}, "embeddings": {}, "images": {}, "audio": {}}')
        openlit.init(
            application_name="bench",
            otlp_endpoint=os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"],
            pricing_json=str(prices),
        )
    provider: Any = trace.get_tracer_provider()
    if how == "tracer":
        tracer = trace.get_tracer("bench")
        return Way(each(lambda session_id: traced(tracer, session_id)), provider.force_flush)
    return Way(each(lambda session_id: nested(span, session_id)), provider.force_flush)


if __name__ == "__main__":
    run(start, "openlit")
