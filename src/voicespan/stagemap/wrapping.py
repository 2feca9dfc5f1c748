"""The wrappers that a stage map puts around functions: what they return, raise and look like stays what it was.

wrapt's function wrapper keeps a function's kind for `inspect`, its signature and its binding; streams are proxies that
forward everything. Whatever of ours fails is counted and said, and the call goes on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from voicespan.context import Scope
from voicespan.guard import swallowed
from voicespan.stagemap.pipeline import BINDS, set_attributes
from voicespan.stagemap.value import Call, Parameters
from voicespan.stream import AsyncStream, SyncStream, later

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from voicespan.sessions import Session
    from voicespan.stage import Stage
    from voicespan.stagemap.document import Hook
    from voicespan.stagemap.pipeline import Pipeline
    from voicespan.turn import Turn


def wrapper(pipeline: Pipeline, hook: Hook, function: Callable[..., Any], *, bound: bool) -> Any:
    """Return the wrapper, in wrapt's form, that makes the calls of `function` what the hook says they are.

    `bound`: the function is a method, called on an object (or class).
    """
    kind = {"session.enter": _SessionCalls, "session.start": _SessionStart, "session.end": _SessionEnd}.get(hook.role)
    if kind is None:
        kind = _StageCalls if hook.section == "stages" else _MarkCalls
    return kind(pipeline, hook, function, Parameters.of(function, bound=bound))


class _Calls:
    """What all wrappers share: the function's kind, read once, and how one of its calls is described."""

    def __init__(self, pipeline: Pipeline, hook: Hook, function: Callable[..., Any], parameters: Parameters) -> None:
        self.pipeline = pipeline
        self.hook = hook
        self.parameters = parameters
        self.is_async_generator = inspect.isasyncgenfunction(function)
        self.is_generator = inspect.isgeneratorfunction(function)
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.name = str(hook.target)

    def call(self, instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        self.pipeline.called.add(self.name)
        return Call(self.parameters.names, self.parameters.defaults, instance, args, kwargs)

    def failed(self, error: Exception) -> None:
        """Say that something of ours went wrong at a call."""
        swallowed(f"stage map: {self.hook.role} at {self.hook.target}", error)


class _StageCalls(_Calls):
    """A call is a stage: it lasts until the function returns, or until the stream that it returns is at its end."""

    def __call__(
        self, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self.call(instance, args, kwargs)
        if self.is_coroutine:
            return self._awaited(call, wrapped, args, kwargs)
        if self.is_async_generator:
            return _LazyAsyncStream(wrapped(*args, **kwargs), self, call)
        if self.is_generator:
            return _LazySyncStream(wrapped(*args, **kwargs), self, call)
        running = _Running.begin(self, call)
        if running is None:
            return wrapped(*args, **kwargs)
        with running:
            result = wrapped(*args, **kwargs)
        return running.rest_of(result) if inspect.iscoroutine(result) else running.product(result)

    async def _awaited(
        self, call: Call, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        running = _Running.begin(self, call)
        if running is None:
            return await wrapped(*args, **kwargs)
        with running:
            result = await wrapped(*args, **kwargs)
        return running.product(result)


class _Running:
    """One call of a stage that is under way. As a block: the stage is current, and fails with what leaves it."""

    __slots__ = ("_scope", "calls", "described", "stage", "turn")

    def __init__(self, calls: _StageCalls, described: Call, stage: Stage, turn: Turn) -> None:
        self.calls = calls
        self.described = described
        self.stage = stage
        self.turn = turn
        self._scope: Scope | None = None

    @classmethod
    def begin(cls, calls: _StageCalls, call: Call) -> _Running | None:
        """Begin the stage; None where that is not possible."""
        try:
            return cls(calls, call, *calls.pipeline.begin_stage(calls.hook, call))
        except Exception as error:
            calls.failed(error)
            return None

    def __enter__(self) -> None:
        self._scope = self.stage.step_begins()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.stage.step_ends(self._scope)
        if error is not None:
            self.stage.step_failed(error)

    async def rest_of(self, coroutine: Awaitable[Any]) -> Any:
        """Await what a plain function has returned."""
        with self:
            result = await coroutine
        return self.product(result)

    def settled(self, future: asyncio.Future[Any] | concurrent.futures.Future[Any]) -> None:
        """Take the result of a future."""
        try:
            if future.cancelled():
                self.stage.step_failed(asyncio.CancelledError())
            elif (error := future.exception()) is not None:
                self.stage.step_failed(error)
            else:
                self.product(future.result())
        except Exception as error:
            self.calls.failed(error)

    def product(self, result: Any) -> Any:
        """Return the result: what comes later is watched to its end, anything else ends the stage."""
        watched = self.stage
        try:
            watched = self.watched
            self.described.result = result
            set_attributes(self.stage, self.calls.hook.attributes, self.described)
            if isinstance(result, _FUTURES):
                result.add_done_callback(self.settled)
                return result
            if (stream := later(result, watched, self.item)) is not None:
                return stream
            for item in result if isinstance(result, list | tuple) else (result,):
                if item is not None:
                    self.item(item)
        except Exception as error:
            self.calls.failed(error)
        watched.exhausted()
        return result

    @property
    def watched(self) -> Any:
        """What a stream tells its steps to."""
        return _Recognition(self) if self.calls.hook.kind == "asr" else self.stage

    def item(self, item: Any) -> None:
        """Take one item of the stream: a token, a frame, a partial transcript."""
        stage: Any = self.stage
        hook = self.calls.hook
        if hook.kind == "llm":
            stage.chunk(item)
        elif hook.kind in ("tts", "realtime"):
            self.described.item = item
            length_s = self.calls.pipeline.seconds_of(item, hook, self.described)
            if _LENGTHS.isdisjoint(hook.options):
                stage.frame(item)
            else:
                stage.audio(length_s)
            if not self.calls.pipeline.frames_are_marked:  # what is made is taken to be sent
                self.turn.audio_sent(length_s)


class _Recognition:
    """The stage of a recognizer: its end is the final transcript."""

    def __init__(self, running: _Running) -> None:
        stage = self.stage = running.stage
        self.running = running
        self.step_begins = stage.step_begins
        self.step_ends = stage.step_ends
        self.step_failed = stage.step_failed
        self.abandoned = stage.abandoned
        self.dropped = stage.dropped

    def exhausted(self) -> None:
        """Take the end of the stream, or the return, for the final transcript."""
        stage: Any = self.stage
        stage.final()
        stage.exhausted()
        self.running.calls.pipeline.recognised(self.running.turn)


_FUTURES = (asyncio.Future, concurrent.futures.Future)
_LENGTHS = frozenset({"audio", "seconds"})


class _LazyAsyncStream(AsyncStream):
    """The stream of an async generator function: its stage begins with its first step, as the function's body does."""

    def __init__(self, wrapped: Any, calls: _StageCalls, call: Call) -> None:
        super().__init__(wrapped, _unbegun, _ignore)
        self._self_calls = calls
        self._self_call = call

    async def _self_step(self, step: Callable[[], Awaitable[Any]]) -> Any:
        if self._self_stage is _unbegun:
            _begin_stream(self, self._self_calls, self._self_call)
        return await super()._self_step(step)


class _LazySyncStream(SyncStream):
    """The same for a generator function."""

    def __init__(self, wrapped: Any, calls: _StageCalls, call: Call) -> None:
        super().__init__(wrapped, _unbegun, _ignore)
        self._self_calls = calls
        self._self_call = call

    def _self_step(self, step: Callable[[], Any]) -> Any:
        if self._self_stage is _unbegun:
            _begin_stream(self, self._self_calls, self._self_call)
        return super()._self_step(step)


def _begin_stream(stream: _LazyAsyncStream | _LazySyncStream, calls: _StageCalls, call: Call) -> None:
    running = _Running.begin(calls, call)
    if running is None:
        stream._self_stage = _unstaged  # noqa: SLF001 - ours
    else:
        stream._self_stage = running.watched  # noqa: SLF001
        stream._self_on_item = running.item  # noqa: SLF001


class _Unstaged:
    """Stands where a watched stream has no stage."""

    def step_begins(self) -> None:
        """Do nothing."""

    def step_ends(self, _scope: None) -> None:
        """Do nothing."""

    def step_failed(self, _error: BaseException) -> None:
        """Do nothing."""

    def exhausted(self) -> None:
        """Do nothing."""

    def abandoned(self) -> None:
        """Do nothing."""

    def dropped(self) -> None:
        """Do nothing."""


_unbegun: Any = _Unstaged()
_unstaged: Any = _Unstaged()


def _ignore(_item: Any) -> None:
    pass


class _MarkCalls(_Calls):
    """A call is a mark: when it begins, when it returns, or with each item of the stream that it gives."""

    def __init__(self, pipeline: Pipeline, hook: Hook, function: Callable[..., Any], parameters: Parameters) -> None:
        super().__init__(pipeline, hook, function, parameters)
        roots = {path.root for path in hook.paths()}
        self.by_item = "item" in roots
        self.after = not self.by_item and (hook.when == "after" or "result" in roots)
        self.binds = hook.role in BINDS and not self.by_item and not self.after

    def __call__(
        self, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self.call(instance, args, kwargs)
        if self.is_coroutine:
            return self._awaited(call, wrapped, args, kwargs)
        if self.by_item:
            result = wrapped(*args, **kwargs)
            return self._watched_later(call, result) if inspect.iscoroutine(result) else self._watched(call, result)
        with self._before(call):
            result = wrapped(*args, **kwargs)
        if self.after and inspect.iscoroutine(result):
            return self._returned_later(call, result)
        self._after(call, result)
        return result

    async def _awaited(
        self, call: Call, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with self._before(call):
            result = await wrapped(*args, **kwargs)
        if self.by_item:
            return self._watched(call, result)
        self._after(call, result)
        return result

    async def _returned_later(self, call: Call, coroutine: Awaitable[Any]) -> Any:
        result = await coroutine
        self._after(call, result)
        return result

    async def _watched_later(self, call: Call, coroutine: Awaitable[Any]) -> Any:
        return self._watched(call, await coroutine)

    def _watched(self, call: Call, result: Any) -> Any:
        def on_item(item: Any) -> None:
            call.item = item
            self._mark(call)

        try:
            if isinstance(result, Collection) and not isinstance(result, str | bytes):
                for item in result:
                    on_item(item)
                return result
            if (stream := later(result, _unstaged, on_item)) is not None:
                return stream
            if hasattr(result, "__iter__"):
                return SyncStream(result, _unstaged, on_item)
        except Exception as error:
            self.failed(error)
        return result

    def _before(self, call: Call) -> AbstractContextManager[object]:
        turn = None if self.after or self.by_item else self._mark(call)
        return turn.use() if self.binds and turn is not None else nullcontext()

    def _after(self, call: Call, result: Any) -> None:
        if self.after:
            call.result = result
            self._mark(call)

    def _mark(self, call: Call) -> Turn | None:
        try:
            return self.pipeline.mark(self.hook, call)
        except Exception as error:
            self.failed(error)
            return None


class _SessionCalls(_Calls):
    """A call is a session: it lasts as long as the function runs."""

    def __call__(
        self, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self.call(instance, args, kwargs)
        if self.is_coroutine:
            return self._awaited(call, wrapped, args, kwargs)
        if self.is_async_generator or self.is_generator:
            self.failed(TypeError("a generator function cannot be a session: use `start` and `end`"))
            return wrapped(*args, **kwargs)
        block = _SessionBlock(self, call)
        with block:
            result = wrapped(*args, **kwargs)
            if not inspect.iscoroutine(result):
                return result
            block.goes_on()
        return self._rest(block, result)

    async def _awaited(
        self, call: Call, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with _SessionBlock(self, call):
            return await wrapped(*args, **kwargs)

    async def _rest(self, block: _SessionBlock, coroutine: Awaitable[Any]) -> Any:
        with block:
            return await coroutine


class _SessionBlock:
    """The block of a session that may not have come about; in two parts where a function returns its coroutine."""

    def __init__(self, calls: _SessionCalls, call: Call) -> None:
        self.calls = calls
        self.described = call
        self.session: Session | None = None
        self._scope: Scope | None = None
        self._goes_on = False

    def goes_on(self) -> None:
        """Say that what the block returns is the rest of it."""
        self._goes_on = True

    def __enter__(self) -> None:
        self._goes_on = False
        try:
            if self.session is None:
                self.session = self.calls.pipeline.begin_session(self.calls.hook, self.described)
            if self.session.recorder.enabled:
                self._scope = Scope(self.session, self.session)
        except Exception as error:
            self.calls.failed(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._scope is not None:
                self._scope.close()
            if self.session is not None and not self._goes_on:
                self.session.__exit__(kind, error, trace)
                self.calls.pipeline.forget_session(self.session)
        except Exception as failure:
            self.calls.failed(failure)


class _SessionStart(_Calls):
    """A call begins a session: before it runs, or with its result where the id or key is part of that."""

    def __call__(
        self, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self.call(instance, args, kwargs)
        late = any(path.root == "result" for path in self.hook.paths())
        if self.is_coroutine and late:
            return self._rest(call, wrapped(*args, **kwargs))
        if not late:
            self.take(call)
            return wrapped(*args, **kwargs)
        result = wrapped(*args, **kwargs)
        if inspect.iscoroutine(result):
            return self._rest(call, result)
        call.result = result
        self.take(call)
        return result

    async def _rest(self, call: Call, coroutine: Awaitable[Any]) -> Any:
        call.result = await coroutine
        self.take(call)
        return call.result

    def take(self, call: Call) -> None:
        """Begin the session."""
        try:
            self.pipeline.begin_session(self.hook, call)
        except Exception as error:
            self.failed(error)


class _SessionEnd(_Calls):
    """A call ends a session, when it has returned or raised."""

    def __call__(
        self, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self.call(instance, args, kwargs)
        if self.is_coroutine:
            return self._rest(call, wrapped(*args, **kwargs))
        result = None
        try:
            result = wrapped(*args, **kwargs)
        finally:
            if not inspect.iscoroutine(result):
                self.take(call)
        return self._rest(call, result) if inspect.iscoroutine(result) else result

    async def _rest(self, call: Call, coroutine: Awaitable[Any]) -> Any:
        try:
            return await coroutine
        finally:
            self.take(call)

    def take(self, call: Call) -> None:
        """End the session."""
        try:
            self.pipeline.end_session(self.hook, call)
        except Exception as error:
            self.failed(error)
