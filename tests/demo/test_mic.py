"""A person, played by a fake microphone, talks to the agent in a real browser; both ends are recorded in the page."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
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

from .sounds import noise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from voicespan.local.span import Span

CHROMIUM = Path("/usr/bin/chromium")
HERE = Path(__file__).parent
DEMO = ("-c", "from voicespan.cli import main; main()", "demo", "--mic", "--no-browser", "--port", "0")
NS_PER_MS = 1_000_000
TOLERANCE_MS = 20
PLAIN, STORY, BALANCE = "what time do you open tomorrow", "tell me a long story", "what is my account balance"
SAID = (
    (4.0, PLAIN),
    (4.5, STORY),
    (3.2, "right"),  # agrees, and lets the agent go on
    (2.6, BALANCE),  # interrupts
)
"""Pauses in seconds, and what is said after each."""
AFTER_S = 7.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("mic"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]


def script(path: Path) -> float:
    """Write what the microphone hears as a WAV file, and return its length in seconds."""
    sound = b"".join(pcm.silence(pause_s) + synthesized(f"{text}?", CALLER) for pause_s, text in SAID)
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
    bubbles: list[str]

    def turn(self, index: int) -> list[Span]:
        """The spans of the turn with this place in the session."""
        return next(spans for spans in self.turns if spans[0].attributes[n.VOICE_TURN_INDEX] == index)

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


def record(page: Page) -> None:
    """Have both ends recorded in the page."""
    page.route("**/test-recorder.js", lambda route: route.fulfill(path=HERE / "recorder.js"))
    page.add_init_script(path=HERE / "recorder_setup.js")


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
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: (errors if message.type == "error" else lines).append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        record(page)
        page.goto(address)
        page.get_by_role("button", name="Start talking").click()
        page.wait_for_timeout(round(length_s * 1000))
        page.get_by_role("button", name="Hang up").click()
        page.wait_for_timeout(4000)
        page.screenshot(path=directory / "page.png", full_page=True)
        yield Conversation(
            reader=Reader(directory / "demo.db"),
            recorded=page.evaluate("() => window.recorded"),
            metrics=page.evaluate("() => window.perfTracker.metrics()"),
            lines=lines,
            errors=errors,
            cards=page.evaluate("() => [...document.querySelectorAll('.turn')].map((turn) => turn.dataset.trace)"),
            bubbles=page.evaluate("() => [...document.querySelectorAll('.bubble')].map((each) => each.innerText)"),
        )


def test_debug(conversation: Conversation) -> None:
    print(conversation.errors, conversation.lines, conversation.bubbles, conversation.metrics)
    for spans in conversation.turns:
        for span in spans:
            print(span.name, (span.end_ns - span.start_ns) / 1e6, dict(span.attributes))
    print(conversation.sounds("said"), conversation.sounds("heard"))
