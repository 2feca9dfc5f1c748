"""Messages on media connections: how many of each kind, and how long they take; audio comes as messages, too.

Counted in plain numbers and read at collection, since there may be a hundred a second on each connection.
"""

from __future__ import annotations

import threading
from time import monotonic_ns
from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from voicespan import names as n
from voicespan.guard import swallowed
from voicespan.metrics import instruments
from voicespan.metrics.buckets import Buckets
from voicespan.metrics.labels import labels

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from voicespan.metrics.audio import Direction

_BOUNDARIES = instruments.METRICS[n.METRIC_VOICE_MESSAGE_PROCESS_DURATION].boundaries


class Messages:
    """The messages of this process."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin at zero, with a lock of one's own: also in the child of a fork."""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._durations: dict[str, Buckets] = {}
        self._bytes: dict[Direction, int] = {}
        self.by_service = False
        """The service counts its messages itself."""

    def count(self, kind: str, direction: Direction) -> None:
        """Count a message."""
        key = str(labels.value(n.VOICE_MESSAGE_TYPE, kind)), direction
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1

    def moved(self, direction: Direction, size: int) -> None:
        """Count the bytes of a message."""
        with self._lock:
            self._bytes[direction] = self._bytes.get(direction, 0) + size

    def observed_bytes(self) -> Iterable[Observation]:
        """Return the bytes."""
        with self._lock:
            sizes = dict(self._bytes)
        return [Observation(size, {n.NETWORK_IO_DIRECTION: direction}) for direction, size in sizes.items()]

    def handled(self, kind: str, spent_ns: int) -> None:
        """Take the time that the handling of a message took."""
        known = str(labels.value(n.VOICE_MESSAGE_TYPE, kind))
        with self._lock:
            durations = self._durations.get(known)
            if durations is None:
                durations = self._durations[known] = Buckets(_BOUNDARIES)
            durations.add(spent_ns)

    def observed(self) -> Iterable[Observation]:
        """Return the counts, and hand the durations on."""
        with self._lock:
            counts = dict(self._counts)
            batches = {kind: durations.take() for kind, durations in self._durations.items()}
        for kind, batch in batches.items():
            instruments.record_batch(n.METRIC_VOICE_MESSAGE_PROCESS_DURATION, batch, {n.VOICE_MESSAGE_TYPE: kind})
        return [
            Observation(count, {n.VOICE_MESSAGE_TYPE: kind, n.NETWORK_IO_DIRECTION: direction})
            for (kind, direction), count in counts.items()
        ]


class Handling:
    """The block in which one message is handled."""

    __slots__ = ("_begin_ns", "_kind")

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        messages.by_service = True
        self._begin_ns = monotonic_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            messages.count(self._kind, "receive")
            messages.handled(self._kind, monotonic_ns() - self._begin_ns)
        except Exception as failure:
            swallowed("message_received", failure)


messages = Messages()
