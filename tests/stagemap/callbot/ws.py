"""The call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .asr import Recognizer
from .llm import Client
from .tts import Synth

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def handle(call_id: str, body: Callable[[], Awaitable[None]]) -> str:
    """Hold one call."""
    await body()
    return f"bye {call_id}"


async def send_audio(frame: bytes) -> None:
    """Send a frame to the caller."""


def clear() -> None:
    """Drop what the caller has not heard yet."""


async def answer() -> None:
    """Answer the user."""
    words = [token async for token in Client().stream(await Recognizer().finish())]
    async for frame in Synth().stream("".join(words)):
        await send_audio(frame)


class Phone:
    """A call by call-backs."""

    def picked_up(self, number: str) -> None:
        """Begin."""

    def hung_up(self) -> None:
        """End."""

    def heard(self, text: str) -> None:
        """Take what the user said."""
