"""`voicespan stack`: what it says when something is missing, wrong or in containers."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from voicespan.cli import main
from voicespan.stack import command, generate, programs, services
from voicespan.stack.processes import Stack

from .test_processes import service

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

DEPLOY = generate.CHECKOUT / "deploy"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a stack that nobody else uses."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return command.default_state()


def stack(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["stack", *arguments])


def executable(path: Path, text: str) -> Path:
    """A program that is a script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any of the programs; returns the folder that is its PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(programs, "_CHECKOUT", tmp_path / "nowhere")
    return tmp_path / "bin"


# Programs


def test_without_a_collector_it_says_where_to_get_one(nothing: Path) -> None:
    """A program that the stack cannot do without ends the command with the way to it, and nothing is started."""
    done = stack("up")
    assert done.exit_code == 1
    assert "no program 'voicespan-collector' here: build it: make collector" in done.output
    executable(nothing / "voicespan-collector", "exit 0")
    done = stack("up")
    assert (done.exit_code, "no program 'prometheus' here" in done.output) == (1, True)


def test_what_is_left_out_is_said(nothing: Path, tmp_path: Path) -> None:
    """Each program that is not found and can be done without has a line that says what is missing then."""
    for name in ("voicespan-collector", "prometheus"):
        executable(nothing / name, "exit 0")
    left_out = services.plan(DEPLOY, tmp_path).left_out
    assert [line.split(":")[0] for line in left_out] == ["tempo", "alertmanager", "grafana"]
    assert "so alerts are seen in Prometheus only (install Debian's prometheus-alertmanager)" in left_out[1]


def test_lines_about_what_is_left_out_reach_the_user(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` prints them before it starts anything; here a configuration is wrong, which ends it with the reason."""
    executable(nothing / "voicespan-collector", "echo 'line 7: no such key' >&2; exit 1")
    executable(nothing / "prometheus", "exit 0")
    monkeypatch.setattr("voicespan.stack.processes._check_ports", lambda _: None)
    done = stack("up")
    assert done.exit_code == 1
    assert "without grafana: not found, so no dashboards" in done.output
    assert "the configuration of collector is wrong: line 7: no such key" in done.output
    assert stack("status").output == "nothing runs: voicespan stack up\n"


def test_the_program_of_these_sources_is_taken(nothing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout the build of its sources is used, also when another one is newer, or none."""
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said = subprocess.run(
        [generate.CHECKOUT / "scripts/collector", "--where"], capture_output=True, text=True, check=True
    )
    folder = Path(said.stdout.strip())
    assert folder.is_relative_to(tmp_path / "cache")
    newest = executable(folder.parent / "collector-0000000000000000/voicespan-collector", "exit 0")
    assert programs.COLLECTOR.find() is None
    ours = executable(folder / "voicespan-collector", "exit 0")
    os.utime(folder, (1, 1))
    assert programs.COLLECTOR.find() == ours
    monkeypatch.setattr(programs, "_CHECKOUT", tmp_path / "nowhere")
    assert programs.COLLECTOR.find() == newest


def test_grafana_keeps_to_its_folder(nothing: Path, state: Path) -> None:
    """Grafana, as a normal user, writes below the state only, logs to its output, and has a password of its own."""
    for name in ("voicespan-collector", "prometheus"):
        executable(nothing / name, "exit 0")
    executable(nothing / "grafana", "exec sleep 60")
    planned = next(each for each in services.plan(DEPLOY, state).services if each.name == "grafana")
    for name in ("GF_PATHS_DATA", "GF_PATHS_LOGS", "GF_PATHS_PLUGINS"):
        assert Path(planned.environ[name]).is_relative_to(state)
    assert planned.environ["GF_LOG_MODE"] == "console"
    (file,) = planned.secrets
    assert planned.environ["GF_SECURITY_ADMIN_PASSWORD"] == f"$__file{{{file}}}"
    assert str(file) in planned.page


def test_a_password_is_made_up_once(tmp_path: Path) -> None:
    """A service's password is long, readable for this user only, and stays what it is."""
    running = Stack(tmp_path / "stack")
    made = service("one")
    file = tmp_path / "one/password"
    needy = services.Service(
        name="one", command=made.command, health=made.health, ports=made.ports, page=made.page,
        folders=(file.parent,), secrets=(file,),
    )  # fmt: skip
    passwords = set()
    for _ in range(2):
        running.up([needy], lambda _: None)
        passwords.add(file.read_text())
        running.down()
    (password,) = passwords
    assert len(password) >= 20
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# Logs


def test_logs_are_shown(state: Path) -> None:
    """`logs` shows the last lines of each service with its name, or those of one; a wrong name is answered by all."""
    (state / "logs").mkdir(parents=True)
    for name in ("collector", "prometheus"):
        (state / f"logs/{name}.log").write_text("".join(f"{name} says {number}\n" for number in range(100)))
    assert stack("logs", "collector", "--lines", "2").output == "collector says 98\ncollector says 99\n"
    said = stack("logs").output.splitlines()
    assert len(said) == 80
    assert said[-1] == "prometheus   prometheus says 99"
    wrong = stack("logs", "grafana")
    assert wrong.exit_code == 1
    assert "no log of 'grafana': there are collector, prometheus" in wrong.output


def test_reload_needs_a_prometheus() -> None:
    """Where none runs, `reload` says so."""
    done = stack("reload")
    assert (done.exit_code, "no Prometheus runs" in done.output) == (1, True)


# Containers

CONTAINERS: list[dict[str, Any]] = [
    {"Name": "voicespan-tempo-1", "Service": "tempo", "State": "running", "Health": "healthy", "Publishers": []},
    {
        "Name": "voicespan-grafana-1",
        "Service": "grafana",
        "State": "running",
        "Health": "healthy",
        "Publishers": [{"URL": "127.0.0.1", "TargetPort": 3000, "PublishedPort": 3000, "Protocol": "tcp"}],
    },
]
DOCKER = """echo "$*" >> "$(dirname "$0")/asked"
case "$*" in
  "compose version") exit {version} ;;
  *" ps "*) cat "$(dirname "$0")/containers" ;;
esac
"""


@pytest.fixture
def docker(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A docker that has these containers; returns what it was asked, without the questions for its version."""
    for name in ("cat", "dirname"):
        (nothing / name).symlink_to(str(shutil.which(name, path="/usr/bin:/bin")))

    def prepare(containers: str = "", version: int = 0) -> list[str]:
        executable(nothing / "docker", DOCKER.replace("{version}", str(version)))
        (nothing / "containers").write_text(containers)
        asked = nothing / "asked"
        found = asked.read_text().splitlines() if asked.exists() else []
        asked.unlink(missing_ok=True)
        return [line for line in found if line != "compose version"]

    prepare()
    return prepare


def test_compose_is_asked_with_our_file(docker: Callable[..., list[str]]) -> None:
    """Each command with --compose is one of docker compose, with deploy/compose.yaml."""
    for arguments in (["up"], ["down"], ["logs", "tempo"]):
        assert stack(*arguments, "--compose").exit_code == 0
    file = f"compose --file {DEPLOY / 'compose.yaml'}"
    assert docker() == [f"{file} up --detach --wait", f"{file} down", f"{file} logs --tail 40 tempo"]


@pytest.mark.parametrize("form", ["lines", "list"])
def test_containers_have_a_state(form: str, docker: Callable[..., list[str]]) -> None:
    """`status --compose` says of each container whether it is healthy, in whichever form Compose answers."""
    entries = [*CONTAINERS]
    docker(json.dumps(entries) if form == "list" else "\n".join(map(json.dumps, entries)))
    done = stack("status", "--compose")
    assert done.exit_code == 0
    assert [line.split() for line in done.output.splitlines()] == [
        ["tempo", "ready", "running"],
        ["grafana", "ready", "http://127.0.0.1:3000/"],
    ]
    found = json.loads(stack("status", "--compose", "--json").output)
    assert [(each["name"], each["healthy"]) for each in found] == [("tempo", True), ("grafana", True)]


def test_containers_that_are_not_well_are_a_failure(docker: Callable[..., list[str]]) -> None:
    """A container that has ended or is not healthy makes status 1, and so does none at all."""
    for change in ({"State": "exited", "Health": ""}, {"Health": "unhealthy"}):
        docker("\n".join(map(json.dumps, (CONTAINERS[0], CONTAINERS[1] | change))))
        done = stack("status", "--compose")
        assert (done.exit_code, "does not answer" in done.output) == (1, True)
    docker("")
    done = stack("status", "--compose")
    assert (done.exit_code, done.output) == (1, "nothing runs: voicespan stack up --compose\n")


def test_what_compose_needs_is_said(
    docker: Callable[..., list[str]], nothing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without docker, without its plugin, and without a checkout, the command says which of them is missing."""
    monkeypatch.setattr(command, "deploy", lambda: tmp_path / "site-packages/voicespan/stack/deploy")
    assert "needs a checkout, with collector/Dockerfile" in stack("up", "--compose").output
    docker(version=1)
    done = stack("up", "--compose")
    assert (done.exit_code, "this docker has no compose" in done.output) == (1, True)
    (nothing / "docker").unlink()
    assert "there is no docker on the PATH" in stack("status", "--compose").output
