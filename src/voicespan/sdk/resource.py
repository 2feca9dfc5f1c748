"""Who sends the telemetry: the resource attributes of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource

from voicespan import settings
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

DISTRO_NAME = "voicespan"


def create(auto_instrumentation_version: str | None = None) -> Resource:
    """Return what the SDK finds out, with the distribution's name and version and, where set, `voice.worker.id`.

    The SDK gives OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, its detectors, and a new `service.instance.id`.
    """
    attributes: dict[str, str] = {"telemetry.distro.name": DISTRO_NAME, "telemetry.distro.version": __version__}
    if auto_instrumentation_version:
        attributes["telemetry.auto.version"] = auto_instrumentation_version
    worker = settings.current().worker_id
    if worker:
        attributes["voice.worker.id"] = worker
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
