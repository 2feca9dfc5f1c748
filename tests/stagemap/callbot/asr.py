"""Recognition."""

from __future__ import annotations

from . import clock


class Recognizer:
    """Makes text of speech."""

    async def finish(self) -> str:
        """Return the final transcript."""
        clock.spend(120)
        return "what time is it"
