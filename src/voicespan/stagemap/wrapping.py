"""The wrappers that a stage map puts around functions: what they return, raise and look like stays what it was.

wrapt's function wrapper keeps a function's kind for `inspect`, its signature and its binding; streams are proxies that
forward everything. Whatever of ours fails is counted and said, and the call goes on.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from voicespan.guard import swallowed
from voicespan.stagemap.pipeline import BINDS, set_attributes
from voicespan.stagemap.value import Call, Parameters
from voicespan.stream import AsyncStream, SyncStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from voicespan.context import Scope
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
        if isinstance(result, asyncio.Future):
            result.add_done_callback(running.settled)
            return result
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

    def settled(self, future: asyncio.Future[Any]) -> None:
        """Take the result of a future."""
        if future.cancelled():
            self.stage.step_failed(asyncio.CancelledError())
        elif (error := future.exception()) is not None:
            self.stage.step_failed(error)
        else:
            self.product(future.result())

    def product(self, result: Any) -> Any:
        """Return the result: a stream is watched to its end, anything else ends the stage."""
        try:
            self.described.result = result
            set_attributes(self.stage, self.calls.hook.attributes, self.described)
            if _is_async_stream(result):
                return AsyncStream(result, self.watched, self.item)
            if _is_stream(result):
                return SyncStream(result, self.watched, self.item)
            if result:
                self.item(result)
            self.watched.exhausted()
        except Exception as error:
            self.calls.failed(error)
        return result

    @property
    def watched(self) -> Any:
        """What a stream tells its steps to."""
        return _Recognition(self) if self.calls.hook.kind == "asr" else self.stage

    def item(self, item: Any) -> None:
        """Take one item of the stream: a token, a frame, a partial transcript."""
        stage: Any = self.stage
        kind = self.calls.hook.kind
        if kind == "llm":
            stage.chunk(item)
        elif kind in ("tts", "realtime"):
            stage.frame(item)
            if not self.calls.pipeline.frames_are_marked:  # what is made is taken to be sent
                length_s = self.calls.pipeline.seconds_of(item, self.calls.hook, self.described)
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

    def exhausted(self) -> None:
        """Take the end of the stream, or the return, for the final transcript."""
        stage: Any = self.stage
        stage.final()
        stage.exhausted()
        self.running.calls.pipeline.recognised(self.running.turn)


def _is_async_stream(result: Any) -> bool:
    return hasattr(result, "__anext__") or (hasattr(result, "__aiter__") and not hasattr(result, "__aenter__"))


def _is_stream(result: Any) -> bool:
    return hasattr(result, "__next__")


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
            return self._watched(call, wrapped(*args, **kwargs))
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

    def _watched(self, call: Call, result: Any) -> Any:
        def on_item(item: Any) -> None:
            call.item = item
            self._mark(call)

        if _is_async_stream(result):
            return AsyncStream(result, _unstaged, on_item)
        return SyncStream(result, _unstaged, on_item) if hasattr(result, "__iter__") else result

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
        with _SessionBlock(self, call):
            return wrapped(*args, **kwargs)

    async def _awaited(
        self, call: Call, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with _SessionBlock(self, call):
            return await wrapped(*args, **kwargs)


class _SessionBlock:
    """The block of a session that may not have come about."""

    def __init__(self, calls: _SessionCalls, call: Call) -> None:
        self.calls = calls
        self.described = call
        self.session: Session | None = None

    def __enter__(self) -> None:
        try:
            self.session = self.calls.pipeline.begin_session(self.calls.hook, self.described)
            self.session.__enter__()
        except Exception as error:
            self.calls.failed(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.session is not None:
                self.session.__exit__(kind, error, trace)
                self.calls.pipeline.forget_session(self.calls.hook, self.described)
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
            return self._awaited(call, wrapped, args, kwargs)
        if not late:
            self.take(call)
            return wrapped(*args, **kwargs)
        call.result = wrapped(*args, **kwargs)
        self.take(call)
        return call.result

    async def _awaited(
        self, call: Call, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call.result = await wrapped(*args, **kwargs)
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
            return self._awaited(call, wrapped, args, kwargs)
        try:
            return wrapped(*args, **kwargs)
        finally:
            self.take(call)

    async def _awaited(
        self, call: Call, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return await wrapped(*args, **kwargs)
        finally:
            self.take(call)

    def take(self, call: Call) -> None:
        """End the session."""
        try:
            self.pipeline.end_session(self.hook, call)
        except Exception as error:
            self.failed(error)
