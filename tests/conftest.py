"""Tests marked `e2e` measure in real time: they have the machine to themselves, also when tests run side by side."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Share the machine with the other processes of the run, or wait until nobody else uses it.

    This is outside of pytest-timeout: waiting does not count. Who waits keeps the turnstile, and so is not overtaken.
    """
    folder = item.config.cache.mkdir("machine")
    alone = item.get_closest_marker("e2e") is not None
    with (folder / "machine").open("w") as machine:
        with (folder / "turnstile").open("w") as turnstile:
            fcntl.flock(turnstile, fcntl.LOCK_EX)
            fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        return (yield)
