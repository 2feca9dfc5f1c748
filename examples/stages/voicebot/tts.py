"""Speech synthesis; this one needs no account, and takes its time as a real one does."""

import asyncio
from collections.abc import AsyncIterator

FRAME = b"\x00\x20" * 320


class Synthesizer:
    """Speaks."""

    def __init__(self, voice: str) -> None:
        self.voice = voice

    async def stream(self, text: str) -> AsyncIterator[bytes]:
        """Give frames of 20 ms; a letter takes 40 ms."""
        await asyncio.sleep(0.15)
        for _ in range(2 * len(text)):
            yield FRAME
            await asyncio.sleep(0.002)
