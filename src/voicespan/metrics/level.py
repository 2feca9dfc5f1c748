"""How much of something there is now, and how much there was at most: counted up and down, read at collection."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from voicespan import names as n
from voicespan.metrics.labels import labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from voicespan.metrics.labels import Value
    from voicespan.record import Component

Key = tuple[tuple[str, "Value"], ...]

PEAK_S = 5.0
"""A peak is told by every collection that comes within this time, so that two readers see the same."""


class Level:
    """A number for each set of labels; never below zero."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin at zero, with a lock of one's own: also in the child of a fork."""
        self._lock = threading.Lock()
        self._now: dict[Key, int] = {}
        self._most: dict[Key, int] = {}
        self._before: dict[Key, int] = {}
        self._ever: dict[Key, int] = {}
        self._since_s = time.monotonic()

    def up(self, attributes: dict[str, Value | None]) -> Key:
        """Count one more, and return what `down` has to be given."""
        return self.up_by(tuple(sorted(labels.of(attributes).items())))

    def up_by(self, key: Key) -> Key:
        """Count one more of a set of labels that is known to be bounded."""
        with self._lock:
            now = self._now[key] = self._now.get(key, 0) + 1
            if now > self._most.get(key, 0):
                self._most[key] = now
                self._ever[key] = max(now, self._ever.get(key, 0))
        return key

    def down(self, key: Key) -> None:
        """Count one less."""
        with self._lock:
            self._now[key] = max(0, self._now.get(key, 0) - 1)

    @contextmanager
    def held(self, attributes: dict[str, Value | None]) -> Iterator[None]:
        """Count one more in a block, however it is left."""
        key = self.up(attributes)
        try:
            yield
        finally:
            self.down(key)

    def now(self) -> dict[Key, int]:
        """Return the numbers, also those that are zero again."""
        with self._lock:
            return dict(self._now)

    def ever(self) -> dict[Key, int]:
        """Return the largest numbers since the start."""
        with self._lock:
            return dict(self._ever)

    def peaks(self) -> dict[Key, int]:
        """Return the largest numbers since the collection before."""
        with self._lock:
            found = {key: max(most, self._before.get(key, 0)) for key, most in self._most.items()}
            if time.monotonic() - self._since_s >= PEAK_S:
                self._before, self._most = self._most, dict(self._now)
                self._since_s = time.monotonic()
            return found

    def observed(self) -> Iterable[Observation]:
        """Return the numbers as observations."""
        return [Observation(count, dict(key)) for key, count in self.now().items()]

    def observed_peaks(self) -> Iterable[Observation]:
        """Return the peaks as observations."""
        return [Observation(count, dict(key)) for key, count in self.peaks().items()]


connections = Level()
"""Media connections, by transport."""
tasks = Level()
"""Stages and other work under way, by component."""
waiting = Level()
"""Requests that wait for a worker."""
models = Level()
"""Models in memory, by name."""
voices = Level()
"""Syntheses under way, by voice."""
LEVELS = (connections, tasks, waiting, models, voices)
_COMPONENTS: dict[str, Key] = {name: ((n.VOICE_COMPONENT, name),) for name in ("asr", "llm", "tool", "tts", "realtime")}


def begun(component: Component) -> Key:
    """Count a stage as work under way; `tasks.down` takes what this returns."""
    return tasks.up_by(_COMPONENTS[component])
