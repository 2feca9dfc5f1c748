"""One process of the demo: `python -m voicespan.demo.serve ROLE ...`. It ends when whoever started it is gone.

The supervisor holds the other end of standard input: when that closes, for whatever reason, this process stops.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path

from voicespan.demo import scenarios

_GRACE_S = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process of one role; return its exit status."""
    options = _parser().parse_args(arguments)
    if options.lifeline:
        threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    return {"worker": _worker, "model": _model, "orchestrator": _orchestrator, "caller": _caller}[options.role](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m voicespan.demo.serve", description=__doc__)
    parser.add_argument("role", choices=["worker", "model", "orchestrator", "caller"])
    parser.add_argument("--port", type=int, default=0, help="port to listen on, or to call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lifeline", action="store_true", help="end when standard input closes")
    parser.add_argument("--scenarios", default=",".join(scenario.name for scenario in scenarios.SCENARIOS))
    parser.add_argument("--recording", type=Path, default=None)
    return parser


def _worker(options: argparse.Namespace) -> int:
    from voicespan.demo import worker

    return _run(worker.serve(options.port, options.seed))


def _model(options: argparse.Namespace) -> int:
    from voicespan.demo import model

    return _serve_http(model.app(options.seed), options.port)


def _orchestrator(options: argparse.Namespace) -> int:
    return _serve_http("voicespan.demo.orchestrator:app", options.port)


def _caller(options: argparse.Namespace) -> int:
    from websockets.exceptions import InvalidHandshake

    from voicespan.demo import caller

    names = options.scenarios.split(",")
    url = f"ws://127.0.0.1:{options.port}/call"
    try:
        return _run(caller.run(url, names, seed=options.seed, recording=options.recording))
    except (caller.CallFailed, InvalidHandshake, OSError) as error:
        sys.stderr.write(f"the call failed: {error}\n")
        return 1


def _serve_http(app: object, port: int) -> int:
    import uvicorn

    uvicorn.run(
        app,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
    )
    return 0


def _run(work: Coroutine[object, object, None]) -> int:
    """Run until done or until SIGTERM, which cancels it."""

    async def cancellable() -> None:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await task

    try:
        asyncio.run(cancellable())
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 0
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
