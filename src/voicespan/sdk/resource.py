"""Who sends the telemetry: the resource attributes of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource

from voicespan import names as n
from voicespan import settings
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

DISTRO_NAME = "voicespan"


def create(auto_instrumentation_version: str | None = None) -> Resource:
    """Return what the SDK finds out, the distribution's name and version and, where set, the worker and the run.

    The SDK gives OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, its detectors, and a new `service.instance.id`.
    """
    attributes: dict[str, str] = {n.TELEMETRY_DISTRO_NAME: DISTRO_NAME, n.TELEMETRY_DISTRO_VERSION: __version__}
    if auto_instrumentation_version:
        attributes["telemetry.auto.version"] = auto_instrumentation_version
    ours = settings.current()
    named = {n.VOICE_WORKER_ID: ours.worker_id, n.VOICESPAN_RUN: ours.run}
    attributes |= {key: value for key, value in named.items() if value}
    return Resource.create(attributes)


def service_name(environ: Mapping[str, str]) -> str | None:
    """Return the name that the environment gives the service, None when it gives none."""
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    if name:
        return name
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == "service.name" and value.strip():
            return value.strip()
    return None
