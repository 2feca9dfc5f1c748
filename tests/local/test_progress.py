"""Turns in progress and what was said, as services tell the viewer."""

from __future__ import annotations

import base64
import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from voicespan.content import MAX_AUDIO_BYTES, MAX_TEXT_BYTES
from voicespan.local import progress
from voicespan.local.server import Receiver
from voicespan.viewer import MAX_TURNS

from .otlp import request, turn

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from voicespan.local.reader import Reader

CLIENT = httpx.Client(timeout=30)
TRACE = "ab" * 16


@pytest.fixture(scope="module", autouse=True)
def close_client() -> Iterator[None]:
    """Close the connections that the tests of this module share."""
    yield
    CLIENT.close()


@pytest.fixture
def viewer() -> Iterator[Receiver]:
    """A viewer that keeps what is said."""
    with Receiver(port=0, content=True) as started:
        yield started


def a_turn(trace_id: str = TRACE, **fields: Any) -> dict[str, Any]:
    """A turn that waits for its language model for three seconds."""
    now_s = time.time()
    stage = {"component": "llm", "label": "gpt-x", "start_s": now_s - 3}
    marks = [{"name": "speech_end", "at_s": now_s - 4}, {"name": "committed", "at_s": now_s - 3.5}]
    turn = {"trace_id": trace_id, "initiator": "user", "start_s": now_s - 5, "marks": marks, "stages": [stage]}
    return {**turn, **fields}


def tell(viewer: Receiver, *turns: Any, interval_s: float = 60.0, pid: int = 1, **fields: Any) -> httpx.Response:
    """Tell the viewer of the open turns of one process."""
    report = {"service": "bot", "instance": "i", "pid": pid, "interval_s": interval_s, "now_s": time.time()}
    return CLIENT.post(f"{viewer.endpoint}/api/open", json={**report, "turns": list(turns), **fields})


def say(viewer: Receiver, **fields: Any) -> httpx.Response:
    """Tell the viewer what was said."""
    said = {"trace_id": TRACE, "role": "user", "text": "hello", "audio": None, "sample_rate": None}
    return CLIENT.post(f"{viewer.endpoint}/api/content", json={**said, **fields})


def told(viewer: Receiver) -> dict[str, Any]:
    """What the viewer tells pages."""
    answer = CLIENT.get(f"{viewer.endpoint}/api/open")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def ids(viewer: Receiver) -> list[str]:
    """The trace ids of the turns in progress."""
    return [each["trace_id"] for each in told(viewer)["turns"]]


def content(reader: Reader) -> list[Any]:
    """What the store holds of what was said."""
    with reader._connection() as connection:
        return connection.execute("SELECT role, text, audio, sample_rate FROM content ORDER BY role").fetchall()


def test_a_turn_is_given_as_it_was_told(viewer: Receiver) -> None:
    """The page gets the marks and stages of the service, with the turn's age and what it waits for."""
    assert tell(viewer, a_turn(session_id="call-1", turn_index=3)).json() == {}
    (found,) = told(viewer)["turns"]
    assert (found["session_id"], found["turn_index"], found["service"], found["lost"]) == ("call-1", 3, "bot", False)
    assert [mark["name"] for mark in found["marks"]] == ["speech_end", "committed"]
    assert (found["stages"][0]["component"], found["stages"][0]["label"]) == ("llm", "gpt-x")
    assert found["waiting"].startswith("Waits for the first token of gpt-x, for ")
    assert found["open_s"] >= 5


def test_ages_are_by_the_clock_of_the_service(viewer: Receiver) -> None:
    """A service whose clock is an hour ahead has turns that are no older."""
    ahead = time.time() + 3600
    tell(viewer, a_turn(start_s=ahead - 2, marks=[], stages=[]), now_s=ahead)
    assert 2 <= told(viewer)["turns"][0]["open_s"] < 1000


def test_what_it_waits_for_is_as_of_the_report(viewer: Receiver) -> None:
    """A turn that played when it was last told plays on until the next report, although its audio was out by then."""
    now_s = time.time()
    marks = [{"name": name, "at_s": now_s + at_s} for name, at_s in (("committed", -3), ("first_sent", -2))]
    tts = {"component": "tts", "label": "amy", "start_s": now_s - 2, "first_s": now_s - 2}
    tell(viewer, a_turn(marks=[*marks, {"name": "plays_until", "at_s": now_s + 0.01}], stages=[tts]), now_s=now_s)
    time.sleep(0.2)
    assert told(viewer)["turns"][0]["waiting"].startswith("Plays, 2.")


def test_the_latest_list_of_each_process_counts(viewer: Receiver) -> None:
    """A report takes the place of the last one of the same process, and of no other; the oldest turn comes first."""
    tell(viewer, a_turn("aa" * 16), a_turn("bb" * 16, start_s=1.0), pid=1)
    tell(viewer, a_turn("cc" * 16, start_s=2.0), pid=2)
    assert ids(viewer) == ["bb" * 16, "cc" * 16, "aa" * 16]
    tell(viewer, a_turn("dd" * 16, start_s=3.0), pid=1)
    assert ids(viewer) == ["cc" * 16, "dd" * 16]
    tell(viewer, pid=2)
    assert ids(viewer) == ["dd" * 16]


def test_a_turn_whose_root_arrived_is_gone(viewer: Receiver) -> None:
    """The root span ends a turn, also where a report that left before it arrives after it."""
    ended = turn()
    tell(viewer, a_turn(ended.hex), a_turn())
    body = request(*ended.spans).SerializeToString()
    CLIENT.post(f"{viewer.endpoint}/v1/traces", content=body, headers={"Content-Type": "application/x-protobuf"})
    assert ids(viewer) == [TRACE]
    tell(viewer, a_turn(ended.hex), a_turn())
    assert ids(viewer) == [TRACE]


def wait_for_lost(viewer: Receiver) -> list[dict[str, Any]]:
    """The turns, once one of them is lost."""
    for _ in range(500):
        found: list[dict[str, Any]] = told(viewer)["turns"]
        if any(each["lost"] for each in found):
            return found
        time.sleep(0.02)
    raise AssertionError("no turn is lost")


def test_a_process_that_falls_silent_loses_its_turns(viewer: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three intervals without a report its turns are lost: they age no more, come back with it, or go later."""
    tell(viewer, a_turn(), interval_s=0.1)
    (found,) = wait_for_lost(viewer)
    assert found["open_s"] == told(viewer)["turns"][0]["open_s"]
    assert "killed" in found["waiting"]
    assert "first token of gpt-x" in found["waiting"]
    tell(viewer, a_turn())
    assert [each["lost"] for each in told(viewer)["turns"]] == [False]
    tell(viewer, a_turn(), interval_s=0.1)
    wait_for_lost(viewer)
    monkeypatch.setattr(progress, "LOST_KEPT_S", 0.0)
    assert ids(viewer) == []


def test_what_is_kept_is_bounded(viewer: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many turns, senders and lost turns the oldest or surplus go, and how many are not shown is said."""
    many = [a_turn(f"{number:032x}") for number in range(MAX_TURNS + 5)]
    tell(viewer, *many, beyond=7)
    tell(viewer, a_turn(), pid=2)
    found = told(viewer)
    assert (len(found["turns"]), found["beyond"]) == (MAX_TURNS, 5 + 7 + 1)
    monkeypatch.setattr(progress, "MAX_SENDERS", 2)
    tell(viewer, a_turn("cd" * 16), pid=3)
    assert sorted(ids(viewer)) == [TRACE, "cd" * 16]
    monkeypatch.setattr(progress, "MAX_TURNS", 1)
    tell(viewer, a_turn(), pid=2, interval_s=0.1)
    tell(viewer, a_turn("cd" * 16), pid=3, interval_s=0.1)
    wait_for_lost(viewer)
    time.sleep(0.4)
    assert len(ids(viewer)) == 1


BAD: list[Any] = [
    [], "open", None, {}, {"turns": {}}, {"turns": [{}], "interval_s": 1}, {"turns": [], "interval_s": "soon"},
    {"turns": []}, {"turns": [], "interval_s": 1, "now_s": []}, {"turns": [7], "interval_s": 1},
]  # fmt: skip


@pytest.mark.parametrize("path", ["open", "content"])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, *(json.dumps(bad).encode() for bad in BAD)])
def test_nonsense_is_refused(viewer: Receiver, path: str, body: bytes) -> None:
    """A body that makes no sense is 400 with a reason, and changes nothing."""
    answer = CLIENT.post(f"{viewer.endpoint}/api/{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert ids(viewer) == []
    assert content(viewer.store.reader) == []


def test_too_large_a_report_is_refused(viewer: Receiver) -> None:
    """Beyond its limit a report is 413."""
    assert tell(viewer, note="x" * (3 << 20)).status_code == 413


def test_what_was_said_is_stored(viewer: Receiver) -> None:
    """Text and audio of a side are in the store."""
    audio = base64.b64encode(b"\1\0\2\0").decode()
    assert say(viewer, audio=audio, sample_rate=16_000).status_code == 200
    assert say(viewer, role="agent", text="hi").status_code == 200
    assert content(viewer.store.reader) == [("agent", "hi", None, None), ("user", "hello", b"\1\0\2\0", 16_000)]


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "caller"}, {"role": ["user"]}, {"trace_id": "xyz"}, {"trace_id": None}, {"text": 7},
        {"text": "\ud800"}, {"text": "é" * (MAX_TEXT_BYTES // 2 + 1)}, {"audio": "AQA="},
        {"audio": "AQA=", "sample_rate": 7}, {"audio": "AQA=", "sample_rate": "8000"},
        {"audio": "!!", "sample_rate": 8000}, {"audio": [1], "sample_rate": 8000},
        {"audio": base64.b64encode(bytes(MAX_AUDIO_BYTES + 1)).decode(), "sample_rate": 8000},
    ],
)  # fmt: skip
def test_what_nobody_can_have_said_is_refused(viewer: Receiver, fields: dict[str, Any]) -> None:
    """A side, text, audio or rate that cannot be is 400, and nothing is stored."""
    body = json.dumps({"trace_id": TRACE, "role": "user", "text": None, **fields})
    answer = CLIENT.post(f"{viewer.endpoint}/api/content", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert content(viewer.store.reader) == []


def test_what_was_said_is_refused_unless_it_is_kept() -> None:
    """A viewer that was not started with content takes none."""
    with Receiver(port=0) as viewer:
        assert say(viewer).status_code == 403
        assert content(viewer.store.reader) == []


def test_what_was_said_is_taken_from_this_machine_only(viewer: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine cannot hand over what was said there."""
    monkeypatch.setattr(progress, "is_loopback", lambda _: False)
    assert say(viewer).status_code == 403
    assert content(viewer.store.reader) == []


def events(answer: httpx.Response) -> Generator[tuple[str, dict[str, Any]]]:
    """The server-sent events of a stream."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_pages_hear_of_changes(viewer: Receiver) -> None:
    """A page hears `open` when a turn comes, waits for something else, is lost, or goes; not when nothing changed."""
    with CLIENT.stream("GET", f"{viewer.endpoint}/api/events") as answer, closing(events(answer)) as heard:
        assert next(heard) == ("ready", {})
        tell(viewer, a_turn())
        assert next(heard) == ("open", {"turns": 1})
        tell(viewer, a_turn())  # as before
        say(viewer)
        assert next(heard) == ("turns", {"trace_ids": [TRACE], "more": 0})
        tell(viewer, a_turn(stages=[]), interval_s=0.1)
        assert next(heard) == ("open", {"turns": 1})
        assert next(heard) == ("open", {"turns": 1})
        assert told(viewer)["turns"][0]["lost"]
        tell(viewer)
        assert next(heard) == ("open", {"turns": 0})
