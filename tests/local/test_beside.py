"""`voicespan run --ui`: the command and the viewer in one terminal, as a reader starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tests.ports import free_port

from voicespan.cli import main
from voicespan.local import port as ports
from voicespan.local.browser import open_page
from voicespan.local.query import TurnQuery
from voicespan.local.reader import Reader

if TYPE_CHECKING:
    from pathlib import Path

BOT = """
import os, sys
import voicespan

with voicespan.session(id="call-7") as session:
    turn = session.user_turn()
    turn.speech_ended()
    turn.committed()
    with turn.tts(text="Yes."):
        turn.audio_sent(0.02)
print(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"], flush=True)
sys.exit(3)
"""
WAITS = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
print("ready", flush=True)
signal.pause()
"""


def start(folder: Path, script: str, *options: str, **variables: str) -> subprocess.Popen[str]:
    """Start a script under `voicespan run --ui`, its turns kept in the folder."""
    (folder / "bot.py").write_text(script)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
    line = [sys.executable, "-c", "from voicespan.cli import main; main()", "run", "--ui", "--no-browser"]
    return subprocess.Popen(
        [*line, *options, "--", sys.executable, "bot.py"],
        cwd=folder,
        env={**kept, "VOICESPAN_DB": str(folder / "x.db"), **variables},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_turns_of_the_command_are_received(tmp_path: Path) -> None:
    """The command sends to the viewer whatever the environment named before; its status is that of voicespan."""
    process = start(tmp_path, BOT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://127.0.0.1:9/v1/traces")
    said, complaints = process.communicate(timeout=50)
    assert process.returncode == 3, complaints
    assert f"voicespan shows turns at {said.strip()}/, kept for 14 days and up to 1,024 MiB" in complaints
    (turn,) = Reader(tmp_path / "x.db").turns(TurnQuery())
    assert turn.session_id == "call-7"


SAYS = """
import json, os, urllib.request
print(json.dumps(dict(os.environ)))
asked = urllib.request.Request(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/api/status")
asked.add_header("Authorization", "Bearer token-of-the-tests")
print(urllib.request.urlopen(asked).read().decode())
"""


def test_the_command_is_told_what_the_viewer_wants(tmp_path: Path) -> None:
    """The viewer's token and that it keeps content are in the command's environment; no other viewer is told."""
    options = ["--content", "--token", "token-of-the-tests", "--grpc-port", "0", "--trace-link", "http://a/{trace_id}"]
    process = start(tmp_path, SAYS, *options, VOICESPAN_VIEWER_ENDPOINT="http://127.0.0.1:9")
    said, complaints = process.communicate(timeout=50)
    assert process.returncode == 0, complaints
    environ, status = (json.loads(line) for line in said.splitlines())
    assert environ["OTEL_EXPORTER_OTLP_HEADERS"] == "authorization=Bearer%20token-of-the-tests"
    assert environ["VOICESPAN_CONTENT"] == "true"
    assert "VOICESPAN_VIEWER_ENDPOINT" not in environ
    assert (status["content"], status["grpc"]) == (True, {"endpoint": None, "say": None})
    assert status["trace_link"] == "http://a/{trace_id}"
    assert "/?token=token-of-the-tests" in complaints


def test_a_grpc_port_that_was_asked_for_and_is_taken_is_said(tmp_path: Path) -> None:
    """The line names the port; where nobody asked for one, nothing is said."""
    with contextlib.closing(ports.listen("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        _, complaints = start(tmp_path, "", "--grpc-port", port).communicate(timeout=50)
    assert f"OTLP over gRPC is not received: port {port} is taken by process" in complaints


def test_options_of_the_viewer_need_it() -> None:
    """Without --ui there is no viewer that a port, a token or a link could be for."""
    for option in (["--grpc-port", "1"], ["--token", "x" * 20], ["--trace-link", "http://a/{trace_id}"]):
        result = CliRunner().invoke(main, ["run", *option, "--", "true"])
        assert (result.exit_code, "go with --ui" in result.output) == (2, True)


def test_a_signal_goes_to_the_command(tmp_path: Path) -> None:
    """SIGTERM ends the command first, in its own way, and then the viewer."""
    process = start(tmp_path, WAITS)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=50)
    assert process.returncode == 4


def test_an_endpoint_contradicts_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--ui` and `--endpoint` together are refused, since telemetry goes to one place; an unknown command is 127."""
    result = CliRunner().invoke(main, ["run", "--ui", "--endpoint", "http://c:4318", "--", "python", "bot.py"])
    assert result.exit_code == 2
    assert "--endpoint" in result.output
    assert CliRunner().invoke(main, ["run", "--ui", "--", "no-such-command-here"]).exit_code == 127


def test_no_browser_is_opened_for_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal nobody asked for a window."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("webbrowser.open", lambda _: pytest.fail("a browser was opened"))
    assert open_page("http://127.0.0.1:1/") is False


def test_viewer_beside_the_command_takes_the_options_of_the_viewer(tmp_path: Path) -> None:
    """Port, database and limits are said as for `voicespan ui`; without --ui they are a mistake."""
    port = free_port()
    options = ["--port", str(port), "--db", str(tmp_path / "other.db"), "--keep-days", "2", "--keep-mib", "64"]
    process = start(tmp_path, BOT, *options)
    said, complaints = process.communicate(timeout=50)
    assert said.strip() == f"http://127.0.0.1:{port}", complaints
    assert "kept for 2 days and up to 64 MiB" in complaints
    assert len(Reader(tmp_path / "other.db").turns(TurnQuery())) == 1
    for option in (["--port", "1"], ["--db", "x"], ["--keep-days", "1"], ["--keep-mib", "1"]):
        result = CliRunner().invoke(main, ["run", *option, "--", sys.executable])
        assert (result.exit_code, "go with --ui" in result.stderr) == (2, True)
