"""The audio path: frames, bytes, jitter and drops of each call, counted in plain numbers and read at collection.

One direction of one call is a `Flow`. Its numbers belong to the thread that hands its frames on; a collection only
reads them, so that a frame takes no lock. What a call has counted stays counted when the call is gone.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.metrics import Observation

from voicespan import names as n
from voicespan.metrics import instruments
from voicespan.metrics.buckets import Buckets
from voicespan.metrics.labels import labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voicespan.metrics.labels import Value
    from voicespan.sessions import Session

Direction = Literal["receive", "transmit"]
DropReason = Literal["backpressure", "pause", "error"]

PAUSE_NS = 500_000_000
"""A frame that comes this much later than the one before would have it is no late frame: there was a pause, or mute."""
_COMPACT_AT = 4096
_BOUNDARIES = instruments.METRICS[n.METRIC_VOICE_AUDIO_FRAME_JITTER].boundaries
_LIMITS_NS = Buckets(_BOUNDARIES).limits_ns
_LAST_LIMIT_NS = _LIMITS_NS[-1]


class Flow(Buckets):
    """The frames of one direction of one call; the buckets are those of its jitter, without a step in between."""

    __slots__ = ("bytes", "direction", "due_ns", "frames", "now", "ns_per_byte", "owner")

    def __init__(self, owner: Session, direction: Direction, sample_rate: int | None) -> None:
        super().__init__(_BOUNDARIES)
        self.owner = weakref.ref(owner)
        self.now = owner.recorder.clock.monotonic_ns
        self.direction = direction
        self.frames = 0
        self.bytes = 0
        self.ns_per_byte = 1_000_000_000 / (2 * sample_rate) if sample_rate else 0.0
        self.due_ns = 0.0
        """When the next frame is due; 0 when that is not known."""

    def received(self, frame: Any, seconds: float | None) -> None:
        """Count a frame that has come; off is one that comes sooner or later than the one before would have it."""
        now_ns = self.now()
        size = len(frame) if type(frame) is bytes else _size(frame)
        self.frames += 1
        self.bytes += size
        length_ns = size * self.ns_per_byte if seconds is None else seconds * 1e9
        off_ns = now_ns - self.due_ns
        self.due_ns = now_ns + length_ns if length_ns else 0.0
        if off_ns < 0:
            off_ns = -off_ns
        if off_ns < PAUSE_NS:
            self.counts[bisect_left(_LIMITS_NS, off_ns)] += 1
            self.sum_ns += off_ns
            if off_ns > _LAST_LIMIT_NS:
                self.most_ns = max(self.most_ns, off_ns)

    def sent(self, frame: Any, seconds: float | None) -> None:
        """Count a frame that leaves; off is one that leaves after all before it were played. Ahead of time is none."""
        now_ns = self.now()
        size = len(frame) if type(frame) is bytes else _size(frame)
        self.frames += 1
        self.bytes += size
        length_ns = size * self.ns_per_byte if seconds is None else seconds * 1e9
        if not length_ns:
            return
        late_ns = now_ns - self.due_ns
        if late_ns < 0:
            self.due_ns += length_ns
            late_ns = 0
        else:
            self.due_ns = now_ns + length_ns
        if late_ns < PAUSE_NS:
            self.counts[bisect_left(_LIMITS_NS, late_ns)] += 1
            self.sum_ns += late_ns
            if late_ns > _LAST_LIMIT_NS:
                self.most_ns = max(self.most_ns, late_ns)

    def restart(self) -> None:
        """Forget when the next frame is due: what was sent is dropped, or nothing is sent for a while."""
        self.due_ns = 0.0


def _size(frame: Any) -> int:
    """Return the bytes of a frame: of samples in an array, of an object with `data`, or 0."""
    size = getattr(frame, "nbytes", None)
    if isinstance(size, int):
        return size
    if not isinstance(frame, bytearray):
        frame = getattr(frame, "data", frame)
        size = getattr(frame, "nbytes", None)
        if isinstance(size, int):
            return size
    return len(frame) if isinstance(frame, bytes | bytearray) else 0


class Flows:
    """All frames of this process."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin at zero, with a lock of one's own: also in the child of a fork."""
        self._lock = threading.Lock()
        self._live: set[Flow] = set()
        self._gone: dict[Direction, list[int]] = {"receive": [0, 0], "transmit": [0, 0]}
        self._drops: dict[str, int] = {}
        self._jitter = {direction: Buckets(_BOUNDARIES) for direction in self._gone}

    def make(self, owner: Session, direction: Direction, sample_rate: int | None) -> Flow:
        """Return the flow of one direction of a call."""
        flow = Flow(owner, direction, sample_rate)
        with self._lock:
            self._live.add(flow)
            if len(self._live) >= _COMPACT_AT and len(self._live) % _COMPACT_AT == 0:
                self._compact()
        return flow

    def dropped(self, reason: str, frames: int) -> None:
        """Count frames that were thrown away."""
        known = str(labels.value(n.VOICE_AUDIO_DROP_REASON, reason))
        with self._lock:
            self._drops[known] = self._drops.get(known, 0) + frames

    def _compact(self) -> None:
        """Add up the flows of calls that are gone, and let them go; the lock is held."""
        for flow in [flow for flow in self._live if flow.owner() is None]:
            self._jitter[flow.direction].merge(flow)
            gone = self._gone[flow.direction]
            gone[0] += flow.frames
            gone[1] += flow.bytes
            self._live.discard(flow)

    def totals(self) -> dict[Direction, tuple[int, int]]:
        """Return frames and bytes of each direction that had any."""
        with self._lock:
            self._compact()
            found = {}
            for direction, (frames, size) in self._gone.items():
                flows = [flow for flow in self._live if flow.direction == direction]
                frames += sum(flow.frames for flow in flows)  # noqa: PLW2901
                size += sum(flow.bytes for flow in flows)  # noqa: PLW2901
                if frames:
                    found[direction] = frames, size
        return found

    def drops(self) -> dict[str, int]:
        """Return the dropped frames by reason."""
        with self._lock:
            return dict(self._drops)

    def flush(self) -> None:
        """Hand the jitter that came since the last time to its histogram."""
        with self._lock:
            for flow in self._live:
                self._jitter[flow.direction].merge(flow)
            batches = {direction: jitter.take() for direction, jitter in self._jitter.items()}
        for direction, batch in batches.items():
            where: dict[str, Value | None] = {n.NETWORK_IO_DIRECTION: direction, n.VOICE_MEASUREMENT_POINT: "server"}
            instruments.record_batch(n.METRIC_VOICE_AUDIO_FRAME_JITTER, batch, where)


flows = Flows()


def _frames() -> Iterable[Observation]:
    flows.flush()
    return [Observation(frames, {n.NETWORK_IO_DIRECTION: key}) for key, (frames, _) in flows.totals().items()]


def _bytes() -> Iterable[Observation]:
    return [
        Observation(size, {n.NETWORK_IO_DIRECTION: key, n.VOICE_MEASUREMENT_POINT: "server"})
        for key, (_, size) in flows.totals().items()
    ]


def _drops() -> Iterable[Observation]:
    return [Observation(count, {n.VOICE_AUDIO_DROP_REASON: reason}) for reason, count in flows.drops().items()]


OBSERVED: dict[str, Callable[[], Iterable[Observation]]] = {
    n.METRIC_VOICE_AUDIO_FRAMES: _frames,
    n.METRIC_VOICE_AUDIO_IO: _bytes,
    n.METRIC_VOICE_AUDIO_FRAME_DROPS: _drops,
}
