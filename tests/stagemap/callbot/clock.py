"""How the service's work takes its time; a test puts its own clock here."""

from collections.abc import Callable


def _nothing(ms: float) -> None:
    pass


wait: Callable[[float], None] = _nothing


def spend(ms: float) -> None:
    """Let time pass."""
    wait(ms)
