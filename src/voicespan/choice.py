"""Which distribution and configurator the auto-instrumentation will load, and whether that is voicespan."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voicespan.nearest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "voicespan"
DISTRO = "OTEL_PYTHON_DISTRO"
CONFIGURATOR = "OTEL_PYTHON_CONFIGURATOR"
GROUPS = {DISTRO: "opentelemetry_distro", CONFIGURATOR: "opentelemetry_configurator"}

_REMEDY = f"set {DISTRO}={NAME} and {CONFIGURATOR}={NAME}"


@dataclass(frozen=True, slots=True)
class Choice:
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
            hint = did_you_mean(self.value or "", self.installed)
            lost = "its defaults are not set" if self.variable == DISTRO else "no telemetry is sent"
            return f"{self.variable}={self.value} is not installed, so {lost}{hint} (installed: {names})"
        if self.value is None:
            return f"{self.loaded!r} is loaded and not voicespan, because several are installed ({names}): {_REMEDY}"
        return None


def check() -> None:
    """Say why voicespan was not loaded. An entry point that always runs, also when the configured names are wrong."""
    from voicespan.diagnostics import say

    loaded: set[str] = getattr(sys.modules.get("voicespan.distro"), "loaded", set())
    for variable in GROUPS:
        problem = None if variable in loaded else Choice.read(variable, os.environ).problem
        if problem:
            say(f"choice: {problem}", problem)
