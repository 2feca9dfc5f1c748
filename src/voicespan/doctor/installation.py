"""What a service started here would load: packages, choices, settings, integrations."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from voicespan import choice, settings
from voicespan.diagnostics import number
from voicespan.doctor.check import Check
from voicespan.run import other_python
from voicespan.sdk import resource
from voicespan.sdk.spool import Spool
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PACKAGES = (
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-instrumentation",
)
# They release together: a difference among these is an installation that was put together from parts.
_SAME_VERSION = _PACKAGES[:4]

_SET_PROVIDERS = ("ddtrace", "langfuse", "logfire", "openlit", "arize-phoenix-otel", "traceloop-sdk")

_NEARLY_FULL = 0.8


def examine(environ: Mapping[str, str]) -> Iterator[Check]:
    """Yield what can be said without starting anything."""
    yield _versions()
    yield from _conflicts()
    yield from _python()
    yield from _choices(environ)
    yield from _settings(environ)
    yield from _obstacles(environ)
    yield _service_name(environ)
    yield from _sampler(environ)
    yield from _integrations()
    yield from _others()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> Check:
    found = {package: version for package in _PACKAGES if (version := _version(package))}
    text = f"voicespan {__version__}, Python {sys.version.split()[0]} at {sys.executable}; " + ", ".join(
        f"{package} {version}" for package, version in found.items()
    )
    if len({found[package] for package in _SAME_VERSION if package in found}) > 1:
        remedy = f"install the same version of {', '.join(name for name in _SAME_VERSION if name in found)}"
        return Check("versions", "warn", text, remedy)
    return Check("versions", "ok", text)


def _conflicts() -> Iterator[Check]:
    """Yield what the OpenTelemetry packages and voicespan need of each other and do not have."""
    ours = ("opentelemetry-", "voicespan")
    for name, distribution in sorted(_installed(ours).items()):
        for text in distribution.requires or ():
            needs = Requirement(text)
            if not needs.name.startswith(ours) or (needs.marker and not needs.marker.evaluate({"extra": ""})):
                continue
            found = _version(needs.name)
            if found is None or not needs.specifier.contains(found, prereleases=True):
                yield Check(
                    "conflict",
                    "fail",
                    f"{name} {distribution.version} needs {needs.name}{needs.specifier}, and "
                    + (f"{found} is installed" if found else "it is not installed"),
                    f"pip install '{needs.name}{needs.specifier}', or another version of {name}",
                )


def _installed(prefixes: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """Return the packages whose names begin so; of one that is there twice, the one that is imported."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for each in importlib.metadata.distributions():
        name = str(each.metadata["Name"] or "").lower().replace("_", "-")
        if name.startswith(prefixes):
            found.setdefault(name, each)
    return found


def _python() -> Iterator[Check]:
    problem = other_python("python")
    if problem is not None:
        text, _, remedy = problem.rpartition(": ")
        yield Check("python", "warn", text, remedy)


def _choices(environ: Mapping[str, str]) -> Iterator[Check]:
    for variable in choice.GROUPS:
        chosen = choice.Choice.read(variable, environ)
        name = variable.removeprefix("OTEL_PYTHON_").lower()
        if chosen.loaded == choice.NAME:
            yield Check(name, "ok", choice.NAME)
        elif chosen.value is None:
            yield Check(
                name,
                "warn",
                f"under opentelemetry-instrument, {chosen.problem}",
                "or start the service with `voicespan run`, which sets both",
            )
        elif chosen.problem:
            yield Check(name, "fail", chosen.problem, f"{variable}={choice.NAME}")
        else:
            yield Check(
                name, "warn", f"{variable}={chosen.value}: voicespan is not loaded", f"{variable}={choice.NAME}"
            )


def _settings(environ: Mapping[str, str]) -> Iterator[Check]:
    read, problems = settings.Settings.read(environ)
    for problem in problems:
        yield Check("settings", "fail", problem, "docs/settings.md lists the variables")
    if read.disabled:
        yield Check("settings", "warn", "VOICESPAN_DISABLED=true: nothing is recorded", "unset it")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield Check("settings", "warn", "OTEL_SDK_DISABLED=true: nothing is recorded", "unset it")
    if read.spool_dir:
        yield _spool(Path(read.spool_dir) / "traces", int(read.spool_mib * 1024 * 1024))
    if read.stages:
        yield from _stages(Path(read.stages))


def _spool(folder: Path, max_bytes: int) -> Check:
    """Say what waits on disk; whether more could be kept there is tried."""
    spool = Spool(folder, max_bytes)
    try:
        items, size = spool.content()
        spool.check()
    except OSError as error:
        return Check(
            "spool",
            "fail",
            f"{folder} cannot be written ({error.strerror}): nothing is kept on disk",
            "give the service's user a folder of its own, VOICESPAN_SPOOL_DIR=...",
        )
    if not items:
        return Check("spool", "ok", f"{folder}: nothing waits")
    message = f"{number(items, 'span')} wait in {folder} ({size / 1024 / 1024:.1f} of {max_bytes / 1024 / 1024:g} MiB)"
    if size > max_bytes * _NEARLY_FULL:
        return Check(
            "spool",
            "warn",
            f"{message}: nearly full, then the newest replace the oldest",
            "see why nobody takes them, below, or raise VOICESPAN_SPOOL_MIB",
        )
    return Check("spool", "ok", f"{message}: sent with the next start of a service")


def _stages(file: Path) -> Iterator[Check]:
    """Yield what of the stage map would not work."""
    try:
        from voicespan.stagemap.check import check
        from voicespan.stagemap.document import StageMapError, read
    except ModuleNotFoundError as error:
        yield Check(
            "stages", "fail", f"VOICESPAN_STAGES={file}: no module {error.name!r}", "pip install 'voicespan[stages]'"
        )
        return
    remedy = f"voicespan stages check {file}"
    try:
        found = check(read(file), importing=False)
    except (StageMapError, OSError) as error:
        yield Check("stages", "fail", f"VOICESPAN_STAGES={file}: {error}", remedy)
        return
    broken = [each for each in found if each.problems]
    for each in broken:
        yield Check("stages", "fail", f"{each.role}: {each.target}: {'; '.join(each.problems)}", remedy)
    if not broken:
        yield Check("stages", "ok", f"{file}: {number(len(found), 'function')}")


def _obstacles(environ: Mapping[str, str]) -> Iterator[Check]:
    if environ.get("OTEL_CONFIG_FILE"):
        yield Check(
            "config file",
            "fail",
            "OTEL_CONFIG_FILE is not supported yet, so nothing is sent",
            "unset it and use OTEL_* variables",
        )
    unknown = choice.unknown_propagators(environ)
    if unknown:
        yield Check(
            "propagators",
            "fail",
            f"OTEL_PROPAGATORS names {', '.join(unknown)}, which is not installed: importing OpenTelemetry fails",
            "OTEL_PROPAGATORS=tracecontext,baggage",
        )
    spec = find_spec("sitecustomize")
    if spec is not None and "auto_instrumentation" not in str(spec.origin):
        yield Check(
            "sitecustomize",
            "warn",
            f"{spec.origin} is not run, because the auto-instrumentation has its own",
            "import it from the service",
        )


def _service_name(environ: Mapping[str, str]) -> Check:
    name = resource.service_name(environ)
    if name is None:
        return Check("service name", "warn", "not set: the service appears as unknown_service", "OTEL_SERVICE_NAME=...")
    return Check("service name", "ok", name)


def _sampler(environ: Mapping[str, str]) -> Iterator[Check]:
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    share = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    text = f"OTEL_TRACES_SAMPLER={sampler}"
    if sampler.endswith("always_off") or (sampler.endswith("traceidratio") and share in {"0", "0.0"}):
        yield Check("sampler", "fail", f"{text}: no turn is recorded", "unset it")
    elif sampler.endswith("traceidratio"):
        yield Check(
            "sampler",
            "warn",
            f"{text} with {share}: only that share of the turns is recorded, and counted in the metrics",
            "unset it; the Collector samples by deploy/collector/sampling.yaml",
        )


def _integrations() -> Iterator[Check]:
    """Yield a line for each library that is there: who instruments it, or why nobody does."""
    from voicespan.integrations import known

    if known.ALL in known.disabled():
        yield Check("integrations", "ok", f"all are left out ({known.DISABLED}={known.ALL})")
        return
    found = [library.examined() for library in known.LIBRARIES]
    for state in found:
        if state is not None:
            yield Check("integrations", "warn" if state.remedy else "ok", state.message, state.remedy)
    if not any(found):
        yield Check("integrations", "ok", "no framework or library that voicespan knows is installed")
    if others := ", ".join(known.unknown()):
        yield Check("integrations", "ok", f"as they are: {others}")


def _others() -> Iterator[Check]:
    for package in _SET_PROVIDERS:
        version = _version(package)
        if version:
            message = (
                f"{package} {version} is installed: its set-up would be a second tracer provider, which is ignored"
            )
            yield Check("second provider", "warn", message, f"do not call the set-up of {package}")
