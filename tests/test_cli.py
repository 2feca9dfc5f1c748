from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from voicespan import cli
from voicespan.version import __version__


def test_help_lists_every_command_without_importing_one() -> None:
    """`voicespan --help` names all commands and imports none of their modules."""
    script = (
        "import sys; from click.testing import CliRunner; from voicespan import cli\n"
        "print(CliRunner().invoke(cli.main, ['--help']).output)\n"
        "print([entry.target for entry in cli.COMMANDS.values() if entry.target.split(':')[0] in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in out and entry.help in out for name, entry in cli.COMMANDS.items())
    assert out.endswith("[]\n")


def test_the_version() -> None:
    """`voicespan --version` prints it."""
    assert CliRunner().invoke(cli.main, ["--version"]).output == f"voicespan, version {__version__}\n"


def test_an_unknown_command() -> None:
    """A command that does not exist is a usage error."""
    result = CliRunner().invoke(cli.main, ["rnu"])
    assert result.exit_code == 2
    assert "No such command" in result.output


@pytest.mark.parametrize(("command", "extra"), [("demo", "demo"), ("ui", "ui")])
def test_a_missing_extra_is_named(command: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose dependencies are not installed says what to install, and ends with status 2."""

    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'starlette'", name="starlette")

    monkeypatch.setattr(importlib, "import_module", fail)
    result = CliRunner().invoke(cli.main, [command])
    assert result.exit_code == 2
    assert f"voicespan {command} needs: pip install 'voicespan[{extra}]' (no module 'starlette')" in result.output


def test_a_defect_of_ours_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of voicespan that is missing is an error, not an advice to install something."""

    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'voicespan.nope'", name="voicespan.nope")

    monkeypatch.setattr(importlib, "import_module", fail)
    assert isinstance(CliRunner().invoke(cli.main, ["demo"]).exception, ModuleNotFoundError)


@pytest.mark.parametrize("name", ["run", "doctor"])
def test_commands_are_found(name: str) -> None:
    """A command is what its entry says, with a help text of its own."""
    context = click.Context(cli.main)
    command = cli.main.get_command(context, name)
    assert command is not None
    assert command.help
