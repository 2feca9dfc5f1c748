"""Request bodies that could not be sent, kept on disk until they can be: bounded, in order, whatever ends the process.

A body is one file, `<time of day in ns>-<process>-<number>-<items>.otlp.gz`: gzip carries the checksum, the name the
order and how many items are lost with it. It is written beside its place and renamed, so a file is whole or not there.
"""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import re
import time
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from voicespan.diagnostics import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEPT: Final = "kept"
REPLAYED: Final = "replayed"
REFUSED: Final = "refused"
REPLACED: Final = "replaced"
DAMAGED: Final = "damaged"

_NAME = re.compile(r"\d{20}-\d+-\d+-(?P<items>\d+)\.otlp\.gz")
_UNFINISHED = ".unfinished"
_UNFINISHED_AFTER_S = 60.0
_MEASURE_AFTER_S = 5.0
_LOCK = "replay.lock"


class Kept(NamedTuple):
    """One body on disk, and the number of spans or log records in it."""

    path: Path
    body: bytes
    items: int


class Spool:
    """A folder of request bodies of one signal; several processes may share it.

    Together they keep at most `max_bytes` in it, give or take what others wrote in the last five seconds. What is too
    much replaces the oldest. `counts` says in items what became of them: kept, replayed, refused for good, replaced by
    newer ones, damaged on disk.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.counts = Counters()
        self._numbers = itertools.count()
        self._done: set[str] = set()
        """Files that are done with, and could not be removed."""
        self._bytes = 0
        self._measured_s = float("-inf")

    def put(self, body: bytes, items: int, at_ns: int) -> None:
        """Keep a body whose items were taken for sending `at_ns`, in nanoseconds of the time of day.

        Raises:
            OSError: it could not be written: a full or read-only disk, no right to, more than the folder may hold.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{at_ns:020}-{os.getpid()}-{next(self._numbers)}-{items}.otlp.gz"
        packed = gzip.compress(body, compresslevel=1, mtime=0)
        if len(packed) > self.max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.folder))
        self._make_room(len(packed))
        unfinished = self.folder / f"{name}{_UNFINISHED}"
        try:
            _write(unfinished, packed)
            unfinished.rename(self.folder / name)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise
        self._bytes += len(packed)
        self.counts.add(KEPT, items)

    def content(self) -> tuple[int, int]:
        """Return how many items wait, and how many bytes they take on disk."""
        names = list(self._names())
        return sum(map(_items, names)), sum(_size(self.folder / name) for name in names)

    def check(self) -> None:
        """Raise OSError if nothing can be kept."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tried = self.folder / f"check-{os.getpid()}{_UNFINISHED}"
        try:
            _write(tried, b"1")
        finally:
            with suppress(OSError):
                tried.unlink()

    def waiting(self) -> bool:
        """Return whether a body is there."""
        return next(iter(self._names()), None) is not None

    @contextmanager
    def replaying(self) -> Iterator[Iterator[Kept]]:
        """Give the bodies, oldest first, as the only process that does so; none while another one does.

        A body stays until `replayed` or `refused` is called with it: sent twice is better than lost.
        """
        with _only_one(self.folder / _LOCK) as first:
            yield self._bodies() if first else iter(())

    def replayed(self, kept: Kept) -> bool:
        """Forget a body that was sent; return whether its file is gone. If not, this process leaves it alone."""
        self.counts.add(REPLAYED, kept.items)
        return self._finish(kept.path)

    def refused(self, kept: Kept) -> bool:
        """Forget a body that nobody will ever take, as `replayed` does."""
        self.counts.add(REFUSED, kept.items)
        return self._finish(kept.path)

    def _finish(self, path: Path) -> bool:
        gone = self._remove(path) or not path.exists()
        (self._done.discard if gone else self._done.add)(path.name)
        return gone

    def _bodies(self) -> Iterator[Kept]:
        self._sweep()
        for name in sorted(self._names()):
            path = self.folder / name
            try:
                body = _unpacked(path)
            except FileNotFoundError:  # replaced by a newer one meanwhile
                continue
            if body:
                yield Kept(path, body, _items(name))
            else:
                self.counts.add(DAMAGED, _items(name))
                self._finish(path)

    def _make_room(self, needed: int) -> None:
        if self._bytes + needed > self.max_bytes or time.monotonic() - self._measured_s > _MEASURE_AFTER_S:
            self._measure()
        if self._bytes + needed <= self.max_bytes:
            return
        for name in sorted(self._files()):
            done = name in self._done
            if self._remove(self.folder / name) and not done:
                self.counts.add(REPLACED, _items(name))
            if self._bytes + needed <= self.max_bytes:
                return

    def _measure(self) -> None:
        self._measured_s = time.monotonic()
        self._bytes = sum(_size(self.folder / name) for name in self._files())

    def _remove(self, path: Path) -> bool:
        size = _size(path)
        try:
            path.unlink()
        except OSError:
            return False
        self._done.discard(path.name)
        self._bytes = max(0, self._bytes - size)
        return True

    def _names(self) -> Iterator[str]:
        """Give the names of the files that wait."""
        return (name for name in self._files() if name not in self._done)

    def _files(self) -> Iterator[str]:
        with suppress(OSError), os.scandir(self.folder) as entries:
            yield from (entry.name for entry in entries if _NAME.fullmatch(entry.name))

    def _sweep(self) -> None:
        """Remove what a killed process was writing, and what could not be removed before."""
        for name in list(self._done):
            self._finish(self.folder / name)
        before_s = time.time() - _UNFINISHED_AFTER_S
        for path in self.folder.glob(f"*{_UNFINISHED}"):
            with suppress(OSError):
                if path.stat().st_mtime < before_s:
                    path.unlink()


def _write(path: Path, data: bytes) -> None:
    """Write the whole file to the disk itself, readable for this user alone: telemetry may be about people."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _unpacked(path: Path) -> bytes:
    """Return the body, empty when the file is damaged: one of no bytes at all is no error for gzip either."""
    try:
        return gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, EOFError, zlib.error):
        return b""


def _items(name: str) -> int:
    found = _NAME.fullmatch(name)
    return int(found["items"]) if found else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """Hold the lock on a file if nobody else does; the kernel gives it back when the process ends, however it does."""
    try:
        import fcntl
    except ImportError:  # Windows: replayed twice at worst
        yield True
        return
    try:
        file = path.open("w")
    except OSError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
