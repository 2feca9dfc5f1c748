"""`voicespan run -- COMMAND`: starts a command with voicespan switched on."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from voicespan import auto_instrumentation, choice
from voicespan.diagnostics import say

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_FOUND = 127
NOT_EXECUTABLE = 126

_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--service-name", metavar="NAME", help="Name of the service (OTEL_SERVICE_NAME).")
@click.option("--endpoint", metavar="URL", help="Where telemetry goes (OTEL_EXPORTER_OTLP_ENDPOINT).")
@click.option("--ui", is_flag=True, help="Receive its turns here, and show them in the browser; needs voicespan[ui].")
@click.option("--no-browser", is_flag=True, help="With --ui: do not open the browser.")
@click.option("--content", is_flag=True, help="What is said is sent to the viewer and kept there (VOICESPAN_CONTENT).")
@click.option("--grpc-port", type=click.IntRange(0, 65_535), help="With --ui: the port of OTLP over gRPC, 0 for none.")
@click.option("--port", type=click.IntRange(0, 65_535), help="With --ui: where to listen.  [default: 4318]")
@click.option(
    "--db",
    "database",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --ui: the database; `:memory:` is one that is gone at the end.  [default: VOICESPAN_DB]",
)
@click.option("--keep-days", type=_POSITIVE, help="With --ui: forget turns that are older than this, from now on.")
@click.option("--keep-mib", type=_POSITIVE, help="With --ui: forget the oldest turns beyond this size, from now on.")
@click.option("--token", help="With --ui: what the viewer asks of everyone (VOICESPAN_TOKEN).")
@click.option("--trace-link", metavar="URL", help="With --ui: where a trace is elsewhere, with {trace_id} in it.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    service_name: str | None,
    endpoint: str | None,
    ui: bool,
    no_browser: bool,
    content: bool,
    command: tuple[str, ...],
    **viewer: Any,
) -> None:
    """Run COMMAND with voicespan switched on.

    The command is any program that ends up in Python: `voicespan run -- python bot.py`,
    `voicespan run -- uvicorn app:app`.
    """
    environ = environment(os.environ, service_name, endpoint)
    # Looking through all installed packages takes its time, so only where somebody chose otherwise.
    chosen = [variable for variable in choice.GROUPS if environ[variable] != choice.NAME]
    problems = [choice.Choice.read(variable, environ).problem for variable in chosen]
    for problem in filter(None, [*problems, other_python(command[0]), _propagators(environ)]):
        say(f"run: {problem}", problem)
    viewer = {name: value for name, value in viewer.items() if value is not None}
    if ui:
        if endpoint:
            raise click.UsageError("--ui is where telemetry goes: leave out --endpoint, or --ui")
        _with_page(command, environ, {**viewer, "content": content}, browser=not no_browser)
    if viewer:
        raise click.UsageError(
            "--port, --grpc-port, --db, --keep-days, --keep-mib, --token and --trace-link go with --ui"
        )
    if content:
        environ["VOICESPAN_CONTENT"] = "true"
    execute(command, environ)


def _with_page(command: tuple[str, ...], environ: dict[str, str], viewer: dict[str, Any], *, browser: bool) -> NoReturn:
    """Run the command beside the viewer, and exit with its status."""
    try:
        from voicespan.local.beside import run_beside_viewer
        from voicespan.local.options import Options
    except ModuleNotFoundError as error:
        click.echo(f"voicespan run --ui needs: pip install 'voicespan[ui]' (no module {error.name!r})", err=True)
        sys.exit(2)
    path = shutil.which(command[0], path=environ.get("PATH"))
    if path is None:
        click.echo(f"voicespan run: {command[0]}: command not found", err=True)
        sys.exit(NOT_FOUND)
    sys.exit(run_beside_viewer([path, *command[1:]], environ, Options(**viewer), browser=browser))


def environment(environ: Mapping[str, str], service_name: str | None, endpoint: str | None) -> dict[str, str]:
    """Return the environment of the command: what is set already stays, but for the two options."""
    new = dict(environ)
    if service_name:
        new["OTEL_SERVICE_NAME"] = service_name
    if endpoint:
        new["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    new.setdefault(choice.DISTRO, choice.NAME)
    new.setdefault(choice.CONFIGURATOR, choice.NAME)
    new["PYTHONPATH"] = os.pathsep.join(_python_path(environ.get("PYTHONPATH", "")))
    return new


def _python_path(before: str) -> list[str]:
    """Put the directory first whose `sitecustomize` starts everything, as opentelemetry-instrument does."""
    others = [path for path in before.split(os.pathsep) if path and path != auto_instrumentation.DIRECTORY]
    here = str(Path.cwd())
    return [auto_instrumentation.DIRECTORY, *([] if here in others else [here]), *others]


def other_python(command: str) -> str | None:
    """Return what is wrong when `python` is not the one that voicespan is installed for."""
    found, ours = shutil.which(command), Path(sys.executable).parent / command
    if not command.startswith("python") or found is None or not ours.exists() or Path(found).parent == ours.parent:
        return None
    return f"{command} is {found}, but voicespan is installed for {ours}: activate that environment, or name {ours}"


def _propagators(environ: Mapping[str, str]) -> str | None:
    unknown = choice.unknown_propagators(environ)
    if not unknown:
        return None
    return f"OTEL_PROPAGATORS names {', '.join(unknown)}, which is not installed: importing OpenTelemetry will fail"


def execute(command: tuple[str, ...], environ: Mapping[str, str]) -> NoReturn:
    """Become the command. Exits with 127 when there is no such command, with 126 when it can't be executed."""
    path = shutil.which(command[0], path=environ.get("PATH"))
    if path is None:
        click.echo(f"voicespan run: {command[0]}: command not found", err=True)
        sys.exit(NOT_FOUND)
    sys.stdout.flush()
    try:
        os.execve(path, command, dict(environ))  # noqa: S606
    except OSError as error:
        click.echo(f"voicespan run: {command[0]}: {error.strerror}", err=True)
        sys.exit(NOT_EXECUTABLE)
