"""Opening the viewer's page in the reader's browser."""

from __future__ import annotations

import os
import sys
import webbrowser


def open_page(address: str) -> bool:
    """Open the page where there is a screen and somebody at the terminal; return whether it was tried."""
    graphical = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if not (graphical or os.environ.get("BROWSER")) or not sys.stdout.isatty():
        return False  # else a text browser would take over the terminal, or a script would open windows
    return webbrowser.open(address)
