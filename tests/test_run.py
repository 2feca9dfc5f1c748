from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from voicespan import diagnostics, settings
from voicespan import run as run_module
from voicespan.cli import main
from voicespan.run import environment
from voicespan.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing has been said, and the environment has none of our variables."""
    for name in [name for name in os.environ if name.startswith(("OTEL_", "VOICESPAN_"))]:
        monkeypatch.delenv(name)
    settings.reset(Settings())
    diagnostics.forget()
    yield
    settings.reset()
    diagnostics.forget()


def test_the_environment_of_the_command() -> None:
    """The distribution is chosen, the options are set, and the loader is first on the path, once."""
    made = environment({"PYTHONPATH": "/a", "X": "y"}, "svc", "http://c:4318")
    assert {name: made[name] for name in made if name.startswith("OTEL_")} == {
        "OTEL_PYTHON_DISTRO": "voicespan",
        "OTEL_PYTHON_CONFIGURATOR": "voicespan",
        "OTEL_SERVICE_NAME": "svc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
    }
    paths = made["PYTHONPATH"].split(os.pathsep)
    assert (Path(paths[0]) / "sitecustomize.py").is_file()
    assert paths[1:] == [str(Path.cwd()), "/a"]
    assert environment(made, None, None) == made


def test_what_is_set_stays() -> None:
    """Variables that the user has set are not changed."""
    chosen = {"OTEL_PYTHON_DISTRO": "other", "OTEL_PYTHON_CONFIGURATOR": "other", "OTEL_SERVICE_NAME": "mine"}
    made = environment(chosen, None, None)
    assert {name: made[name] for name in chosen} == chosen


@pytest.mark.parametrize(
    ("arguments", "command", "service"),
    [
        (["--", "python", "bot.py", "--flag"], ("python", "bot.py", "--flag"), None),
        (["--service-name", "svc", "python", "-m", "app"], ("python", "-m", "app"), "svc"),
        (["--service-name=svc", "--", "uvicorn", "app:app", "--service-name", "x"],
         ("uvicorn", "app:app", "--service-name", "x"), "svc"),
    ],
)  # fmt: skip
def test_the_command_is_passed_on(
    arguments: list[str], command: tuple[str, ...], service: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything after the options is the command, with its own options."""
    seen: list[tuple[tuple[str, ...], Mapping[str, str]]] = []
    monkeypatch.setattr(run_module, "execute", lambda what, environ: seen.append((what, environ)))
    assert CliRunner().invoke(main, ["run", *arguments]).exit_code == 0
    ((what, environ),) = seen
    assert (what, environ.get("OTEL_SERVICE_NAME")) == (command, service)


def test_a_command_that_does_not_exist() -> None:
    """A command that is not found ends with 127 and says so."""
    result = CliRunner().invoke(main, ["run", "--", "no-such-command-here"])
    assert result.exit_code == 127
    assert "voicespan run: no-such-command-here: command not found" in result.output


def test_a_command_that_cannot_be_executed(tmp_path: Path) -> None:
    """A file that is no program ends with 126 and says why."""
    broken = tmp_path / "broken"
    broken.write_text("\0")
    broken.chmod(0o755)
    result = CliRunner().invoke(main, ["run", "--", str(broken)])
    assert result.exit_code == 126
    assert f"voicespan run: {broken}: " in result.output


def test_without_a_command() -> None:
    """Without a command there is the usage, with status 2."""
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 2
    assert "COMMAND..." in result.output


def test_another_python_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where `python` is another interpreter than the one with voicespan, that is said before it fails to import it."""
    name = Path(sys.executable).name
    other = tmp_path / name
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(run_module, "execute", lambda what, environ: None)
    result = CliRunner().invoke(main, ["run", "--", name, "bot.py"])
    assert f"{name} is {other}, but voicespan is installed for {sys.executable}" in result.stderr


def test_unknown_propagators_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A propagator that would keep OpenTelemetry from being imported is said before the start."""
    monkeypatch.setenv("OTEL_PROPAGATORS", "b4")
    monkeypatch.setattr(run_module, "execute", lambda what, environ: None)
    result = CliRunner().invoke(main, ["run", "--", sys.executable])
    assert "OTEL_PROPAGATORS names b4, which is not installed" in result.stderr
