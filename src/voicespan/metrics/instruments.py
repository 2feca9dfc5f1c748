"""The instruments of the names module, made when they are first used, of whichever meter provider is in place."""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from voicespan import names as n
from voicespan.guard import guarded, swallowed
from voicespan.metrics.labels import NEVER, labels
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Observation

    from voicespan.metrics.buckets import Batch
    from voicespan.metrics.labels import Value

BATCHED = frozenset(
    {
        n.METRIC_GEN_AI_CLIENT_OPERATION_DURATION,
        n.METRIC_GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
        n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE,
        n.METRIC_VOICE_AUDIO_FRAME_JITTER,
        n.METRIC_VOICE_EVENT_LOOP_DELAY,
        n.METRIC_VOICE_LLM_TOKEN_RATE,
        n.METRIC_VOICE_MESSAGE_PROCESS_DURATION,
        n.METRIC_VOICE_TTS_REAL_TIME_FACTOR,
        n.METRIC_VOICE_VAD_DETECTION_DURATION,
    }
)
"""Histograms of what happens too often to be recorded one by one: counted in the process, taken in at collection."""

METRICS = {metric.name: metric for metric in n.METRICS}
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_flushed: weakref.WeakSet[Any] = weakref.WeakSet()
"""Providers at whose collections what was counted is handed over."""
_unread: weakref.WeakSet[MeterProvider] = weakref.WeakSet()
_made: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
_takes: weakref.WeakKeyDictionary[Any, dict[str, bool]] = weakref.WeakKeyDictionary()
"""By provider, whether a metric takes batches."""


def views() -> list[View]:
    """Return the views that give our histograms their buckets; for a `MeterProvider` of one's own."""
    plain = ExplicitBucketHistogramAggregation
    try:
        from voicespan.metrics.batch import BatchedHistogramAggregation

        batched: type[ExplicitBucketHistogramAggregation] = BatchedHistogramAggregation
    except ImportError as error:  # it builds on a part of the SDK that is not public
        swallowed("metrics.batch", error)
        batched = plain
    return [
        View(instrument_name=metric.name, aggregation=(batched if metric.name in BATCHED else plain)(metric.boundaries))
        for metric in n.METRICS
        if metric.boundaries
    ]


@guarded
def record_batch(name: str, batch: Batch | None, attributes: Mapping[str, Value | None]) -> None:
    """Record many measurements at once, where the provider's views are ours."""
    if batch is not None and takes_batches(name):
        take(name)(batch, labels.of(attributes), None)


def flushed(provider: object) -> None:
    """Take note that what was counted is handed to this provider's instruments when it is collected from."""
    _flushed.add(provider)


def takes_batches(name: str) -> bool:
    """Whether a metric of the provider that is in place can be counted in the process and handed over at collection.

    A histogram can where no view but ours looks at it; a counter always can.
    """
    provider = metrics.get_meter_provider()
    if provider not in _flushed:
        return False
    known = _takes.setdefault(provider, {})
    if name not in known:
        known[name] = METRICS[name].instrument == "counter" or _batched(provider, name)
    return known[name]


def _batched(provider: Any, name: str) -> bool:
    try:
        from voicespan.metrics.batch import only_batches

        return only_batches(provider, take(name))
    except Exception as error:
        swallowed("metrics.batch", error)
        return False


def wanted() -> bool:
    """Whether anybody takes metrics."""
    provider = metrics.get_meter_provider()
    return isinstance(provider, MeterProvider) and provider not in _unread


def nobody_reads(provider: MeterProvider) -> None:
    """Record nothing with this provider, since no reader collects from it; until `somebody_reads`."""
    _unread.add(provider)


def somebody_reads(provider: object) -> None:
    """Record again: a reader was added."""
    if isinstance(provider, MeterProvider):
        _unread.discard(provider)


@guarded
def record(
    name: str, value: float, attributes: Mapping[str, Value | None] | None = None, context: Context | None = None
) -> None:
    """Record a measurement with a histogram, or add to a counter, of the names module.

    `context` holds the span that it was measured in, for the exemplar; by default the current one.
    """
    if wanted():
        take(name)(value, labels.of(attributes or {}), context)


def take(name: str) -> Callable[[float, Mapping[str, Value], Context | None], None]:
    """Return what takes measurements of a metric of the names module."""
    provider = metrics.get_meter_provider()
    made = _made.get(provider)
    if made is None:
        made = _made.setdefault(provider, {})
    if name not in made:
        made[name] = _make(METRICS[name])
    return made[name]  # type: ignore[no-any-return]


def _make(metric: n.Metric) -> Callable[..., None]:
    meter = metrics.get_meter_provider().get_meter("voicespan", __version__)
    if metric.instrument == "histogram":
        return meter.create_histogram(
            metric.name, metric.unit, metric.brief, explicit_bucket_boundaries_advisory=metric.boundaries
        ).record
    if metric.instrument == "counter":
        return meter.create_counter(metric.name, metric.unit, metric.brief).add
    return meter.create_up_down_counter(metric.name, metric.unit, metric.brief).add


def observe(name: str, read: Callable[[], Iterable[Observation]]) -> None:
    """Have an observable metric of the names module read at each collection; what goes wrong there is swallowed."""
    metric = METRICS[name]
    meter = metrics.get_meter_provider().get_meter("voicespan", __version__)
    make = {
        "counter": meter.create_observable_counter,
        "updowncounter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }[metric.instrument]
    safe = guarded(read)

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return safe() or ()

    make(metric.name, [callback], metric.unit, metric.brief)


class Counter:
    """A counter of the service's own."""

    def __init__(self, name: str, unit: str, description: str) -> None:
        self._counter = (
            metrics.get_meter_provider().get_meter("voicespan.user").create_counter(_checked(name), unit, description)
        )

    @guarded
    def add(self, amount: float = 1, attributes: Mapping[str, Value] | None = None, /, **more: Value) -> None:
        """Add to it. Labels are bounded as all are: the values after the first 50 become `other`."""
        self._counter.add(amount, labels.of({**(attributes or {}), **more}))


class Histogram:
    """A histogram of the service's own."""

    def __init__(self, name: str, unit: str, description: str, buckets: Sequence[float]) -> None:
        self._histogram = (
            metrics.get_meter_provider()
            .get_meter("voicespan.user")
            .create_histogram(
                _checked(name), unit, description, explicit_bucket_boundaries_advisory=buckets or n.BOUNDARIES_S
            )
        )

    @guarded
    def record(self, value: float, attributes: Mapping[str, Value] | None = None, /, **more: Value) -> None:
        """Record a value; inside a turn its trace is the exemplar. Labels are bounded as all are."""
        self._histogram.record(value, labels.of({**(attributes or {}), **more}))


def counter(name: str, unit: str = "1", description: str = "") -> Counter:
    """Make a counter of your own: `counter("app.orders", "{order}").add(kind="pizza")`.

    Raises:
        ValueError: the name is not lower case and dotted, or is one of voicespan's.

    """
    return Counter(name, unit, description)


def histogram(name: str, unit: str = "s", description: str = "", buckets: Sequence[float] = ()) -> Histogram:
    """Make a histogram of your own; `buckets` are those of the span-derived metrics unless given.

    Raises:
        ValueError: the name is not lower case and dotted, or is one of voicespan's.

    """
    return Histogram(name, unit, description, buckets)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a metric: lower case words with dots between them, as app.orders")
    if name in METRICS:
        raise ValueError(f"{name!r} is a metric of voicespan")
    return name


__all__ = ["BATCHED", "METRICS", "NEVER", "Counter", "Histogram", "counter", "histogram", "observe", "record", "views"]
