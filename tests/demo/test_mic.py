"""A person, played by a fake microphone, talks to the agent in a real browser; both ends are recorded in the page."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import wave
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import names as n

pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")

from voicespan.demo import pcm
from voicespan.demo.speech import CALLER, synthesized
from voicespan.local.reader import Reader

from .relay import relayed
from .sounds import noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser

    from voicespan.local.span import Span

CHROMIUM = Path("/usr/bin/chromium")
HERE = Path(__file__).parent
DEMO = ("-c", "from voicespan.cli import main; main()", "demo", "--mic", "--no-browser", "--port", "0")
NS_PER_MS = 1_000_000
TOLERANCE_MS = 20
PLAIN, STORY, BALANCE = "what time do you open tomorrow", "tell me a long story", "what is my account balance"
SAID = (
    (8.0, PLAIN),
    (8.0, STORY),
    (5.5, "okay"),  # agrees, and lets the agent go on
    (4.0, BALANCE),  # interrupts
)
"""Pauses in seconds, long enough for a busy machine, and what is said after each. The story lasts eleven seconds."""
AFTER_S = 8.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("mic"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]


def script(path: Path, said: Sequence[tuple[float, str]] = SAID) -> float:
    """Write what the microphone hears as a WAV file, and return its length in seconds."""
    sound = b"".join(pcm.silence(pause_s) + synthesized(f"{text}?", CALLER) for pause_s, text in said)
    sound += pcm.silence(AFTER_S)
    under = array("h", noise(pcm.seconds(sound), 12))
    mixed = array("h", (max(-32768, min(32767, a + b)) for a, b in zip(array("h", sound), under, strict=True)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(pcm.RATE)
        file.writeframes(mixed.tobytes())
    return pcm.seconds(sound)


@contextlib.contextmanager
def demo(directory: Path) -> Iterator[str]:
    """Run `voicespan demo --mic`, and give the address of its page."""
    command = [sys.executable, *DEMO, "--db", str(directory / "demo.db"), "--keep", str(directory / "kept")]
    with (directory / "err").open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"Talk to the agent at (\S+);", line):
                yield found[1]
                break
        else:
            raise AssertionError((directory / "err").read_text())
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """Run a browser that asks nobody whether it may use the microphone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", *arguments],
        )  # fmt: skip
        yield browser
        browser.close()


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

    def sounds(self, end: str, gap_ms: float = 300) -> list[tuple[float, float]]:
        """When there was sound at this end, as ms of the page's clock: begin and end of each stretch."""
        pieces = self.recorded[end]
        early = min(piece["arrived"] for piece in pieces)
        late = sorted(piece["left"] for piece in pieces)[len(pieces) // 2]
        shift = early - self.recorded["latency"] if end == "said" else late
        stretches: list[tuple[float, float]] = []
        for piece in pieces:
            if piece["first"] is None:
                continue
            first, last = piece["first"] + shift, piece["last"] + shift
            if stretches and first - stretches[-1][1] < gap_ms:
                stretches[-1] = (stretches[-1][0], last)
            else:
                stretches.append((first, last))
        return stretches


def of(spans: list[Span], name: str) -> list[Span]:
    """Return the spans with this name."""
    return [span for span in spans if span.name == name]


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversation]:
    """A conversation through the page."""
    directory = tmp_path_factory.mktemp("mic")
    length_s = script(directory / "said.wav")
    lines: list[str] = []
    errors: list[str] = []
    with (
        demo(directory) as address,
        chromium(
            "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-audio-capture={directory / 'said.wav'}%noloop",
        ) as browser,
    ):  # fmt: skip
        # Without the policy, for the recorder's sake: tests/demo/test_page.py has the page with it.
        page = browser.new_page(viewport={"width": 1280, "height": 900}, bypass_csp=True)
        page.on("console", lambda message: (errors if message.type == "error" else lines).append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.add_init_script(path=HERE / "recorder.js")
        page.goto(address)
        page.get_by_role("button", name="Start talking").click()
        page.wait_for_timeout(round(length_s * 1000))
        page.get_by_role("button", name="Hang up").click()
        page.wait_for_timeout(4000)
        page.screenshot(path=directory / "page.png", full_page=True)
        yield Conversation(
            reader=Reader(directory / "demo.db"),
            recorded=page.evaluate("() => ({ ...window.recorded, origin: performance.timeOrigin })"),
            metrics=page.evaluate("() => window.perfTracker.metrics()"),
            lines=lines,
            errors=errors,
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


PLAYS = """() => window.perfTracker.metrics().turns.some(({ marks }) =>
  marks.speech_end && marks.playback_start && !marks.playback_end)"""
OVER = """() => document.querySelectorAll(".turn").length === 3 && !document.querySelector(".turn.open")"""


def test_a_network_cut_for_ten_seconds_loses_no_mark(tmp_path: Path) -> None:
    """The user interrupts while nothing passes; afterwards each mark of the page is in its turn, once, at its time."""
    script(tmp_path / "said.wav", ((4.5, STORY), (5.0, BALANCE)))
    with (
        demo(tmp_path) as address,
        relayed(address) as network,
        chromium(
            "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-audio-capture={tmp_path / 'said.wav'}%noloop",
        ) as browser,
    ):  # fmt: skip
        page = browser.new_page()
        page.goto(network.address)
        page.get_by_role("button", name="Start talking").click()
        page.wait_for_function(PLAYS, timeout=60_000)
        network.cut()
        cut_ms = page.evaluate("() => performance.now()")
        page.wait_for_timeout(10_000)
        mended_ms = page.evaluate("() => performance.now()")
        network.mend()
        page.wait_for_function(OVER, timeout=60_000)
        origin_ms = page.evaluate("() => performance.timeOrigin")
        turns = page.evaluate("() => window.perfTracker.metrics().turns")
        reader = Reader(tmp_path / "demo.db")
        told = [list(reader.spans(turn["traceparent"].split("-")[1])) for turn in turns]
    assert len(turns) == 3
    for turn, spans in zip(turns, told, strict=True):
        (root,) = of(spans, n.SPAN_TURN)
        marks = [
            (event.attributes[n.VOICE_CLIENT_MARK], event.time_ns / NS_PER_MS - origin_ms)
            for event in root.events if event.name == n.EVENT_CLIENT_MARK
        ]  # fmt: skip
        assert sorted(name for name, _ in marks) == sorted(turn["marks"])
        for name, at_ms in marks:
            assert at_ms == pytest.approx(turn["marks"][name], abs=TOLERANCE_MS), name
    _, story, balance = turns
    assert {name for name in balance["marks"] if cut_ms < balance["marks"][name] < mended_ms} == {
        "speech_start", "speech_end",
    }  # fmt: skip
    phases = {span.attributes[n.VOICE_BARGE_IN_PHASE]: span for span in of(told[1], n.SPAN_BARGE_IN)}
    for each in story["barge_in"]:
        assert cut_ms < each["end_ms"] < mended_ms
        assert phases[each["phase"]].end_ns / NS_PER_MS - origin_ms == pytest.approx(each["end_ms"], abs=TOLERANCE_MS)
    assert phases.keys() == {"playback_stop", "server_cancel", "worker_pause", "total"}
