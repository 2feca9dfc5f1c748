"""What the containers of deploy/compose.demo.yaml run, run as processes: the same commands, variables and addresses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from tests.ports import free_port
from tests.processes.receiver import Receiver

from voicespan.demo import caller
from voicespan.stack import generate

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = generate.CHECKOUT / "deploy"
PORTS = ("8000", "8001", "7001", "4319", "8010")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@contextmanager
def running(service: dict[str, Any], swap: dict[str, str], log: Path) -> Iterator[None]:
    """Run what a service runs in its container; `swap` has the addresses of this machine for those of the file."""

    def here(text: str) -> str:
        text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
        return re.sub("|".join(map(re.escape, swap)), lambda found: swap[found[0]], text)

    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_", "OPENAI_"))
    }
    environ = kept | {name: here(str(value)) for name, value in service.get("environment", {}).items()}
    environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(log.parent)}
    environ |= {"XDG_STATE_HOME": str(log.parent)}
    command = [here(word) for word in service["command"]]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=generate.CHECKOUT / "examples/tts", env=environ, stdout=output, stderr=output
        )
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(20)


def answering(url: str) -> httpx.Response:
    """What is at this address, once somebody answers."""
    until = time.monotonic() + 60
    while True:
        try:
            return httpx.get(url, timeout=10)
        except httpx.TransportError:
            assert time.monotonic() < until, url
            time.sleep(0.2)


@pytest.mark.covers("D-G02", "E-G01")
def test_what_the_containers_run_works_together(tmp_path: Path) -> None:
    """A call to the agent becomes a turn in the viewer and behind it, the page is there, and the speech API speaks."""
    pytest.importorskip("espeakng_loader", reason="needs the extra `demo`")
    services = yaml.safe_load((DEPLOY / "compose.demo.yaml").read_text())["services"]
    swap = {port: str(free_port()) for port in PORTS} | {"0.0.0.0": "127.0.0.1"}
    with Receiver() as receiver, ExitStack() as stack:
        swap["http://otel-collector:4318"] = receiver.url
        for name in ("viewer", "model", "speech-worker", "voice-agent", "speech-api"):
            stack.enter_context(running(services[name], swap, tmp_path / f"{name}.log"))
        agent, api, viewer = (f"http://127.0.0.1:{swap[port]}" for port in ("8000", "8010", "4319"))
        answering(f"{viewer}/api/turns")
        assert answering(f"{agent}/healthz").json() == {"status": "ok"}
        assert "<html" in answering(f"{agent}/").text
        asyncio.run(caller.run(agent.replace("http", "ws") + "/call", ["plain"], seed=0, recording=None))
        spoken = httpx.post(f"{api}/tts", json={"text": "Hello world!", "voice_name": "biden", "language": "en"})
        assert spoken.content.startswith(b"RIFF")
        until = time.monotonic() + 20
        turns: list[Any] = []
        while not any(turn["response_s"] for turn in turns) and time.monotonic() < until:
            time.sleep(0.2)
            turns = httpx.get(f"{viewer}/api/turns").json()["turns"]
        (turn,) = [turn for turn in turns if turn["response_s"]]
        assert turn["service"] == "voice-agent", json.dumps(turn)
        assert receiver.until(lambda: {"voice.response", "POST /tts", "tts.inference"} <= set(receiver.span_names))
