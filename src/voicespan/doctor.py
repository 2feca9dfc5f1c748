"""`voicespan doctor`: says what a service started in this environment would load, and whether its telemetry arrives."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from voicespan import choice, settings
from voicespan.diagnostics import number
from voicespan.distro import set_defaults
from voicespan.sdk import resource
from voicespan.sdk.exporters import makers
from voicespan.sdk.spool import Spool
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from voicespan.sdk.endpoint import Endpoint, Signal
    from voicespan.sdk.exporters import Maker

Verdict = Literal["ok", "warn", "fail"]

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

_PROBE_TIMEOUT_S = "3"
_NEARLY_FULL = 0.8


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `remedy` says what to do about a warning or failure."""

    name: str
    verdict: Verdict
    message: str
    remedy: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--offline", is_flag=True, help="Send nothing.")
def doctor(*, as_json: bool, offline: bool) -> None:
    """Say what a service started here would load, and whether its telemetry arrives.

    Reads the same variables as the service; run it in the service's environment. Sends one empty request of traces
    and one of metrics. The exit status is 1 when something fails.
    """
    checks = list(examine(os.environ, offline=offline))
    failed = any(check.verdict == "fail" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        for check in checks:
            click.echo(f"{check.verdict:<5} {check.name}: {check.message}")
            if check.remedy:
                click.echo(f"      -> {check.remedy}")
    sys.exit(1 if failed else 0)


def examine(environ: Mapping[str, str], *, offline: bool = False) -> Iterator[Check]:
    """Yield every check. Sets the defaults in the environment of this process, as a service's start would."""
    yield _versions()
    yield from _choices(environ)
    yield from _settings(environ)
    yield from _obstacles(environ)
    yield _service_name(environ)
    yield from _integrations()
    yield from _others()
    set_defaults(os.environ)
    if not offline:
        os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", _PROBE_TIMEOUT_S)
        yield from _deliveries("traces")
        yield from _deliveries("metrics")


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


def _choices(environ: Mapping[str, str]) -> Iterator[Check]:
    for variable in choice.GROUPS:
        chosen = choice.Choice.read(variable, environ)
        name = variable.removeprefix("OTEL_PYTHON_").lower()
        if chosen.loaded == choice.NAME:
            yield Check(name, "ok", choice.NAME)
        elif chosen.value is None:
            yield Check(name, "warn", f"under opentelemetry-instrument, {chosen.problem}",
                        "or start the service with `voicespan run`, which sets both")  # fmt: skip
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


def _spool(folder: Path, max_bytes: int) -> Check:
    """Say what waits on disk; whether more could be kept there is tried."""
    spool = Spool(folder, max_bytes)
    try:
        items, size = spool.content()
        spool.check()
    except OSError as error:
        return Check("spool", "fail", f"{folder} cannot be written ({error.strerror}): nothing is kept on disk",
                     "give the service's user a folder of its own, VOICESPAN_SPOOL_DIR=...")  # fmt: skip
    if not items:
        return Check("spool", "ok", f"{folder}: nothing waits")
    message = f"{number(items, 'span')} wait in {folder} ({size / 1024 / 1024:.1f} of {max_bytes / 1024 / 1024:g} MiB)"
    if size > max_bytes * _NEARLY_FULL:
        return Check("spool", "warn", f"{message}: nearly full, then the newest replace the oldest",
                     "see why nobody takes them, below, or raise VOICESPAN_SPOOL_MIB")  # fmt: skip
    return Check("spool", "ok", f"{message}: sent with the next start of a service")


def _obstacles(environ: Mapping[str, str]) -> Iterator[Check]:
    if environ.get("OTEL_CONFIG_FILE"):
        yield Check("config file", "fail", "OTEL_CONFIG_FILE is not supported yet, so nothing is sent",
                    "unset it and use OTEL_* variables")  # fmt: skip
    unknown = choice.unknown_propagators(environ)
    if unknown:
        yield Check("propagators", "fail", f"OTEL_PROPAGATORS names {', '.join(unknown)}, which is not installed: "
                    "importing OpenTelemetry fails", "OTEL_PROPAGATORS=tracecontext,baggage")  # fmt: skip
    spec = find_spec("sitecustomize")
    if spec is not None and "auto_instrumentation" not in str(spec.origin):
        yield Check("sitecustomize", "warn", f"{spec.origin} is not run, because the auto-instrumentation has its own",
                    "import it from the service")  # fmt: skip


def _service_name(environ: Mapping[str, str]) -> Check:
    name = resource.service_name(environ)
    if name is None:
        return Check("service name", "warn", "not set: the service appears as unknown_service", "OTEL_SERVICE_NAME=...")
    return Check("service name", "ok", name)


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


def _deliveries(signal: Signal) -> Iterator[Check]:
    try:
        found = makers(signal, os.environ)
    except LookupError as error:
        yield Check(signal, "fail", str(error), f"OTEL_{signal.upper()}_EXPORTER=otlp")
        return
    if not found:
        yield Check(signal, "warn", f"none are sent (OTEL_{signal.upper()}_EXPORTER=none)")
    for maker in found:
        if maker.endpoint is None:
            yield Check(signal, "ok", f"go to {maker.target}")
        else:
            yield _deliver(signal, maker, maker.endpoint)


def _deliver(signal: Signal, maker: Maker, endpoint: Endpoint) -> Check:
    where = f"{endpoint.url} ({endpoint.protocol}, {endpoint.variable or 'the default'})"
    if endpoint.mistake:
        return Check(signal, "fail", where, endpoint.mistake)
    began = time.monotonic()
    reason = endpoint.unreachable() or _probe(signal, maker)
    took_ms = (time.monotonic() - began) * 1e3
    if reason is None:
        return Check(signal, "ok", f"{where} took an empty request in {took_ms:.0f} ms")
    return Check(signal, "fail", f"{where} did not take an empty request: {reason}", _remedy(reason, endpoint))


def _probe(signal: Signal, maker: Maker) -> str | None:
    """Send an empty request exactly as the service would; return why it was not taken."""
    from voicespan.sdk.export import Why

    exporter = maker()
    why = Why(exporter)
    try:
        why.begin()
        refusal = why.of(exporter.export(_nothing(signal)))
    except Exception as error:
        return repr(error)
    finally:
        exporter.shutdown()
    return refusal.reason if refusal else None


def _nothing(signal: Signal) -> object:
    if signal == "traces":
        return []
    from opentelemetry.sdk.metrics.export import MetricsData

    return MetricsData([])


def _remedy(reason: str, endpoint: Endpoint) -> str:
    from voicespan.sdk.export import REFUSED, UNKNOWN_HOST, UNTRUSTED

    if reason == REFUSED:
        return "start a Collector there (on this machine: `voicespan ui`), or set OTEL_EXPORTER_OTLP_ENDPOINT"
    if reason == UNKNOWN_HOST:
        return f"check the host name in {endpoint.variable or 'OTEL_EXPORTER_OTLP_ENDPOINT'}"
    if reason.startswith(("401", "403")):
        return "set OTEL_EXPORTER_OTLP_HEADERS, for example authorization=Bearer%20TOKEN"
    if reason.startswith("404"):
        return "OTEL_EXPORTER_OTLP_ENDPOINT is the base URL, without /v1/traces"
    if reason == UNTRUSTED:
        if os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
            return "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE takes the place of OTEL_EXPORTER_OTLP_CERTIFICATE: unset it"
        return "set OTEL_EXPORTER_OTLP_CERTIFICATE to the certificate of the authority that signed it"
    return f"is that an OTLP port for {endpoint.protocol}? (usually 4318 for http/protobuf, 4317 for grpc)"
