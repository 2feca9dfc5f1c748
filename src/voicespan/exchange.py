"""Exchanges of four time stamps, as messages of a WebSocket or data channel; times are milliseconds.

The client sends `sent`, and `last`: the four of its exchange before. The answer adds the name of this machine's clock,
`received` and `answered`; when it is back the client has an exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan.clock import NS_PER_MS, machine_clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.clock import RemoteClock

MESSAGE = "voicespan.clock"
"""The `type` of the messages, both ways."""
_LATEST_MS = 1e13
_STAMPS = 4


def answer(
    message: object, clock: RemoteClock, now_ns: Callable[[], int], received_ns: int | None = None
) -> dict[str, Any] | None:
    """Return the answer to a client's message, None where it is no such message; `clock` learns of its last exchange.

    `received_ns` is when the message came, by the clock of `now_ns`.
    """
    if not isinstance(message, dict) or message.get("type") != MESSAGE or not _is_time(message.get("sent")):
        return None
    received_ns = now_ns() if received_ns is None else received_ns
    last = message.get("last")
    if isinstance(last, list) and len(last) == _STAMPS and all(map(_is_time, last)):
        learn(clock, last, received_ns)
    answered_ns = now_ns()
    return {
        "type": MESSAGE,
        "sent": message["sent"],
        "server": machine_clock(),
        "received": received_ns / NS_PER_MS,
        "answered": answered_ns / NS_PER_MS,
    }


def learn(clock: RemoteClock, stamps_ms: list[float], now_ns: int) -> None:
    """Take in an exchange, unless this machine would have answered in the future."""
    sent, received, answered, back = (round(each * NS_PER_MS) for each in stamps_ms)
    if received <= answered <= now_ns and sent <= back:
        clock.exchange(sent, received, answered, back)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LATEST_MS
