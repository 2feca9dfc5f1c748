"""WebSockets of FastAPI, Starlette and other ASGI services: a span for the set-up, and a connection for the call.

HTTP is OpenTelemetry's `opentelemetry-instrumentation-asgi`, which the instrumentations of the frameworks put around
a service. Its WebSocket span lasts as long as the call and has a child for every message; this takes its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.propagate import extract

from voicespan import names as n
from voicespan.connection import Connection
from voicespan.diagnostics import say
from voicespan.guard import guarded, swallowed

if TYPE_CHECKING:
    from types import ModuleType

    from opentelemetry.context import Context

    from voicespan.sessions import EndReason

_NEEDED = (
    "OpenTelemetryMiddleware",
    "collect_request_attributes",
    "get_host_port_url_tuple",
    "asgi_getter",
    "_StabilityMode",
)
_QUERY = "url.query"
_SWITCHING = 101
_FORBIDDEN = 403
_FAILED = 500
_NORMAL_CLOSURE, _NO_STATUS, _ABNORMAL_CLOSURE = 1000, 1005, 1006
"""Close codes of RFC 6455, section 7.4.1."""


def install(module: ModuleType) -> None:
    """Put WebSockets into our hands. Never raises: an import of the service would fail."""
    try:
        missing = [name for name in _NEEDED if not hasattr(module, name)]
        if missing:
            version = getattr(module, "__version__", "")
            say(
                "asgi.hooks",
                f"opentelemetry-instrumentation-asgi {version} is not as it is known (no {', '.join(missing)}): a "
                "WebSocket has one span for its whole length, and becomes no session by itself",
            )
            return
        wrapt.wrap_function_wrapper(module, "OpenTelemetryMiddleware.__call__", _Sockets(module))
    except Exception as error:
        swallowed("asgi", error)


class _Sockets:
    """Stands around the middleware: what is no WebSocket goes through it."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, wrapped: Any, middleware: Any, args: Any, kwargs: Any) -> Any:
        socket = None
        try:
            scope = args[0] if args else kwargs["scope"]
            if scope["type"] == "websocket" and self._wanted(middleware, scope):
                parent = extract(scope, getter=self._module.asgi_getter)
                socket = _Socket(self._setup(middleware, scope, parent), parent)
        except Exception as error:
            swallowed("asgi", error)
        if socket is None:
            return wrapped(*args, **kwargs)
        return socket.run(middleware.app, *args, **kwargs)

    def _wanted(self, middleware: Any, scope: Any) -> bool:
        if not is_http_instrumentation_enabled():
            return False
        excluded = middleware.excluded_urls
        return not (excluded and excluded.url_disabled(self._module.get_host_port_url_tuple(scope)[2]))

    def _setup(self, middleware: Any, scope: Any, parent: Context) -> trace.Span:
        """Start the span of the set-up: an ordinary request of HTTP."""
        name, attributes = middleware.default_span_details(scope)
        mode = self._module._StabilityMode.HTTP  # noqa: SLF001 - the stable names, whatever requests have
        attributes = {
            **self._module.collect_request_attributes(scope, mode),
            **attributes,
            n.HTTP_REQUEST_METHOD: "GET",
        }
        attributes.pop(_QUERY, None)  # where browsers put their token: a WebSocket of theirs has no headers
        name = f"GET {attributes.get(n.HTTP_ROUTE, name)}"
        span: trace.Span = middleware.tracer.start_span(name, parent, kind=trace.SpanKind.SERVER, attributes=attributes)
        return span


class _Socket:
    """One WebSocket, from the request to its end."""

    def __init__(self, setup: trace.Span, parent: Context) -> None:
        from voicespan.metrics.sockets import Socket  # brings the SDK's metrics, and this module is always imported

        self._span = setup
        self._parent = parent
        self._open = True
        self._accepted = False
        self._gone = False
        self._connection = Connection(setup, "websocket")
        self._socket = Socket("websocket")
        self._connection.counted_by_service = self._socket.counted_by_service

    async def run(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Run the service's handler in the context of this connection, in its own task."""
        socket = self._socket

        async def receive_watched() -> Any:
            socket.asked()
            message = await receive()
            if message["type"] == "websocket.receive":
                socket.came(message)
            elif message["type"] == "websocket.disconnect":
                self._gone = True
                socket.closed(message.get("code") or _NO_STATUS)
            return message

        async def send_watched(message: Any) -> None:
            if self._open:
                self._answered(message)
            await send(message)
            if message["type"] == "websocket.send":
                socket.left(message)
            elif message["type"] == "websocket.close" and self._accepted:
                socket.closed(message.get("code") or _NORMAL_CLOSURE)

        before = otel_context.get_current()
        around = trace.set_span_in_context(self._connection.span, self._parent)
        otel_context.attach(around)
        self._connection.offer()
        failure: BaseException | None = None
        try:
            await app(scope, receive_watched, send_watched)
        except BaseException as error:
            failure = error
            raise
        finally:
            if self._accepted:
                socket.closed(_ABNORMAL_CLOSURE if failure is not None else _NORMAL_CLOSURE)
            socket.over()
            self._left(failure)
            self._connection.withdraw()
            if otel_context.get_current() is around:
                otel_context.attach(before)

    @guarded
    def _answered(self, message: Any) -> None:
        """Take the answer to the request: the set-up is over."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
            self._socket.accepted()
            self._set_up(_SWITCHING)
        elif kind == "websocket.close":
            self._set_up(_FORBIDDEN)
        elif kind == "websocket.http.response.start":
            self._set_up(int(message["status"]))

    def _set_up(self, status: int, error: BaseException | None = None) -> None:
        self._open = False
        self._span.set_attribute(n.HTTP_RESPONSE_STATUS_CODE, status)
        if status >= _FAILED:
            self._span.set_attribute(n.ERROR_TYPE, type(error).__qualname__ if error is not None else str(status))
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()

    @guarded
    def _left(self, error: BaseException | None) -> None:
        """Take the handler's end."""
        if self._open and (self._gone or isinstance(error, Exception)):
            self._set_up(_FAILED, error)
        elif self._open:  # cancelled, or never answered: no status was sent
            self._open = False
            self._span.end()
        self._connection.close(self._reason(error), error)

    def _reason(self, error: BaseException | None) -> EndReason:
        if self._gone:
            return "client_disconnect"
        from voicespan.sessions import reason_of

        return reason_of(error)
