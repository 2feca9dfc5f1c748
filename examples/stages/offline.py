"""The service and one call to it, in one process: `voicespan run -- python offline.py`."""

import asyncio

import caller
import uvicorn


async def main() -> None:
    server = uvicorn.Server(uvicorn.Config("voicebot.app:app", port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    await caller.main(f"ws://127.0.0.1:{port}/calls/call-7")
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main())
