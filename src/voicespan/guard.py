"""Nothing of ours raises into a service: what goes wrong in a mark is counted, and said once a minute."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

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
    code = getattr(method, "__code__", None)
    if code is not None and code.co_varnames[: code.co_argcount] == ("self", "at") and not code.co_kwonlyargcount:
        return cast("Callable[P, R]", _guarded_mark(method))

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            swallowed(method.__qualname__, error)
            return None  # type: ignore[return-value]

    return call


def _guarded_mark(method: Callable[..., R]) -> Callable[..., R]:
    """Do as `guarded` for what takes a time only: handing on any arguments costs as much as a mark does."""

    @functools.wraps(method)
    def call(self: object, at: int | None = None) -> R:
        try:
            return method(self, at)
        except Exception as error:
            swallowed(method.__qualname__, error)
            return None  # type: ignore[return-value]

    return call
