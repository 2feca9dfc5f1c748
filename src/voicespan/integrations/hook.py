"""Functions of a framework that are followed, by their qualified names: one that has moved is said by its name."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import wrapt

from voicespan.diagnostics import say
from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Hook:
    """One function of a framework and what takes its place, in wrapt's form."""

    module: str
    name: str
    wrapper: Callable[[Callable[..., Any], Any, Args, Kwargs], Any]

    def place(self) -> tuple[Any, str] | None:
        """Return the object that has the function, and the function's name; None where it has moved."""
        try:
            owner: Any = importlib.import_module(self.module)
        except ImportError:
            return None
        *path, name = self.name.split(".")
        for step in path:
            owner = getattr(owner, step, None)
        return (owner, name) if callable(getattr(owner, name, None)) else None


class Hooks:
    """All hooks of one distribution: they are put in place together, or not at all."""

    def __init__(self, distribution: str, *hooks: Hook) -> None:
        self.distribution = distribution
        self.hooks = hooks
        self._installed: list[tuple[Any, str, bool]] = []

    def install(self) -> bool:
        """Put every hook in place; return whether that was done now.

        Where the framework has moved one, nothing is hooked and that is said: half is wrong.
        """
        if self._installed:
            return False
        version = importlib.metadata.version(self.distribution)
        places = [(hook, hook.place()) for hook in self.hooks]
        moved = [f"{hook.module}.{hook.name}" for hook, place in places if place is None]
        if moved:
            say(
                self.distribution,
                f"{self.distribution} {version} is not instrumented, and the service runs on without its turns: "
                f"this version has no {', '.join(moved)}",
            )
            return False
        for hook, place in places:
            if place is not None:
                owner, name = place
                own = name in vars(owner)
                wrapt.wrap_function_wrapper(owner, name, hook.wrapper)
                self._installed.append((owner, name, own))
        say(f"{self.distribution}.hooked", f"{self.distribution} {version} is hooked", level="debug")
        return True

    def remove(self) -> None:
        """Take every hook away again."""
        while self._installed:
            owner, name, own = self._installed.pop()
            if own:
                wrapped = vars(owner)[name]
                setattr(owner, name, getattr(wrapped, "__wrapped__", wrapped))
            else:
                delattr(owner, name)  # it was inherited


@contextmanager
def quiet(where: str) -> Iterator[None]:
    """Let what is of ours fail without a word to the service."""
    try:
        yield
    except Exception as error:
        swallowed(where, error)
