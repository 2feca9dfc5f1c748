"""That what is compared in the benchmark of recording is the same work."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

    from opentelemetry.sdk.trace import ReadableSpan

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recording.py"


@pytest.fixture(scope="module")
def recording() -> ModuleType:
    """Give the benchmark, loaded as a module."""
    spec = importlib.util.spec_from_file_location("recording", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    previous = recording.plain_turn(tracer, "call-1")
    plain.keep.spans.clear()
    recording.plain_turn(tracer, "call-1", previous)

    assert len(keep.spans) == 24
    assert contents(plain.keep.spans) == contents(keep.spans[12:])
