"""One process of the demo."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest

from voicespan.demo import serve


def listening(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("role", ["model", "worker"])
def test_ends_when_its_parent_is_gone(role: str, free_port: int) -> None:
    """A process with a lifeline ends by itself, without an error, when standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "voicespan.demo.serve", role, "--port", str(free_port), "--lifeline"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        until = time.monotonic() + 30
        while not listening(free_port):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        _, errors = process.communicate(timeout=20)  # closes its standard input
    finally:
        process.kill()
    assert errors == b""


def test_a_caller_that_reaches_nobody_fails(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 1, and the reason is said."""
    assert serve.main(["caller", "--port", str(free_port), "--scenarios", "greeting"]) == 1
    assert "the call failed" in capsys.readouterr().err


def test_a_caller_that_reaches_a_stranger_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """So is it where somebody else listens, who hangs up without a word."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def hang_up() -> None:
            stranger.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        port = str(stranger.getsockname()[1])
        assert serve.main(["caller", "--port", port, "--scenarios", "greeting"]) == 1
    assert "the call failed" in capsys.readouterr().err


def test_an_unknown_role_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """There are four roles."""
    with pytest.raises(SystemExit):
        serve.main(["nobody"])
    assert "worker" in capsys.readouterr().err
