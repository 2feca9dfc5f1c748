"""What the tests of the local viewer share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voicespan.local.server import Receiver

from .pages import ARGUMENTS, CHROMIUM
from .plain import Stored, some_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver with an empty store of its own."""
    with Receiver(port=0) as started:
        yield started


@pytest.fixture(scope="module")
def stored() -> Iterator[Stored]:
    """A store with 150 different turns of several runs, and the same turns as their raw spans tell them."""
    with some_runs(150, seed=3) as made:
        yield made
