"""Clocks that are hours apart, drift, and are compared over a network that jitters and is slower one way."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import diagnostics, exchange
from voicespan import names as n
from voicespan.client.joining import Joining
from voicespan.client.report import Report
from voicespan.clock import RemoteClock, machine_clock

from .service import running, wait_for
from .test_page import browser, needs_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from voicespan.testing import VoiceRecorder
    from voicespan.turn import Turn

__all__ = ("browser",)

MS = 1_000_000
HOURS_MS = {"behind": 0.5 * 3600e3, "ahead": 7 * 3600e3}


class Known:
    """The one turn that the process knows."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def open_turn(self, trace_id: int) -> Turn | None:
        """Return it."""
        return self.turn if self.turn.trace_id == trace_id else None


class Client:
    """A page whose clock runs `drift_ppm` too fast, on a line with `slow` of the delay on the way to the server."""

    def __init__(self, voice: VoiceRecorder, offset_ms: float, drift_ppm: float, slow: float) -> None:
        self.voice, self.offset_ms, self.drift, self.slow = voice, offset_ms, drift_ppm / 1e6, slow
        self.random = random.Random(7)
        self.begin_ns = voice.clock.now_ns
        self.best_ms = float("inf")
        self.last: list[float] | None = None
        self.exchanges: list[list[float]] = []

    @property
    def now_ms(self) -> float:
        """The page's clock."""
        return self.at_ms(self.voice.clock.now_ns)

    def at_ms(self, local_ns: int) -> float:
        """What the page's clock shows when this machine's shows that."""
        return self.offset_ms + (local_ns - self.begin_ns) / MS * (1 + self.drift)

    def compare(self, session: Any) -> None:
        """Make one exchange over the socket."""
        delay_ms = 8 + self.random.expovariate(1 / 30)
        sent = self.now_ms
        self.voice.clock.advance(s=delay_ms * self.slow / 1e3)
        message = {"type": "voicespan.clock", "sent": sent, **({"last": self.last} if self.last else {})}
        answer = session.clock_exchange(message)
        assert (answer["type"], answer["sent"], answer["server"]) == ("voicespan.clock", sent, machine_clock())
        self.voice.clock.advance(s=delay_ms * (1 - self.slow) / 1e3)
        self.last = [sent, answer["received"], answer["answered"], self.now_ms]
        self.exchanges = [*self.exchanges, self.last][-16:]
        self.best_ms = min(self.best_ms, delay_ms)


@pytest.mark.covers("A-Q07")
@pytest.mark.parametrize("slow", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("drift_ppm", [-200.0, 200.0])
@pytest.mark.parametrize("hours", HOURS_MS.values(), ids=HOURS_MS)
def test_what_the_client_heard_stands_at_its_time(
    voice: VoiceRecorder, hours: float, drift_ppm: float, slow: float
) -> None:
    """Over the socket as over the endpoint: off by half the best round trip at most, and the span says the bound."""
    with voice.session() as session:
        client = Client(voice, hours, drift_ppm, slow)
        for _ in range(5):
            client.compare(session)
            voice.clock.advance(s=0.05)
        turn = session.user_turn()
        voice.clock.advance(s=1)
        turn.speech_ended()
        turn.committed()
        turn.audio_sent(1.0)
        voice.clock.advance(s=0.2)
        heard_ns, heard_ms = voice.clock.now_ns, client.now_ms
        drifted_ns = 2 * MS  # in less than five seconds
        known_ms = min(back - sent - (answered - received) for sent, received, answered, back in client.exchanges[:-1])
        over_socket = session.remote_clock.estimate(round(heard_ms * MS))
        assert over_socket is not None
        assert abs(over_socket.local_ns - heard_ns) <= over_socket.error_ns <= known_ms / 2 * MS + drifted_ns
        voice.clock.advance(s=0.1)
        report = Report.model_validate(
            {
                "version": 1, "client": "0" * 32, "number": 1, "sent_ms": client.now_ms,
                "clocks": [
                    {"server": "another", "exchanges": [[1.0, 5.0, 5.0, 2.0]]},
                    {"server": machine_clock(), "exchanges": client.exchanges},
                ],
                "turns": [{"turn": 1, "traceparent": turn.traceparent, "marks": {"playback_start": heard_ms}}],
            }
        )  # fmt: skip
        Joining(Known(turn), voice.clock.monotonic_ns, machine_clock()).take(report)
    assert turn.record.playback.heard_ns is not None
    off_ns = abs(turn.record.playback.heard_ns - heard_ns)
    response = next(span for span in voice.turns[0].spans if span.name == n.SPAN_RESPONSE)
    bound_ns = float(response.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S]) * 1e9  # type: ignore[arg-type]
    assert off_ns <= bound_ns <= client.best_ms / 2 * MS + drifted_ns


@pytest.mark.parametrize(
    "message",
    [
        None, [], "text", {}, {"type": "turn"}, {"type": "voicespan.clock"}, {"type": "voicespan.clock", "sent": "1"},
        {"type": "voicespan.clock", "sent": True}, {"type": "voicespan.clock", "sent": float("nan")},
        {"type": "voicespan.clock", "sent": -1}, {"type": "voicespan.clock", "sent": 1e300},
        {"type": "voicespan.clock", "sent": 10**400},
    ],
)  # fmt: skip
def test_other_messages_are_not_answered(voice: VoiceRecorder, message: object) -> None:
    """What is no message about clocks, or has no time, gets no answer and raises nothing."""
    failed = diagnostics.counters.get("internal_error")
    with voice.session() as session:
        assert session.clock_exchange(message) is None
        assert diagnostics.counters.get("internal_error") == failed
        assert not session.remote_clock.known


@pytest.mark.parametrize(
    "last",
    ["x", [1, 2, 3], [1, 2, 3, None], [1, 2, 3, float("inf")], [1, 9e9, 9e9, 2], [5, 2, 1, 6], [9, 1, 2, 8]],
)
def test_an_exchange_that_cannot_be_teaches_nothing(last: object) -> None:
    """Times of the future, backwards or missing are not taken; the message is answered all the same."""
    clock = RemoteClock()
    message = {"type": "voicespan.clock", "sent": 10.0, "last": last}
    assert exchange.answer(message, clock, lambda: 1000 * MS) is not None
    assert not clock.known


SKEWED = """{
  const real = performance.now.bind(performance);
  performance.now = () => real() * 1.0002 + 3 * 3600e3;
  const { send } = WebSocket.prototype;
  WebSocket.prototype.send = function (data) { setTimeout(() => send.call(this, data), 5 + Math.random() * 20); };
}"""


@needs_chromium
def test_a_page_compares_clocks_over_its_socket(browser: Browser) -> None:
    """The tracker's exchanges over a slow WebSocket place a moment of a page that is three hours ahead and too fast."""
    with running() as service:
        page = browser.new_page()
        page.add_init_script(SKEWED)
        page.goto(service.address)
        page.evaluate("""() => {
          window.perfTracker.stop();
          const tracker = new PerformanceTracker({ sendToServer: false });
          window.socket = tracker.watchClock(new WebSocket(location.origin.replace("http", "ws") + "/clock")); }""")
        clock = wait_for(lambda: service.clock if service.clock.known else None)
        page.wait_for_timeout(500)
        before_ns = time.monotonic_ns()
        page_ms = page.evaluate("() => performance.now()")
        after_ns = time.monotonic_ns()
        estimate = clock.estimate(round(page_ms * MS))
        best_ns = clock.round_trip_ns
        assert estimate is not None
        assert best_ns is not None
        assert before_ns - estimate.error_ns <= estimate.local_ns <= after_ns + estimate.error_ns
        assert estimate.error_ns <= best_ns / 2 + 5 * MS
        page.close()
