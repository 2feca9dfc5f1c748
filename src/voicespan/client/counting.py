"""What the reports of clients add to the service's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.metrics.instruments import record
from voicespan.metrics.signals import audio_quality, client_mark

if TYPE_CHECKING:
    from voicespan.client.report import Counters, Report


def count(report: Report, news: Counters) -> None:
    """Count a report that was taken for the first time; `news` is what its counters have added."""
    for kind, times in news.errors.items():
        record(n.METRIC_VOICE_CLIENT_ERRORS, times, {n.ERROR_TYPE: kind})
    for kind, times in news.intents.items():
        record(n.METRIC_VOICE_INTENTS, times, {n.VOICE_INTENT_TYPE: kind})
    if news.reconnections:
        record(n.METRIC_VOICE_CLIENT_RECONNECTIONS, news.reconnections)
    for turn in report.turns:
        for mark, duration_ms in turn.durations_ms.items():
            client_mark(mark, duration_ms / 1000)
    network = report.network
    if network is not None:
        audio_quality(
            "transmit",  # what the client receives is what the service sends
            jitter_s=_seconds(network.jitter_ms),
            loss=network.loss,
            delay_s=None if network.round_trip_ms is None else network.round_trip_ms / 2000,
        )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
