"""The files of the page: the tracker as a plain script, as an ES module, and its types."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parent / "browser"
_CHECKOUT = Path(__file__).parents[3] / "browser"

FILES = {
    "performance-tracker.js": "text/javascript; charset=utf-8",
    "performance-tracker.mjs": "text/javascript; charset=utf-8",
    "performance-tracker.d.ts": "text/plain; charset=utf-8",
}


def read(name: str) -> bytes:
    """Return one of FILES."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    return (folder / name).read_bytes()
