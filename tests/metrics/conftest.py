"""A meter provider for one test, with everything that voicespan measures, and with nothing of the tests before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from voicespan import diagnostics, settings
from voicespan.emit import BackgroundRecorder
from voicespan.metrics import audio, loop
from voicespan.metrics.calls import calls
from voicespan.metrics.instruments import views
from voicespan.metrics.labels import labels
from voicespan.metrics.level import LEVELS
from voicespan.metrics.messages import messages
from voicespan.metrics.series import series
from voicespan.metrics.start import start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.testing import FixedClock


@dataclass
class Meters:
    """What was measured."""

    provider: MeterProvider
    reader: InMemoryMetricReader

    def collect(self) -> dict[str, Any]:
        """Collect once, and return each metric by its name."""
        data = self.reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics
        return {
            metric.name: metric for resource in found for scope in resource.scope_metrics for metric in scope.metrics
        }

    def points(self, name: str) -> list[Any]:
        """Collect once, and return the points of a metric."""
        metric = self.collect().get(name)
        return [] if metric is None else list(metric.data.data_points)

    def values(self, name: str) -> dict[tuple[Any, ...], float]:
        """Collect once, and return the numbers of a metric by the values of its labels, in order of their names."""
        return {key(point.attributes): point.value for point in self.points(name)}

    def only(self, name: str) -> Any:
        """Collect once, and return the only point of a metric."""
        (point,) = self.points(name)
        return point


def key(attributes: Any) -> tuple[Any, ...]:
    return tuple(value for _, value in sorted((attributes or {}).items()))


def forget() -> None:
    diagnostics.forget()
    settings.reset()
    labels.forget()
    audio.flows.start()
    messages.start()
    series.start()
    calls.start()
    loop.start()
    for level in LEVELS:
        level.start()


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meters]:
    """Give a global meter provider for one test."""
    forget()
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False, views=views())
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    start()
    yield Meters(provider, reader)
    provider.shutdown()
    forget()


class Recorder(BackgroundRecorder):
    """Finishes turns when it is told to, on a fixed clock."""

    def __init__(self, clock: FixedClock) -> None:
        super().__init__(clock=clock)
        self.fixed = clock

    def _start(self) -> None:
        """Do without a thread."""


@pytest.fixture
def recorder() -> Recorder:
    """Give a recorder without a thread: `drain()` does its work."""
    from voicespan.testing import FixedClock

    return Recorder(FixedClock())
