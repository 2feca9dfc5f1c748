"""The API alone, without a provider: what a process costs that records nothing."""

from __future__ import annotations

from opentelemetry import trace

from workers.twelve import traced
from workers.worker import Way, each, run


def start(_: str) -> Way:
    tracer = trace.get_tracer("bench")
    return Way(each(lambda session_id: traced(tracer, session_id)), lambda: None)


if __name__ == "__main__":
    run(start, "opentelemetry-api")
