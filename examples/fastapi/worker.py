"""The speech worker: a gRPC service around a synthesizer (here a stand-in that takes its time)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

FRAME = bytes(640)
FIRST_AFTER_S = 0.08


async def synthesize(text: bytes, _context: Any) -> AsyncIterator[bytes]:
    """Speak: a quarter of a second for each word."""
    await asyncio.sleep(FIRST_AFTER_S)
    for _ in range(12 * len(text.split())):
        yield FRAME


async def main(port: int) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server()
    methods = {"Synthesize": grpc.unary_stream_rpc_method_handler(synthesize)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Speech", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
