"""The libraries that such services are made of, and who instruments each: once, and when it is there."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import wrapt
from opentelemetry.util._importlib_metadata import entry_points

from voicespan import hooked
from voicespan.diagnostics import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from importlib.metadata import Distribution

    from opentelemetry.util._importlib_metadata import EntryPoint

GROUP = "opentelemetry_instrumentor"
DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
ALL = "*"
_OURS = "voicespan."
_STOCK = "opentelemetry-instrumentation"
_OFFICIAL = "opentelemetry.instrumentation."
_NO_SPAN_PER_PART: dict[str, Any] = {"exclude_spans": ["receive", "send"]}


class State(NamedTuple):
    """What becomes of a library, in words; `remedy` where that is not what one would want."""

    message: str
    remedy: str = ""


class Library(NamedTuple):
    """A library: the names of its entry points, its distribution, and what brings its instrumentation.

    `module` is imported by whoever uses the library: OpenTelemetry's instrumentation, which imports all of it, waits
    for that.
    """

    names: tuple[str, ...]
    distribution: str
    module: str
    comes_with: str = "voicespan"
    options: Mapping[str, Any] = MappingProxyType({})
    below: str | None = None
    """A framework on top of it, with which it is instrumented."""

    def examined(self) -> State | None:
        """Return who instruments the library in this environment, or why nobody does; None where it is not there."""
        found = version(self.distribution)
        if found is None:
            return None
        title = f"{self.distribution} {found}"
        entries = [entry for name in self.names for entry in installed().get(name, ()) if entry.value == chosen(name)]
        if not entries:
            if self.below is not None and version(self.below) is not None:
                return None
            if only_ours(self.distribution):
                return State(f"{title} is there for voicespan itself: a service's own use of it makes no spans")
            return State(
                f"{title} is not instrumented: its instrumentation is not installed",
                f"pip install '{self.comes_with}'",
            )
        left_out = [name for name in self.names if name in disabled()]
        if len(left_out) == len(self.names):
            return State(f"{title} is not instrumented: {DISABLED} names {', '.join(left_out)}")
        conflict = _conflict(entries[0])
        if conflict is not None:
            return State(f"{title} is not instrumented: {conflict}", f"install {self.distribution} in that range")
        but = f", but for {', '.join(left_out)} ({DISABLED})" if left_out else ""
        return State(f"{title} by {_who(entries[0])}{but}")


LIBRARIES = (
    Library(("livekit",), "livekit-agents", "livekit.agents"),
    Library(("pipecat",), "pipecat-ai", "pipecat"),
    Library(("grpc_client", "grpc_server", "grpc_aio_client", "grpc_aio_server"), "grpcio", "grpc"),
    Library(("redis",), "redis", "redis"),
    Library(("fastapi",), "fastapi", "fastapi", "voicespan[fastapi]", _NO_SPAN_PER_PART),
    Library(
        ("starlette",),
        "starlette",
        "starlette",
        "opentelemetry-instrumentation-starlette",
        _NO_SPAN_PER_PART,
        "fastapi",
    ),
    Library(("httpx",), "httpx", "httpx", "voicespan[http]"),
    Library(("httpx2",), "httpx2", "httpx2", "voicespan[http]"),
    Library(("aiohttp-client",), "aiohttp", "aiohttp", "voicespan[http]"),
    Library(("requests",), "requests", "requests", "voicespan[http]"),
    Library(("openai_voice", "openai"), "openai", "openai"),
    Library(("openai_agents_voice",), "openai-agents", "agents"),
)

_BY_NAME = {name: library for library in LIBRARIES for name in library.names}


@cache
def installed() -> dict[str, tuple[EntryPoint, ...]]:
    """Return the instrumentors that are installed, by the name of their entry point."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def chosen(name: str) -> str | None:
    """Return which of the instrumentors of one name is loaded: ours, else OpenTelemetry's, else the first."""
    values = [entry.value for entry in installed().get(name, ())]
    for prefix in (_OURS, _OFFICIAL, ""):
        for value in values:
            if value.startswith(prefix):
                return value
    return None


def disabled() -> set[str]:
    """Return the names that the environment leaves out; `*` is all of them."""
    return {name.strip() for name in os.environ.get(DISABLED, "").split(",") if name.strip()}


def fix_stock() -> None:
    """Mend what OpenTelemetry's instrumentations lack, when they are imported."""
    wrapt.register_post_import_hook("voicespan.integrations.asgi:install", "opentelemetry.instrumentation.asgi")


def when_imported(entry: EntryPoint, load: Callable[[Mapping[str, Any]], None]) -> None:
    """Load an instrumentor of OpenTelemetry when its library is imported, and any other one now."""
    library = _BY_NAME.get(entry.name)
    if library is None or entry.value.startswith(_OURS):
        load({})
    elif library.module in sys.modules:
        load(library.options)
        _note(library)
    else:
        wrapt.register_post_import_hook(_Late(entry, library, load), library.module)


def check(entry: EntryPoint) -> None:
    """Raise where somebody else's instrumentor does not take the version of its library; ours look themselves.

    Raises:
        DependencyConflictError: with what it takes.

    """
    from opentelemetry.instrumentation import dependencies

    if entry.dist is None or entry.value.startswith(_OURS):
        return
    conflict = dependencies.get_dist_dependency_conflicts(entry.dist)
    if conflict is not None:
        raise dependencies.DependencyConflictError(conflict)


_under_way = threading.local()


class _Late:
    """Loads an instrumentor. Never raises: an import of the service would fail."""

    def __init__(self, entry: EntryPoint, library: Library, load: Callable[[Mapping[str, Any]], None]) -> None:
        self._entry = entry
        self._library = library
        self._load = load

    def __call__(self, _module: object) -> None:
        # An instrumentation may import a second library whose own one is in the same, half-imported module.
        waiting: list[_Late] | None = getattr(_under_way, "waiting", None)
        if waiting is not None:
            waiting.append(self)
            return
        _under_way.waiting = queue = [self]
        try:
            while queue:
                queue.pop(0).run()
        finally:
            _under_way.waiting = None

    def run(self) -> None:
        """Load it now."""
        try:
            self._load(self._library.options)
            _note(self._library)
        except ModuleNotFoundError as error:  # of no interest, as to OpenTelemetry's own loader
            say(f"late.{self._entry.name}", f"{self._entry.name} is not instrumented: {error}", level="debug")
        except Exception as error:
            found = version(self._library.distribution)
            say(
                f"late.{self._entry.name}",
                f"{self._library.distribution} {found} is not instrumented, and the "
                f"service runs on without its spans: {type(error).__name__}: {error}",
                level="debug" if found is None else "warning",  # a module of that name, but of another package
            )


def _conflict(entry: EntryPoint) -> str | None:
    """Return why an instrumentor does not take the version of its library."""
    from opentelemetry.instrumentation.dependencies import get_dependency_conflicts, get_dist_dependency_conflicts

    if entry.value.startswith(_OURS):
        found = get_dependency_conflicts(entry.load()().instrumentation_dependencies())
    elif entry.dist is None:
        return None
    else:
        found = get_dist_dependency_conflicts(entry.dist)
    if found is None:
        return None
    wanted = found.required or ", ".join(str(each) for each in found.required_any or ())
    return f"its instrumentation is made for {str(wanted).partition(';')[0].strip()}"


def _who(entry: EntryPoint) -> str:
    if entry.dist is None:
        return entry.value
    return f"{entry.dist.metadata['Name']} {entry.dist.version}"


def _note(library: Library) -> None:
    hooked.library(library.distribution, version(library.distribution) or "")


def version(distribution: str) -> str | None:
    """Return the version that is installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def only_ours(distribution: str) -> bool:
    """Whether a library is there for voicespan or OpenTelemetry alone: nobody has asked for it, or requires it."""
    import importlib.metadata

    from packaging.utils import canonicalize_name

    name = canonicalize_name(distribution)
    for other in importlib.metadata.distributions():
        owner = canonicalize_name(other.metadata["Name"] or "")
        if owner == name and other.read_text("REQUESTED") is not None:
            return False
        if owner != "voicespan" and not owner.startswith("opentelemetry-") and name in _required(other):
            return False
    return True


def _required(distribution: Distribution) -> set[str]:
    """The distributions that this one needs, without its extras."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    found = set()
    for each in distribution.requires or ():
        with contextlib.suppress(InvalidRequirement):
            requirement = Requirement(each)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                found.add(str(canonicalize_name(requirement.name)))
    return found


def unknown() -> Iterator[str]:
    """Yield the names of instrumentors of other libraries, which are loaded as they are."""
    yield from sorted(name for name in installed() if name not in _BY_NAME)
