"""Pipecat: every utterance of an unchanged bot is a turn. This module imports nothing of the framework."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from voicespan import hooked
from voicespan.diagnostics import say
from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Collection

DISTRIBUTION = "pipecat-ai"
SUPPORTED = f"{DISTRIBUTION} >= 1.14, < 2"
SETUP_FILES = "PIPECAT_SETUP_FILES"
"""Pipecat's own variable: files with a function that it calls for every pipeline, before the first frame."""
SETUP_FILE = str(Path(__file__).with_name("setup.py"))


class PipecatInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Entry point `opentelemetry_instrumentor`: waits for Pipecat to be imported."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions whose hooks are known."""
        return (SUPPORTED,)

    def _instrument(self, **kwargs: Any) -> None:
        wrapt.register_post_import_hook(_install, "pipecat")

    def _uninstrument(self, **kwargs: Any) -> None:
        left = [path for path in os.environ.get(SETUP_FILES, "").split(os.pathsep) if path and path != SETUP_FILE]
        if left:
            os.environ[SETUP_FILES] = os.pathsep.join(left)
        else:
            os.environ.pop(SETUP_FILES, None)


def _install(_module: object) -> None:
    """Have Pipecat call `setup.py` for every pipeline. Never raises: an import of the service would fail."""
    try:
        version = installed_version()
        if version is None:
            return
        if not is_supported(version):
            say("pipecat.version", f"{DISTRIBUTION} {version} is not known (known: {SUPPORTED}): no turns")
            return
        others = [path for path in os.environ.get(SETUP_FILES, "").split(os.pathsep) if path and path != SETUP_FILE]
        os.environ[SETUP_FILES] = os.pathsep.join([*others, SETUP_FILE])
        wrapt.register_post_import_hook(_begin, "pipecat.pipeline.worker")
    except Exception as error:
        swallowed("pipecat", error)


def _begin(_module: object) -> None:
    """A bot is being started. Never raises: an import of the service would fail."""
    source()
    try:
        from voicespan.integrations.pipecat.attach import moved

        moved()
    except Exception as error:  # said by `setup.py` for the first pipeline, when all of Pipecat is there
        say("pipecat.early", f"could not look at {DISTRIBUTION} {installed_version()} yet: {error!r}", level="debug")


def source() -> hooked.Source:
    """Return what Pipecat's turns are counted by."""
    return hooked.source(DISTRIBUTION, installed_version() or "", "VAD event")


def installed_version() -> str | None:
    """Return the version of Pipecat in this environment."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def is_supported(version: str) -> bool:
    """Return whether the hooks of a version are known."""
    numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")[:2]]
    return (1, 14) <= tuple(numbers) < (2, 0)
