"""A voice service on the OpenAI Realtime API, as its users write them: nothing here knows of voicespan.

    pip install 'openai[realtime]>=3'
    set -a; . ./service.env; set +a
    voicespan run -- python your_program.py

`call` holds one call with whoever is on the line; a program of yours answers the phone and calls it.
`python offline.py` holds one on this machine, without any key.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any, Protocol

from openai import AsyncOpenAI

log = logging.getLogger("bot")
SESSION: dict[str, Any] = {
    "type": "realtime",
    "instructions": "You are a friendly assistant on the phone. Answer in one short sentence.",
    "audio": {
        "input": {
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
            "transcription": {"model": "gpt-4o-mini-transcribe"},
        }
    },
    "tools": [
        {
            "type": "function",
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        }
    ],
}


class Phone(Protocol):
    """Who is on the line."""

    def microphone(self) -> Any:
        """Give the caller's audio."""

    def play(self, item: str, audio: bytes) -> None:
        """Play audio to the caller."""

    def stop(self) -> tuple[str, int] | None:
        """Fall silent; return what was playing, and how much of it was heard in milliseconds."""


async def get_weather() -> str:
    """Look up the weather."""
    log.info("looking up the weather")
    await asyncio.sleep(0.25)  # the weather service
    return "nine degrees"


async def call(client: AsyncOpenAI, line: Phone, session: dict[str, Any] | None = None, *, greet: bool = True) -> None:
    """Hold one call."""
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session=session or SESSION)  # type: ignore[arg-type]
        if greet:
            await connection.response.create(response={"instructions": "Greet the caller."})
        microphone = asyncio.create_task(listen(connection, line))
        try:
            async for event in connection:
                if event.type == "response.output_audio.delta":
                    line.play(event.item_id, base64.b64decode(event.delta))
                elif event.type == "input_audio_buffer.speech_started":
                    if (cut := line.stop()) is not None:
                        item, heard_ms = cut
                        await connection.conversation.item.truncate(
                            item_id=item, content_index=0, audio_end_ms=heard_ms
                        )
                elif event.type == "response.function_call_arguments.done":
                    result = await get_weather()
                    await connection.conversation.item.create(
                        item={"type": "function_call_output", "call_id": event.call_id, "output": result}
                    )
                    await connection.response.create()
                elif event.type == "error":
                    log.warning("error: %s", event.error.message)
        finally:
            microphone.cancel()


async def listen(connection: Any, line: Phone) -> None:
    """Send what the caller says."""
    async for frame in line.microphone():
        await connection.input_audio_buffer.append(audio=base64.b64encode(frame).decode())
