"""What really happened, written by the parts of the demo that did it, beside the telemetry and not through it.

Tests and the demo's last table compare the spans with these notes. Without `VOICESPAN_DEMO_TRUTH` nothing is noted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

VARIABLE = "VOICESPAN_DEMO_TRUTH"

Detail = str | int | float | None


@dataclass(frozen=True, slots=True)
class Note:
    """One moment of one scenario; `at_ns` is the monotonic clock of the machine, which all processes share."""

    event: str
    scenario: str
    at_ns: int
    details: dict[str, Detail] = field(default_factory=dict)


def note(event: str, scenario: str, *, at_ns: int | None = None, **details: Detail) -> None:
    """Append one moment to the file that `VOICESPAN_DEMO_TRUTH` names; now, unless `at_ns` says otherwise."""
    path = os.environ.get(VARIABLE)
    if path:
        at_ns = time.monotonic_ns() if at_ns is None else at_ns
        line = json.dumps({"event": event, "scenario": scenario, "at_ns": at_ns, "details": details})
        os.write(_descriptor(path), f"{line}\n".encode())  # one write in append mode: lines of processes do not mix


def read(path: Path) -> Iterator[Note]:
    """Yield what was noted, in order of writing; nothing when there is no such file."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield Note(**json.loads(line))


@cache
def _descriptor(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
