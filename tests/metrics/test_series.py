"""What turns tell is counted in plain numbers and handed over at collection, as if each had been recorded by itself."""

from __future__ import annotations

import os
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from voicespan import names as n
from voicespan.metrics.instruments import METRICS, take, views
from voicespan.metrics.series import MAX_SERIES, series
from voicespan.metrics.start import start

from .conftest import Meters, key

if TYPE_CHECKING:
    from collections.abc import Iterator

DURATION = n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION
MODEL = (n.GEN_AI_REQUEST_MODEL,)
VALUES = (0.02, 0.3, 0.31, 7.0, 0.3)


def moment(number: int) -> tuple[int, int, int]:
    return time.time_ns(), 0xA000 + number, 0xB000 + number


def test_what_is_counted_is_what_would_have_been_recorded(meters: Meters) -> None:
    """Counts, sum, smallest and largest value are those that the SDK makes of the same values one by one."""
    for value in VALUES:
        series.add(DURATION, value, MODEL, ("counted",))
        take(DURATION)(value, {n.GEN_AI_REQUEST_MODEL: "recorded"}, None)
    points = {key(point.attributes): point for point in meters.points(DURATION)}
    counted, recorded = points["counted",], points["recorded",]
    for field in ("count", "bucket_counts", "min", "max"):
        assert getattr(counted, field) == getattr(recorded, field), field
    assert counted.sum == pytest.approx(recorded.sum)


def test_the_latest_of_each_bucket_is_its_exemplar(meters: Meters) -> None:
    """An exemplar has value, time and trace of the latest measurement of its bucket; an unsampled trace has none."""
    moments = [moment(number) for number in range(len(VALUES))]
    for value, where in zip(VALUES, moments, strict=True):
        series.add(DURATION, value, MODEL, ("small",), where)
    series.add(DURATION, 0.02, MODEL, ("small",), None)
    found = {(one.value, one.time_unix_nano, one.trace_id, one.span_id) for one in meters.only(DURATION).exemplars}
    assert found == {(VALUES[index], *moments[index]) for index in (0, 3, 4)}


def test_each_collection_has_only_what_is_new(meters: Meters) -> None:
    """What was handed over is not handed over again, and what comes later adds to it."""
    for expected in (1, 2, 3):
        series.add(DURATION, 0.3, MODEL, ("small",))
        assert meters.only(DURATION).count == expected
    assert meters.only(DURATION).count == 3


def test_a_counter_has_the_sum_and_the_latest_addition_as_its_exemplar(meters: Meters) -> None:
    """Three detections are three, and the exemplar is one of them, not their sum."""
    for number in range(3):
        series.add(n.METRIC_VOICE_VAD_EVENTS, 1, (n.VOICE_VAD_EVENT,), ("speech_start",), moment(number))
    point = meters.only(n.METRIC_VOICE_VAD_EVENTS)
    assert point.value == 3
    (exemplar,) = point.exemplars
    assert (exemplar.value, exemplar.trace_id) == (1, 0xA002)


def test_labels_are_bounded_and_so_is_what_waits(meters: Meters) -> None:
    """However many models are named between two collections, what waits stays small, and nothing is lost."""
    most = 0
    for number in range(3 * MAX_SERIES):
        series.add(DURATION, 0.3, MODEL, (f"model-{number}",))
        most = max(most, len(series._series))
    assert most <= MAX_SERIES + 1
    points = {key(point.attributes): point.count for point in meters.points(DURATION)}
    assert sum(points.values()) == 3 * MAX_SERIES
    assert len(points) == 51
    assert points["other",] == 3 * MAX_SERIES - 50


def provided(monkeypatch: pytest.MonkeyPatch, chosen: list[View], *, started: bool = True) -> Meters:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False, views=chosen)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    if started:
        start()
    return Meters(provider, reader)


@pytest.fixture(params=["no views", "own view", "not started"])
def others(request: pytest.FixtureRequest, meters: Meters, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meters]:
    """A service's own provider that cannot take batches: without our views, with one of its own, or not started."""
    own = View(instrument_name="gen_ai.*", aggregation=ExplicitBucketHistogramAggregation((1.0,)), attribute_keys=set())
    chosen = {"no views": [], "own view": [*views(), own], "not started": views()}[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK warns of two views for one instrument
        found = provided(monkeypatch, chosen, started=request.param != "not started")
    yield found
    found.provider.shutdown()


def test_a_provider_that_takes_no_batches_gets_each_measurement(others: Meters) -> None:
    """Where others look at a histogram, too, or nothing is handed over at collection, each value is recorded."""
    for value in VALUES:
        series.add(DURATION, value, MODEL, ("small",), moment(1))
    data: Any = others.reader.get_metrics_data()
    points = [
        point
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == DURATION
        for point in metric.data.data_points
    ]
    assert points
    for point in points:
        assert (point.count, point.max) == (len(VALUES), 7.0)
        assert point.sum == pytest.approx(sum(VALUES))
        assert {exemplar.trace_id for exemplar in point.exemplars} == {0xA001}


def test_a_child_does_not_tell_what_its_parent_has_counted(meters: Meters) -> None:
    """After a fork what waited is the parent's alone."""
    series.add(DURATION, 0.3, MODEL, ("small",))
    child = os.fork()
    if child == 0:
        os._exit(len(meters.points(DURATION)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert meters.only(DURATION).count == 1


def test_every_histogram_of_turns_takes_batches() -> None:
    """What `voicespan.metrics.turns` measures for every turn is counted, and not recorded one by one."""
    from voicespan.metrics import turns
    from voicespan.metrics.instruments import BATCHED

    used = {value for name, value in vars(n).items() if name.startswith("METRIC_") and f"n.{name}" in _source(turns)}
    assert {name for name in used if METRICS[name].instrument == "histogram"} <= BATCHED


def _source(module: Any) -> str:
    import inspect

    return inspect.getsource(module)
