"""A real browser that talks to `voicespan demo --mic`: what its fake microphone hears is written before."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import wave
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voicespan.demo import pcm
from voicespan.demo.speech import CALLER, synthesized

from .sounds import noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser, Page

    from voicespan.local.span import Span

CHROMIUM = Path("/usr/bin/chromium")
DEMO = ("-c", "from voicespan.cli import main; main()", "demo", "--mic", "--no-browser", "--port", "0")
NS_PER_MS = 1_000_000
TOLERANCE_MS = 20
GAP_MS = 300
NEAR = 100
"""Pieces of recorded sound, each of 128 samples."""
AFTER_S = 8.0
PLAIN, STORY, BALANCE = "what time do you open tomorrow", "tell me a long story", "what is my account balance"


def script(path: Path, said: Sequence[tuple[float, str]]) -> float:
    """Write what the microphone hears as a WAV file, pauses and words after each; return its length in seconds."""
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
def chromium(said: Path) -> Iterator[Browser]:
    """Run a browser whose microphone hears this file, and that asks nobody whether it may use it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
                  "--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={said}%noloop"],
        )  # fmt: skip
        yield browser
        browser.close()


def of(spans: list[Span], name: str) -> list[Span]:
    """Return the spans with this name."""
    return [span for span in spans if span.name == name]


def recorded(page: Page) -> None:
    """Record both ends of the call in this page, once it is loaded, as `window.recorded`: see recorder.js."""
    page.add_init_script(path=Path(__file__).parent / "recorder.js")


def sounds(told: dict[str, Any], end: str) -> list[tuple[float, float]]:
    """When there was sound at this end, `said` or `heard`, as ms of the page's clock: begin and end of each stretch."""
    pieces = told[end]
    stretches: list[tuple[float, float]] = []
    for index, piece in enumerate(pieces):
        if piece["first"] is None:
            continue
        # A busy machine lets the sound device stand still for a while: only what is near tells the time of a piece.
        near = pieces[index : index + NEAR]
        early = min(each["arrived"] for each in near) - told["latency"]
        late = sorted(each["left"] for each in near)[len(near) // 2]
        shift = early if end == "said" else late
        first, last = piece["first"] + shift, piece["last"] + shift
        if stretches and first - stretches[-1][1] < GAP_MS:
            stretches[-1] = (stretches[-1][0], last)
        else:
            stretches.append((first, last))
    return stretches
