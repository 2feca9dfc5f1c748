"""The microphone stands still for a moment, as one on a busy machine does: what it would have taken is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.children import children
from tests.stillness import steadily

from voicespan import names as n

pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")

from voicespan.local.reader import Reader

from .browser import CHROMIUM, NS_PER_MS, PLAIN, chromium, demo, of, recorded, script, sounds

if TYPE_CHECKING:
    from pathlib import Path

    import psutil

    from voicespan.local.span import Span

STILL_S = 0.3
WITHIN_MS = 80
"""Far less than what was lost."""

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]


def sound_device() -> psutil.Process:
    """The process of this test's browser in which sound is taken and played."""
    (service,) = children("audio.mojom.AudioService")
    return service


@dataclass(frozen=True)
class Call:
    """What is known of a call in which sound was lost."""

    recorded: dict[str, Any]
    """By the page, with `origin`: the page's clock as Unix time, in ms."""
    turn: dict[str, Any]
    """As the page's tracker has it."""
    spans: list[Span]


def call(directory: Path) -> Call:
    """Ask a question some seconds after the microphone stood still."""
    length_s = script(directory / "said.wav", ((6.5, PLAIN),))
    with demo(directory) as address, chromium(directory / "said.wav") as browser:
        page = browser.new_page(bypass_csp=True)
        recorded(page)
        page.goto(address)
        page.get_by_role("button", name="Start talking").click()
        page.wait_for_timeout(4000)
        device = sound_device()
        device.suspend()
        time.sleep(STILL_S)
        device.resume()
        page.wait_for_timeout(round(length_s * 1000) - 4000)
        page.get_by_role("button", name="Hang up").click()
        page.wait_for_timeout(3000)
        turn = page.evaluate("() => window.perfTracker.metrics().turns.find(({ marks }) => marks.speech_end)")
        return Call(
            recorded=page.evaluate("() => ({ ...window.recorded, origin: performance.timeOrigin })"),
            turn=turn,
            spans=list(Reader(directory / "demo.db").spans(turn["traceparent"].split("-")[1])),
        )


def test_lost_sound_moves_nothing_that_is_said_after_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """After a gap in the microphone's sound, the page and the agent still know when the user began and stopped."""
    held = steadily(lambda: call(tmp_path_factory.mktemp("stall")))
    (question,) = sounds(held.recorded, "said")
    answer = next(heard for heard in sounds(held.recorded, "heard") if heard[0] > question[1])
    (response,) = of(held.spans, n.SPAN_RESPONSE)
    (root,) = of(held.spans, n.SPAN_TURN)
    heard_ms = (response.end_ns - response.start_ns) / NS_PER_MS
    assert heard_ms == pytest.approx(answer[0] - question[1], abs=WITHIN_MS)
    # Both detectors want some frames of loud sound, and begin with the first of them.
    for onset_ms in (held.turn["marks"]["speech_start"], root.start_ns / NS_PER_MS - held.recorded["origin"]):
        assert onset_ms == pytest.approx(question[0], abs=WITHIN_MS)
