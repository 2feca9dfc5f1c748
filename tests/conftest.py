"""Tests run side by side, except those marked `alone`: the others would disturb them, or they the others."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - before any provider is made, see voicespan.sdk.providers
import fcntl
import json
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

_REDIS = "redis-server"


KINDS = ("e2e", "", "alone")
"""In which order files come, by the mark of all of their tests: both processes shall want the same kind at a time."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Share the machine with the other processes of the run, or wait until nobody else uses it.

    This is outside of pytest-timeout: waiting does not count. Who waits keeps the turnstile, and so is not overtaken.
    Locks of `lockf` are this process's alone: the child of a fork that a test leaves behind has none.
    """
    folder = item.config.cache.mkdir("machine")
    alone = item.get_closest_marker("alone") is not None
    with (folder / "machine").open("w+") as machine:
        with (folder / "turnstile").open("w+") as turnstile:
            fcntl.lockf(turnstile, fcntl.LOCK_EX)
            fcntl.lockf(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        return (yield)


@pytest.hookimpl(trylast=True)  # after pytest-randomly, which keeps the order within a file
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, which xdist must not order anew; tell the report which requirements a test proves."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    items[:] = [item for tests in sorted(files.values(), key=_place) for item in tests]
    for item in items:
        ids = {name for mark in item.iter_markers("covers") for name in mark.args}
        item.user_properties += [("covers", name) for name in sorted(ids)]
        item.user_properties += [("fault", json.dumps(mark.args)) for mark in item.iter_markers("failure")]


def _place(tests: list[pytest.Item]) -> tuple[int, int]:
    """Where a file comes: by what all of its tests are, then the one with the most tests first."""
    kind = next((each for each in KINDS if each and all(test.get_closest_marker(each) for test in tests)), "")
    return KINDS.index(kind), -len(tests)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """What a test marked `failure` has measured: `make failures` writes it into docs/failures.md."""
    return Measured(request.node)


class Measured:
    """Takes what was measured while something was wrong, each in a few words; later words replace earlier ones."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._said: dict[str, str] = {}

    def __call__(
        self,
        *,
        call: str | None = None,
        block_ms: float | None = None,
        memory_mb: float | None = None,
        lost: str | None = None,
    ) -> None:
        """Keep whether the call went on, the loop's longest block, the growth of memory, and what was lost."""
        said = {
            "call": call,
            "block": None if block_ms is None else f"{block_ms:.0f} ms",
            "memory": None if memory_mb is None else f"{max(0.0, memory_mb):.1f} MB",
            "lost": lost,
        }
        self._said |= {name: words for name, words in said.items() if words is not None}
        kept = [each for each in self._item.user_properties if each[0] != "measured"]
        self._item.user_properties[:] = [*kept, ("measured", json.dumps(self._said))]


def _redis_server() -> str:
    """Return the program; a test that lacks it is skipped, and fails where CI says that it must not be missing."""
    program = shutil.which(_REDIS)
    if program is None:
        reason = f"{_REDIS} is not installed (apt-get install {_REDIS})"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


@pytest.fixture(name="free_port")
def _free_port() -> int:
    """Return a port on which nobody listens."""
    return free_port()


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real Redis server that keeps nothing."""
    program, folder = _redis_server(), tmp_path_factory.mktemp("redis")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([*command, "--dir", str(folder)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 10
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "redis.log").read_text())
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True
