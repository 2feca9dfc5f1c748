"""Histograms of what happens a hundred thousand times a second: counted in plain numbers, taken in at collection.

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

    def _smallest(self, batch: Batch) -> float:
        """The lower end of the first bucket with something in it: what is known of the smallest value."""
        first = next(index for index, count in enumerate(batch.counts) if count)
        return 0.0 if first == 0 else float(self._boundaries[first - 1])
