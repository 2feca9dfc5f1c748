"""Functions of a framework that are followed, by their qualified names: one that has moved is said by its name."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import wrapt

from voicespan import hooked
from voicespan.diagnostics import say
from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Attributes = tuple[str, str, tuple[str, ...]]
"""What is read of a framework's objects: the module and the class, and the names of the attributes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Hook:
    """One function of a framework and what takes its place, in wrapt's form."""

    module: str
    name: str
    wrapper: Callable[[Callable[..., Any], Any, Args, Kwargs], Any]
    needs: tuple[str, ...] = ()
    """Parameters that the wrapper reads: one that was renamed is a hook that has moved."""
    inherited: bool = False
    """The function may be one of a base class. Otherwise that is another one, left when the class's own has moved."""

    def moved(self) -> str | None:
        """Return what this version does not have; None where the hook can be placed."""
        name, place = f"{self.module}.{self.name}", self.place()
        if place is None:
            return name
        if not self.needs:
            return None
        parameters = inspect.signature(getattr(*place)).parameters
        gone = [each for each in self.needs if each not in parameters]
        return f"{name}({', '.join(gone)})" if gone else None

    def place(self) -> tuple[Any, str] | None:
        """Return the object that has the function, and the function's name; None where it has moved."""
        try:
            owner: Any = importlib.import_module(self.module)
        except ImportError:
            return None
        *path, name = self.name.split(".")
        for step in path:
            owner = getattr(owner, step, None)
        if isinstance(owner, type) and not self.inherited and name not in vars(owner):
            return None
        return (owner, name) if callable(getattr(owner, name, None)) else None


class Hooks:
    """All hooks of one distribution: they are put in place together, or not at all.

    `requirement` is the distribution with the versions that are known, `onset` what a turn begins with where turns come
    of the hooks, in the framework's words, `attributes` what the hooks read of its objects.
    """

    def __init__(
        self,
        requirement: str,
        *hooks: Hook,
        onset: str | None = None,
        attributes: Sequence[Attributes] = (),
    ) -> None:
        self.requirement = requirement
        self.distribution = requirement.split(maxsplit=1)[0]
        self.hooks = hooks
        self.onset = onset
        self.attributes = attributes
        self._installed: list[tuple[Any, str, bool]] = []

    @property
    def version(self) -> str:
        """The version that is installed."""
        return importlib.metadata.version(self.distribution)

    def source(self) -> hooked.Source:
        """Return what counts the sessions and turns that come of these hooks."""
        return hooked.source(self.distribution, self.version, self.onset or "")

    def install(self) -> bool:
        """Put every hook in place; return whether that was done now.

        Where the framework has moved one, nothing is hooked and that is said: half is wrong.
        """
        if self._installed:
            return False
        version = self.version
        moved = [name for hook in self.hooks if (name := hook.moved()) is not None] + missing(self.attributes)
        if moved:
            say(
                self.distribution,
                f"{self.distribution} {version} is not instrumented, and the service runs on without its turns: "
                f"this version has no {', '.join(moved)}",
            )
            hooked.moved(self.distribution, version)
            return False
        if not self._is_known(version):
            say(
                f"{self.distribution}.version",
                f"{self.distribution} {version} is not known (known: {self.requirement}): its turns may not be right",
            )
        for hook in self.hooks:
            if (place := hook.place()) is not None:
                owner, name = place
                own = name in vars(owner)
                wrapt.wrap_function_wrapper(owner, name, hook.wrapper)
                self._installed.append((owner, name, own))
        if self.onset is None:
            hooked.library(self.distribution, version)
        else:
            self.source()
        say(f"{self.distribution}.hooked", f"{self.distribution} {version} is hooked", level="debug")
        return True

    def _is_known(self, version: str) -> bool:
        from packaging.requirements import Requirement

        return version in Requirement(self.requirement).specifier

    def remove(self) -> None:
        """Take every hook away again."""
        while self._installed:
            owner, name, own = self._installed.pop()
            if own:
                wrapped = vars(owner)[name]
                setattr(owner, name, getattr(wrapped, "__wrapped__", wrapped))
            else:
                delattr(owner, name)  # it was inherited


def missing(attributes: Sequence[Attributes]) -> list[str]:
    """Return the attributes that the classes of this version neither have nor mention in their methods."""
    gone = []
    for module, kind, names in attributes:
        owner = getattr(importlib.import_module(module), kind, None)
        there = set() if owner is None else set(_mentioned(owner))
        gone += [f"{module}.{kind}.{name}" for name in names if name not in there and not hasattr(owner, name)]
    return gone


def _mentioned(kind: type) -> Iterator[str]:
    """Yield the fields of a class, and the attributes that its methods get or set (most in `__init__`)."""
    for each in kind.__mro__:
        yield from vars(each).get("__annotations__", ())
        for function in vars(each).values():
            code = getattr(function, "__code__", None)
            if code is not None:
                yield from code.co_names


@contextmanager
def quiet(where: str) -> Iterator[None]:
    """Let what is of ours fail without a word to the service."""
    try:
        yield
    except Exception as error:
        swallowed(where, error)
