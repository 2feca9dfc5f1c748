"""Bad requests, so many a second: `python flood.py PORT RATE SECONDS`, once for each line of stdin: `PATH FROM`.

Prints the answers by status, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

CLIENT = "0123456789abcdef0123456789abcdef"
AT_A_TIME = 16
BAD = (
    b"{",
    b"\x00" * 500,
    b"[" * 20_000,
    b"x" * 70_000,
    json.dumps({"version": 3, "client": CLIENT, "number": 1, "sent_ms": 1000.0}).encode(),
    json.dumps({"version": 1, "client": CLIENT, "number": 1, "sent_ms": 1.0, "turns": [{"turn": 1}] * 900}).encode(),
)


async def send(port: int, path: str, source: str, body: bytes) -> str:
    """Make one request on a connection of its own, and return the status of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        writer.write(head.encode() + body)
        return (await reader.readline()).split()[1].decode()
    except (ConnectionError, IndexError):
        return "cut"  # refused before the whole body was there
    finally:
        writer.close()


async def flood(port: int, path: str, source: str, rate: float, seconds: float) -> Counter[str]:
    """Send from so many tasks, each in its rhythm, none before its last answer."""
    answers: Counter[str] = Counter()
    begin = time.monotonic()

    async def one(first: int) -> None:
        for number in range(first, round(rate * seconds), AT_A_TIME):
            await asyncio.sleep(begin + number / rate - time.monotonic())
            answers[await send(port, path, source, BAD[number % len(BAD)])] += 1

    await asyncio.gather(*(one(first) for first in range(AT_A_TIME)))
    return answers


def main() -> None:
    port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    for line in sys.stdin:
        path, source = line.split()
        print(json.dumps(asyncio.run(flood(port, path, source, rate, seconds))), flush=True)


if __name__ == "__main__":
    main()
