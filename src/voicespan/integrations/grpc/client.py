"""Calls of a client. What gRPC gives back (call, stream, future) stays the very object: its end is listened to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import grpc
import wrapt
from opentelemetry import trace
from opentelemetry.propagate import inject

from voicespan import names as n
from voicespan.diagnostics import say
from voicespan.guard import guarded, swallowed
from voicespan.integrations.grpc.call import WORKER_ID, begin, qualified
from voicespan.stage import Tts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from voicespan.integrations.grpc.call import Call

_CLIENT = trace.SpanKind.CLIENT
_STOCK = "opentelemetry.instrumentation.grpc"
_METADATA = 2
"""Where the metadata stands among the arguments of a call: request, timeout, metadata."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_WITH_CALL = 2
"""What `with_call` returns: the response and its call."""


def open_channel(wrapped: Callable[..., Any], _instance: object, args: Any, kwargs: Any) -> Any:
    """Stand around `grpc.insecure_channel` and `grpc.secure_channel`."""
    return _Channel(wrapped(*args, **kwargs), _address(args, kwargs))


def open_aio_channel(wrapped: Callable[..., Any], _instance: object, args: Any, kwargs: Any) -> Any:
    """Stand around `grpc.aio.insecure_channel` and `grpc.aio.secure_channel`."""
    if kwargs.get("interceptors"):
        kwargs = {**kwargs, "interceptors": without_stock(kwargs["interceptors"])}
    return _Channel(wrapped(*args, **kwargs), _address(args, kwargs))


def without_stock(interceptors: Iterable[Any]) -> list[Any]:
    """Return the interceptors without OpenTelemetry's, which the service has added by hand: one span is enough."""
    given = list(interceptors)
    left = [each for each in given if not type(each).__module__.startswith(_STOCK)]
    if len(left) < len(given):
        say("grpc.twice", "grpc: OpenTelemetry's interceptors are left out, or each call had two spans", level="debug")
    return left


def _address(args: Any, kwargs: Any) -> dict[str, Any]:
    """Return server.address and server.port of a channel's target, where that is one address of a network."""
    target = str(args[0] if args else kwargs.get("target", ""))
    if target.startswith("unix"):
        return {}
    bare = target.rpartition("/")[2]
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        bare = bare.removeprefix(scheme)
    host, _, port = bare.rpartition(":") if bare.rpartition(":")[2].isdigit() else (bare, "", "")
    if not host or "," in host:
        return {}
    found: dict[str, Any] = {n.SERVER_ADDRESS: host.strip("[]")}
    if port:
        found[n.SERVER_PORT] = int(port)
    return found


class _Channel(wrapt.ObjectProxy):  # type: ignore[type-arg,misc,unused-ignore]
    """A channel whose methods are traced; everything else is the channel's own."""

    def __init__(self, channel: Any, address: dict[str, Any]) -> None:
        super().__init__(channel)
        self._self_address = address

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self.__wrapped__.__exit__(*error)

    async def __aenter__(self) -> Self:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> Any:
        return await self.__wrapped__.__aexit__(*error)

    def _self_method(self, make: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return _Method(make(*args, **kwargs), qualified(args[0] if args else kwargs["method"]), self._self_address)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Make the callable of a method."""
        return self._self_method(self.__wrapped__.unary_unary, args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Make the callable of a method."""
        return self._self_method(self.__wrapped__.unary_stream, args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Make the callable of a method."""
        return self._self_method(self.__wrapped__.stream_unary, args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Make the callable of a method."""
        return self._self_method(self.__wrapped__.stream_stream, args, kwargs)


class _Method(wrapt.ObjectProxy):  # type: ignore[type-arg,misc,unused-ignore]
    """A method that can be called. With asyncio and for streams that gives the call at once, else the response."""

    def __init__(self, method: Any, name: str, address: dict[str, Any]) -> None:
        super().__init__(method)
        self._self_name = name
        self._self_address = address

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._self_call(self.__wrapped__, args, kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        """Call and wait; return the response and its call."""
        return self._self_call(self.__wrapped__.with_call, args, kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        """Call and return at once."""
        return self._self_call(self.__wrapped__.future, args, kwargs)

    def _self_call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        around = trace.get_current_span()
        call = None if _is_stock(around) else begin(_CLIENT, self._self_name, None, self._self_address)
        if call is None:
            return function(*args, **kwargs)
        watched = _Watched(call, getattr(around, "subject", None))
        try:
            args, kwargs = _carried(call, args, kwargs)
            result = function(*args, **kwargs)
        except BaseException as error:
            watched.failed(error)
            raise
        watched.listen(result)
        return result


def _carried(call: Call, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments of a call with its context in the metadata."""
    try:
        headers: dict[str, str] = {}
        inject(headers, trace.set_span_in_context(call.span))
        given = args[_METADATA] if len(args) > _METADATA else kwargs.get("metadata")
        ours = {key.lower(): text for key, text in headers.items()}
        pairs = [pair for pair in (given or ()) if pair[0] not in ours] + list(ours.items())
        metadata = grpc.aio.Metadata(*pairs) if isinstance(given, grpc.aio.Metadata) else tuple(pairs)
    except Exception as error:
        swallowed("grpc metadata", error)
        return args, kwargs
    if len(args) > _METADATA:
        return (*args[:_METADATA], metadata, *args[_METADATA + 1 :]), kwargs
    return args, {**kwargs, "metadata": metadata}


class _Watched:
    """A call of ours and the stage that has made it."""

    __slots__ = ("_call", "_stage")

    def __init__(self, call: Call, stage: object) -> None:
        self._call = call
        self._stage = stage

    @guarded
    def failed(self, error: BaseException) -> None:
        """Take what the call has raised."""
        code = getattr(error, "code", None)
        cancelled = not isinstance(error, Exception)
        otherwise = grpc.StatusCode.CANCELLED if cancelled else grpc.StatusCode.UNKNOWN
        self._ended(code() if callable(code) else otherwise, _metadata_of(error), error)

    @guarded
    def listen(self, result: Any) -> None:
        """Take the call's end from what gRPC has returned: a call will tell, a response is the end."""
        if isinstance(result, grpc.aio.Call):
            # A callback of the call's own would keep it: gRPC cancels a stream that nobody has any more.
            state = getattr(result, "_cython_call", None)
            if state is None:  # it has interceptors
                result.add_done_callback(self._aio_done)
            else:
                state.add_done_callback(lambda: self._aio_state_done(state))
        elif isinstance(result, grpc.Call):
            # Its state and not the call: that one cancels when nobody has it any more, so our callback must not.
            state = getattr(result, "_state", result)
            if not result.add_callback(lambda: self._done(state)):
                self._done(state)
        else:
            with_call = isinstance(result, tuple) and len(result) == _WITH_CALL
            self._ended(grpc.StatusCode.OK, _metadata_of(result[1]) if with_call else None)

    @guarded
    def _done(self, state: Any) -> None:
        code = state.code
        self._ended(code() if callable(code) else code, _metadata_of(state))

    @guarded
    def _aio_state_done(self, state: Any) -> None:
        status = _at_once(state.status())
        code = grpc.StatusCode.CANCELLED if status is None else _CODES.get(status.code(), grpc.StatusCode.UNKNOWN)
        self._ended(code, _at_once(state.initial_metadata()))

    @guarded
    def _aio_done(self, call: Any) -> None:
        code = _at_once(call.code())
        self._ended(grpc.StatusCode.CANCELLED if code is None else code, _at_once(call.initial_metadata()))

    def _ended(self, code: Any, metadata: Any, error: BaseException | None = None) -> None:
        worker = next((text for key, text in metadata or () if key == WORKER_ID), None)
        if isinstance(worker, str):
            self._call.span.set_attribute(n.VOICE_WORKER_ID, worker)
            if isinstance(self._stage, Tts):
                self._stage.worker(worker)
        self._call.finish(code, error)


def _metadata_of(call: Any) -> Any:
    """Return the initial metadata of what has ended; nothing where there is none."""
    found = getattr(call, "initial_metadata", None)
    try:
        return found() if callable(found) else found
    except Exception:
        return None


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that has nothing to wait for; None where there is none."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    except BaseException:  # what was cancelled raises that
        return None
    coroutine.close()
    return None


def _is_stock(around: trace.Span) -> bool:
    """Whether OpenTelemetry's instrumentation stands around this call already."""
    scope = getattr(around, "instrumentation_scope", None)
    return getattr(around, "kind", None) is _CLIENT and getattr(scope, "name", "").startswith(_STOCK)
