"""Where the files of the back ends are: `deploy/` of a checkout, or the copy inside the installed wheel."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parent / "deploy"
_CHECKOUT = Path(__file__).parents[3] / "deploy"


def deploy() -> Path:
    """Return the folder with the files of the back ends.

    Raises:
        FileNotFoundError: this installation has none.

    """
    for folder in (_INSTALLED, _CHECKOUT):
        if (folder / "otel-collector.yaml").exists():
            return folder
    raise FileNotFoundError(f"this installation has no deploy files (looked at {_INSTALLED} and {_CHECKOUT})")
