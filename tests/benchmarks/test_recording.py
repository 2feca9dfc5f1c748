"""That what is compared in the benchmark of recording is the same work."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from opentelemetry.sdk.trace import ReadableSpan

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def recording() -> Iterator[ModuleType]:
    """Give the benchmark, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("recording")


def contents(spans: list[ReadableSpan]) -> dict[str, Any]:
    """What each span of a turn carries, but for values: kind, parent, attributes, events and links."""
    names = {span.context.span_id: span.name for span in spans if span.context is not None}
    return {
        span.name: {
            "kind": span.kind.name,
            "parent": None if span.parent is None else names[span.parent.span_id],
            "attributes": {key: type(value).__name__ for key, value in sorted((span.attributes or {}).items())},
            "events": sorted(event.name for event in span.events),
            "links": [sorted(link.attributes or {}) for link in span.links],
        }
        for span in spans
    }


def test_both_write_the_same_spans(recording: ModuleType) -> None:
    """The turn that the plain SDK writes by hand has every span, attribute, event and link that ours has."""
    ours, plain = recording.Ours(), recording.Way()
    keep = recording.Keep()
    ours.provider.add_span_processor(keep)
    recording.our_turns(ours.recorder, 2)
    ours.recorder.drain()
    plain.add_keeper()
    tracer = plain.provider.get_tracer("plain")
    recording.traced(tracer, "call-1")

    assert len(keep.spans) == 24
    assert contents(plain.keep.spans) == contents(keep.spans[12:])
