"""What a viewer is told on the command line or by the environment, and the receiver that this makes."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from voicespan import settings
from voicespan.local.access import checked_token
from voicespan.local.grpc import DEFAULT_PORT as DEFAULT_GRPC_PORT
from voicespan.local.server import DEFAULT_PORT, Receiver
from voicespan.local.status import checked_trace_link
from voicespan.local.store import default_database

if TYPE_CHECKING:
    from pathlib import Path

    from voicespan.local.retention import Retention
    from voicespan.local.store import Store

_DAY_S = 86_400
_HOUR_S = 3_600
_MIB = 1 << 20
_COLLECT_AFTER = 20_000
"""So many more objects than at the last time; Python's own number is 700."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a viewer runs; None is what the environment says, else the default."""

    port: int = DEFAULT_PORT
    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    database: Path | None = None
    keep_days: float | None = None
    keep_mib: float | None = None
    grpc_port: int | None = None
    """0 is none."""
    content: bool = False
    token: str | None = None
    trace_link: str | None = None
    forward: str | None = None

    def receiver(self) -> Receiver:
        """Return the receiver, not yet started.

        Raises:
            click.UsageError: the token or the link is none.

        """
        collect_seldom()
        said = settings.current()
        token, trace_link = self.token or said.token, self.trace_link or said.trace_link
        try:
            return Receiver(
                port=self.port,
                host=self.host,
                allowed_hosts=self.allowed_hosts,
                database=self.database or default_database(),
                retention=_limits(self.keep_days or said.keep_days, self.keep_mib or said.keep_mib),
                grpc_port=(DEFAULT_GRPC_PORT if self.grpc_port is None else self.grpc_port) or None,
                content=self.content or said.content,
                token=checked_token(token) if token else None,
                trace_link=checked_trace_link(trace_link) if trace_link else None,
                forward=self.forward,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None


def collect_seldom() -> None:
    """Look for cycles of garbage less often, in a process that does nothing but receive.

    A request makes thousands of objects without cycles and lets go of all of them: to walk them time and again takes
    a tenth of ingest (benchmarks/ingest.py).
    """
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])


def _limits(days: float | None, mib: float | None) -> dict[str, int | None]:
    """Return the limits that are asked for; the file has the others."""
    limits: dict[str, int | None] = {}
    if days is not None:
        limits["max_age_s"] = int(days * _DAY_S)
    if mib is not None:
        limits["max_bytes"] = int(mib * _MIB)
    return limits


def complaints(receiver: Receiver) -> list[str]:
    """Return what is not as it was asked for, or not as one would think, in lines."""
    lines = []
    if receiver.moved:
        lines.append(f"{receiver.moved}; using port {receiver.port}")
    if receiver.store.complaint:
        lines.append(receiver.store.complaint)
    others = receiver.store.others()
    if others:
        processes = ", ".join(str(pid) for pid in others)
        what = "process" if len(others) == 1 else "processes"
        lines.append(
            f"{receiver.store.path} is also written to by {what} {processes}: its turns are shown here as well"
        )
    return lines


def place(store: Store) -> str:
    """Say where turns are kept."""
    return "in memory, gone when it ends" if store.in_memory else str(store.path)


def kept(retention: Retention) -> str:
    """Say how long turns are kept."""
    limits = []
    if retention.max_age_s is not None:
        days, hours = retention.max_age_s / _DAY_S, retention.max_age_s / _HOUR_S
        limits.append(f"for {days:.4g} days" if days > 1 else f"for {hours:.3g} hours")
    if retention.max_bytes is not None:
        limits.append(f"up to {retention.max_bytes / _MIB:,.0f} MiB")
    return f"kept {' and '.join(limits)}" if limits else "kept for ever"


def send_variables(receiver: Receiver) -> str:
    """Return the variables that let a service send to this receiver, as they are typed before a command."""
    return " ".join(f"{name}={value}" for name, value in receiver.send.items())
