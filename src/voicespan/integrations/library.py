"""What the integrations of libraries share: they wait for their library, and stand in OpenTelemetry's place."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from voicespan import hooked
from voicespan.diagnostics import say
from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import ModuleType


_FLAG = "_is_instrumented_by_opentelemetry"


class LibraryInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Wraps functions of a library once the service has imported it, and imports nothing of it before."""

    requirement: ClassVar[str]
    """The versions whose functions are known."""
    functions: ClassVar[dict[str, tuple[str, ...]]]
    """What is wrapped: functions and methods, by their module."""
    stock: ClassVar[tuple[str, str]]
    """Module and class of OpenTelemetry's own instrumentor, which has nothing left to do."""

    def __init__(self) -> None:
        self.on: bool = getattr(self, "on", False)  # there is one instance, which is initialised at every call
        self._waiting: bool = getattr(self, "_waiting", False)

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions whose functions are known."""
        return (self.requirement,)

    def around(self, name: str) -> Callable[..., Any]:
        """Return what stands around a function, in wrapt's form. Called when its module is there."""
        raise NotImplementedError

    def _instrument(self, **kwargs: Any) -> None:
        if self._is_taken():
            return
        self.on = True
        if not self._waiting:
            self._waiting = True
            for module in self.functions:
                wrapt.register_post_import_hook(self._install, module)
            wrapt.register_post_import_hook(self._take_the_place, self.stock[0])

    def _uninstrument(self, **kwargs: Any) -> None:
        self.on = False

    def _install(self, module: ModuleType) -> None:
        """Wrap the functions of a module. Never raises: an import of the service would fail."""
        try:
            names = self.functions[module.__name__]
            missing = [name for name in names if not callable(_attribute(module, name))]
            distribution, version = named(self.requirement)
            if missing:
                say(
                    f"hooks.{module.__name__}",
                    f"{distribution} {version} is not instrumented, and the service runs on without its spans: this "
                    f"version has no {', '.join(f'{module.__name__}.{name}' for name in missing)}",
                )
                hooked.moved(distribution, version)
                return
            for name in names:
                wrapt.wrap_object(module, name, partial(self._wrapped, name))
            hooked.library(distribution, version)
        except Exception as error:
            swallowed(module.__name__, error)

    def _is_taken(self) -> bool:
        """Whether OpenTelemetry's instrumentor was there first: where another distribution loads all that it finds."""
        stock = getattr(sys.modules.get(self.stock[0]), self.stock[1], None)
        instance = getattr(stock, "_instance", None)
        return instance is not None and bool(vars(instance).get(_FLAG))

    def _wrapped(self, name: str, function: Any) -> Any:
        return wrapt.FunctionWrapper(function, self.around(name), enabled=lambda: self.on)

    def _take_the_place(self, module: ModuleType) -> None:
        """Let OpenTelemetry's instrumentor believe that it has done its work, also where the service calls it."""
        stock = getattr(module, self.stock[1], None)
        if stock is not None:
            setattr(stock, _FLAG, True)  # it warns and does nothing


def _attribute(module: ModuleType, name: str) -> object:
    found: Any = module
    for step in name.split("."):
        found = getattr(found, step, None)
    return found


def named(requirement: str) -> tuple[str, str]:
    """Return the distribution that a requirement is about, and its version here."""
    distribution = re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]
    try:
        return distribution, importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return distribution, "of unknown version"
