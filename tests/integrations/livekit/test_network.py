"""What a room tells of the network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

from livekit.rtc._proto import stats_pb2
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from voicespan.integrations.livekit import network
from voicespan.mos import mos

if TYPE_CHECKING:
    from collections.abc import Iterator


class Room:
    """A room whose participants lose packets: of a hundred more, `lost` each time it is asked."""

    def __init__(self, *lost: int) -> None:
        self.lost = list(lost)
        self.asked = 0
        self.so_far = 0
        self.done = asyncio.Event()

    def isconnected(self) -> bool:
        return True

    async def get_rtc_stats(self) -> Any:
        if self.lost and self.asked == len(self.lost):
            self.done.set()
            await asyncio.Event().wait()
        self.so_far += self.lost[self.asked]
        self.asked += 1
        heard = stats_pb2.RtcStats()
        heard.inbound_rtp.rtc.id = "in"
        heard.inbound_rtp.stream.kind = "audio"
        heard.inbound_rtp.received.packets_received = 100 * self.asked - self.so_far
        heard.inbound_rtp.received.packets_lost = self.so_far
        heard.inbound_rtp.received.jitter = 0.004
        seen = stats_pb2.RtcStats()
        seen.inbound_rtp.stream.kind = "video"
        seen.inbound_rtp.received.packets_received = 1000
        sent = stats_pb2.RtcStats()
        sent.remote_inbound_rtp.stream.kind = "audio"
        sent.remote_inbound_rtp.received.jitter = 0.03
        sent.remote_inbound_rtp.remote_inbound.fraction_lost = 0.02
        sent.remote_inbound_rtp.remote_inbound.round_trip_time = 0.4
        sent.remote_inbound_rtp.remote_inbound.round_trip_time_measurements = max(1, self.asked - 1)
        sent.remote_inbound_rtp.rtc.timestamp = 1000 * max(1, self.asked - 1)  # the second time the report of the first
        return type("Stats", (), {"subscriber_stats": [heard, seen], "publisher_stats": [sent]})()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """Read the metrics of this test."""
    made = InMemoryMetricReader()
    provider = MeterProvider([made], shutdown_on_exit=False)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    monkeypatch.setattr(network, "EVERY_S", 0.01)
    yield made
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[tuple[str, str], Any]:
    """Count and sum, by metric and direction."""
    data = reader.get_metrics_data()
    assert data is not None
    found: Any = data.resource_metrics[0].scope_metrics[0].metrics
    return {
        (metric.name, str(point.attributes["network.io.direction"])): (point.count, point.sum)
        for metric in found
        for point in metric.data.data_points
    }


@pytest.mark.covers("D-M12", "D-M14")
async def test_jitter_and_loss(reader: InMemoryMetricReader) -> None:
    """Jitter, lost packets since the last look, and the score are recorded for audio, both ways, each report once."""
    room = Room(10, 0, 5)
    asking = network.Network(room)
    asking.start()
    await asyncio.wait_for(room.done.wait(), 5)
    asking.stop()
    found = points(reader)
    assert found["voice.audio.packet.loss", "receive"] == (3, pytest.approx(0.15))
    assert found["voice.audio.packet.loss", "transmit"] == (2, pytest.approx(0.04))
    assert found["voice.audio.frame.jitter", "receive"] == (3, pytest.approx(0.012))
    assert found["voice.audio.frame.jitter", "transmit"] == (2, pytest.approx(0.06))
    each = mos(loss=0.02, jitter_s=0.03, delay_s=0.2)
    assert found["voice.audio.mos", "transmit"] == (2, pytest.approx(2 * each))
    assert found["voice.audio.mos", "receive"] == (
        3, pytest.approx(sum(mos(loss=loss, jitter_s=0.004, delay_s=0.2) for loss in (0.1, 0, 0.05))),
    )  # fmt: skip


async def test_a_room_that_does_not_tell(reader: InMemoryMetricReader, capsys: pytest.CaptureFixture[str]) -> None:
    """After three failures in a row nobody is asked again, and one line says so."""
    asking = network.Network(Room())
    asking.start()
    assert asking._task is not None
    await asyncio.wait_for(asking._task, 5)
    assert capsys.readouterr().err.count("livekit network statistics") == 1
