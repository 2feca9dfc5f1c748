"""The programs of the stack: under which names they are looked for, and where they come from."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CHECKOUT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Program:
    """A program that others wrote, or that is built from `collector/`."""

    names: tuple[str, ...]
    """Names on the PATH, the preferred one first."""
    source: str
    """Where somebody who lacks it gets it."""
    script: str = ""
    """What builds it in a checkout, by its name in `scripts/`."""

    def find(self) -> Path | None:
        """Return where it is: on the PATH, else among the programs that `make` has built; None when it is nowhere.

        In a checkout that is the build of its sources as they are, elsewhere the newest one.
        """
        for name in self.names:
            found = shutil.which(name)
            if found is not None:
                return Path(found)
        if not self.script:
            return None
        script = _CHECKOUT / "scripts" / self.script
        folders = [_of_sources(script)] if script.exists() else _newest_first()
        paths = (folder / name for folder in folders for name in self.names)
        return next((path for path in paths if os.access(path, os.X_OK)), None)


COLLECTOR = Program(("voicespan-collector",), "build it: make collector", "collector")
PROMETHEUS = Program(("prometheus",), "install it, or build it: make programs", "prometheus")
PROMTOOL = Program(("promtool",), "it comes with Prometheus", "prometheus")
ALERTMANAGER = Program(("alertmanager", "prometheus-alertmanager"), "install Debian's prometheus-alertmanager")
TEMPO = Program(("tempo",), "put Tempo 3.0 on the PATH")
GRAFANA = Program(("grafana", "grafana-server"), "put Grafana on the PATH")


def cache() -> Path:
    """Return where built programs are kept: `voicespan` in the user's cache directory."""
    named = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(named) if named else Path.home() / ".cache") / "voicespan"


def _of_sources(script: Path) -> Path:
    """Return the folder, named by the hash of the sources, in which a script builds or has built."""
    said = subprocess.run([script, "--where"], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return Path(said.stdout.strip())


def _newest_first() -> list[Path]:
    """Return the folders of all builds; each is named by the hash of its sources."""
    return sorted(cache().glob("*-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
