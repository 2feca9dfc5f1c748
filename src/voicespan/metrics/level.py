"""How much of something there is now, and how much there was at most: counted up and down, read at collection."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from voicespan.metrics.labels import labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from voicespan.metrics.labels import Value

Key = tuple[tuple[str, "Value"], ...]

PEAK_S = 5.0
"""A peak is told by every collection that comes within this time, so that two readers see the same."""


class _Cell:
    """The number of one set of labels, and how large it was."""

    __slots__ = ("before", "ever", "most", "now")

    def __init__(self) -> None:
        self.now = self.most = self.before = self.ever = 0


class Level:
    """A number for each set of labels; never below zero.

    Who counts only writes the move down, in order; whoever reads works it off, and so does the recorder's thread.
    """

    MAX_MOVES = 4096
    """So many are written down at most, before the one that counts works them off itself."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin at zero, with a lock of one's own: also in the child of a fork."""
        self._lock = threading.Lock()
        self._moves: deque[tuple[Key, bool]] = deque()
        self._cells: dict[Key, _Cell] = {}
        self._since_s = time.monotonic()

    def up(self, attributes: dict[str, Value | None]) -> Key:
        """Count one more, and return what `down` has to be given."""
        return self.up_by(tuple(sorted(labels.of(attributes).items())))

    def up_by(self, key: Key) -> Key:
        """Count one more of a set of labels that is known to be bounded."""
        self._moves.append((key, True))
        if len(self._moves) > self.MAX_MOVES:
            self.settle()
        return key

    def down(self, key: Key) -> None:
        """Count one less."""
        self._moves.append((key, False))
        if len(self._moves) > self.MAX_MOVES:
            self.settle()

    def settle(self) -> None:
        """Work off what was written down."""
        with self._lock:
            self._work_off()

    def _work_off(self) -> None:
        moves, cells = self._moves, self._cells
        while moves:
            key, up = moves.popleft()
            cell = cells.get(key)
            if up:
                if cell is None:
                    cell = cells[key] = _Cell()
                cell.now += 1
                if cell.now > cell.most:
                    cell.most = cell.now
                    cell.ever = max(cell.ever, cell.now)
            elif cell is not None and cell.now:
                cell.now -= 1

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
            self._work_off()
            return {key: cell.now for key, cell in self._cells.items()}

    def ever(self) -> dict[Key, int]:
        """Return the largest numbers since the start."""
        with self._lock:
            self._work_off()
            return {key: cell.ever for key, cell in self._cells.items()}

    def peaks(self) -> dict[Key, int]:
        """Return the largest numbers since the collection before."""
        with self._lock:
            self._work_off()
            found = {key: max(cell.most, cell.before) for key, cell in self._cells.items()}
            if time.monotonic() - self._since_s >= PEAK_S:
                for cell in self._cells.values():
                    cell.before, cell.most = cell.most, cell.now
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
