"""Which distribution and configurator the auto-instrumentation will load, and whether that is voicespan."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from voicespan.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "voicespan"
DISTRO = "OTEL_PYTHON_DISTRO"
CONFIGURATOR = "OTEL_PYTHON_CONFIGURATOR"
GROUPS = {DISTRO: "opentelemetry_distro", CONFIGURATOR: "opentelemetry_configurator"}

_REMEDY = f"set {DISTRO}={NAME} and {CONFIGURATOR}={NAME}"


class Choice(NamedTuple):
    """What one of the two variables selects among the installed entry points."""

    variable: str
    value: str | None
    installed: tuple[str, ...]

    @classmethod
    def read(cls, variable: str, environ: Mapping[str, str]) -> Choice:
        """Read the variable and the installed packages."""
        from opentelemetry.util._importlib_metadata import entry_points

        installed = tuple(entry.name for entry in entry_points(group=GROUPS[variable]))
        return cls(variable, environ.get(variable), installed)

    @property
    def loaded(self) -> str | None:
        """The name that will be loaded: the one that is set, else the first one found; None when there is none."""
        if self.value is not None:
            return self.value if self.value in self.installed else None
        return self.installed[0] if self.installed else None

    @property
    def problem(self) -> str | None:
        """Why voicespan will not be loaded, with what to do; None when it will be or another was chosen on purpose."""
        if self.loaded == NAME:
            return None
        names = ", ".join(self.installed) or "none"
        if self.loaded is None:
            near = nearest(self.value or "", self.installed)
            hint = f": did you mean {near}?" if near else ""
            lost = "its defaults are not set" if self.variable == DISTRO else "no telemetry is sent"
            return f"{self.variable}={self.value} is not installed, so {lost}{hint} (installed: {names})"
        if self.value is None:
            return f"{self.loaded!r} is loaded and not voicespan, because several are installed ({names}): {_REMEDY}"
        return None


def unknown_propagators(environ: Mapping[str, str]) -> list[str]:
    """Return the names in OTEL_PROPAGATORS that are not installed: with one, OpenTelemetry can't even be imported."""
    wanted = [name.strip() for name in environ.get("OTEL_PROPAGATORS", "").split(",") if name.strip()]
    if not wanted or "none" in wanted:
        return []
    from opentelemetry.util._importlib_metadata import entry_points

    return [name for name in wanted if not entry_points(group="opentelemetry_propagator", name=name)]


def check() -> None:
    """Say why voicespan was not loaded. An entry point that always runs, also when the configured names are wrong."""
    from voicespan.diagnostics import say

    loaded: set[str] = getattr(sys.modules.get("voicespan.distro"), "loaded", set())
    for variable in GROUPS:
        problem = None if variable in loaded else Choice.read(variable, os.environ).problem
        if problem:
            say(f"choice: {problem}", problem)
