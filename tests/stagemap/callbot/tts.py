"""Synthesis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FRAME = bytes(640)  # 20 ms at 16 kHz


class Synth:
    """Makes speech of text."""

    async def stream(self, text: str, voice: str = "sam") -> AsyncIterator[bytes]:
        """Give frames of audio."""
        clock.spend(90)
        for _ in range(3):
            yield FRAME
            clock.spend(5)
