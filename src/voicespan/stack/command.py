"""`voicespan stack`: the back ends as processes of this machine, with the files of deploy/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from voicespan.stack.files import deploy
from voicespan.stack.processes import Running, Stack, StackError, healthy
from voicespan.stack.services import MissingProgramError, plan

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        _compose("up", "--detach", "--wait")
    running = Stack(default_state())
    with _errors():
        planned = plan(deploy(), running.state)
        for line in planned.left_out:
            click.echo(f"without {line}", err=True)
        found = running.up(planned.services, lambda line: click.echo(f"{line} ...", err=True))
    _list(found, running)
    click.echo("send telemetry with OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318, or look: voicespan demo --otlp")


@stack.command()
@_compose_option
def down(*, compose: bool) -> None:
    """Stop the back ends; their data stays."""
    if compose:
        _compose("down")
    stopped = Stack(default_state()).down()
    click.echo(f"stopped {', '.join(each.name for each in stopped)}" if stopped else "nothing was running")


@stack.command()
@_compose_option
@_json_option
def status(*, compose: bool, as_json: bool) -> None:
    """Say what runs and whether it answers; status 1 when something does not."""
    if compose:
        _compose("ps")
    running = Stack(default_state())
    found = running.running()
    health = {each.name: healthy(each) for each in found}
    if as_json:
        entries = [
            {"name": each.name, "pid": each.pid, "healthy": health[each.name], "page": each.page} for each in found
        ]
        click.echo(json.dumps(entries, indent=2))
    elif found:
        _list(found, running, health)
    else:
        click.echo("nothing runs: voicespan stack up")
    if not found or not all(health.values()):
        sys.exit(1)


@stack.command()
@click.argument("service", required=False)
@click.option("--lines", default=40, show_default=True, help="How many of the last lines.")
@_compose_option
def logs(*, service: str | None, lines: int, compose: bool) -> None:
    """Show the last lines that a service wrote, or all services."""
    if compose:
        _compose("logs", "--tail", str(lines), *([service] if service else []))
    running = Stack(default_state())
    files = sorted((running.state / "logs").glob("*.log"))
    names = [file.stem for file in files]
    if service is not None and service not in names:
        raise click.ClickException(f"no log of {service!r}: there are {', '.join(names) or 'none'}")
    for file in files:
        if service in (None, file.stem):
            for line in file.read_text(errors="replace").splitlines()[-lines:]:
                click.echo(line if service else f"{file.stem:<12} {line}")


def _list(found: list[Running], stack: Stack, health: dict[str, bool] | None = None) -> None:
    for each in found:
        state = "ready" if health is None or health[each.name] else "does not answer"
        click.echo(f"{each.name:<13} {state:<16} {each.page}")
    click.echo(f"data and logs in {stack.state}", err=True)


def _compose(*arguments: str) -> None:
    """Run docker compose with our file, and exit with its status."""
    docker = shutil.which("docker")
    if docker is None:
        raise click.ClickException("there is no docker on the PATH: leave out --compose to run local processes")
    with _errors():
        file = deploy() / "compose.yaml"
    sys.exit(subprocess.call([docker, "compose", "--file", str(file), *arguments]))  # noqa: S603


@contextmanager
def _errors() -> Iterator[None]:
    """End the command with status 1 and the reason."""
    try:
        yield
    except (StackError, MissingProgramError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from None
