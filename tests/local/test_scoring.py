"""A score of a turn: sent by the command or a service, stored with its turn, shown in the terminal and on the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.ports import free_port

from .otlp import turn
from .test_origin import add, environment, run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from voicespan.local.server import Receiver

__all__ = ("environment",)

SERVICE = """
import sys, voicespan
voicespan.setup_tracing("bot")
voicespan.score(sys.argv[1], "helpful", 0.5, explanation="it said my name")
voicespan.score(sys.argv[1], "helpful", 1, label="thumbs_up")
voicespan.score("nonsense", "helpful", 1)
voicespan.score(sys.argv[1], "empty")
print("goes on")
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets variables of its own process, which is this one here."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")


def scores(receiver: Receiver, trace_id: str) -> list[dict[str, object]]:
    found = httpx.get(f"{receiver.endpoint}/api/turns/{trace_id}").json()["scores"]
    return [{key: each[key] for key in ("name", "value", "label", "words")} for each in found]


def test_a_score_is_shown_with_its_turn(receiver: Receiver) -> None:
    """What the command sends stands with the turn in the API and in the terminal; the last one of a name counts."""
    trace = turn()
    add(receiver.store, trace)
    path, there = ("--db", str(receiver.store.path)), ("--endpoint", receiver.endpoint)
    for value in ("0.2", "0.8"):
        result = run("score", "last", "--name", "helpful", "--value", value, "--label", "good", *path, *there)
        assert result.exit_code == 0, result.output
    run("score", trace.hex[:9], "--name", "tone", "--label", "rude", *path, *there)
    assert scores(receiver, trace.hex) == [
        {"name": "helpful", "value": 0.8, "label": "good", "words": "helpful 0.8 (good)"},
        {"name": "tone", "value": None, "label": "rude", "words": "tone: rude"},
    ]
    assert "scored · helpful 0.8 (good) · tone: rude" in run("show", "last", *path).output
    shown = json.loads(run("show", "last", *path, "--json").output)
    assert [score["words"] for score in shown["scores"]] == ["helpful 0.8 (good)", "tone: rude"]
    (event, *_) = httpx.get(f"{receiver.endpoint}/api/turns/{trace.hex}").json()["logs"]
    assert event["attributes"]["event.name"] == "gen_ai.evaluation.result"
    assert event["service"] == "voice-agent"


def test_a_score_is_exported_with_its_turn(receiver: Receiver) -> None:
    """A file of the turn has the score in it, and brings it in elsewhere; so does reading it from the viewer."""
    trace = turn()
    add(receiver.store, trace)
    run("score", trace.hex, "--name", "csat", "--value", "4", "--endpoint", receiver.endpoint)
    assert "csat 4" in run("show", trace.hex, "--from", receiver.endpoint).output


def test_a_trace_that_is_not_here_is_scored_by_its_whole_id(receiver: Receiver) -> None:
    """A whole trace id may be of a back end that cannot be read: it is sent, and said; a part of one is refused."""
    there = ("--name", "csat", "--value", "4", "--endpoint", receiver.endpoint, "--db", str(receiver.store.path))
    sent = run("score", "ab" * 16, *there)
    assert sent.exit_code == 0
    assert "no trace begins with" in sent.output
    assert [each["words"] for each in scores(receiver, "ab" * 16)] == ["csat 4"]
    refused = run("score", "abc123", *there)
    assert (refused.exit_code, "no trace begins with 'abc123'" in refused.output) == (1, True)


def test_where_nobody_listens_is_said() -> None:
    """A score that nobody takes ends with status 1 and the reason; one without a verdict is a mistake of usage."""
    nobody = f"http://127.0.0.1:{free_port()}"
    result = run("score", "ab" * 16, "--name", "csat", "--value", "4", "--endpoint", nobody)
    assert result.exit_code == 1
    assert f"{nobody}/v1/logs did not take the score: connection refused" in result.output
    assert run("score", "last", "--name", "csat").exit_code == 2


@pytest.mark.parametrize("content", [False, True])
def test_a_service_scores_a_turn(receiver: Receiver, *, content: bool) -> None:
    """A service sends scores where its spans go though it sends no log lines, raises never, and withholds why."""
    trace = turn()
    add(receiver.store, trace)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
    environ = {**kept, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none"}
    command = [sys.executable, "-c", SERVICE, trace.hex]
    ended = subprocess.run(
        command, env={**environ, "VOICESPAN_CONTENT": str(content).lower()}, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "goes on\n"
    assert "'nonsense' is no trace id" in ended.stderr
    assert scores(receiver, trace.hex) == [
        {"name": "helpful", "value": 1.0, "label": "thumbs_up", "words": "helpful 1 (thumbs_up)"}
    ]
    logs = httpx.get(f"{receiver.endpoint}/api/turns/{trace.hex}").json()["logs"]
    assert len(logs) == 2
    assert "my name" not in json.dumps(logs)


def test_the_page_shows_scores(receiver: Receiver, browser: Browser) -> None:
    """On the page, the scores of a turn stand under the sentence that says why the user waited."""
    trace = turn()
    add(receiver.store, trace)
    run("score", trace.hex, "--name", "helpful", "--value", "0.8", "--endpoint", receiver.endpoint)
    page = browser.new_page()
    page.goto(f"{receiver.endpoint}/?turn={trace.hex}")
    shown = page.locator("#turn .scores")
    shown.wait_for(timeout=20_000)
    assert shown.inner_text() == "Scored: helpful 0.8"
    page.close()
