"""A network between a browser and a server that can be cut: nothing passes then, and no connection is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 65_536


class Relay:
    """Passes the bytes of TCP connections on while the network is up."""

    def __init__(self, target: str) -> None:
        """`target` is the address of the server, as `http://127.0.0.1:8000`."""
        self._host, self._port = urlsplit(target).hostname, urlsplit(target).port
        self._loop = asyncio.new_event_loop()
        self._up = asyncio.Event()
        self._up.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    def cut(self) -> None:
        """Let nothing pass any more; what is sent meanwhile waits, as in the buffers of both ends."""
        self._loop.call_soon_threadsafe(self._up.clear)

    def mend(self) -> None:
        """Let everything pass again."""
        self._loop.call_soon_threadsafe(self._up.set)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._up.wait()
        answers, asks = await asyncio.open_connection(self._host, self._port)
        for source, sink in ((reader, asks), (answers, writer)):
            task = self._loop.create_task(self._pass(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(sink):
            while piece := await source.read(_PIECE):
                await self._up.wait()
                sink.write(piece)
                await sink.drain()

    def run(self, started: threading.Event) -> None:
        """Serve until `stop`."""
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        self._loop.run_forever()
        server.close()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        """End `run`."""
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextlib.contextmanager
def relayed(target: str) -> Iterator[Relay]:
    """Relay the connections to this server."""
    relay, started = Relay(target), threading.Event()
    thread = threading.Thread(target=relay.run, args=(started,), daemon=True)
    thread.start()
    started.wait()
    try:
        yield relay
    finally:
        relay.stop()
        thread.join()
