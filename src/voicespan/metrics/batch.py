"""Histograms of what happens too often to be recorded one by one: counted in plain numbers, taken in at collection.

The SDK has no observable histogram. `Batch` is a measurement that stands for many, and `BatchedHistogramAggregation`
takes it as such; single measurements of the same instrument go on as in every histogram.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics._internal.aggregation import (
    AggregationTemporality,
    _Aggregation,
    _ExplicitBucketHistogramAggregation,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation

from voicespan.metrics.buckets import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics._internal.exemplar import ExemplarReservoirBuilder
    from opentelemetry.sdk.metrics._internal.instrument import _Instrument
    from opentelemetry.sdk.metrics._internal.measurement import Measurement


class BatchedHistogramAggregation(ExplicitBucketHistogramAggregation):
    """Explicit buckets, for single measurements and for batches."""

    def __init__(self, boundaries: Sequence[float]) -> None:
        super().__init__(boundaries)
        self._limits = boundaries

    def _create_aggregation(
        self,
        instrument: _Instrument,
        attributes: Any,
        reservoir_factory: Callable[[type[_Aggregation[Any]]], ExemplarReservoirBuilder],
        start_time_unix_nano: int,
    ) -> _Aggregation[Any]:
        return _Batched(
            attributes,
            AggregationTemporality.DELTA,
            start_time_unix_nano,
            reservoir_factory(_ExplicitBucketHistogramAggregation),
            self._limits,
        )


def only_batches(provider: MeterProvider, record: Any) -> bool:
    """Whether each view of the histogram with this method `record` takes batches, and there is one.

    Raises:
        AttributeError: the SDK is not the one that this was written for.

    """
    views = [view for view in provider._sdk_config.views if view._match(record.__self__)]  # noqa: SLF001 - no other way
    kinds = [view._aggregation for view in views]  # noqa: SLF001
    return bool(kinds) and all(isinstance(kind, BatchedHistogramAggregation) for kind in kinds)


class _Batched(_ExplicitBucketHistogramAggregation):
    # The SDK's fields, whose types it leaves to be guessed.
    _value: Any
    _sum: Any
    _min: Any
    _max: Any

    def aggregate(self, measurement: Measurement, should_sample_exemplar: bool = True) -> None:
        batch = measurement.value
        if not isinstance(batch, Batch):
            super().aggregate(measurement, should_sample_exemplar)
            return
        with self._lock:
            before = self._get_empty_bucket_counts() if self._value is None else self._value
            self._value = [old + new for old, new in zip(before, batch.counts, strict=True)]
            self._sum += float(batch)
            self._min = min(self._min, self._smallest(batch))
            self._max = max(self._max, batch.largest)
        if should_sample_exemplar:
            for value, time_ns, context in batch.exemplars:
                self._reservoir.offer(value, time_ns, measurement.attributes, context)

    def _smallest(self, batch: Batch) -> float:
        if batch.smallest is not None:
            return batch.smallest
        first = next(index for index, count in enumerate(batch.counts) if count)
        return 0.0 if first == 0 else float(self._boundaries[first - 1])
