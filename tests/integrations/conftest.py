"""What leaves a process: the exporters that stand behind voicespan's own processors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .leaving import Leaving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def leaving() -> Iterator[Leaving]:
    """Providers whose spans and log records are exported twice: as by default, and where content is wanted."""
    made = Leaving()
    yield made
    made.end()
