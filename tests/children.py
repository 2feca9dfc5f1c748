"""The processes that a test has started."""

from __future__ import annotations

from contextlib import suppress

import psutil


def children(word: str) -> list[psutil.Process]:
    """Return those of this process, and theirs, that run and have this in a word of their command line."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, or is about to
            if any(word in each for each in process.cmdline()):
                found.append(process)
    return found
