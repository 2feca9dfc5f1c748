"""A voice agent for LiveKit, as its users write them: nothing here knows of voicespan.

    pip install 'livekit-agents>=1.8.7'
    set -a; . ./service.env; set +a
    voicespan run -- python bot.py start

It needs a LiveKit server (LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET). `python offline.py` holds a call with
the same agent without any.
"""

from __future__ import annotations

import asyncio
import logging

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, RunContext, cli, function_tool

log = logging.getLogger("bot")
server = AgentServer()


class Assistant(Agent):
    """Greets, and knows the weather."""

    def __init__(self) -> None:
        super().__init__(instructions="You are a friendly assistant on the phone. Answer in one short sentence.")

    async def on_enter(self) -> None:
        self.session.say("Good morning, how can I help?")

    @function_tool
    async def get_weather(self, context: RunContext, place: str) -> str:
        """Look up the weather of a place."""
        log.info("looking up the weather")
        await asyncio.sleep(0.25)  # the weather service
        return f"nine degrees in {place}"


@server.rtc_session()
async def entrypoint(context: JobContext) -> None:
    """Hold one call."""
    session = AgentSession(
        stt="deepgram/nova-3", llm="openai/gpt-5-mini", tts="cartesia/sonic-3", aec_warmup_duration=None
    )
    await session.start(Assistant(), room=context.room)


if __name__ == "__main__":
    cli.run_app(server)
