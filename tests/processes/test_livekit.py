"""An unmodified service with job processes, started with nothing but environment variables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .receiver import Receiver, attributes
from .service import RUN, Service

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WORKER = Path(__file__).parents[1] / "integrations/livekit/worker.py"


def names(spans: ResourceSpans) -> list[str]:
    return [span.name for scope in spans.scope_spans for span in scope.spans]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_job_processes(method: str) -> None:
    """Each job process sends the turn of its call, as an instance of its own, however it was started."""
    with Receiver() as receiver:
        service = Service(
            "", command=(*RUN, sys.executable, str(WORKER), method), launcher=(),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="",
        )  # fmt: skip
        done = service.finish(150)
    assert done.code == 0, done.err
    assert [line for line in done.lines if "livekit" in line] == []
    roots = [span for span in receiver.spans if span.name == "voice.turn"]
    found = {attributes(list(root.attributes))["session.id"]: attributes(list(root.attributes)) for root in roots}
    assert set(found) == {"job-0", "job-1"}
    assert {each["voice.turn.outcome"] for each in found.values()} == {"completed"}
    assert {each["voice.room.id"] for each in found.values()} == {"room-0", "room-1"}
    assert len({root.trace_id for root in roots}) == 2
    instances = {
        attributes(list(spans.resource.attributes))["service.instance.id"]
        for spans in receiver.resource_spans
        if "voice.turn" in names(spans)
    }
    assert len(instances) == 2
    # LiveKit's own spans would be traces of whole calls with the words of both sides.
    assert not {span.name for span in receiver.spans} & {"agent_session", "user_turn", "agent_turn", "job_entrypoint"}
    labels = {
        pair.key
        for name, metric in receiver.metrics.items()
        if name.startswith(("gen_ai.", "lk."))
        for point in metric.histogram.data_points
        for pair in point.attributes
    }
    assert "gen_ai.operation.name" in labels
    assert not labels & {"room_id", "job_id"}
