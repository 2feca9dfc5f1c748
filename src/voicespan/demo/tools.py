"""What the language model may have done for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from voicespan.demo import truth

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city, now.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


async def call(name: str, arguments: str) -> str:
    """Run the tool with its JSON arguments and return what the model is told.

    Raises:
        KeyError: there is no such tool.

    """
    return await {"get_weather": get_weather}[name](**json.loads(arguments))


async def get_weather(city: str) -> str:
    """Look out of the window; takes 1.2 s."""
    truth.note("tool.begin", "tool", city=city)
    await asyncio.sleep(1.2)
    truth.note("tool.end", "tool", city=city)
    return f"rain in {city}"
