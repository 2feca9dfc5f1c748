"""The distribution: the defaults, the providers, and what is said when the set-up does not do what it should."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined]

from voicespan import choice, collection, settings
from voicespan.diagnostics import say
from voicespan.integrations import known

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from opentelemetry.trace import Tracer
    from opentelemetry.util._importlib_metadata import EntryPoint

_LOADER = "opentelemetry.instrumentation.auto_instrumentation._load"
_CHECK = "get_dist_dependency_conflicts"

loaded: set[str] = set()
"""The variables of `voicespan.choice` whose entry point was loaded from here."""


def set_defaults(environ: MutableMapping[str, str]) -> None:
    """Set the standard variables that the environment leaves open, as `docs/settings.md` lists them."""
    for variable in settings.OTEL_DEFAULTS:
        if not environ.get(variable.name, "").strip():
            environ[variable.name] = variable.default


class VoicespanDistro(BaseDistro):  # type: ignore[misc]
    """Entry point `opentelemetry_distro`: sets the defaults before anything else is configured."""

    def _configure(self, **kwargs: Any) -> None:
        loaded.add(choice.DISTRO)
        # Whoever chose this distribution means its configurator too, also when others are installed.
        os.environ.setdefault(choice.CONFIGURATOR, choice.NAME)
        if os.environ[choice.CONFIGURATOR] == choice.NAME:
            logging.getLogger(_LOADER).addFilter(_is_news)
        if not settings.current().disabled:
            set_defaults(os.environ)
            known.fix_stock()
            _check_late()

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Load an integration: one for each library, and OpenTelemetry's own ones when their library is imported.

        Raises:
            DependencyConflictError: it is not made for the version of its library; the loader logs that.

        """
        if settings.current().disabled:
            return
        chosen = known.chosen(entry_point.name)
        if chosen != entry_point.value:
            say(
                f"chosen.{entry_point.value}",
                f"{entry_point.value} is not loaded: {chosen} instruments {entry_point.name}",
                level="debug",
            )
            return

        def load(options: Mapping[str, Any]) -> None:
            known.check(entry_point)
            super(VoicespanDistro, self).load_instrumentor(entry_point, **{**options, **kwargs})

        known.when_imported(entry_point, load)


class VoicespanConfigurator:
    """Entry point `opentelemetry_configurator`: makes the providers. Never raises; what goes wrong is said."""

    def configure(self, **kwargs: Any) -> None:
        """Make the providers, once in this process."""
        if choice.CONFIGURATOR in loaded:
            return
        loaded.add(choice.CONFIGURATOR)
        try:
            if _wanted():
                with collection.held():
                    _start(kwargs.get("auto_instrumentation_version"))
        except Exception as error:
            say("start", f"could not start, so the service runs without telemetry: {error!r}")


def _start(auto_instrumentation_version: str | None) -> None:
    set_defaults(os.environ)
    from voicespan.sdk import providers

    providers.start(auto_instrumentation_version)
    if settings.current().log_format == "json":
        from voicespan import loggers
        from voicespan.logs import setup_logging

        loggers.follow(setup_logging())
    if _threading not in known.disabled():
        from voicespan import threads

        threads.install()
    if (stages := settings.current().stages) is not None:
        from voicespan.stagemap.install import install_file

        install_file(stages)


def setup_tracing(service_name: str | None = None) -> Tracer:
    """Set voicespan up from code, for services that are not started by a command that does; return a tracer.

    `service_name` counts where the environment names none. A second call changes nothing.
    """
    from opentelemetry import trace

    from voicespan.sdk import resource

    if service_name and resource.service_name(os.environ) is None:
        os.environ["OTEL_SERVICE_NAME"] = service_name
    loaded.add(choice.DISTRO)
    VoicespanConfigurator().configure()
    return trace.get_tracer("voicespan")


def _check_late() -> None:
    """Have the loader not check versions: `load_instrumentor` does when it loads, which most libraries never see.

    Reading the metadata of a package takes a millisecond.
    """
    loader = sys.modules.get(_LOADER)
    if hasattr(loader, _CHECK):
        setattr(loader, _CHECK, lambda _distribution: None)


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for the loader's warning that it did not load what nobody chose."""
    return not record.getMessage().endswith(f"not loaded because {choice.NAME} is set by {choice.CONFIGURATOR}")


_threading = "threading"
"""As OpenTelemetry calls it in OTEL_PYTHON_DISABLED_INSTRUMENTATIONS."""


def _wanted() -> bool:
    if settings.current().disabled:
        return False
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        say("disabled", "OTEL_SDK_DISABLED=true: nothing is recorded", level="debug")
        return False
    if os.environ.get("OTEL_CONFIG_FILE"):
        say(
            "config-file",
            "OTEL_CONFIG_FILE is not supported yet, so nothing is sent: unset it and use OTEL_* variables, "
            f"or choose another {choice.CONFIGURATOR}",
        )
        return False
    return True
