"""Garbage collection, held while a process starts."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def held() -> Iterator[None]:
    """Hold it: modules are many objects that all stay; looking through them is a tenth of a start."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if hasattr(gc, "freeze") and not gc.get_freeze_count():  # else somebody has frozen objects, and means it
                gc.freeze()
                gc.unfreeze()  # now they are of the oldest generation, as they would soon be, and nobody looked
            gc.enable()
