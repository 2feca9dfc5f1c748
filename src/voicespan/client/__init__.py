"""What clients say of a call: the page's tracker, and the door that its reports come in through."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voicespan.client.endpoint import client_reports

__all__ = ("client_reports",)


def __getattr__(name: str) -> object:
    """Import the endpoint when it is first used: it needs the extra `client`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from voicespan.client.endpoint import client_reports

    return client_reports
