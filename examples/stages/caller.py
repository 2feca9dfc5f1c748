"""A caller: asks, hears the answer, asks again, and cuts the second answer off.

python caller.py ws://127.0.0.1:8000/calls/call-7
"""

import asyncio
import sys
import time

from websockets.asyncio.client import ClientConnection, connect

FRAME_S = 0.02
LOUD = b"\x00\x40" * 320
QUIET = bytes(640)


class Caller:
    """One call in real time."""

    def __init__(self, line: ClientConnection) -> None:
        self.line = line
        self.frames = 0
        self.sent_until = time.monotonic()

    async def listen(self) -> None:
        async for message in self.line:
            self.frames += isinstance(message, bytes)

    async def send(self, frame: bytes, seconds: float) -> None:
        for _ in range(round(seconds / FRAME_S)):
            await self.line.send(frame)
            self.sent_until += FRAME_S
            await asyncio.sleep(self.sent_until - time.monotonic())

    async def hears(self, frames: int) -> None:
        """Be quiet until so many more frames have come."""
        wanted = self.frames + frames
        while self.frames < wanted:
            await self.send(QUIET, FRAME_S)


async def main(url: str) -> None:
    async with connect(url) as line:
        caller = Caller(line)
        listening = asyncio.create_task(caller.listen())
        await caller.hears(20)
        await caller.send(QUIET, 1.0)
        await caller.send(LOUD, 0.6)  # a question
        await caller.hears(45)
        await caller.send(QUIET, 1.5)
        await caller.send(LOUD, 0.4)  # another one
        await caller.hears(15)
        await caller.send(LOUD, 0.4)  # over the answer
        await caller.hears(20)
        listening.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
