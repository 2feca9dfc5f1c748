"""Calls at a server: the handler runs inside the call's span, whose parent is the caller's.

Where VOICESPAN_WORKER_ID is set, the caller is told it in the response's metadata, so that the caller's own spans can
name the worker.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import grpc
import wrapt
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.propagate import extract

from voicespan import names as n
from voicespan import settings
from voicespan.guard import guarded, swallowed
from voicespan.integrations.grpc.call import WORKER_ID, begin, qualified
from voicespan.integrations.grpc.client import without_stock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    from opentelemetry.context import Context

    from voicespan.integrations.grpc.call import Call

_INTERCEPTORS = 2
"""Where the interceptors stand among the arguments of `grpc.server`: thread pool, handlers, interceptors."""
_SERVER = trace.SpanKind.SERVER
_FACTORIES = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def make_server(wrapped: Callable[..., Any], _instance: object, args: Any, kwargs: Any) -> Any:
    """Stand around `grpc.server`."""
    args, kwargs = _with(_Interceptor(), args, kwargs)
    return wrapped(*args, **kwargs)


def make_aio_server(wrapped: Callable[..., Any], _instance: object, args: Any, kwargs: Any) -> Any:
    """Stand around `grpc.aio.server`."""
    args, kwargs = _with(_AioInterceptor(), args, kwargs)
    return wrapped(*args, **kwargs)


def _with(interceptor: object, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments with our interceptor before all others."""
    given = args[_INTERCEPTORS] if len(args) > _INTERCEPTORS else kwargs.get("interceptors")
    interceptors = (interceptor, *without_stock(given or ()))
    if len(args) > _INTERCEPTORS:
        return (*args[:_INTERCEPTORS], interceptors, *args[_INTERCEPTORS + 1 :]), kwargs
    return args, {**kwargs, "interceptors": interceptors}


class _Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg,misc,unused-ignore]
    """Of a server of threads."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return _traced(continuation(handler_call_details), qualified(handler_call_details.method))


class _AioInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg,misc,unused-ignore]
    """Of a server of asyncio."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return _traced(await continuation(handler_call_details), qualified(handler_call_details.method))


def _traced(handler: Any, method: str) -> Any:
    """Return the handler of a method with its behaviour inside a span; the kind of function stays what it is."""
    try:
        if handler is None:
            return None
        streams = bool(handler.response_streaming)
        name, factory = _FACTORIES[bool(handler.request_streaming), streams]
        behaviour = getattr(handler, name)
        if hasattr(behaviour, "experimental_non_blocking"):
            return handler
        if inspect.isasyncgenfunction(behaviour):
            around = _generating
        elif inspect.iscoroutinefunction(behaviour):
            around = _awaiting
        else:
            around = _iterating if streams else _returning
        return factory(around(behaviour, method), handler.request_deserializer, handler.response_serializer)
    except Exception as error:
        swallowed("grpc server", error)
        return handler


def _generating(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        served = _Served(method, context)
        with served:  # the task is this call's own, so its context may be held across a `yield`
            stream = behaviour(request, served.context)
            try:
                async for response in stream:
                    await served.announce_aio()
                    yield response
            finally:
                await stream.aclose()

    return call


def _awaiting(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        served = _Served(method, context)
        with served:
            response = await behaviour(request, served.context)
            await served.announce_aio()
            return response

    return call


def _returning(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    def call(request: Any, context: Any) -> Any:
        served = _Served(method, context)
        with served:
            response = behaviour(request, served.context)
            served.announce()
            return response

    return call


def _iterating(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    def call(request: Any, context: Any) -> Iterator[Any]:
        served = _Served(method, context)
        with served.step():
            stream = iter(behaviour(request, served.context))
        return _Responses(stream, served)

    return call


class _Responses:
    """The responses of a handler, each made inside the span: the thread belongs to others in between."""

    def __init__(self, stream: Iterator[Any], served: _Served) -> None:
        self._stream = stream
        self._served = served

    def __iter__(self) -> _Responses:
        return self

    def __next__(self) -> Any:
        with self._served.step():
            try:
                response = next(self._stream)
            except StopIteration:
                self._served.finish(None)
                raise
            self._served.announce()
            return response


class _Served:
    """A call that is being answered. As a block: its span is current, and ends with it."""

    def __init__(self, method: str, context: Any) -> None:
        self.context = context
        self._plain = context
        self._call: Call | None = None
        self._attached: Context | None = None
        self._before: Context | None = None
        self._announced = True
        try:
            self._begin(method)
        except Exception as error:
            swallowed("grpc server", error)

    def _begin(self, method: str) -> None:
        headers = {key: text for key, text in self._plain.invocation_metadata() or () if isinstance(text, str)}
        parent = extract(headers)
        self._call = begin(_SERVER, method, parent, {})
        if self._call is None:
            return
        self._attached = trace.set_span_in_context(self._call.span, parent)
        worker_id = settings.current().worker_id
        if worker_id is not None:
            self._announced = False
            self._call.span.set_attribute(n.VOICE_WORKER_ID, worker_id)
            proxy = _AioContext if inspect.iscoroutinefunction(self._plain.send_initial_metadata) else _Context
            self.context = proxy(self._plain, self)
        # A handler that nobody waits for any more may never be asked again.
        if hasattr(self._plain, "add_callback"):
            self._plain.add_callback(self._left)
        elif hasattr(self._plain, "add_done_callback"):
            self._plain.add_done_callback(lambda _context: self._left())

    def step(self) -> _Step:
        """Return a block in which the span is current, and which ends the span only when it fails."""
        return _Step(self)

    def __enter__(self) -> None:
        self.enter()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.leave()
        self.finish(error)

    def enter(self) -> None:
        """Make the span current."""
        if self._attached is not None:
            self._before = otel_context.get_current()
            otel_context.attach(self._attached)

    def leave(self) -> None:
        """Restore what was current, if ours still is."""
        if self._before is not None and otel_context.get_current() is self._attached:
            otel_context.attach(self._before)

    @guarded
    def finish(self, error: BaseException | None) -> None:
        """End the span, with the status that the handler has set or that gRPC makes of its end."""
        if self._call is None:
            return
        code = self._code()
        if error is not None and not code:
            self._call.finish(grpc.StatusCode.UNKNOWN if isinstance(error, Exception) else self._gone(), error)
        else:
            self._call.finish(code)

    @guarded
    def _left(self) -> None:
        """Take the end of a call: where the handler has not come to its own end, the client went away."""
        if self._call is not None:
            self._call.finish(self._code() or self._gone())

    def _code(self) -> Any:
        """Return the status that the handler has set; None or 0 while it has set none."""
        return self._plain.code() if hasattr(self._plain, "code") else None

    def _gone(self) -> grpc.StatusCode:
        left_s = self._plain.time_remaining()
        return grpc.StatusCode.DEADLINE_EXCEEDED if left_s is not None and left_s <= 0 else grpc.StatusCode.CANCELLED

    # The worker's name

    def metadata(self, given: Any = ()) -> Any:
        """Return what is sent before the first response, with the name of this worker."""
        self._announced = True
        pairs = [tuple(pair) for pair in given or ()]
        if any(key == WORKER_ID for key, _ in pairs):
            return given
        return (*pairs, (WORKER_ID, settings.current().worker_id))

    @guarded
    def announce(self) -> None:
        """Send the name of this worker, if nothing was sent yet."""
        if not self._announced:
            self._plain.send_initial_metadata(self.metadata())

    async def announce_aio(self) -> None:
        """Send the name of this worker, if nothing was sent yet."""
        if not self._announced:
            try:
                await self._plain.send_initial_metadata(self.metadata())
            except Exception as error:
                swallowed("grpc worker", error)


class _Step:
    """One step of a handler that streams."""

    def __init__(self, served: _Served) -> None:
        self._served = served

    def __enter__(self) -> None:
        self._served.enter()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._served.leave()
        if error is not None and not isinstance(error, StopIteration):
            self._served.finish(error)


class _Context(wrapt.ObjectProxy):  # type: ignore[type-arg,misc,unused-ignore]
    """A handler's context whose response metadata has the worker's name."""

    def __init__(self, context: Any, served: _Served) -> None:
        super().__init__(context)
        self._self_served = served

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send the handler's metadata and the worker's name."""
        self.__wrapped__.send_initial_metadata(self._self_served.metadata(initial_metadata))


class _AioContext(_Context):
    """The same of asyncio, where a handler may also write its responses."""

    async def send_initial_metadata(self, initial_metadata: Any) -> None:  # type: ignore[override]
        """Send the handler's metadata and the worker's name."""
        await self.__wrapped__.send_initial_metadata(self._self_served.metadata(initial_metadata))

    async def write(self, message: Any) -> None:
        """Write a response."""
        await self._self_served.announce_aio()
        await self.__wrapped__.write(message)
