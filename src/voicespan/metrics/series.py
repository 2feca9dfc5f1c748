"""What every turn tells, counted in plain numbers for each set of labels, and handed to its instruments at collection.

The SDK takes ten times as long for a measurement as a count takes, and every turn has a dozen of them. Exemplars stay
what the SDK makes of them: the latest of each bucket.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context

from voicespan.guard import guarded
from voicespan.metrics import instruments
from voicespan.metrics.buckets import Batch, Exemplar
from voicespan.metrics.labels import labels

if TYPE_CHECKING:
    from voicespan.metrics.labels import Value

MAX_SERIES = 1000
"""So many sets of labels wait for a collection; more are handed over at once."""

Moment = tuple[int, int, int]
"""Where something was measured: Unix time in ns, trace id and span id, of a trace that is sampled."""
_Key = tuple[str, tuple[str, ...], tuple["Value | None", ...]]


class _Series:
    """A histogram's measurements with one set of labels, or what was added to a counter."""

    __slots__ = ("counts", "exemplars", "largest", "limits", "smallest", "sum", "take")

    def __init__(self, metric: str) -> None:
        # Made now: the next collection may be the last one, and then it is too late.
        self.take = instruments.take(metric)
        self.limits = instruments.METRICS[metric].boundaries
        self.counts = [0] * (len(self.limits) + 1)
        self.sum: float = 0
        self.smallest = float("inf")
        self.largest = 0.0
        self.exemplars: dict[int, tuple[float, Moment]] = {}
        """Of each bucket the latest."""

    def add(self, value: float, moment: Moment | None) -> None:
        bucket = bisect_left(self.limits, value)
        self.counts[bucket] += 1
        self.sum += value
        self.smallest = min(self.smallest, value)
        self.largest = max(self.largest, value)
        if moment is not None:
            self.exemplars[bucket] = value, moment

    @guarded
    def hand_over(self, metric: str, attributes: dict[str, Value]) -> None:
        """Record everything at once."""
        take = self.take
        exemplars = [Exemplar(value, moment[0], _context(moment)) for value, moment in self.exemplars.values()]
        # With a sampled context, so that the SDK's filter lets the exemplars pass.
        context = exemplars[-1].context if exemplars else Context()
        if instruments.METRICS[metric].instrument == "histogram":
            take(Batch(self.sum, self.counts, self.largest, self.smallest, exemplars), attributes, context)
        elif not exemplars:
            take(self.sum, attributes, context)
        else:
            latest = exemplars[-1].value
            if self.sum > latest:
                take(self.sum - latest, attributes, Context())
            take(latest, attributes, context)


class AllSeries:
    """What was measured since the last collection."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin with nothing: what a parent has counted is not its child's."""
        self._lock = threading.Lock()
        self._series: dict[_Key, _Series] = {}

    def add(
        self,
        metric: str,
        value: float,
        keys: tuple[str, ...] = (),
        values: tuple[Value | None, ...] = (),
        moment: Moment | None = None,
    ) -> None:
        """Take a measurement of a histogram, or an addition to a counter, of the names module.

        `keys` and `values` are its labels, which are bounded as all are; `moment` makes it an exemplar.
        """
        key = metric, keys, values
        if key not in self._series and not instruments.takes_batches(metric):
            context = Context() if moment is None else _context(moment)
            instruments.record(metric, value, dict(zip(keys, values, strict=True)), context)
            return
        with self._lock:
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _Series(metric)
            series.add(value, moment)
        if len(self._series) > MAX_SERIES:
            self.flush()

    def flush(self) -> None:
        """Hand over what there is."""
        with self._lock:
            waiting, self._series = self._series, {}
        for (metric, keys, values), series in waiting.items():
            series.hand_over(metric, labels.of(dict(zip(keys, values, strict=True))))


def _context(moment: Moment) -> Context:
    """Return a context with the span that it was measured in, so that the exemplar is its trace."""
    _, trace_id, span_id = moment
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    identity = trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(identity), Context())


series = AllSeries()
