"""Which names the receiver answers to: those of this machine, whatever name a web page may have been given for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


class LocalHostsOnly:
    """Middleware: 403 for a request whose Host header is neither local nor among `allowed`."""

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...] = ()) -> None:
        self.app = app
        self.allowed = LOCAL_HOSTS | {name.lower() for name in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and host_name(Headers(scope=scope).get("host", "")) not in self.allowed:
            refusal = PlainTextResponse("voicespan answers to the names of this machine only\n", 403)
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)


def host_name(header: str) -> str:
    """Return the name in a Host header, in lower case and without the port."""
    host = header.strip().lower()
    name, bracket, port = host.partition("]")
    if bracket:
        return name + bracket if not port or port.startswith(":") else host
    return name.partition(":")[0].removesuffix(".")
