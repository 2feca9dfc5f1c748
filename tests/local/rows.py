"""Turns put straight into a store, without spans: many of them in a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.local.store import Store
    from voicespan.local.turn import Turn


def put_turns(store: Store, turns: Iterable[Turn]) -> None:
    """Put the rows of these turns into the store."""
    with store._writing("turns"):
        store._put(list(turns))
