"""The network between the page and the agent is gone for a while, in the middle of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.stillness import steadily

from voicespan import names as n

pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")

from voicespan.local.reader import Reader

from .browser import BALANCE, CHROMIUM, NS_PER_MS, STORY, TOLERANCE_MS, chromium, demo, of, script
from .relay import relayed

if TYPE_CHECKING:
    from pathlib import Path

    from voicespan.local.span import Span

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]

PLAYS = """() => window.perfTracker.metrics().turns.some(({ marks }) =>
  marks.speech_end && marks.playback_start && !marks.playback_end)"""
OVER = """() => document.querySelectorAll(".turn").length === 3 && !document.querySelector(".turn.open")"""


@dataclass(frozen=True)
class Cut:
    """What is known of a call whose network was cut for a while; times are ms of the page's clock."""

    cut_ms: float
    mended_ms: float
    origin_ms: float
    turns: list[dict[str, Any]]
    """As the page's tracker has them."""
    told: list[list[Span]]
    """As the agent has told of them."""


def cut(directory: Path) -> Cut:
    """Ask for a story, and interrupt it while nothing passes."""
    script(directory / "said.wav", ((4.5, STORY), (5.0, BALANCE)))
    with (
        demo(directory) as address,
        relayed(address) as network,
        chromium(directory / "said.wav") as browser,
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
        turns = page.evaluate("() => window.perfTracker.metrics().turns")
        reader = Reader(directory / "demo.db")
        return Cut(
            cut_ms,
            mended_ms,
            origin_ms=page.evaluate("() => performance.timeOrigin"),
            turns=turns,
            told=[list(reader.spans(turn["traceparent"].split("-")[1])) for turn in turns],
        )


def test_a_network_cut_for_ten_seconds_loses_no_mark(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user interrupts while nothing passes; afterwards each mark of the page is in its turn, once, at its time."""
    call = steadily(lambda: cut(tmp_path_factory.mktemp("cut")))
    cut_ms, mended_ms, origin_ms, turns, told = call.cut_ms, call.mended_ms, call.origin_ms, call.turns, call.told
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
