"""A person, played by a fake microphone, talks to the agent in a real browser; both ends are recorded in the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.stillness import steadily

from voicespan import names as n

pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")

from voicespan.local.reader import Reader

from .browser import (
    BALANCE,
    CHROMIUM,
    NS_PER_MS,
    PLAIN,
    STORY,
    TOLERANCE_MS,
    chromium,
    demo,
    of,
    recorded,
    script,
    sounds,
)  # fmt: skip

if TYPE_CHECKING:
    from pathlib import Path

    from voicespan.local.span import Span

SAID = (
    (8.0, PLAIN),
    (8.0, STORY),
    (5.5, "okay"),  # agrees, and lets the agent go on
    (4.0, BALANCE),  # interrupts
)
"""Pauses in seconds, long enough for a busy machine, and what is said after each. The story lasts eleven seconds."""

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]


@dataclass
class Conversation:
    """What is known of the one conversation that these tests look at."""

    reader: Reader
    recorded: dict[str, Any]
    metrics: dict[str, Any]
    lines: list[str]
    errors: list[str]
    cards: list[str]
    shown: list[str]
    bubbles: list[str]

    def turn(self, index: int) -> list[Span]:
        """The spans of the turn with this place in the session."""
        return next(spans for spans in self.turns if spans[0].attributes[n.VOICE_TURN_INDEX] == index)

    def page_ms(self, unix_ns: int) -> float:
        """A time of a span by the page's clock."""
        return unix_ns / NS_PER_MS - float(self.recorded["origin"])

    def noted(self, index: int) -> dict[str, Any]:
        """What the tracker noted of this turn; times are ms of the page's clock."""
        trace_id = self.turn(index)[0].trace_id
        return next(turn for turn in self.metrics["turns"] if trace_id in (turn["traceparent"] or ""))

    def exchange(self, index: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Begin and end of what was said in this turn, and of the first stretch that was heard after it."""
        said = self.sounds("said")
        assert len(said) == len(SAID)
        question = said[{2: 0, 3: 1, 4: 3}[index]]
        return question, next(heard for heard in self.sounds("heard") if heard[0] > question[1])

    @property
    def turns(self) -> list[list[Span]]:
        """The spans of each turn, its root first."""
        found = []
        for card in self.cards:
            spans = list(self.reader.spans(card))
            found.append(sorted(spans, key=lambda span: span.name != n.SPAN_TURN))
        return [spans for spans in found if spans and spans[0].name == n.SPAN_TURN]

    def sounds(self, end: str) -> list[tuple[float, float]]:
        """When there was sound at this end, as ms of the page's clock: begin and end of each stretch."""
        return sounds(self.recorded, end)


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Conversation:
    """A conversation through the page."""
    return steadily(lambda: held(tmp_path_factory.mktemp("mic")))


def held(directory: Path) -> Conversation:
    length_s = script(directory / "said.wav", SAID)
    lines: list[str] = []
    errors: list[str] = []
    with (
        demo(directory) as address,
        chromium(directory / "said.wav") as browser,
    ):
        # Without the policy, for the recorder's sake: tests/demo/test_page.py has the page with it.
        page = browser.new_page(viewport={"width": 1280, "height": 900}, bypass_csp=True)
        page.on("console", lambda message: (errors if message.type == "error" else lines).append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        recorded(page)
        page.goto(address)
        page.get_by_role("button", name="Start talking").click()
        page.wait_for_timeout(round(length_s * 1000))
        page.get_by_role("button", name="Hang up").click()
        page.wait_for_timeout(4000)
        page.screenshot(path=directory / "page.png", full_page=True)
        return Conversation(
            reader=Reader(directory / "demo.db"),
            recorded=page.evaluate("() => ({ ...window.recorded, origin: performance.timeOrigin })"),
            metrics=page.evaluate("() => window.perfTracker.metrics()"),
            lines=lines,
            errors=list(errors),
            cards=page.evaluate("() => [...document.querySelectorAll('.turn')].map((turn) => turn.dataset.trace)"),
            shown=page.evaluate("() => [...document.querySelectorAll('.turn')].map((turn) => turn.innerText)"),
            bubbles=page.evaluate(
                "() => [...document.querySelectorAll('.bubble:not([hidden])')].map((each) => each.innerText)"
            ),
        )


def test_what_is_said_is_answered_and_shown(conversation: Conversation) -> None:
    """Words and turns stand side by side, in order, and the page complains of nothing."""
    assert conversation.errors == []
    assert conversation.bubbles == [
        "agent\nHello! This is the front desk.",
        *("you\nwhat time do you open tomorrow", "agent\nWe open at eight."),
        "you\ntell me a long story",
        conversation.bubbles[4],
        *("you\nwhat is my account balance", "agent\nYou have ten dollars."),
    ]
    assert conversation.bubbles[4].startswith("agent\nOnce upon a time")
    outcomes = [spans[0].attributes[n.VOICE_TURN_OUTCOME] for spans in conversation.turns]
    assert outcomes == ["completed", "completed", "interrupted", "completed"]
    shown = [card.splitlines() for card in conversation.shown]
    assert [card[0] for card in shown] == ["Turn 1", "Turn 2", "Turn 3", "Turn 4"]
    assert [card[1] for card in shown] == outcomes
    assert all("heard in this page, clocks within" in card for card in conversation.shown[1:])
    assert "playback_stop" in conversation.shown[2]


@pytest.mark.covers("A-M07", "A-M11", "A-T02", "A-T09")
@pytest.mark.parametrize("index", [2, 3, 4])
def test_the_heard_silence_is_what_was_recorded(conversation: Conversation, index: int) -> None:
    """`voice.response` is measured in the page, from the last sound of the user to the first of the agent."""
    (response,) = of(conversation.turn(index), n.SPAN_RESPONSE)
    assert response.attributes[n.VOICE_MEASUREMENT_POINT] == "client"
    bound_ms = 1000 * float(response.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S])  # type: ignore[arg-type]
    question, answer = conversation.exchange(index)
    recorded_ms = answer[0] - question[1]
    assert (response.end_ns - response.start_ns) / NS_PER_MS == pytest.approx(recorded_ms, abs=max(20, bound_ms))
    assert conversation.noted(index)["marks"]["playback_start"] == pytest.approx(answer[0], abs=TOLERANCE_MS)


@pytest.mark.covers("A-M12", "A-M13", "A-M14", "A-T11", "A-T12", "A-T13", "A-V11")
def test_speaking_over_the_reply_stops_it(conversation: Conversation) -> None:
    """The sound ends at once in the page, and all four phases are in the trace of the turn that was cut off."""
    spans = conversation.turn(3)
    phases = {span.attributes[n.VOICE_BARGE_IN_PHASE]: span for span in of(spans, n.SPAN_BARGE_IN)}
    assert phases.keys() == {"playback_stop", "server_cancel", "worker_pause", "total"}
    assert phases["playback_stop"].start_ns == phases["server_cancel"].start_ns == phases["worker_pause"].start_ns
    spoken, _ = conversation.exchange(4)
    silent_ms = max(end for begin, end in conversation.sounds("heard") if begin < spoken[0])
    stopped = conversation.noted(3)["barge_in"][-1]
    assert silent_ms - stopped["start_ms"] < 100
    total = phases["total"]
    assert conversation.page_ms(total.start_ns) == pytest.approx(spoken[0], abs=80)  # the network is sure a bit later
    assert conversation.page_ms(total.end_ns) == pytest.approx(stopped["end_ms"], abs=TOLERANCE_MS)
    assert total.attributes[n.VOICE_MEASUREMENT_POINT] == "client"
    (playback,) = of(spans, n.SPAN_PLAYBACK)
    assert playback.attributes[n.VOICE_PLAYBACK_INTERRUPTED] is True
    assert spans[0].trace_id in [link.trace_id for link in conversation.turn(4)[0].links]


def test_agreeing_does_not_interrupt(conversation: Conversation) -> None:
    """An "okay" silences the agent for a moment; then it goes on, and the turn says that it was no interruption."""
    events = [event.name for event in conversation.turn(3)[0].events]
    assert events.count(n.EVENT_FALSE_INTERRUPTION) == 1
    assert of(conversation.turn(3), n.SPAN_PLAYBACK_GAP)


@pytest.mark.covers("A-L01", "A-L02", "A-L03", "A-L04", "A-L05", "A-M20", "A-M21", "A-T03", "A-T08", "A-V07", "A-V10")
def test_the_tracker_says_it_in_the_exact_words(conversation: Conversation) -> None:
    """The page's console has the lines of the tracker, and its counts are of this conversation."""
    words = "\n".join(conversation.lines)
    for line in ("Speech started", r"ASR latency: \d+\.\d\dms", r"Time to First Token: \d+\.\d\dms",
                 r"End-to-End Latency: \d+\.\d\dms", r"Periodic Report: \{"):  # fmt: skip
        assert re.search(rf"^\[Metrics\] {line}", words, re.MULTILINE), line
    counted = conversation.metrics["counters"]
    assert counted["audio_sent_bytes"] == 640 * counted["audio_sent_chunks"] > 0
    assert counted["audio_received_bytes"] == 640 * counted["audio_received_chunks"] > 0
