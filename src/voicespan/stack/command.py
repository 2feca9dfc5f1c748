"""`voicespan stack`: the back ends as processes of this machine, with the files of deploy/."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicespan.stack.files import deploy
from voicespan.stack.processes import Running, Stack, StackError, healthy
from voicespan.stack.services import MissingProgramError, plan

if TYPE_CHECKING:
    from collections.abc import Iterator

_DOCKERFILE = "collector/Dockerfile"
_RELOADING = ("prometheus", "alertmanager")
"""Services that read their files again on SIGHUP."""

_compose_option = click.option(
    "--compose", is_flag=True, help="Drive containers with `docker compose` and deploy/compose.yaml instead."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")


def default_state() -> Path:
    """Return where the stack keeps its data: `voicespan/stack` in the user's state directory."""
    state = os.environ.get("XDG_STATE_HOME", "").strip()
    return (Path(state) if state else Path.home() / ".local" / "state") / "voicespan" / "stack"


@click.group()
def stack() -> None:
    """Run the back ends on this machine: Collector, Prometheus, and what else is installed of them."""


@stack.command()
@_compose_option
def up(*, compose: bool) -> None:
    """Start the back ends; they run until `voicespan stack down`."""
    if compose:
        _run_compose("up", "--detach", "--wait")
    running = Stack(default_state())
    with _errors():
        planned = plan(deploy(), running.state)
        for line in planned.left_out:
            click.echo(f"without {line}", err=True)
        found = running.up(planned.services, lambda line: click.echo(f"{line} ...", err=True))
    _list([_state(each, healthy=True) for each in found])
    click.echo(f"data and logs in {running.state}", err=True)
    click.echo("send telemetry with OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318, or look: voicespan demo --otlp")


@stack.command()
@_compose_option
def down(*, compose: bool) -> None:
    """Stop the back ends; their data stays."""
    if compose:
        _run_compose("down")
    with _errors():
        stopped = Stack(default_state()).down()
    click.echo(f"stopped {', '.join(each.name for each in stopped)}" if stopped else "nothing was running")


@stack.command()
@_compose_option
@_json_option
def status(*, compose: bool, as_json: bool) -> None:
    """Say what runs and whether it answers; status 1 when something does not."""
    if compose:
        found = _containers()
    else:
        found = [_state(each, healthy=healthy(each)) for each in Stack(default_state()).running()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        _list(found)
    else:
        click.echo(f"nothing runs: voicespan stack up{' --compose' * compose}")
    if not found or not all(each["healthy"] for each in found):
        sys.exit(1)


@stack.command()
def reload() -> None:
    """Let Prometheus and Alertmanager read their files again, such as rules that `voicespan slo` has written."""
    asked = [each for each in Stack(default_state()).running() if each.name in _RELOADING]
    if not asked:
        raise click.ClickException("no Prometheus runs: voicespan stack up")
    for each in asked:
        process = each.process()
        if process is not None:
            process.send_signal(signal.SIGHUP)
        click.echo(f"{each.name} reads its files again")


@stack.command()
@click.argument("service", required=False)
@click.option("--lines", default=40, show_default=True, help="How many of the last lines.")
@_compose_option
def logs(*, service: str | None, lines: int, compose: bool) -> None:
    """Show the last lines that a service wrote, or all services."""
    if compose:
        _run_compose("logs", "--tail", str(lines), *([service] if service else []))
    running = Stack(default_state())
    files = sorted((running.state / "logs").glob("*.log"))
    names = [file.stem for file in files]
    if service is not None and service not in names:
        raise click.ClickException(f"no log of {service!r}: there are {', '.join(names) or 'none'}")
    for file in files:
        if service in (None, file.stem):
            for line in file.read_text(errors="replace").splitlines()[-lines:]:
                click.echo(line if service else f"{file.stem:<12} {line}")


def _state(service: Running, *, healthy: bool) -> dict[str, Any]:
    return {"name": service.name, "pid": service.pid, "healthy": healthy, "page": service.page}


def _list(found: list[dict[str, Any]]) -> None:
    for each in found:
        state = "ready" if each["healthy"] else "does not answer"
        click.echo(f"{each['name']:<13} {state:<16} {each['page']}")


def _compose(*arguments: str) -> list[str]:
    """Return the command line of docker compose with our file."""
    docker = shutil.which("docker")
    if docker is None:
        raise click.ClickException("there is no docker on the PATH: leave out --compose to run local processes")
    plugin = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)  # noqa: S603
    if plugin.returncode:
        raise click.ClickException("this docker has no compose: install its plugin (docker-compose-plugin)")
    with _errors():
        file = deploy() / "compose.yaml"
    if not (file.parents[1] / _DOCKERFILE).exists():
        raise click.ClickException(f"--compose builds the Collector's image and needs a checkout, with {_DOCKERFILE}")
    return [docker, "compose", "--file", str(file), *arguments]


def _run_compose(*arguments: str) -> None:
    """Run docker compose with our file, and exit with its status."""
    sys.exit(subprocess.call(_compose(*arguments)))  # noqa: S603


def _containers() -> list[dict[str, Any]]:
    """Return the state of each container, also of those that have ended."""
    command = _compose("ps", "--all", "--format", "json")
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if said.returncode:
        sys.exit(said.returncode)
    # One object in each line; before Compose 2.21 all of them in a list.
    lines = [json.loads(line) for line in said.stdout.splitlines() if line.strip()]
    entries = [entry for line in lines for entry in (line if isinstance(line, list) else [line])]
    return [
        {
            "name": entry["Service"],
            "container": entry["Name"],
            "healthy": entry["State"] == "running" and entry.get("Health") in {"healthy", "", None},
            "page": " ".join(_addresses(entry)) or entry["State"],
        }
        for entry in entries
    ]


def _addresses(entry: dict[str, Any]) -> list[str]:
    """Return where the ports of a container are published."""
    ports = {each.get("PublishedPort", 0) for each in entry.get("Publishers") or ()}
    return [f"http://127.0.0.1:{port}/" for port in sorted(ports - {0})]


@contextmanager
def _errors() -> Iterator[None]:
    """End the command with status 1 and the reason."""
    try:
        yield
    except (StackError, MissingProgramError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from None
