"""`voicespan stages`: stage maps before they are used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicespan.stagemap.check import Checked, check
from voicespan.stagemap.document import StageMapError, read, schema

if TYPE_CHECKING:
    from voicespan.stagemap.lookup import Found


@click.group()
def stages() -> None:
    """Stage maps: which functions of a pipeline are its stages (VOICESPAN_STAGES)."""


@stages.command("check")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--import", "importing", is_flag=True, help="Import the modules, which runs their code.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def check_file(*, file: Path, importing: bool, as_json: bool) -> None:
    """Say what each name of FILE is; status 1 when something would not work. Nothing is imported unless asked for."""
    try:
        stage_map = read(file)
    except StageMapError as error:
        if as_json:
            click.echo(json.dumps({"error": str(error)}, indent=2))
            sys.exit(1)
        raise click.ClickException(str(error)) from None
    found = check(stage_map, importing=importing)
    if as_json:
        click.echo(json.dumps([_plain(each) for each in found], indent=2))
    else:
        for each in found:
            _print(each)
    if any(each.problems for each in found):
        sys.exit(1)


@stages.command("schema")
def print_schema() -> None:
    """Print the JSON schema of the file, for editors."""
    click.echo(json.dumps(schema(), indent=2))


def _print(checked: Checked) -> None:
    sign, colour = ("x", "red") if checked.problems else ("?", "yellow") if checked.found is None else ("-", "green")
    place = "" if checked.found is None else f"  {checked.found.kind}, {_place(checked.found)}"
    click.echo(f"{click.style(sign, colour)} {checked.role:<20} {checked.target}{place}")
    for problem in checked.problems:
        click.echo(f"    {problem}")
    for remark in checked.remarks:
        click.echo(f"    note: {remark}")


def _place(found: Found) -> str:
    here = Path.cwd()
    file = found.file.relative_to(here) if found.file.is_relative_to(here) else found.file
    return f"{file}:{found.line}"


def _plain(checked: Checked) -> dict[str, Any]:
    found = checked.found
    return {
        "role": checked.role,
        "target": checked.target,
        "found": None if found is None else {"file": str(found.file), "line": found.line, "kind": found.kind},
        "problems": list(checked.problems),
        "remarks": list(checked.remarks),
    }
