"""The microphone stands still for a moment, as one on a busy machine does: what it would have taken is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest

from voicespan import names as n

pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")

from voicespan.local.reader import Reader

from .browser import CHROMIUM, NS_PER_MS, PLAIN, TOLERANCE_MS, chromium, demo, of, recorded, script, sounds

if TYPE_CHECKING:
    from pathlib import Path

STILL_S = 0.3

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]


def sound_device() -> psutil.Process:
    """The process of this test's browser in which sound is taken and played."""
    (service,) = [
        process
        for process in psutil.Process().children(recursive=True)
        if any("audio.mojom.AudioService" in word for word in process.cmdline())
    ]
    return service


def test_lost_sound_moves_nothing_that_is_said_after_it(tmp_path: Path) -> None:
    """After a gap in the microphone's sound, the page and the agent still know when the user began and stopped."""
    length_s = script(tmp_path / "said.wav", ((6.5, PLAIN),))
    with demo(tmp_path) as address, chromium(tmp_path / "said.wav") as browser:
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
        told = page.evaluate("() => ({ ...window.recorded, origin: performance.timeOrigin })")
        turn = page.evaluate("() => window.perfTracker.metrics().turns.find(({ marks }) => marks.speech_end)")
        spans = list(Reader(tmp_path / "demo.db").spans(turn["traceparent"].split("-")[1]))
    (question,) = sounds(told, "said")
    answer = next(heard for heard in sounds(told, "heard") if heard[0] > question[1])
    (response,) = of(spans, n.SPAN_RESPONSE)
    (root,) = of(spans, n.SPAN_TURN)
    bound_ms = 1000 * float(response.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S])  # type: ignore[arg-type]
    within = max(TOLERANCE_MS, bound_ms)
    assert (response.end_ns - response.start_ns) / NS_PER_MS == pytest.approx(answer[0] - question[1], abs=within)
    # Both detectors want some frames of loud sound, and begin with the first of them.
    for onset_ms in (turn["marks"]["speech_start"], root.start_ns / NS_PER_MS - told["origin"]):
        assert onset_ms == pytest.approx(question[0], abs=80)
