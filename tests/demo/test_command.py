"""The command line of the demo, without a conversation."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from voicespan import cli
from voicespan.demo import command, scenarios
from voicespan.demo.conversation import Result
from voicespan.local.server import Receiver
from voicespan.local.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its packages the command line names the extra and ends with status 2."""
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    monkeypatch.delitem(sys.modules, "voicespan.demo.command")
    result = CliRunner().invoke(cli.main, ["demo"])
    monkeypatch.undo()
    importlib.import_module("voicespan.demo.command")
    assert result.exit_code == 2
    assert "pip install 'voicespan[demo]'" in result.output
    assert "pocketsphinx" in result.output


def test_an_unknown_scenario_is_refused(tmp_path: Path) -> None:
    """The error lists the scenarios that there are."""
    result = CliRunner().invoke(command.demo, ["--scenarios", "nobody", "--db", str(tmp_path / "x.db")])
    assert result.exit_code == 2
    assert "greeting" in result.output
    assert not (tmp_path / "x.db").exists()


def test_help_names_every_option() -> None:
    """The help says what each option is for."""
    result = CliRunner().invoke(command.demo, ["--help"])
    assert result.exit_code == 0
    for option in (
        "--mic",
        "--no-browser",
        "--exit",
        "--json",
        "--port",
        "--seed",
        "--db",
        "--scenarios",
        "--keep",
        "--content",
    ):
        assert option in result.output


@pytest.mark.parametrize(
    ("arguments", "opened", "content"),
    [([], True, False), (["--content"], True, True), (["--no-browser"], False, False), (["--exit"], False, False)],
)
def test_the_page_is_opened_before_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], *, opened: bool, content: bool
) -> None:
    """The page opens when the conversation begins, unless nobody is to look; `--content` lets the viewer keep words."""
    happened: list[str] = []

    def talk(work: Coroutine[Any, Any, Any]) -> list[Result]:
        (receiver,) = [each for each in work.cr_frame.f_locals.values() if isinstance(each, Receiver)]  # type: ignore[attr-defined]
        work.close()
        happened.append(f"talks, content {receiver.content}")
        return []

    monkeypatch.setattr(command, "open_page", lambda _: happened.append("page"))
    monkeypatch.setattr(command, "_run", talk)
    monkeypatch.setattr(command, "_conclude", lambda *_, **__: None)
    monkeypatch.setattr(command, "_stay", lambda *_: None)
    result = CliRunner().invoke(command.demo, ["--port", "0", "--db", str(tmp_path / "x.db"), *arguments])
    assert result.exit_code == 0, result.output
    assert happened == [*(["page"] if opened else []), f"talks, content {content}"]


@pytest.mark.parametrize("other", ["--exit", "--json", "--scenarios=plain"])
def test_a_person_has_no_script(other: str) -> None:
    """With --mic nothing that is about the script can be asked for."""
    result = CliRunner().invoke(command.demo, ["--mic", other])
    assert result.exit_code == 2
    assert "--mic has no script" in result.output


def test_an_unusable_database_is_one_line(tmp_path: Path) -> None:
    """A database that cannot be opened ends the command with its reason."""
    (tmp_path / "file").touch()
    result = CliRunner().invoke(command.demo, ["--port", "0", "--db", str(tmp_path / "file" / "x.db")])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


def a_turn(outcome: str | None, *, complete: bool = True) -> Turn:
    """Return a stored turn with this outcome."""
    return Turn(**dict.fromkeys(Turn._fields) )._replace(  # type: ignore[arg-type]
        outcome=outcome, complete=complete, shares={}, attributes={}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        (None, "no turn arrived"),
        (a_turn(None, complete=False), "the root of the turn is missing"),
        (a_turn("error"), "the outcome is error, not completed"),
        (a_turn("completed"), None),
    ],
)
def test_a_result_knows_what_is_wrong(turn: Turn | None, problem: str | None) -> None:
    """Missing, incomplete and unexpected turns are told apart."""
    assert Result(scenarios.named("plain"), turn, None).problem == problem
