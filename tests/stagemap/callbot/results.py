"""What functions of services return besides plain values and generators."""

from __future__ import annotations

import asyncio
import functools
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator
    from concurrent.futures import Future, ThreadPoolExecutor

RATE = 16_000
goes_on = threading.Event()


def sync(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A decorator that hides that a function is a coroutine function."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        return function(*args, **kwargs)

    del call.__wrapped__
    return call


class Voice:
    """A synthesizer."""

    def array(self, text: str) -> np.ndarray[Any, Any]:
        """Return samples."""
        clock.spend(50)
        return np.zeros(RATE // 2, np.float32)

    def chunks(self, text: str) -> Generator[SimpleNamespace, None, None]:
        """Give objects with audio in them."""
        for _ in range(2):
            clock.spend(50)
            yield SimpleNamespace(data=bytes(RATE // 5), seconds=0.1)

    @property
    def model(self) -> str:
        """What the service forgot to set."""
        raise RuntimeError("no model yet")


class Ask:
    """A call as grpc.aio gives it: an object that is awaited."""

    def __await__(self) -> Generator[Any, None, str]:
        """Answer."""
        yield from asyncio.sleep(0).__await__()
        clock.spend(70)
        return "yes"


class Model:
    """A model's client."""

    def ask(self) -> Ask:
        """Return a call."""
        return Ask()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncIterator[str]]:
        """Give the stream in a block."""
        clock.spend(20)
        yield self._tokens()

    async def _tokens(self) -> AsyncIterator[str]:
        for token in ("a", "b"):
            clock.spend(30)
            yield token

    def words(self, text: str) -> list[str]:
        """Return a list."""
        return text.split()


def look_up(pool: ThreadPoolExecutor) -> Future[str]:
    """Return at once what a thread will know."""

    def work() -> str:
        goes_on.wait(5)
        clock.spend(200)
        return "sunny"

    return pool.submit(work)


@sync
async def call(call_id: str, body: Callable[[], Awaitable[None]]) -> str:
    """Hold a call."""
    await body()
    return f"bye {call_id}"


@sync
async def begin(number: str) -> SimpleNamespace:
    """Begin a call, and return it."""
    await asyncio.sleep(0)
    return SimpleNamespace(id=number)


@sync
async def finish(call: SimpleNamespace) -> None:
    """End a call."""
    await asyncio.sleep(0)
    heard(call, "bye")


def heard(call: SimpleNamespace, text: str) -> None:
    """Take what the user said."""
