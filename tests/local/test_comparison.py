"""`voicespan compare`: two runs or two times, from the store and from a viewer."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from .otlp import START_NS, Trace, turn
from .test_origin import add, environment, run

if TYPE_CHECKING:
    from voicespan.local.server import Receiver

__all__ = ("environment",)

SECOND = 10**9


def some(count: int, model_s: float, start_ns: int, seed: int) -> list[Trace]:
    rng = random.Random(seed)
    return [
        turn(
            index, shares={"endpoint": 0.3, "llm": model_s * rng.uniform(0.9, 1.1)}, onset_ns=start_ns + index * SECOND
        )
        for index in range(count)
    ]


@pytest.fixture
def two_runs(receiver: Receiver) -> Receiver:
    """A receiver with a run of a slow model, then one of a quick one."""
    add(receiver.store, *some(100, 0.8, START_NS, 1), **{"voicespan.run": "old", "service.instance.id": "1"})
    new = some(100, 0.2, START_NS + 3600 * SECOND, 2)
    add(receiver.store, *new, **{"voicespan.run": "new", "service.instance.id": "2"})
    return receiver


def change_of(text: str, label: str) -> str:
    return " ".join(next(line for line in text.splitlines() if label in line).split())


@pytest.mark.parametrize("place", ["--db", "--from"])
def test_runs_are_compared(two_runs: Receiver, place: str) -> None:
    """Without names the newest run is compared with the one before; each stage has its change, interval and verdict."""
    where = two_runs.endpoint if place == "--from" else str(two_runs.store.path)
    result = run("compare", place, where)
    assert result.exit_code == 0, result.output
    before, now, *_ = result.output.splitlines()
    assert before.split() == ["before", "old", "100", "turns,", "100", "answered"]
    assert now.split() == ["now", "new", "100", "turns,", "100", "answered"]
    response = change_of(result.output, "heard silence").split()
    assert response[:3] == ["heard", "silence", "p50"]
    assert response[7].startswith("-")
    assert response[-1] == "better"
    assert "may be chance" in change_of(result.output, "interrupted")
    assert "needs 368 turns of each side" in result.output
    assert "worse" not in result.output


def test_the_other_way_round_it_is_worse(two_runs: Receiver) -> None:
    """Sides are named in order, before and now; in JSON the numbers are those of the viewer's own comparison."""
    path = ("--db", str(two_runs.store.path))
    text = run("compare", "new", "old", *path).output
    assert change_of(text, "heard silence").endswith("worse")
    assert change_of(text, "within objective").endswith("worse")
    found = json.loads(run("compare", "new", "old", *path, "--json").output)
    assert found["sides"] == {"before": "new", "now": "old"}
    p50 = found["latencies"]["response"]["p50"]
    assert p50["low_s"] <= p50["change_s"] <= p50["high_s"]
    assert p50["change_s"] == pytest.approx(0.6, abs=0.05)
    assert p50["clear"] is True


@pytest.mark.parametrize("place", ["--db", "--from"])
def test_times_are_compared(two_runs: Receiver, place: str) -> None:
    """Two stretches of time are compared as two runs are."""
    where = two_runs.endpoint if place == "--from" else str(two_runs.store.path)
    middle = START_NS // SECOND + 1800
    text = run("compare", f"..{middle}", f"{middle}..", place, where).output
    assert change_of(text, "heard silence").endswith("better")
    assert "100 turns" in text.splitlines()[0]


def test_runs_are_listed(two_runs: Receiver) -> None:
    """The list has what a run is called by, the newest first."""
    lines = run("compare", "--list", "--db", str(two_runs.store.path)).output.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["new", "old"]


def test_what_cannot_be_compared_is_said(receiver: Receiver) -> None:
    """One run alone, a run that nobody knows, a side without turns: each says what to do."""
    path = ("--db", str(receiver.store.path))
    add(receiver.store, turn())
    lone, unknown = run("compare", *path), run("compare", "1", "nobody", *path)
    assert (lone.exit_code, unknown.exit_code) == (1, 1)
    assert "there are no two runs of one service" in lone.output
    assert "no run 'nobody' is known: voicespan compare --list" in unknown.output
    empty = run("compare", "1..2", "1", *path)
    assert empty.exit_code == 1
    assert "no turn matches on the side of before" in empty.output
    assert run("compare", "1", *path).exit_code == 2
