"""Turns as they come, and that those in progress changed, to every page that listens: server-sent events."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from voicespan.local.store import Store
    from voicespan.local.turn import Turn

_MAX_PENDING = 1000
_HEARTBEAT_S = 15.0
_GATHER_S = 0.2


class Live:
    """Tells pages what changed. All but `close`, which may come from anywhere, belong to the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: set[_Listener] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: list[Callable[[], None]] = []

    def open(self) -> None:
        """Begin to listen to the store."""
        self._loop = asyncio.get_running_loop()
        self._ends = [self._store.listen(self._changed), self._store.when_forgotten(self._forgotten)]

    def close(self) -> None:
        """End every stream: a server that stops would wait for them."""
        loop, self._loop = self._loop, None
        while self._ends:
            self._ends.pop()()
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._finish)

    def _changed(self, turns: list[Turn]) -> None:
        if self._listeners and turns and self._loop is not None:
            self._loop.call_soon_threadsafe(self.tell, [turn.trace_id for turn in turns])

    def _forgotten(self, spans: int) -> None:
        if self._listeners and self._loop is not None:
            self._loop.call_soon_threadsafe(self.tell_forgotten, spans)

    def tell(self, trace_ids: list[str]) -> None:
        """Say that these turns changed."""
        for listener in self._listeners:
            listener.tell(trace_ids)

    def tell_open(self, count: int) -> None:
        """Say that the turns in progress changed, of which there are so many now."""
        for listener in self._listeners:
            listener.tell_open(count)

    def tell_forgotten(self, spans: int) -> None:
        """Say that so many spans were forgotten: what a page shows may be gone."""
        for listener in self._listeners:
            listener.tell_forgotten(spans)

    def _finish(self) -> None:
        for listener in self._listeners:
            listener.finish()

    async def stream(self) -> AsyncIterator[str]:
        """Yield events for one page, gathered for a moment.

        `turns` has the ids of new and changed turns, `open` the number of turns in progress when they change,
        `forgotten` the number of spans that are no longer there.
        """
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield "retry: 1000\nevent: ready\ndata: {}\n\n"
            while not listener.finished:
                yield await listener.next()
        finally:
            self._listeners.discard(listener)


class _Listener:
    """What one page was not told yet; bounded, because a page may sleep."""

    def __init__(self) -> None:
        self.pending: dict[str, None] = {}
        self.more = 0
        self.open: int | None = None
        self.forgotten = 0
        self.finished = False
        self.news = asyncio.Event()

    def tell(self, trace_ids: list[str]) -> None:
        for trace_id in trace_ids:
            if len(self.pending) < _MAX_PENDING or trace_id in self.pending:
                self.pending[trace_id] = None
            else:
                self.more += 1
        self.news.set()

    def tell_open(self, count: int) -> None:
        self.open = count
        self.news.set()

    def tell_forgotten(self, spans: int) -> None:
        self.forgotten += spans
        self.news.set()

    def finish(self) -> None:
        self.finished = True
        self.news.set()

    async def next(self) -> str:
        try:
            async with asyncio.timeout(_HEARTBEAT_S):
                await self.news.wait()
        except TimeoutError:
            return ": still here\n\n"
        if not self.finished:
            await asyncio.sleep(_GATHER_S)
        self.news.clear()
        return "".join(self._events())

    def _events(self) -> Iterator[str]:
        if self.pending or self.more:
            yield _event("turns", trace_ids=list(self.pending), more=self.more)
            self.pending, self.more = {}, 0
        if self.open is not None:
            yield _event("open", turns=self.open)
            self.open = None
        if self.forgotten:
            yield _event("forgotten", spans=self.forgotten)
            self.forgotten = 0


def _event(name: str, **data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
