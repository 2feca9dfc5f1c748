"""`voicespan load` against a real receiver, a back end that fails, and nobody."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from tests.processes import faulty
from tests.processes.receiver import nobody

from voicespan.load import agents
from voicespan.load.command import load
from voicespan.load.result import Delays, Result
from voicespan.load.shape import Shape, paces
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result as Finished


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver that stores what it gets."""
    with Receiver(port=0, database=tmp_path / "turns.db") as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the services' own libraries is loaded: that takes time only."""
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "*")


def run(*arguments: str) -> Finished:
    return CliRunner().invoke(load, arguments)


def figures(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stored(viewer: Receiver) -> int:
    return len(viewer.store.reader.turns(TurnQuery(service="voicespan-load", limit=10_000)))


def test_calls_through_the_sdk(viewer: Receiver) -> None:
    """All turns of a service of simulated calls arrive, and it says what they cost beside the same calls without."""
    done = run("--calls", "20", "--rate", "20", "--seconds", "2", "--endpoint", viewer.endpoint, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["turns"] == stored(viewer) >= 20
    assert found["sent"] == found["spans"] > 20 * 5
    assert found["lost"] == 0
    assert found["problems"] == []
    assert found["cpu_cores"] > found["cpu_cores_without"] > 0
    assert found["memory_mb"] > 10
    assert set(found["loop_delay_ms"]) == set(found["loop_delay_without_ms"]) == {"p50", "p99", "max"}


def test_requests_straight_to_the_back_end(viewer: Receiver) -> None:
    """Ready requests at the rate that is asked for: each turn is another one, whole, and stored."""
    found = figures(
        "--calls", "50", "--rate", "160", "--seconds", "1", "--through", "otlp", "--endpoint", viewer.endpoint
    )
    assert found["lost"] == 0
    assert found["sent"] == found["spans"] == found["turns"] * 11
    assert found["turns"] == stored(viewer)
    assert 80 <= found["turns"] <= 240
    turns = viewer.store.reader.turns(TurnQuery(service="voicespan-load", limit=10_000))
    assert all(turn.complete for turn in turns)
    assert found["request_ms"]["p99"] > 0


@pytest.mark.parametrize("refused", ["connection", "answer"])
def test_what_is_lost_is_said(refused: str) -> None:
    """Where nothing is taken, all of it is lost, with the reason, and the exit status is 1."""
    with nobody() as url, faulty.BackEnd(faulty.status("503 Service Unavailable")) as busy:
        endpoint = url if refused == "connection" else busy.url
        done = run("--calls", "10", "--seconds", "1", "--through", "otlp", "--endpoint", endpoint)
    assert done.exit_code == 1
    assert ", 0 sent, " in done.stdout
    assert ("Connection refused" if refused == "connection" else "503 Service Unavailable") in done.stdout


def test_what_the_sdk_cannot_send_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose back end refuses counts all of its spans as lost, and says why."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with nobody() as url:
        done = run("--calls", "5", "--rate", "20", "--seconds", "1", "--endpoint", url, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert found["lost"] == found["spans"] > 0
    assert found["problems"] == ["connection refused"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--calls", "0"), "--calls"),
        (("--seconds", "0.1"), "--seconds"),
        (("--endpoint", "localhost:4318"), "http://"),
        (("--through", "agent", "--calls", "9"), "up to 8"),
        (("--through", "agent", "--calls", "1", "--rate", "3"), "no --rate"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], words: str) -> None:
    """A wrong option is told at once."""
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.timeout(120)
def test_calls_through_the_reference_agent(viewer: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation with the agent takes its time, and its turns reach the back end as well."""
    pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")
    monkeypatch.setattr(agents, "SCENARIOS", "greeting")
    found = figures("--calls", "1", "--seconds", "1", "--through", "agent", "--endpoint", viewer.endpoint)
    assert (found["turns"], found["problems"]) == (1, [])
    assert found["cpu_cores"] > 0
    assert found["memory_mb"] > 100
    assert len(viewer.store.reader.turns(TurnQuery(service="demo-agent"))) == 1


def test_calls_do_not_march_in_step() -> None:
    """The parts of a turn add up to its time, which varies by a quarter around what the rate asks for."""
    shape, rng = Shape(100, 20.0, 30), random.Random(1)
    lengths = []
    for _ in range(400):
        pace = paces(shape, rng)
        lengths.append(pace.speech_s + pace.model_s + pace.reply_s + pace.pause_s)
        rest = pace.rest(0.5)
        assert rest.speech_s == 0
        assert math.isclose(rest.model_s + rest.reply_s + rest.pause_s, lengths[-1] / 2)
    assert math.isclose(sum(lengths) / len(lengths), shape.turn_s, rel_tol=0.05)
    assert 3.7 < min(lengths) < 4.0
    assert 6.0 < max(lengths) < 6.3


def test_the_lines_for_people() -> None:
    """Rates, losses and delays in words; what a way of sending does not have is left out."""
    delays = Delays([0.001] * 98 + [0.004, 0.02])
    result = Result(
        "sdk", 10, 200, 10.0, 2_400, 2_300, 100, 0.5, 0.25, 80.0, delays.summary(), {}, problems=["no answer"]
    )
    assert result.lines() == [
        "  turns             200 (20.0/s)",
        "  spans             2,400 (240/s), 2,300 sent, 100 lost",
        "  CPU               0.50 of a core; the same calls without telemetry 0.25",
        "  memory            80 MB at most",
        "  event-loop delay  p50 1.0 ms, p99 20.0 ms, longest 20.0 ms",
        "  problem           no answer",
    ]
    assert Result.read(json.loads(json.dumps(result.plain()))) == result
