"""A real browser that talks to `voicespan demo --mic`: what its fake microphone hears is written before."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import wave
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from voicespan.demo import pcm
from voicespan.demo.speech import CALLER, synthesized

from .sounds import noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser

    from voicespan.local.span import Span

CHROMIUM = Path("/usr/bin/chromium")
DEMO = ("-c", "from voicespan.cli import main; main()", "demo", "--mic", "--no-browser", "--port", "0")
NS_PER_MS = 1_000_000
TOLERANCE_MS = 20
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
