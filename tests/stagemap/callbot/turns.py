"""The decision that the user's turn is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def on_end_of_turn(answer: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Begin to answer."""
    return asyncio.ensure_future(answer())
