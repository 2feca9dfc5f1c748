"""Streams of tokens or audio, watched step by step while the consumer takes them.

The stage is current during each step only, never across a `yield`; nothing is read ahead; `aclose`, `asend`, `athrow`
and every attribute of the wrapped object reach it; the time for which the consumer holds an item is not the stage's.
A consumer that just lets go of the stream (`break`, a cancelled task) ends the stage as one that closes it does.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import wrapt

from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from voicespan.stage import Stage


class _Watched(wrapt.ObjectProxy):  # type: ignore[type-arg,misc,unused-ignore]
    """What the two kinds of stream share: the steps' bookkeeping."""

    def __init__(self, wrapped: Any, stage: Stage, on_item: Callable[[Any], None]) -> None:
        super().__init__(wrapped)
        self._self_stage = stage
        self._self_on_item = on_item
        self._self_iterator: Any = None
        self._self_origin: Any = None
        """What this was made from: it lives as long, so that its own end does not come first."""
        self._self_taken = False
        """An item was given, by this or by what was made from it."""

    def __del__(self) -> None:
        # The collector calls at any point of any thread.
        with suppress(Exception):
            self._self_stage.dropped()

    def __enter__(self) -> Any:
        return self._self_entered(self.__wrapped__.__enter__())

    def __exit__(self, *error: Any) -> Any:  # noqa: PYI036 - passed on
        try:
            return self.__wrapped__.__exit__(*error)
        finally:
            self._self_left(error[1])

    async def __aenter__(self) -> Any:
        return self._self_entered(await self.__wrapped__.__aenter__())

    async def __aexit__(self, *error: Any) -> Any:  # noqa: PYI036
        try:
            return await self.__wrapped__.__aexit__(*error)
        finally:
            self._self_left(error[1])

    def _self_entered(self, entered: Any) -> Any:
        if entered is self.__wrapped__:
            return self
        return self._self_more(entered) if entered is not None else None

    def _self_more(self, made: Any) -> Any:
        """Watch what the wrapped object has made, as part of the same stage."""
        more = (_kind_of(made) or Manager)(made, self._self_stage, self._self_on_item)
        more._self_origin = self  # noqa: SLF001 - ours
        return more

    def _self_left(self, error: BaseException | None) -> None:
        if error is not None:
            self._self_stage.step_failed(error)
        elif self._self_taken:
            self._self_stage.abandoned()
        else:  # read as a whole
            self._self_stage.exhausted()

    def _self_item(self, item: Any) -> Any:
        if not self._self_taken:
            self._self_taken = True
            if self._self_origin is not None:
                self._self_origin._self_taken = True  # noqa: SLF001
        try:
            self._self_on_item(item)
        except Exception as error:
            swallowed("stream item", error)
        return item


class AsyncStream(_Watched):
    """An asynchronous iterable or generator, watched."""

    def __aiter__(self) -> AsyncStream:
        if hasattr(self.__wrapped__, "__anext__"):
            return self
        # Not a stream but something that can be iterated: each time anew.
        return cast("AsyncStream", self._self_more(self.__wrapped__.__aiter__()))

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
        if hasattr(self.__wrapped__, "__next__"):
            return self
        return cast("SyncStream", self._self_more(iter(self.__wrapped__)))

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


class Manager(_Watched):
    """What gives the stream when it is entered, as a client's `stream()`, or by a method then, as an HTTP response.

    The stage ends when the block is left, unless the stream was at its end before.
    """

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__wrapped__, name)
        if not name.startswith(("iter", "aiter")) or not callable(found):
            return found

        @functools.wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            made = found(*args, **kwargs)
            return self._self_more(made) if _kind_of(made) is not None else made

        return call


class Promise(_Watched):
    """What gives the result, or the stream, when it is awaited, as a call of grpc.aio or a request of aiohttp."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._self_awaited().__await__()

    async def _self_awaited(self) -> Any:
        stage = self._self_stage
        scope = stage.step_begins()
        try:
            result = await self.__wrapped__
        except BaseException as error:
            stage.step_failed(error)
            raise
        finally:
            stage.step_ends(scope)
        if result is self.__wrapped__ or _kind_of(result) is not None:
            return self if result is self.__wrapped__ else self._self_more(result)
        self._self_item(result)
        stage.exhausted()
        return result


def _kind_of(source: Any) -> type[_Watched] | None:
    """Return how a result is watched that is not all there yet; None for one that is."""
    if hasattr(source, "__anext__"):
        return AsyncStream
    if hasattr(source, "__next__"):
        return SyncStream
    if inspect.isawaitable(source):
        return Promise
    # What can be closed is open: it is the result. What can only be entered gives the result then.
    enters = hasattr(source, "__aenter__") or hasattr(source, "__enter__")
    if enters and not any(hasattr(source, name) for name in ("close", "aclose", "release", "__len__")):
        return Manager
    return AsyncStream if hasattr(source, "__aiter__") and not enters else None


def later(source: Any, stage: Stage, on_item: Callable[[Any], None]) -> Any:
    """Return `source` watched where its items come later; None where it is all there."""
    kind = _kind_of(source)
    return None if kind is None else kind(source, stage, on_item)


def watch(source: Any, stage: Stage, on_item: Callable[[Any], None]) -> Any:
    """Return `source` watched: asynchronous where it can be iterated so, else plain.

    What is neither is returned as it is, so that the service meets its own error and not one of ours.
    """
    if hasattr(source, "__aiter__"):
        return AsyncStream(source, stage, on_item)
    if hasattr(source, "__iter__") or hasattr(source, "__next__"):
        return SyncStream(source, stage, on_item)
    return source if (watched := later(source, stage, on_item)) is None else watched
