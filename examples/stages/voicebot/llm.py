"""A language model and its tool; these need no account, and take their time as real ones do."""

import asyncio
from collections.abc import AsyncIterator


class Client:
    """Asks the model."""

    def __init__(self, model: str) -> None:
        self.model = model

    async def stream(self, question: str, weather: str) -> AsyncIterator[str]:
        """Give the answer, word by word."""
        await asyncio.sleep(0.3)
        for word in f"It is {weather} in Rome today.".split():
            yield word + " "
            await asyncio.sleep(0.01)


async def get_weather(city: str) -> str:
    """Look out of the window."""
    await asyncio.sleep(0.08)
    return {"Rome": "sunny"}.get(city, "rainy")
