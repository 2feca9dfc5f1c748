"""The libraries that such services are made of, and who instruments each: once, and when it is there."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry.util._importlib_metadata import entry_points

from voicespan import hooked
from voicespan.diagnostics import say
from voicespan.integrations import asgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.util._importlib_metadata import EntryPoint

GROUP = "opentelemetry_instrumentor"
DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
ALL = "*"
_OURS = "voicespan."
_OFFICIAL = "opentelemetry.instrumentation."
_NO_SPAN_PER_PART: dict[str, Any] = {"exclude_spans": ["receive", "send"]}


@dataclass(frozen=True, slots=True)
class Library:
    """A library: the names of its entry points, its distribution, and the extra that brings its instrumentation.

    `module` is imported by whoever uses the library: OpenTelemetry's instrumentation, which imports all of it, waits
    for that. Without an extra the instrumentation is part of this package.
    """

    names: tuple[str, ...]
    distribution: str
    module: str
    extra: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


LIBRARIES = (
    Library(("livekit",), "livekit-agents", "livekit.agents"),
    Library(("pipecat",), "pipecat-ai", "pipecat"),
    Library(("grpc_client", "grpc_server", "grpc_aio_client", "grpc_aio_server"), "grpcio", "grpc"),
    Library(("redis",), "redis", "redis"),
    Library(("fastapi",), "fastapi", "fastapi", "fastapi", _NO_SPAN_PER_PART),
    Library(("starlette",), "starlette", "starlette", "starlette", _NO_SPAN_PER_PART),
    Library(("httpx",), "httpx", "httpx", "http"),
    Library(("aiohttp-client",), "aiohttp", "aiohttp", "http"),
    Library(("requests",), "requests", "requests", "http"),
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
    wrapt.register_post_import_hook(asgi.install, asgi.STOCK)


def when_imported(entry: EntryPoint, load: Callable[[dict[str, Any]], None]) -> None:
    """Load an instrumentor of OpenTelemetry when its library is imported, and any other one now."""
    library = _BY_NAME.get(entry.name)
    if library is None or entry.value.startswith(_OURS):
        load({})
    elif library.module in sys.modules:
        load(library.options)
        _note(library)
    else:
        wrapt.register_post_import_hook(_Late(entry, library, load), library.module)


class _Late:
    """Loads an instrumentor. Never raises: an import of the service would fail."""

    def __init__(self, entry: EntryPoint, library: Library, load: Callable[[dict[str, Any]], None]) -> None:
        self._entry = entry
        self._library = library
        self._load = load

    def __call__(self, _module: object) -> None:
        try:
            self._load(self._library.options)
            _note(self._library)
        except Exception as error:
            say(
                f"late.{self._entry.name}",
                f"{self._library.distribution} {version(self._library.distribution)} is not instrumented, and the "
                f"service runs on without its spans: {type(error).__name__}: {error}",
            )


def _note(library: Library) -> None:
    hooked.library(library.distribution, version(library.distribution) or "")


def version(distribution: str) -> str | None:
    """Return the version that is installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def unknown() -> Iterator[str]:
    """Yield the names of instrumentors of other libraries, which are loaded as they are."""
    yield from sorted(name for name in installed() if name not in _BY_NAME)
