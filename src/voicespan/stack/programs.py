"""The programs of the stack: under which names they are looked for, and where they come from."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """A program that others wrote, or that is built from `collector/`."""

    names: tuple[str, ...]
    """Names on the PATH, the preferred one first."""
    source: str
    """Where somebody who lacks it gets it."""

    def find(self) -> Path | None:
        """Return where it is: on the PATH, else among the programs that `make` has built; None when it is nowhere."""
        for name in self.names:
            found = shutil.which(name)
            if found is not None:
                return Path(found)
        return next((path for name in self.names if (path := _built(name)) is not None), None)


COLLECTOR = Program(("voicespan-collector",), "build it: make collector")
PROMETHEUS = Program(("prometheus",), "install it, or build it: make programs")
PROMTOOL = Program(("promtool",), "it comes with Prometheus")
ALERTMANAGER = Program(("alertmanager", "prometheus-alertmanager"), "install Debian's prometheus-alertmanager")
TEMPO = Program(("tempo",), "put Tempo 3.0 on the PATH")
GRAFANA = Program(("grafana", "grafana-server"), "put Grafana on the PATH")


def cache() -> Path:
    """Return where built programs are kept: `voicespan` in the user's cache directory."""
    named = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(named) if named else Path.home() / ".cache") / "voicespan"


def _built(name: str) -> Path | None:
    """Return the newest build of a program; each stands in a folder that is named by the hash of its sources."""
    builds = [path for path in cache().glob(f"*/{name}") if os.access(path, os.X_OK)]
    return max(builds, key=lambda path: path.stat().st_mtime, default=None)
