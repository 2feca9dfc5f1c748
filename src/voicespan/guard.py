"""Nothing of ours raises into a service: what goes wrong in a mark is counted, and said once a minute."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from voicespan import diagnostics

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def swallowed(where: str, error: BaseException) -> None:
    """Count and say an exception of ours instead of raising it; `where` names the mark that failed."""
    diagnostics.counters.add("internal_error")
    diagnostics.say(f"internal_error.{where}", f"{where} failed and was skipped: {type(error).__name__}: {error}")


def guarded(method: Callable[P, R]) -> Callable[P, R]:
    """Let a mark do nothing, and return None, where it would have raised."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            swallowed(method.__qualname__, error)
            return None  # type: ignore[return-value]

    return call
