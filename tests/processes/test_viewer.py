"""Services that a viewer on this machine watches: turns in progress, turns that are lost, and what was said."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
import urllib.request
from contextlib import closing
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from tests.ports import free_port

from voicespan.local.server import Receiver as Viewer

from .receiver import Receiver, black_hole
from .service import RUN, Finished, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Measured

CALL = """
    import os, sys, time
    import voicespan

    def call(session_id="call-1", model="gpt-x"):
        session = voicespan.session(id=session_id)
        turn = session.user_turn()
        turn.speech_ended(at=time.monotonic_ns())
        turn.committed()
        turn.transcript()
        turn.user_said("the user's secret", audio=b"user-pcm", sample_rate=8000)
        turn.agent_said("the agent's ")
        turn.agent_said("secret", audio=b"agentpcm", sample_rate=8000)
        return session, turn, turn.llm(model=model)
"""
HANGS = dedent(CALL) + dedent("""
    session, turn, llm = call()
    print("hangs", flush=True)
    time.sleep(60)
""")
ANSWERS = dedent(CALL) + dedent("""
    session, turn, llm = call()
    with llm:
        llm.token()
    with turn.tts(text="the agent's secret"):
        turn.audio_sent(0.0)
    session.hung_up()
""")
SAID = ("secret", "user-pcm", "agentpcm")


def open_turns(viewer: Viewer) -> list[dict[str, Any]]:
    """What the viewer says about turns in progress."""
    with urllib.request.urlopen(f"{viewer.endpoint}/api/open", timeout=10) as answer:
        turns: list[dict[str, Any]] = json.load(answer)["turns"]
        return turns


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    """A viewer that keeps what is said."""
    with Viewer(port=0, content=True) as made:
        yield made


@pytest.fixture
def hung(viewer: Viewer) -> Iterator[Service]:
    """A service that hangs in its language model, as soon as it does."""
    service = Service(HANGS, OTEL_EXPORTER_OTLP_ENDPOINT=viewer.endpoint, VOICESPAN_CONTENT="true")
    service.wait_for("hangs")
    yield service
    service.process.kill()
    service.process.communicate()


@pytest.mark.alone
def test_a_hung_turn_is_seen_within_two_seconds(viewer: Viewer, hung: Service) -> None:
    """The turn of a service that hangs in its model is shown with what it waits for, within two seconds."""
    began_s = time.monotonic()
    until(lambda: bool(open_turns(viewer)))
    assert time.monotonic() - began_s < 2
    (turn,) = open_turns(viewer)
    assert (turn["session_id"], turn["service"], turn["lost"]) == ("call-1", "svc", False)
    assert turn["waiting"].startswith("Waits for the first token of gpt-x, for ")
    assert turn["open_s"] >= 0.5


def test_the_turns_of_a_killed_service_are_lost(viewer: Viewer, hung: Service) -> None:
    """After kill -9 nobody closes the turn: it is shown as lost, with the last that it told, and grows no older."""
    until(lambda: bool(open_turns(viewer)))
    hung.process.send_signal(signal.SIGKILL)
    hung.process.wait()
    until(lambda: all(turn["lost"] for turn in open_turns(viewer)))
    (turn,) = open_turns(viewer)
    assert "killed" in turn["waiting"]
    assert "the first token of gpt-x" in turn["waiting"]
    assert open_turns(viewer)[0]["open_s"] == turn["open_s"]


def test_a_turn_that_ends_is_open_no_more(viewer: Viewer, hung: Service) -> None:
    """When SIGTERM ends the service, its turn is in the store, and not in progress."""
    until(lambda: bool(open_turns(viewer)))
    hung.process.terminate()
    hung.finish()
    until(lambda: open_turns(viewer) == [])
    assert viewer.store.reader.count() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_tells_its_own_turns(viewer: Viewer) -> None:
    """Parent and child each tell of their own turns, and the child goes on when the parent has been killed."""
    script = dedent(CALL) + dedent("""
        parents = call("parent")
        child = os.fork()
        if child == 0:
            children = call("child")
        else:
            print(child, flush=True)
        time.sleep(60)
    """)
    service = Service(script, OTEL_EXPORTER_OTLP_ENDPOINT=viewer.endpoint)
    assert service.process.stdout is not None
    child = int(service.process.stdout.readline())
    try:
        until(lambda: sorted(turn["session_id"] for turn in open_turns(viewer)) == ["child", "parent"])
        service.process.kill()
        lost = {"child": False, "parent": True}
        until(lambda: {turn["session_id"]: turn["lost"] for turn in open_turns(viewer)} == lost)
    finally:
        os.kill(child, signal.SIGKILL)
        service.process.kill()
        service.process.communicate()


def test_a_viewer_that_starts_later_is_found() -> None:
    """A service whose viewer starts after it is seen all the same."""
    port = free_port()
    service = Service(HANGS, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    try:
        service.wait_for("hangs")
        time.sleep(1)  # it has looked in vain
        with Viewer(port=port) as viewer:
            until(lambda: bool(open_turns(viewer)))
    finally:
        service.process.kill()
        service.process.communicate()


def test_a_collector_gets_spans_and_nothing_else() -> None:
    """What is no viewer gets the requests of OTLP only, although content is on; and no word in them was said."""
    with Receiver() as collector:
        done = Service(ANSWERS, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, VOICESPAN_CONTENT="true").finish()
        assert (done.code, done.err) == (0, "")
        assert "voice.turn" in collector.span_names
        assert set(collector.paths) <= {"/v1/traces", "/v1/metrics"}
        sent = b"".join(each.SerializeToString() for each in [*collector.traces, *collector.metrics_requests])
        assert [word for word in SAID if word.encode() in sent] == []


@pytest.mark.failure(
    "A viewer takes connections and never answers", "Neither a mark nor, beyond 2 s, the exit waits for it"
)
def test_a_viewer_that_never_answers_costs_nothing(measured: Measured) -> None:
    """An address that takes connections and never answers delays neither a mark nor, beyond two seconds, the exit."""
    script = dedent(CALL) + dedent("""
        session, turn, llm = call()
        time.sleep(1.2)  # it is asked who it is
        begun = time.monotonic()
        for _ in range(1000):
            turn.agent_said("x")
            turn.audio_sent(0.0)
        print(time.monotonic() - begun, flush=True)
    """)
    with black_hole() as url:
        service = Service(
            script, OTEL_EXPORTER_OTLP_ENDPOINT=url, VOICESPAN_CONTENT="true", VOICESPAN_EXIT_TIMEOUT_S="2"
        )
        done = service.finish()
    taken_s = float(done.out)
    assert taken_s < 1
    assert done.code == 0
    measured(call="1,000 of 1,000 marks", block_ms=taken_s * 1000)


def converse(viewer: Viewer, **environ: str) -> Finished:
    """A service that answers once and ends."""
    return Service(
        ANSWERS,
        OTEL_EXPORTER_OTLP_ENDPOINT=viewer.endpoint,
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED="true",
        **environ,
    ).finish()


def rows(viewer: Viewer, statement: str) -> list[Any]:
    """The rows of a question to the database."""
    with closing(sqlite3.connect(viewer.store.path)) as connection:
        return connection.execute(statement).fetchall()


def everything(viewer: Viewer) -> bytes:
    """Every byte of the database."""
    return b"".join(path.read_bytes() for path in sorted(viewer.store.path.parent.glob("*.db*")))


def test_what_was_said_reaches_a_viewer_that_keeps_it(viewer: Viewer) -> None:
    """With VOICESPAN_CONTENT on both sides, text and audio of both sides are in the store, and in no span or log."""
    done = converse(viewer, VOICESPAN_CONTENT="true")
    assert (done.code, done.err) == (0, "")
    assert rows(viewer, "SELECT role, text, audio, sample_rate FROM content ORDER BY role") == [
        ("agent", "the agent's secret", b"agentpcm", 8000),
        ("user", "the user's secret", b"user-pcm", 8000),
    ]
    rest = repr([rows(viewer, f"SELECT * FROM {table}") for table in ("part", "turn", "log", "source")])
    assert "voice.turn" in rest
    assert [word for word in SAID if word in rest] == []


def test_one_command_keeps_what_was_said(tmp_path: Path) -> None:
    """`voicespan run --ui --content` switches it on for the service and for the viewer beside it."""
    launcher = (*RUN[:-1], "--ui", "--content", "--no-browser", "--")
    done = Service(ANSWERS, launcher, VOICESPAN_DB=str(tmp_path / "x.db")).finish()
    assert done.code == 0, done.err
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        said = connection.execute("SELECT text FROM content ORDER BY role").fetchall()
    assert said == [("the agent's secret",), ("the user's secret",)]


@pytest.mark.parametrize("service", ["false", "true"])
def test_what_was_said_is_nowhere_else(service: str) -> None:
    """Where the service or the viewer was not told to keep it, no byte of what was said is in the database."""
    with Viewer(port=0, content=service == "false") as viewer:
        done = converse(viewer, VOICESPAN_CONTENT=service)
        assert (done.code, done.err) == (0, "")
        assert viewer.store.reader.count() == 1
        assert [word for word in SAID if word.encode() in everything(viewer)] == []
