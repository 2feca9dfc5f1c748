"""A gateway takes the reports, the process behind it has the turns."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import voicespan
from voicespan import diagnostics
from voicespan import names as n
from voicespan.client import forward
from voicespan.client.forward import Forward
from voicespan.client.report import TurnMarks
from voicespan.clock import RemoteClock, machine_clock

from .service import running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.turn import Turn

MS = 1_000_000
CLIENT = "c" * 32
AHEAD_MS = 3 * 3600 * 1000.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    diagnostics.forget()
    yield
    diagnostics.forget()


class Nobody:
    """A process without turns."""

    def open_turn(self, trace_id: int) -> Turn | None:
        """Know none."""
        return None


def report(turn: Turn, at_ns: int, **fields: Any) -> str:
    """A report of a page whose clock is three hours ahead: the reply was heard then."""
    now_ms = time.monotonic_ns() / MS
    marks = {"playback_start": AHEAD_MS + at_ns / MS}
    exchange = [AHEAD_MS + now_ms - 9, now_ms - 7, now_ms - 7, AHEAD_MS + now_ms - 5]
    told = {"version": 1, "client": CLIENT, "number": 1, "sent_ms": AHEAD_MS + now_ms,
            "clocks": [{"server": machine_clock(), "exchanges": [exchange]}],
            "turns": [{"turn": 1, "traceparent": turn.traceparent, "marks": marks}]}  # fmt: skip
    return json.dumps(told | fields)


def test_a_mark_joins_the_turn_of_another_process() -> None:
    """Marks that a gateway is told stand in the turn of the process behind it, at their own time, with both bounds."""
    with running() as behind, running(turns=Nobody(), owner=lambda _: f"{behind.address}/api/metrics") as gateway:
        from voicespan.emit import recorder

        recorder().watch = behind.turns.append
        with voicespan.session(transport="websocket") as session:
            turn = session.user_turn(at=time.monotonic_ns() - 500 * MS)
            turn.speech_ended(at=time.monotonic_ns() - 200 * MS)
            turn.committed()
            turn.audio_sent(3.0)
            heard_ns = time.monotonic_ns() + 100 * MS
            time.sleep(0.15)
            answer = httpx.post(f"{gateway.address}/api/metrics", content=report(turn, heard_ns))
            assert answer.status_code == 204
            wait_for(lambda: turn.record.playback.heard_ns)
        finished = behind.finished(turn.trace_id)
    response = next(span for span in finished.spans if span.name == n.SPAN_RESPONSE)
    assert response.attributes[n.VOICE_MEASUREMENT_POINT] == "client"
    bound_ns = float(response.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S]) * 1e9  # type: ignore[arg-type]
    assert bound_ns >= 2 * MS, "the page's own exchange took four milliseconds"
    assert turn.record.playback.heard_ns == pytest.approx(heard_ns, abs=bound_ns)
    assert len([each for each in behind.taken if each.report.turns]) == 1


def test_an_endpoint_that_is_gone_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens the marks are dropped after a few tries and counted; who takes the report waits for none."""
    monkeypatch.setattr(forward, "_GATHER_S", 0.001)
    clock = RemoteClock()
    clock.exchange(0, 0, 0, 0)
    marks = TurnMarks(turn=1, traceparent=f"00-{1:032x}-{1:016x}-01", marks={"speech_start": 5.0})
    forwarding = Forward(lambda _: "http://127.0.0.1:9/metrics")
    began = time.monotonic()
    assert forwarding.take(marks, clock)
    assert time.monotonic() - began < 1
    wait_for(lambda: diagnostics.counters.get("client.forward_lost"))


def test_an_endpoint_that_has_no_time_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks that are answered with 429 are sent again under the same number; what is malformed is not.

    How far they may be off goes along: by half the page's round trip, and by what another gateway has said.
    """
    monkeypatch.setattr(forward, "_GATHER_S", 0.001)
    asked: list[dict[str, Any]] = []
    statuses = {2: 429, 4: 400}

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if report["turns"]:
                asked.append(report)
            self.send_response(statuses.get(len(asked), 204) if report["turns"] else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    clock = RemoteClock()
    clock.exchange(0, 4 * MS, 4 * MS, 8 * MS)
    forwarding = Forward(lambda _: f"http://127.0.0.1:{server.server_port}/metrics", {"X-Own": "kept"})
    for number in range(1, 5):
        marks = TurnMarks(turn=number, traceparent=f"00-{1:032x}-{1:016x}-01", marks={"speech_start": 5.0}, error_ms=3)
        assert forwarding.take(marks, clock)
        wait_for(partial(lambda want: any(each["turns"][0]["turn"] == want for each in asked), number))
        time.sleep(0.05)
    server.shutdown()
    server.server_close()
    turns = [each["turns"][0]["turn"] for each in asked]
    assert turns == [1, 2, 2, 3, 4]
    assert asked[0]["turns"][0]["error_ms"] == pytest.approx(7, abs=0.1)
    assert asked[1]["number"] == asked[2]["number"] < asked[3]["number"]


def test_what_waits_and_who_has_turns_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead endpoint holds no more marks than there is room for, and addresses that are not needed are forgotten."""
    monkeypatch.setattr(forward, "MAX_WAITING", 5)
    monkeypatch.setattr(forward, "MAX_OWNERS", 3)
    monkeypatch.setattr(forward._Peer, "_run", lambda _: None)
    clock = RemoteClock()
    clock.exchange(0, 0, 0, 0)
    marks = TurnMarks(turn=1, traceparent=f"00-{1:032x}-{1:016x}-01", marks={"speech_start": 5.0})
    forwarding = Forward(lambda _: "http://127.0.0.1:9/metrics")
    for _ in range(8):
        forwarding.take(marks, clock)
    assert diagnostics.counters.get("client.forward_full") == 3
    addresses = iter(range(10))
    many = Forward(lambda _: f"http://127.0.0.1:{next(addresses)}/metrics")
    for _ in range(10):
        many.take(marks, clock)
    assert len(many._peers) == 3


@pytest.mark.parametrize("owner", [lambda _: None, lambda _: 1 / 0])
def test_a_turn_that_nobody_else_has_waits_here(owner: Any) -> None:
    """Where the function names no process, or fails, the marks wait in this one."""
    clock = RemoteClock()
    clock.exchange(0, 0, 0, 0)
    marks = TurnMarks(turn=1, traceparent=f"00-{1:032x}-{1:016x}-01", marks={"speech_start": 5.0})
    assert not Forward(owner).take(marks, clock)
