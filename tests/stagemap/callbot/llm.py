"""Generation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from . import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Client:
    """A language model."""

    def __init__(self, model: str = "small-1") -> None:
        self.model = model

    async def stream(self, prompt: str) -> AsyncIterator[str]:
        """Give tokens."""
        clock.spend(300)
        for token in ("It ", "is ", "noon."):
            yield token
            clock.spend(20)

    async def open_stream(self, prompt: str) -> Reply:
        """Return an object that is a stream."""
        clock.spend(50)
        return Reply()

    async def complete(self, prompt: str) -> SimpleNamespace:
        """Return a whole answer."""
        clock.spend(200)
        message = SimpleNamespace(content="noon")
        return SimpleNamespace(
            choices=[SimpleNamespace(message=message)],
            usage=SimpleNamespace(prompt_tokens=7, completion_tokens=2),
            model="small-1-2026",
        )

    def lines(self, prompt: str) -> Iterator[str]:
        """Give tokens to a thread."""
        clock.spend(100)
        yield "one"
        clock.spend(10)
        yield "two"

    @classmethod
    def ask(cls, prompt: str) -> str:
        """Return an answer at once."""
        clock.spend(40)
        return "yes"

    @staticmethod
    def fail(prompt: str) -> str:
        """Raise what the provider raises."""
        clock.spend(10)
        raise ConnectionError("no model")


class Reply:
    """A stream with attributes of its own."""

    request_id = "r-1"

    def __init__(self) -> None:
        self.tokens = iter(["a", "b"])

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> str:
        clock.spend(30)
        try:
            return next(self.tokens)
        except StopIteration:
            raise StopAsyncIteration from None


def look_up(city: str) -> str:
    """A tool."""
    clock.spend(80)
    return "sunny"
