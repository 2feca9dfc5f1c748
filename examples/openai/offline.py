"""A call with the service of `bot.py` on this machine: no key, no sound card.

    voicespan run -- python examples/openai/offline.py

A caller and a realtime server that stand in for real ones take the time that those take; everything between them is the
`openai` client and the service.
"""

from __future__ import annotations

import asyncio
import logging

from bot import call
from openai import AsyncOpenAI
from telephone import Answer, Journal, Line, Server

ANSWERS = (
    Answer(1.0),  # the greeting
    Answer(call=("get_weather", {"place": "Oslo"})),
    Answer(1.5),
    Answer(3.0),  # is interrupted
    Answer(1.0),
)


async def main() -> None:
    """Be greeted, ask for the weather, interrupt the next answer, and hang up."""
    journal = Journal()
    line = Line(journal)
    async with Server(journal, *ANSWERS) as server:
        client = AsyncOpenAI(api_key="none", websocket_base_url=server.url)
        talk = asyncio.create_task(call(client, line))
        await journal.wait("played out")
        line.speak(1.0)
        await journal.wait("played out", 2)
        await asyncio.sleep(0.3)
        line.speak(0.8)
        await journal.wait("heard", 3)
        await asyncio.sleep(0.8)
        line.speak(0.8)
        await journal.wait("played out", 3)
        await asyncio.sleep(0.3)
        talk.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
