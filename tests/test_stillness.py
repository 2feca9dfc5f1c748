"""The watch over the machine notices that it stood still, and nothing else."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from tests import stillness
from tests.children import children

if TYPE_CHECKING:
    import psutil


def watching() -> list[psutil.Process]:
    """The watches of this process; other tests may have left children of their own."""
    return children(stillness.__file__)


def frozen(seconds: float) -> None:
    """Stop the watching process, as a machine that stands still would."""
    (watch,) = watching()
    watch.suspend()
    time.sleep(seconds)
    watch.resume()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may watch before everything that is busy")
def test_what_is_measured_on_a_machine_that_stands_still_is_measured_again() -> None:
    """An attempt in which the machine stood still is not counted; the next one is."""
    attempts: list[int] = []

    def measure() -> int:
        attempts.append(len(attempts) + 1)
        time.sleep(0.1)
        if len(attempts) == 1:
            frozen(0.2)
        time.sleep(0.1)
        return attempts[-1]

    assert stillness.steadily(measure) in (2, 3)


def test_an_error_in_what_is_measured_is_not_hidden() -> None:
    """What fails by itself fails at once, and leaves no watch behind."""
    with pytest.raises(ZeroDivisionError):
        stillness.steadily(lambda: 1 // 0)
    assert watching() == []
