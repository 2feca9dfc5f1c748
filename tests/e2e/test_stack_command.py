"""`voicespan stack` and `voicespan demo --otlp`: the demo's turns in the back ends, with the files as they are."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.programs import missing, program

from voicespan.stack import generate, programs
from voicespan.stack.services import VIEWER_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

PORTS = (4317, 4318, VIEWER_PORT, 8888, 8889, 9090, 13133, 14317)
PROMETHEUS = "http://127.0.0.1:9090/api/v1"
VIEWER = f"http://127.0.0.1:{VIEWER_PORT}"
BUCKET = 'traces_span_metrics_duration_seconds_bucket{span_name="voice.response"}'
API_PORT = 8010
APPEAR_S = 60

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]


def free(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def eventually(question: Any) -> Any:
    """The answer, once there is one."""
    until = time.monotonic() + APPEAR_S
    while not (found := question()) and time.monotonic() < until:
        time.sleep(1)
    return found


@pytest.fixture(scope="module")
def voicespan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give a function that runs `voicespan` with a state folder of its own; the stack is down in the end."""
    for needed in (programs.COLLECTOR, programs.PROMETHEUS):
        program(needed)
    # Other tests may have some of them for a moment; somebody's own Collector has them for good.
    if not eventually(lambda: all(free(port) for port in PORTS)):
        missing(f"the stack's ports {[port for port in PORTS if not free(port)]} are taken on this machine")
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}

    run = partial(_voicespan, environ=environ)
    yield run
    run("stack", "down")


def _voicespan(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "voicespan", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)


def ask(path: str, **parameters: object) -> Any:
    """What Prometheus answers."""
    return httpx.get(f"{PROMETHEUS}/{path}", params={key: str(each) for key, each in parameters.items()}).json()["data"]


def test_the_demos_turns_are_in_every_back_end(voicespan: Any) -> None:
    """After `stack up` and `demo --otlp`, the query it names counts its turns, and each exemplar is one of them."""
    up = voicespan("stack", "up")
    assert up.returncode == 0, up.stderr
    status = voicespan("stack", "status", "--json")
    assert status.returncode == 0
    running = {each["name"]: each for each in json.loads(status.stdout)}
    assert {"viewer", "collector", "prometheus"} <= set(running)
    assert all(each["healthy"] for each in running.values())

    begin_s = time.time()
    demo = voicespan("demo", "--otlp", "--json", "--scenarios", "greeting,plain,slow_model")
    assert demo.returncode == 0, demo.stderr
    turns = {each["trace_id"]: each for each in json.loads(demo.stdout)}
    answered = {trace_id for trace_id, turn in turns.items() if turn["response_s"] is not None}
    assert len(answered) == 2

    typed = demo.stderr.partition("ask Prometheus for ")[2].splitlines()[0]
    assert typed in (generate.CHECKOUT / "docs/back-ends.md").read_text()
    wanted = [({"voice_turn_outcome": "completed"}, "3")]
    assert eventually(
        lambda: [(each["metric"], each["value"][1]) for each in ask("query", query=typed)["result"]] == wanted
    )
    found = eventually(lambda: ask("query_exemplars", query=BUCKET, start=begin_s, end=time.time()))
    exemplars = {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}
    assert exemplars == answered
    # As few label values as the design has: a demo is not what fills a Prometheus.
    (series,) = ask("query", query="count(traces_span_metrics_duration_seconds_count)")["result"]
    assert 0 < float(series["value"][1]) <= 500
    if "tempo" not in running:  # then the viewer holds the traces in its place
        for trace_id, turn in turns.items():
            held = httpx.get(f"{VIEWER}/api/turns/{trace_id}").json()["turn"]
            assert held["response_s"] == turn["response_s"]

    started = ask("query", query="prometheus_config_last_reload_success_timestamp_seconds")["result"][0]["value"][1]
    assert voicespan("stack", "reload").stdout.startswith("prometheus reads its files again")
    seen = "prometheus_config_last_reload_success_timestamp_seconds > " + started
    assert eventually(lambda: ask("query", query=seen)["result"])

    again = voicespan("stack", "up")
    assert again.returncode == 0, again.stderr
    down = voicespan("stack", "down")
    assert down.returncode == 0
    assert all(free(port) for port in PORTS)
    assert (voicespan("stack", "status").returncode, voicespan("stack", "status").stdout) == (
        1, "nothing runs: voicespan stack up\n",
    )  # fmt: skip


@pytest.mark.covers("E-K01")
def test_one_script_starts_the_back_ends_and_the_speech_api(voicespan: Any) -> None:
    """After `examples/tts/start.sh` the API speaks, and what it took is a series of Prometheus."""
    pytest.importorskip("espeakng_loader", reason="needs the extra `demo`")
    if not free(API_PORT):
        pytest.skip(f"port {API_PORT} is taken on this machine")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**voicespan.keywords["environ"], "PATH": path, "OTEL_METRICS_EXPORTER": "none"}
    script = generate.CHECKOUT / "examples/tts/start.sh"
    service = subprocess.Popen([script], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert eventually(lambda: not free(API_PORT))
        spoken = httpx.post(f"http://127.0.0.1:{API_PORT}/tts", json={"text": "Hello world!"}, timeout=30)
        assert spoken.content.startswith(b"RIFF")
        query = 'traces_span_metrics_calls_total{service_name="speech-api", span_name="tts"} > 0'
        assert [each["value"][1] for each in eventually(lambda: ask("query", query=query)["result"])] == ["1"]
    finally:
        service.terminate()
        service.communicate(timeout=30)
        voicespan("stack", "down")
    assert all(free(port) for port in PORTS)
