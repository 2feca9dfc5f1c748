"""Who writes to a database: each process that does holds a lock beside the file, which ends with the process."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


TEMPORARY_PREFIX = "voicespan-"
TEMPORARY_NAME = "voicespan.db"
"""Folders whose name begins so hold a database of this name that ends with its process."""


class Writer:
    """This process as one that writes to the database; `close` when it does no more."""

    def __init__(self, database: Path) -> None:
        self._folder = database.parent
        self._prefix = f"{database.name}-writer."
        name = f"{self._prefix}{os.getpid()}.{secrets.token_hex(4)}"
        self._path = self._folder / name
        self._lock: int | None = None
        # It is locked before it has its name: a file of that name without a lock was left behind.
        unnamed = self._folder / f".{name}"
        with suppress(OSError):  # where there is no room for it, others do not learn of this one
            self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            unnamed.rename(self._path)

    def others(self) -> list[int]:
        """Return the processes that write to the database besides this one."""
        found = []
        for path in sorted(self._folder.glob(f"{self._prefix}*")):
            process = path.name.removeprefix(self._prefix).partition(".")[0]
            if path == self._path or not process.isdecimal():
                continue
            if _is_locked(path):
                found.append(int(process))
            else:
                path.unlink(missing_ok=True)
        return found

    def close(self) -> None:
        """Take the lock away."""
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def remove_left_behind(folder: Path) -> None:
    """Remove the temporary databases in this folder whose process did not live to do it."""
    for temporary in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            locks = list(temporary.glob(f"{TEMPORARY_NAME}-writer.*"))
            if locks and temporary.lstat().st_uid == os.getuid() and not any(map(_is_locked, locks)):
                shutil.rmtree(temporary, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    """Say whether the process that made this still lives."""
    try:
        lock = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(lock)
