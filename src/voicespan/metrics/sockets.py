"""What an unchanged service's WebSockets carry: connections, messages and their bytes, and how they were closed.

A service that counts its messages or connections itself (`voicespan.metrics.message_sent`, `connection`) knows them
better: what it counts is not counted here as well.
"""

from __future__ import annotations

import re
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.guard import guarded
from voicespan.metrics.instruments import record, wanted
from voicespan.metrics.level import connections
from voicespan.metrics.loop import watch_loop
from voicespan.metrics.messages import messages

if TYPE_CHECKING:
    from voicespan.metrics.audio import Direction
    from voicespan.metrics.level import Key

BINARY, TEXT = "binary", "text"
"""The kind of a message that does not say what it is."""
_KIND = re.compile(r'\s{0,8}\{\s{0,8}"(?:type|event|message_type)"\s{0,8}:\s{0,8}"([\w.:/-]{1,64})"')
"""Where a message of JSON says what it is: in its first field."""
_HELD = 8
"""So many messages wait for the service to show whether it counts them itself."""


class Socket:
    """One WebSocket, on its event loop."""

    __slots__ = ("_closed", "_held", "_key", "_received", "transport")

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self._key: Key | None = None
        self._closed = False
        self._held: list[tuple[str, Direction]] | None = []
        self._received: tuple[str, int] | None = None

    @guarded
    def accepted(self) -> None:
        """Count the connection as open."""
        if wanted():
            watch_loop()
            self._key = connections.up({n.VOICE_TRANSPORT: self.transport})

    @guarded
    def counted_by_service(self) -> None:
        """Take the connection back: the service counts it itself."""
        key, self._key = self._key, None
        if key is not None:
            connections.down(key)

    @guarded
    def came(self, message: dict[str, Any]) -> None:
        """Count a message that the service is given."""
        kind, size = _of(message)
        messages.moved("receive", size)
        self._count(kind, "receive")
        self._received = kind, monotonic_ns()

    @guarded
    def asked(self) -> None:
        """Take the time that the last message took: the service asks for the next one."""
        received, self._received = self._received, None
        if received is not None and not messages.by_service:
            messages.handled(received[0], monotonic_ns() - received[1])

    @guarded
    def left(self, message: dict[str, Any]) -> None:
        """Count a message that the service has sent."""
        kind, size = _of(message)
        messages.moved("transmit", size)
        self._count(kind, "transmit")

    @guarded
    def closed(self, code: int) -> None:
        """Count how the connection was closed; the first call counts."""
        if not self._closed:
            self._closed = True
            where = {n.VOICE_TRANSPORT: self.transport, n.VOICE_CONNECTION_CLOSE_CODE: str(code)}
            record(n.METRIC_VOICE_CONNECTION_CLOSED, 1, where)

    @guarded
    def over(self) -> None:
        """Let go: the handler has returned."""
        self.counted_by_service()
        self._release()

    def _count(self, kind: str, direction: Direction) -> None:
        if messages.by_service:
            self._held = None
        elif self._held is None:
            messages.count(kind, direction)
        else:
            self._held.append((kind, direction))
            if len(self._held) > _HELD:
                self._release()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held and not messages.by_service:
            for kind, direction in held:
                messages.count(kind, direction)


def _of(message: dict[str, Any]) -> tuple[str, int]:
    """Return the kind of a message, and its bytes."""
    data = message.get("bytes")
    if data is not None:
        return BINARY, len(data)
    text = message.get("text") or ""
    found = _KIND.match(text)
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return (TEXT if found is None else found[1]), size
