"""The network between the page and the agent is gone for a while, in the middle of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voicespan import names as n

pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")

from voicespan.local.reader import Reader

from .browser import BALANCE, CHROMIUM, NS_PER_MS, STORY, TOLERANCE_MS, chromium, demo, of, script
from .relay import relayed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]

PLAYS = """() => window.perfTracker.metrics().turns.some(({ marks }) =>
  marks.speech_end && marks.playback_start && !marks.playback_end)"""
OVER = """() => document.querySelectorAll(".turn").length === 3 && !document.querySelector(".turn.open")"""


def test_a_network_cut_for_ten_seconds_loses_no_mark(tmp_path: Path) -> None:
    """The user interrupts while nothing passes; afterwards each mark of the page is in its turn, once, at its time."""
    script(tmp_path / "said.wav", ((4.5, STORY), (5.0, BALANCE)))
    with (
        demo(tmp_path) as address,
        relayed(address) as network,
        chromium(tmp_path / "said.wav") as browser,
    ):
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
            (str(event.attributes[n.VOICE_CLIENT_MARK]), event.time_ns / NS_PER_MS - origin_ms)
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
    # On a busy machine the page may hear the user twice; the last time counts.
    for phase, end_ms in {each["phase"]: each["end_ms"] for each in story["barge_in"]}.items():
        assert cut_ms < end_ms < mended_ms
        assert phases[phase].end_ns / NS_PER_MS - origin_ms == pytest.approx(end_ms, abs=TOLERANCE_MS)
    assert phases.keys() == {"playback_stop", "server_cancel", "worker_pause", "total"}
