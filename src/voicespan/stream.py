"""Streams of tokens or audio, watched step by step while the consumer takes them.

The stage is current during each step only, never across a `yield`; nothing is read ahead; `aclose`, `asend`, `athrow`
and every attribute of the wrapped object reach it; the time for which the consumer holds an item is not the stage's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import wrapt

from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from voicespan.stage import Stage


class _Watched(wrapt.ObjectProxy):  # type: ignore[type-arg,misc,unused-ignore]
    """What the two kinds of stream share: the steps' bookkeeping."""

    def __init__(self, wrapped: Any, stage: Stage, on_item: Callable[[Any], None]) -> None:
        super().__init__(wrapped)
        self._self_stage = stage
        self._self_on_item = on_item
        self._self_iterator: Any = None

    def _self_item(self, item: Any) -> Any:
        try:
            self._self_on_item(item)
        except Exception as error:
            swallowed("stream item", error)
        return item


class AsyncStream(_Watched):
    """An asynchronous iterable or generator, watched."""

    def __aiter__(self) -> AsyncStream:
        return self

    def _self_source(self) -> Any:
        if self._self_iterator is None:
            wrapped = self.__wrapped__
            self._self_iterator = wrapped if hasattr(wrapped, "__anext__") else wrapped.__aiter__()
        return self._self_iterator

    async def _self_step(self, step: Callable[[], Awaitable[Any]]) -> Any:
        stage = self._self_stage
        scope = stage.step_begins()
        try:
            item = await step()
        except StopAsyncIteration:
            stage.exhausted()
            raise
        except BaseException as error:
            stage.step_failed(error)
            raise
        else:
            return self._self_item(item)
        finally:
            stage.step_ends(scope)

    async def __anext__(self) -> Any:
        return await self._self_step(self._self_source().__anext__)

    async def asend(self, value: Any) -> Any:
        """Send a value into the wrapped generator."""
        return await self._self_step(lambda: cast("Awaitable[Any]", self._self_source().asend(value)))

    async def athrow(self, *error: Any) -> Any:
        """Throw into the wrapped generator."""
        return await self._self_step(lambda: cast("Awaitable[Any]", self._self_source().athrow(*error)))

    async def aclose(self) -> None:
        """Close the wrapped stream; a stage that was not at its end is cancelled."""
        stage = self._self_stage
        try:
            close = getattr(self._self_source(), "aclose", None)
            if close is not None:
                await close()
        finally:
            stage.abandoned()


class SyncStream(_Watched):
    """A plain iterable or generator, watched."""

    def __iter__(self) -> SyncStream:
        return self

    def _self_source(self) -> Any:
        if self._self_iterator is None:
            self._self_iterator = iter(self.__wrapped__)
        return self._self_iterator

    def _self_step(self, step: Callable[[], Any]) -> Any:
        stage = self._self_stage
        scope = stage.step_begins()
        try:
            item = step()
        except StopIteration:
            stage.exhausted()
            raise
        except BaseException as error:
            stage.step_failed(error)
            raise
        else:
            return self._self_item(item)
        finally:
            stage.step_ends(scope)

    def __next__(self) -> Any:
        return self._self_step(self._self_source().__next__)

    def send(self, value: Any) -> Any:
        """Send a value into the wrapped generator."""
        return self._self_step(lambda: self._self_source().send(value))

    def throw(self, *error: Any) -> Any:
        """Throw into the wrapped generator."""
        return self._self_step(lambda: self._self_source().throw(*error))

    def close(self) -> None:
        """Close the wrapped stream; a stage that was not at its end is cancelled."""
        stage = self._self_stage
        try:
            close = getattr(self._self_source(), "close", None)
            if close is not None:
                close()
        finally:
            stage.abandoned()


def watch(source: Any, stage: Stage, on_item: Callable[[Any], None]) -> Any:
    """Return `source` watched: asynchronous where it can be iterated so, else plain.

    What is neither is returned as it is, so that the service meets its own error and not one of ours.
    """
    if hasattr(source, "__aiter__"):
        return AsyncStream(source, stage, on_item)
    if hasattr(source, "__iter__") or hasattr(source, "__next__"):
        return SyncStream(source, stage, on_item)
    return source
