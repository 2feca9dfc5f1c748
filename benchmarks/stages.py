"""What a stage map adds to one call of a mapped function, on the calling thread; printed as JSON.

Each kind of hook is timed beside the same function unmapped, in turns, in one process. The floor is an empty
wrapper of wrapt.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import sys
import time
import types
from typing import TYPE_CHECKING, Any

import wrapt

import voicespan
from voicespan.stagemap.document import parse
from voicespan.stagemap.install import install

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROUNDS = 200
CALLS = 40
FRAME = bytes(640)
SOURCE = """
async def stream(prompt):
    for _ in range(20):
        yield "token"

async def finish():
    return "text"

def send_audio(frame):
    pass

def tool(city):
    return "sunny"
"""
MAP = {
    "stages": {"llm": "{}:stream", "asr": "{}:finish", "tool": "{}:tool"},
    "playback": {"frame": "{}:send_audio"},
}


def module(name: str) -> Any:
    """Make a module of the service under this name."""
    made = types.ModuleType(name)
    exec(SOURCE, made.__dict__)
    sys.modules[name] = made
    return made


def passing(wrapped: Callable[..., Any], _instance: Any, args: Any, kwargs: Any) -> Any:
    """Do nothing but call."""
    return wrapped(*args, **kwargs)


async def take(source: AsyncIterator[str]) -> None:
    """Take every item."""
    async for _ in source:
        pass


async def use(service: Any) -> dict[str, float]:
    """Return microseconds of one call of each function."""
    found = {}
    for name, call in {
        "frame": lambda: service.send_audio(FRAME),
        "tool": lambda: service.tool("Rome"),
    }.items():
        begin = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        found[name] = (time.perf_counter_ns() - begin) / CALLS / 1000
    for name, make in {"asr": service.finish, "llm_of_20_tokens": lambda: take(service.stream("x"))}.items():
        begin = time.perf_counter_ns()
        for _ in range(CALLS // 4):
            await make()
        found[name] = (time.perf_counter_ns() - begin) / (CALLS // 4) / 1000
    return found


async def measure() -> dict[str, dict[str, float]]:
    """Return the least time of each kind over all rounds, plain, through an empty wrapper, and mapped."""
    plain, empty, mapped = module("plain_service"), module("empty_service"), module("mapped_service")
    for name in ("stream", "finish", "send_audio", "tool"):
        wrapt.wrap_function_wrapper(empty, name, passing)
    install(parse(json.loads(json.dumps(MAP).replace("{}:", "mapped_service:"))))
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "empty wrapper": [], "mapped": []}
    for _ in range(ROUNDS):
        rounds["plain"].append(await use(plain))
        rounds["empty wrapper"].append(await use(empty))
        with voicespan.session() as session:
            turn = session.user_turn(input="text")
            rounds["mapped"].append(await use(mapped))
            turn.end()
    return {
        how: {kind: round(statistics.median(each[kind] for each in found), 2) for kind in found[0]}
        for how, found in rounds.items()
    }


if __name__ == "__main__":
    microseconds = asyncio.run(measure())
    added = {
        kind: round(microseconds["mapped"][kind] - microseconds["plain"][kind], 2) for kind in microseconds["plain"]
    }
    print(json.dumps({"python": platform.python_version(), "microseconds": microseconds, "added": added}, indent=2))
