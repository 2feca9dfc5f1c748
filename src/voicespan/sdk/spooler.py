"""Spans that could not be sent: written to the spool as the request that they would have been, and posted later."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan import settings
from voicespan.diagnostics import say
from voicespan.sdk.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from voicespan.sdk.batch import Refusal
    from voicespan.sdk.export import BodySender, Written

_LOOK_AFTER_S = 10.0
"""So long it is believed that no other process has left anything."""


class Spooler:
    """A `batch.Keeper` in a folder that other processes may share; see `Spool` for what it promises."""

    def __init__(self, spool: Spool, sender: BodySender) -> None:
        self.spool = spool
        self.place = str(spool.folder)
        self._sender = sender
        self._wall_offset_ns = time.time_ns() - time.monotonic_ns()
        self._waiting = False
        self._looked_s = float("-inf")

    def now_ns(self) -> int:
        """Return the time of day at the start plus what has passed since: a clock that is set does not count."""
        return self._wall_offset_ns + time.monotonic_ns()

    def keep(self, batch: Sequence[ReadableSpan | Written], count: int, taken_ns: int) -> None:
        """Write a batch down; raises OSError where the disk does not take it."""
        self.spool.put(marked(self._sender.body(batch)), count, taken_ns)
        self._waiting = True

    def waiting(self) -> bool:
        """Return whether something may be there."""
        if not self._waiting and time.monotonic() - self._looked_s > _LOOK_AFTER_S:
            self._looked_s = time.monotonic()
            self._waiting = self.spool.waiting()
        return self._waiting

    def replay(self, tried: Callable[[int, Refusal | None], None], go_on: Callable[[], bool]) -> Refusal | None:
        """Post what is there, as `batch.Keeper` has it."""
        # First: what is kept meanwhile says so anew. What another process replays is looked for again after a while.
        self._waiting, self._looked_s = False, time.monotonic()
        with self.spool.replaying() as bodies:
            for kept in bodies:
                if not go_on():
                    self._waiting = True
                    return None
                refusal = self._sender.post(kept.body)
                if refusal is not None and refusal.passing:
                    self._waiting = True
                    return refusal
                if not (self.spool.replayed(kept) if refusal is None else self.spool.refused(kept)):
                    say("spool.remove", f"what was sent cannot be removed from {self.place}; a restart sends it again")
                tried(kept.items, refusal)
        return None


def marked(body: bytes) -> bytes:
    """Return an `ExportTraceServiceRequest` whose resources say that it is sent late: it does not count in metrics."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(body)
    for each in request.resource_spans:
        each.resource.attributes.add(key=n.VOICESPAN_REPLAYED).value.bool_value = True
    return request.SerializeToString()


def spooler(sender: object) -> Spooler | None:
    """Return where VOICESPAN_SPOOL_DIR has the sender keep what is not taken; None without it."""
    from voicespan.sdk.export import BodySender

    current = settings.current()
    if not current.spool_dir:
        return None
    if not isinstance(sender, BodySender):
        say("spool", "VOICESPAN_SPOOL_DIR has no effect: only spans that go over OTLP/HTTP are kept on disk")
        return None
    folder = Path(current.spool_dir) / "traces"
    return Spooler(Spool(folder, int(current.spool_mib * 1024 * 1024)), sender)
