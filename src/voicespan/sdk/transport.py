"""Plain HTTP for the SDK's OTLP exporters, on the standard library alone.

Importing `requests`, which they use otherwise, costs more time and memory than everything else of ours at a start. TLS,
proxies, netrc files and credential providers stay with `requests`: see `fits`.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - for host names; when two threads are the first to need it, both may fail for good
import inspect
import socket
import threading
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http.client import HTTPConnection

    from voicespan.sdk.endpoint import Endpoint

_STAY_WITH_REQUESTS = ("http_proxy", "https_proxy", "all_proxy", "netrc")
_HTTP_PORT = 80
_LONGEST_ANSWER = 1 << 16
"""So many bytes of an answer are read; one of OTLP has a few words."""
_CREDENTIALS = "OTEL_PYTHON_EXPORTER_OTLP_HTTP"


def fits(kind: type[Any], endpoint: Endpoint, environ: Mapping[str, str]) -> bool:
    """Return whether this transport does for the exporter what `requests` would do."""
    return (
        endpoint.url.startswith("http://")
        and not any(environ.get(name) or environ.get(name.upper()) for name in _STAY_WITH_REQUESTS)
        and not any(name.startswith(_CREDENTIALS) for name in environ)
        and not any((Path.home() / name).exists() for name in (".netrc", "_netrc"))
        and "_transport" in inspect.signature(kind.__init__).parameters
    )


class Result(NamedTuple):
    """What came of a request: a status, or the error that prevented one."""

    status_code: int | None = None
    reason: str | None = None
    error: Exception | None = None
    body: bytes = b""
    fields: Mapping[str, str] = MappingProxyType({})

    def content(self) -> bytes:
        """Return the body of the answer."""
        return self.body

    def text(self) -> str:
        """Return the body of the answer as text."""
        return self.body.decode("utf-8", "replace")

    def headers(self) -> Mapping[str, str]:
        """Return the header fields of the answer; their names are not case-sensitive."""
        return self.fields


class Transport:
    """One connection, kept open between requests. `close` ends the request that is under way, from any thread."""

    longest_s: float | None = None
    """The longest time-out that is believed: exporters count by the time of day, which can be set back in between."""
    retry_after_s = 0.0
    """For how long the last answer has asked to be left alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._closed = False
        self._tried: tuple[bytes | None, Result] = None, Result()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
        data: bytes | None = None,
    ) -> Result:
        """Send one request, in at most `timeout` seconds for each step of it; never raises.

        Where no time is left it is not sent: what has come of the same data before counts, when it was tried before.
        """
        if timeout is not None and timeout <= 0:  # a socket would not wait, and look as if the other side had closed it
            tried, result = self._tried
            return result if data is not None and data is tried else Result(error=TimeoutError("timed out"))
        result = self._request(method, url, headers, timeout, data)
        self._tried = data, result
        return result

    def _request(
        self, method: str, url: str, headers: dict[str, str] | None, timeout: float | None, data: bytes | None
    ) -> Result:
        parts = urlsplit(url)
        if timeout is not None and self.longest_s is not None:
            timeout = min(timeout, self.longest_s)
        with self._lock:
            self.retry_after_s = 0.0
            try:
                connection = self._connect(parts.hostname or "", parts.port or _HTTP_PORT, timeout)
                connection.request(
                    method, f"{parts.path or '/'}{parts.query and '?'}{parts.query}", data, headers or {}
                )
                answer = connection.getresponse()
                whole = answer.length is not None and answer.length <= _LONGEST_ANSWER
                body = answer.read() if whole else answer.read(_LONGEST_ANSWER)
            except Exception as error:
                self._drop()
                return Result(error=error)
            self.retry_after_s = _seconds(answer.headers.get("retry-after", ""))
            if answer.will_close or not answer.isclosed():
                self._drop()
            return Result(answer.status, answer.reason, None, body, cast("Mapping[str, str]", answer.headers))

    def close(self) -> None:
        """Close the connection, also under a request."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            self._drop()
            self._lock.release()
            return
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):  # the request then fails on its own thread, which drops the connection
                connection.sock.shutdown(socket.SHUT_RDWR)

    def is_connection_error(self, exception: Exception | None) -> bool:
        """Return whether a request failed on its way, so that another attempt may succeed."""
        from http.client import HTTPException

        return isinstance(exception, OSError | HTTPException) and not self._closed

    def _connect(self, host: str, port: int, timeout: float | None) -> HTTPConnection:
        if self._closed:
            raise ConnectionAbortedError("the transport is closed")
        connection = self._connection
        if connection is None or connection.sock is None:
            from http.client import HTTPConnection  # with the first request, on the thread that sends

            connection = self._connection = HTTPConnection(host, port, timeout=timeout)
        else:
            connection.sock.settimeout(timeout)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def heed(transport: Any) -> None:
    """Have another transport of the exporters (`requests`) note `retry_after_s`, as `Transport` does by itself."""
    if transport is None or hasattr(transport, "retry_after_s"):
        return
    request = transport.request
    transport.retry_after_s = 0.0

    def heeded(*args: Any, **kwargs: Any) -> Any:
        transport.retry_after_s = 0.0
        result = request(*args, **kwargs)
        with suppress(Exception):  # somebody else's result
            transport.retry_after_s = _seconds(result.headers().get("retry-after", ""))
        return result

    transport.request = heeded


def _seconds(retry_after: str) -> float:
    """Return how long a `Retry-After` (RFC 9110) is, in seconds or as a date; 0 for what is neither."""
    try:
        return max(0.0, float(int(retry_after)))
    except (ValueError, OverflowError):
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
