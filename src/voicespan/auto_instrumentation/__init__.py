"""Starts voicespan in a process before its own program: `voicespan run` puts this directory first on PYTHONPATH.

Python imports the `sitecustomize` here at its start. It is OpenTelemetry's own loader, as opentelemetry-instrument and
the Kubernetes operator have it run too, with garbage collection held meanwhile, which is a twentieth of the start.
"""

from __future__ import annotations

import os

from voicespan import collection

DIRECTORY = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is not imported at the start


def initialize() -> None:
    """Load the distribution, its configurator and its instrumentors; the loader logs what it cannot load."""
    with collection.held():
        path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if here := DIRECTORY in path:  # what is started meanwhile (a detector may ask a program) starts nothing itself
            os.environ["PYTHONPATH"] = os.pathsep.join(each for each in path if each != DIRECTORY)
        try:
            from opentelemetry.instrumentation import auto_instrumentation

            auto_instrumentation.initialize()
        finally:
            if here:
                left = os.environ.get("PYTHONPATH", "")
                os.environ["PYTHONPATH"] = f"{DIRECTORY}{os.pathsep}{left}" if left else DIRECTORY
