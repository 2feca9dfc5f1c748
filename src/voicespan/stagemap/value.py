"""Values of a stage map: a constant, or a path into the arguments, the object, the result or an item of a call."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Callable

_PATH = re.compile(r"(arg|self|result|item)((?:\.[\w-]+)*)")
MISSING = object()
"""What a path leads to where there is nothing."""


@dataclass(slots=True)
class Call:
    """One call of a wrapped function, as the paths see it."""

    names: Mapping[str, int]
    """Position of each parameter, without `self`."""
    defaults: Mapping[str, Any]
    instance: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any = MISSING
    item: Any = MISSING

    def argument(self, name: str) -> Any:
        """Return an argument by name or position; MISSING where the call has none."""
        if name in self.kwargs:
            return self.kwargs[name]
        position = int(name) if name.isdigit() else self.names.get(name, len(self.args))
        if position < len(self.args):
            return self.args[position]
        return self.defaults.get(name, MISSING)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is known of a function's parameters before it is called."""

    names: Mapping[str, int] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., Any], *, bound: bool) -> Parameters:
        """Read a function's signature; `bound`: its first parameter is filled by the object it is called on."""
        try:
            parameters = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
        except (TypeError, ValueError):  # built-in: positions only
            return cls()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return cls(
            {each.name: index for index, each in enumerate(parameters) if each.kind in positional},
            {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty},
        )


@dataclass(frozen=True, slots=True)
class Path:
    """`arg.call_id`, `self.model`, `result.usage.total_tokens`, `item.0`."""

    root: str
    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Path | None:
        """Return the path; None where the text is none."""
        match = _PATH.fullmatch(text)
        return None if match is None else cls(match[1], tuple(match[2].split(".")[1:]))

    def __str__(self) -> str:
        return ".".join((self.root, *self.steps))

    def read(self, call: Call) -> Any:
        """Follow the path; MISSING where it leads nowhere, which a property that raises does too."""
        steps = self.steps
        if self.root == "arg":
            if not steps:
                return MISSING
            found, steps = call.argument(steps[0]), steps[1:]
        else:
            found = {"self": call.instance, "result": call.result, "item": call.item}[self.root]
        for step in steps:
            if found is MISSING or found is None:
                return MISSING
            try:
                found = _below(found, step)
            except Exception as error:
                swallowed(f"stage map: {self}", error)
                return MISSING
        return found


def _below(found: Any, step: str) -> Any:
    if isinstance(found, Mapping):
        return found.get(step, MISSING)
    if step.isdigit() and isinstance(found, Sequence):
        return found[int(step)] if int(step) < len(found) else MISSING
    return getattr(found, step, MISSING)


Value = Path | str | int | float | bool
"""A path, or the value itself."""


def value(given: str | float | bool) -> Value:
    """Return what a value of the file means."""
    return (Path.parse(given) or given) if isinstance(given, str) else given


def read(given: Value | None, call: Call) -> Any:
    """Return the value for this call; None where there is none."""
    found = given.read(call) if isinstance(given, Path) else given
    return None if found is MISSING else found


def matches(found: Any, wanted: Any) -> bool:
    """Return whether a value is the wanted one, or one of them; a member of an enum counts by name and by value."""
    if isinstance(wanted, list):
        return any(matches(found, each) for each in wanted)
    if found is MISSING:
        return wanted is None
    if isinstance(found, enum.Enum):
        return wanted in (found.name, found.value)
    return bool(found == wanted)
