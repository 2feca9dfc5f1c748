"""The other views of the page in Chromium: the turn, sessions, runs, turns in progress, other traces, files."""

from __future__ import annotations

import base64
import json
import math
import random
import struct
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import Error

from voicespan.local.form import PROTOBUF
from voicespan.local.log import decode_logs
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver
from voicespan.local.words import cause

from .otlp import MS, Trace, log, log_request, metrics_request, pairs
from .pages import add, address, demo, expect_count, fill, needs_chromium, opened, painted, recent, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page, Route

pytestmark = needs_chromium

_WRITER = """
import sys
from pathlib import Path
from voicespan.local.store import Store
with Store(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.readline()
"""


def interrupting(old: Trace, new: Trace) -> None:
    """Say that one turn interrupted another."""
    link = new.spans[0][2].links.add(trace_id=old.trace_id, span_id=old.spans[0][2].span_id)
    link.attributes.extend(pairs({"voice.link.type": "interrupted"}))


def box(page: Page, selector: str) -> tuple[float, float]:
    """Left and right edge of an element."""
    found = None
    for _ in range(20):  # it may just be drawn anew
        found = page.locator(selector).bounding_box()
        if found is not None:
            break
        page.wait_for_timeout(100)
    assert found is not None
    return found["x"], found["x"] + found["width"]


# The turn


def test_log_lines_stand_beside_the_spans(browser: Browser, receiver: Receiver) -> None:
    """The turn's log lines come in order with the span that wrote them; an error stands out, attributes unfold."""
    trace = recent(1)
    add(receiver, trace)
    span = trace.spans[5][2]
    lines = []
    for after_ms, text, severity, attributes in (
        (-150, "a call begins", 9, {}),
        (2100, "asking the model", 9, {}),
        (2400, "connection refused", 17, {"exception.type": "OSError"}),
    ):
        line = log(trace, text, attributes, severity_number=severity, span_id=span.span_id)
        line.time_unix_nano = trace.onset_ns + after_ms * MS
        lines.append(line)
    receiver.store.add_logs(decode_logs(PROTOBUF, log_request(*lines).SerializeToString()).logs)
    with opened(browser, receiver, f"/?turn={trace.hex}") as page:
        assert "−150 ms" in page.locator("#turn .log li").first.inner_text()
        shown = page.locator("#turn .log li:not(:first-child)")
        assert "asking the model" in shown.nth(0).inner_text()
        assert "+2.10 s" in shown.nth(0).inner_text()
        assert span.name in shown.nth(0).inner_text()
        assert shown.nth(1).get_attribute("class") == "error"
        assert "1 error" in page.locator("#turn .log > summary").inner_text()
        assert not page.get_by_text("OSError").is_visible()
        shown.nth(1).locator("summary").click()
        assert page.get_by_text("OSError").is_visible()
        page.locator("#turn .log > summary").click()
        assert not shown.nth(0).is_visible()
        # A turn that comes meanwhile does not fold it up again.
        add(receiver, recent(2))
        expect_count(page, "#list tbody tr", 2)
        assert not shown.nth(0).is_visible()


def test_list_says_what_was_logged(browser: Browser, receiver: Receiver) -> None:
    """A line of the list says how many lines its turn logged, and how many of them are warnings."""
    trace = recent(1)
    add(receiver, trace, recent(2))
    lines = [log(trace, text, severity_number=severity) for text, severity in (("one", 9), ("two", 13))]
    receiver.store.add_logs(decode_logs(PROTOBUF, log_request(*lines).SerializeToString()).logs)
    with opened(browser, receiver) as page:
        assert page.locator(f"#list tr[data-turn='{trace.hex}'] .logged").inner_text() == "2 lines · 1 warning"
        assert page.locator("#list tbody .logged").all_inner_texts().count("") == 1


def test_turn_leads_to_the_one_that_interrupted_it(browser: Browser, receiver: Receiver) -> None:
    """Both turns of an interruption lead to each other, and a turn to its session."""
    old, new = recent(1, outcome="interrupted"), recent(2, ago_s=605)
    interrupting(old, new)
    add(receiver, old, new)
    with opened(browser, receiver, f"/?turn={old.hex}") as page:
        page.get_by_role("link", name="the turn that interrupted it").click()
        page.wait_for_selector(f"#turn .foot code:text-is('{new.hex}')")
        page.get_by_role("link", name="the turn that it interrupted").click()
        page.wait_for_selector(f"#turn .foot code:text-is('{old.hex}')")
        page.get_by_role("link", name="its session").click()
        page.wait_for_selector("#conversation .spoken li.on")
        assert "view=sessions" in address(page)
        assert "call=call-1" in address(page)
        assert f"turn={old.hex}" in address(page)


def test_other_links_lead_on(browser: Browser, receiver: Receiver) -> None:
    """A link of any span to another trace stands in the turn, with the span that has it and what it is called."""
    old, new = recent(1), recent(2)
    link = new.spans[4][2].links.add(trace_id=old.trace_id, span_id=old.spans[0][2].span_id)
    link.attributes.extend(pairs({"voice.link.type": "follows_from"}))
    add(receiver, old, new)
    with opened(browser, receiver, f"/?turn={new.hex}") as page:
        page.get_by_role("link", name=f"linked by {new.spans[4][2].name}: follows from").click()
        page.wait_for_selector(f"#turn .foot code:text-is('{old.hex}')")


def test_opened_span_is_in_the_address(browser: Browser, receiver: Receiver) -> None:
    """The span that is unfolded is in the address, and stays so while turns come, also of a turn named by a prefix."""
    trace = recent(1)
    add(receiver, trace)
    with opened(browser, receiver, f"/?turn={trace.hex[:9]}") as page:
        page.wait_for_selector("#turn .row")
        until(lambda: f"turn={trace.hex}" in address(page))
        page.get_by_role("button", name="llm.ttft").click()
        page.wait_for_selector("#turn .details")
        assert f"span={trace.spans[6][2].span_id.hex()}" in address(page)
        add(receiver, recent(2))
        expect_count(page, "#list tbody tr", 2)
        page.wait_for_timeout(300)
        assert "voice.critical_path" in page.locator("#turn .details").inner_text()
        assert page.evaluate("document.activeElement.dataset.key") == trace.spans[6][2].span_id.hex()
        page.reload()
        page.wait_for_selector("#turn .details:has-text('voice.critical_path')")
        page.keyboard.press("]")
        page.wait_for_selector(f"#turn .foot code:not(:text-is('{trace.hex}'))")
        assert "span=" not in address(page)


def test_newest_turn_is_followed(browser: Browser, receiver: Receiver) -> None:
    """The address `?turn=last` shows the newest turn, and the next one when it comes."""
    add(receiver, recent(1))
    with opened(browser, receiver, "/?turn=last") as page:
        assert page.locator("#turn h2").inner_text().startswith("Turn 1")
        add(receiver, recent(2))
        page.wait_for_selector("#turn h2:has-text('Turn 2')")
        assert "turn=last" in address(page)


def test_closed_turn_stays_closed(browser: Browser, receiver: Receiver) -> None:
    """A turn that is closed before its answer comes does not open afterwards."""
    trace = recent(1)
    add(receiver, trace)
    with opened(browser, receiver) as page:

        def late(route: Route) -> None:
            page.wait_for_timeout(800)
            with suppress(Error):
                route.continue_()

        page.route("**/api/turns/*", late)
        page.keyboard.press("j")
        page.keyboard.press("Escape")
        page.wait_for_timeout(1500)
        assert page.locator("#turn > *").count() == 0
        page.unroute_all(behavior="ignoreErrors")


@pytest.mark.parametrize("shape", ["star", "chain"])
def test_waterfall_of_any_shape_is_drawn(browser: Browser, receiver: Receiver, shape: str) -> None:
    """Thirty thousand children of one span, or as many each below the last, are two hundred rows and a count."""
    with opened(browser, receiver) as page:
        rows, words, within_ms = page.evaluate(
            """async (shape) => {
              const { waterfall } = await import("/waterfall.js");
              const spans = Array.from({ length: 30_000 }, (_, i) => ({
                span_id: String(i), parent_id: i ? (shape === "star" ? "0" : String(i - 1)) : null, name: `span ${i}`,
                start_s: i / 1000, duration_s: 1, stage: null, error: null, attributes: {}, events: [], links: [],
              }));
              const began = performance.now();
              const drawn = waterfall("1", spans, { selected: "", select: null, rows: 200, more: null, beyond: 5 });
              return [drawn.querySelectorAll("button.row").length, drawn.textContent, performance.now() - began];
            }""",
            shape,
        )
        assert rows == 200
        assert "200 of 30,005 spans" in words
        assert within_ms < 5000  # it took 11.6 s, or all of the stack


def test_waterfall_is_drawn_to_scale(browser: Browser, receiver: Receiver) -> None:
    """Children stand in the order of their begin, the heard silence is marked, and a far clock squeezes nothing."""
    trace = recent(1, 1.5)
    root = trace.spans[0][2].span_id
    parent = trace.add("parent", 100, 900, root, scope="app")
    for name, start_ms in (("third", 700), ("first", 200), ("second", 400)):
        trace.add(name, start_ms, start_ms + 100, parent, scope="app", voice__tts__filler=name == "second")
    trace.last().events.add(name="retry", time_unix_nano=trace.onset_ns + 450 * MS)
    trace.add("far", 3_600_000, 3_600_500, root, scope="app")
    add(receiver, trace)
    with opened(browser, receiver, f"/?turn={trace.hex}") as page:
        names = page.locator("#turn button.row .name").all_text_contents()
        at = names.index("parent")
        assert names[at : at + 4] == ["parent", "first", "secondfiller", "third"]
        assert page.locator("#turn button.row .event[title=retry]").count() == 1
        lane, bar = box(page, "#turn button.row .lane >> nth=0"), box(page, "#turn .bar.root")
        assert bar == pytest.approx(lane, abs=3)
        heard, drawn = page.evaluate(
            """() => [
              [document.querySelector("#turn .waterfall"), "--heard-at", "--heard-width"],
              [[...document.querySelectorAll("#turn .row")].find((row) => row.textContent.startsWith("voice.response"))
                .querySelector(".bar"), "--at", "--w"],
            ].map(([{ style }, ...names]) => names.map((name) => Number.parseFloat(style.getPropertyValue(name))))"""
        )
        assert heard == drawn


def test_long_trace_shows_more_on_demand(browser: Browser, receiver: Receiver) -> None:
    """Of a trace with hundreds of spans the first ones are drawn, and more where somebody asks for them."""
    trace = recent(1, 1.5)
    root = trace.spans[0][2].span_id
    for index in range(900):
        trace.add(f"step {index}", 100 + index, 101 + index, root, scope="app")
    add(receiver, trace)
    with opened(browser, receiver, f"/?turn={trace.hex}") as page:
        expect_count(page, "#turn button.row", 200)
        assert f"200 of {len(trace.spans)} spans" in page.locator("#turn .more-spans").inner_text()
        # One that was opened is shown nevertheless.
        page.goto(f"{receiver.endpoint}/?turn={trace.hex}&span={trace.last().span_id.hex()}")
        page.wait_for_selector("#turn .row.open:has-text('step 899')")
        expect_count(page, "#turn button.row", 201)
        page.get_by_role("button", name="show more").click()
        expect_count(page, "#turn button.row", 701)
        page.get_by_role("button", name="show more").click()
        expect_count(page, "#turn button.row", len(trace.spans))
        assert page.locator("#turn .more-spans").count() == 0


def test_turn_opens_elsewhere(browser: Browser) -> None:
    """With an address given, the turn links to its trace in another backend, without a referrer."""
    with Receiver(port=0, trace_link="https://grafana.example/explore/{trace_id}?x=1") as receiver:
        trace = recent(1)
        add(receiver, trace)
        with opened(browser, receiver, f"/?turn={trace.hex}") as page:
            link = page.get_by_role("link", name="open in grafana.example")
            assert link.get_attribute("href") == f"https://grafana.example/explore/{trace.hex}?x=1"
            assert link.get_attribute("rel") == "noopener noreferrer"
    with Receiver(port=0, trace_link="javascript:alert('{trace_id}')") as receiver:
        add(receiver, trace)
        with opened(browser, receiver, f"/?turn={trace.hex}") as page:
            page.wait_for_selector("#facts dt")
            assert page.get_by_role("link", name="open in").count() == 0


def tone(seconds: float, rate: int = 8000) -> bytes:
    """A tone as 16-bit samples."""
    return b"".join(struct.pack("<h", round(9000 * math.sin(at / 4))) for at in range(round(seconds * rate)))


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver that keeps what is said."""
    with Receiver(port=0, content=True) as started:
        yield started


def say(receiver: Receiver, trace: Trace, role: str, text: str, seconds: float) -> None:
    """Hand over what one side said, as a service does."""
    told = {
        "trace_id": trace.hex,
        "role": role,
        "text": text,
        "audio": base64.b64encode(tone(seconds)).decode(),
        "sample_rate": 8000,
    }
    assert httpx.post(f"{receiver.endpoint}/api/content", json=told).status_code == 200


def test_what_was_said_can_be_read_and_heard(browser: Browser, keeping: Receiver) -> None:
    """Transcript and audio of both sides stand in the turn and in the session; an audio plays on when a turn comes."""
    trace = recent(1)
    add(keeping, trace)
    say(keeping, trace, "user", "Will it rain <b>tomorrow</b>?", 1.5)
    say(keeping, trace, "agent", "Yes, from nine on.", 4.0)
    with opened(browser, keeping, f"/?turn={trace.hex}") as page:
        assert "Will it rain <b>tomorrow</b>?" in page.locator("#turn .said-by.user").inner_text()
        page.goto(f"{keeping.endpoint}/?view=sessions&call=call-1")
        page.wait_for_selector("body.loaded")
        assert "Yes, from nine on." in page.locator(".spoken .said-by.agent").inner_text()
        audio = page.locator(".spoken .agent audio")
        audio.evaluate("async (audio) => { audio.muted = true; await audio.play(); }")
        assert audio.evaluate("(audio) => audio.duration") == pytest.approx(4.0, abs=0.05)
        add(keeping, recent(2))
        expect_count(page, ".spoken li", 2)
        assert audio.evaluate("(audio) => !audio.paused && audio.currentTime > 0")
        # One side is heard at a time.
        stopped = page.evaluate(
            """async () => {
              const [user, agent] = ["user", "agent"].map((side) => document.querySelector(`.spoken .${side} audio`));
              user.muted = true;
              agent.currentTime = 0;
              await agent.play();
              await user.play();
              return { agent: agent.paused && !agent.ended, user: user.paused };
            }"""
        )
        assert stopped == {"agent": True, "user": False}
        # From another machine nothing of it is to be had, and the page says so.
        page.set_extra_http_headers({"X-Forwarded-For": "192.0.2.7"})
        page.goto(f"{keeping.endpoint}/?turn={trace.hex}")
        page.wait_for_selector("#turn .content p:has-text('own machine only')")


def test_audio_is_drawn_and_its_place_marked(browser: Browser, keeping: Receiver) -> None:
    """What was said is drawn as loud as it was, on the axis of waterfall and lanes, and a mark follows the audio."""
    trace = recent(1, 1.5)
    (vad,) = (span for _, _, span in trace.spans if span.name == "vad")
    vad.start_time_unix_nano += 500 * MS  # the turn began with what is not speech
    add(keeping, trace)
    say(keeping, trace, "user", "Will it rain?", 1.5)
    say(keeping, trace, "agent", "Yes, from nine on.", 2.5)
    with opened(browser, keeping, f"/?view=sessions&call=call-1&turn={trace.hex}") as page:
        expect_count(page, "#turn .audio-row .wave", 2)
        expect_count(page, ".lanes .sound .wave", 2)
        # The agent's voice begins where the heard silence ends, and is as long as its audio.
        left, right = box(page, "#turn .audio-row .sound >> nth=1")
        axis = box(page, "#turn .audio-row .lane >> nth=1")
        silence = box(page, "#turn .row:has-text('voice.response') .bar")
        assert left == pytest.approx(silence[1], abs=3)
        user = box(page, "#turn .audio-row .sound >> nth=0")
        assert user[0] == pytest.approx(box(page, "#turn .row:has-text('vad') .bar >> nth=0")[0], abs=3)
        assert user[0] > axis[0] + 20
        assert (right - left) / (axis[1] - axis[0]) == pytest.approx(2.5 / (2 + 1.5 + 3), abs=0.02)
        lane = box(page, ".lanes .talk.agent .sound")
        assert lane[0] == pytest.approx(box(page, ".lanes .talk.agent .voice")[0], abs=2)
        assert page.locator(".playhead").first.evaluate("(mark) => getComputedStyle(mark).opacity") == "0"
        # A click plays it from there, and the marks of both axes go along.
        page.evaluate("document.querySelectorAll('audio').forEach((audio) => { audio.muted = true; })")
        page.locator("#turn .audio-row .sound").nth(1).click(position={"x": (right - left) * 0.4, "y": 8})
        audio = page.locator("#turn .said-by.agent audio")
        until(lambda: audio.evaluate("(audio) => audio.currentTime") > 1.1)
        mark = box(page, "#turn .playhead")
        assert left + (right - left) * 0.4 < mark[0] < right + 3
        assert lane[0] + (lane[1] - lane[0]) * 0.3 < box(page, ".lanes .playhead")[0] < lane[1] + 3
        assert page.locator(".playhead").first.evaluate("(mark) => getComputedStyle(mark).opacity") == "1"
        add(keeping, recent(2))
        expect_count(page, ".spoken li", 2)
        expect_count(page, ".lanes .sound .wave", 2)


def test_without_content_it_says_how_to_keep_it(browser: Browser, receiver: Receiver) -> None:
    """Where nothing that is said is kept, turn and session say how to switch it on, with a command to copy."""
    trace = recent(1)
    add(receiver, trace)
    with opened(browser, receiver, f"/?turn={trace.hex}") as page:
        assert "voicespan run --ui --content" in page.locator("#turn .content").inner_text()
        page.goto(f"{receiver.endpoint}/?view=sessions&call=call-1")
        page.wait_for_selector("#conversation .content code:has-text('--content')")


# Sessions


def test_session_is_a_conversation(browser: Browser, receiver: Receiver) -> None:
    """Lanes put who is heard when on one axis; a silence stands between user and agent; a click opens the turn."""
    first, second, third = recent(1, 0.5), recent(2, 1.5, outcome="interrupted"), recent(3, 0.7, ago_s=604)
    interrupting(second, third)
    add(receiver, first, second, third)
    add(receiver, recent(9, session="call-2"))
    with opened(browser, receiver, "/?view=sessions") as page:
        assert page.locator("#sessions tbody tr").count() == 2
        page.locator("#sessions tr[data-call='call-1']").get_by_role("link", name="1.50 s").click()
        page.wait_for_selector(f"#turn .foot code:text-is('{second.hex}')")
        page.keyboard.press("Escape")
        page.wait_for_selector("#turn", state="hidden")
        assert "call=call-1" in address(page)
        page.keyboard.press("Escape")
        page.locator("#sessions tr[data-call='call-1'] td").first.click()
        page.wait_for_selector("#conversation .lanes")
        assert "call=call-1" in address(page)
        assert page.locator(".quiet-time").count() == 3
        assert page.locator(".spoken li .sentence").count() == 3
        slow = page.locator(".quiet-time").nth(1)
        assert "on-llm" in (slow.get_attribute("class") or "")
        assert "1.50 s of silence, mostly llm" in (slow.get_attribute("title") or "")
        before, after = box(page, ".talk.user .voice >> nth=1")[1], box(page, ".talk.agent .voice >> nth=1")[0]
        left, right = box(page, ".quiet-time >> nth=1")
        assert left == pytest.approx(before, abs=2)
        assert right == pytest.approx(after, abs=2)
        assert page.get_by_role("link", name="interrupts turn 2").is_visible()
        wide = box(page, ".lanes")
        page.get_by_role("button", name="Show it larger").click()
        until(lambda: box(page, ".lanes")[1] - box(page, ".lanes")[0] > 1.8 * (wide[1] - wide[0]))
        assert "zoom=2" in address(page)
        # Each bar can be pointed at, and opens its turn.
        for bar, words in (
            (".talk.user .voice", "user speaks 2.00 s"),
            (".quiet-time", "1.50 s of silence, mostly llm"),
            (".talk.agent .voice", "agent speaks, cut off after"),
        ):
            page.locator(bar).nth(1).hover()
            left, right = box(page, f"{bar} >> nth=1")
            middle = page.locator(bar).nth(1).bounding_box()
            assert middle is not None
            found = page.evaluate(
                "([x, y]) => document.elementFromPoint(x, y).closest('[title]').title",
                [(left + right) / 2, middle["y"] + middle["height"] / 2],
            )
            assert words in found
        page.locator(".quiet-time").nth(2).click()
        page.wait_for_selector(f"#turn .foot code:text-is('{third.hex}')")
        page.get_by_role("link", name="interrupts turn 2").click()  # a link leads where it says, not to its line's turn
        page.wait_for_selector(f"#turn .foot code:text-is('{second.hex}')")
        page.locator(".spoken li").nth(0).click(position={"x": 5, "y": 5})
        page.wait_for_selector(f"#turn .foot code:text-is('{first.hex}')")
        page.locator(".spoken li").nth(1).click(position={"x": 5, "y": 5})
        page.wait_for_selector(f"#turn .foot code:text-is('{second.hex}')")
        assert f"turn={second.hex}" in address(page)
        assert page.locator(".turn-area.on").get_attribute("data-turn") == second.hex
        page.keyboard.press("j")
        page.wait_for_selector(f"#turn .foot code:text-is('{third.hex}')")
        page.keyboard.press("Escape")
        page.wait_for_selector("#turn", state="hidden")
        page.keyboard.press("Escape")
        page.wait_for_selector("#sessions tbody tr")


def test_session_grows_while_it_is_looked_at(browser: Browser, receiver: Receiver) -> None:
    """A turn that ends appears in its conversation without a reload."""
    add(receiver, recent(1))
    with opened(browser, receiver, "/?view=sessions&call=call-1") as page:
        add(receiver, recent(2))
        expect_count(page, ".spoken li", 2)
        expect_count(page, ".turn-area", 2)


def test_what_the_lanes_show_is_said_in_words(browser: Browser, receiver: Receiver) -> None:
    """Overlaps, gaps and events, which the lanes show as marks, stand in the turn's item in words."""
    demo(receiver)
    session = receiver.store.reader.turns(TurnQuery(ascending=True))[0].session_id
    with opened(browser, receiver, f"/?view=sessions&call={session}") as page:
        words = page.locator(".spoken .remarks").all_inner_texts()
        assert sum("both are heard at once for" in each for each in words) == page.locator(".overlap").count() == 1
        assert any("of gaps in the audio" in each for each in words)
        marks = page.locator(".talk.agent .event")
        for place in range(marks.count()):
            assert any(str(marks.nth(place).get_attribute("title")) in each for each in words)
        page.locator(".overlap").hover()
        page.locator(".talk.agent .gap").first.hover()


def test_long_session_shows_where_one_is(browser: Browser, receiver: Receiver) -> None:
    """Of a session of 1,200 turns the newest are shown, those around a chosen turn, and with links all others."""
    fill(receiver, 1200, session_id="long")
    turns = receiver.store.reader.turns(TurnQuery(session="long", ascending=True, limit=2000))
    newest, early = turns[-1].trace_id, turns[100].trace_id
    with opened(browser, receiver, "/?view=sessions&call=long", expected=("404",)) as page:  # they have no spans
        pages = page.locator("#conversation .pages")
        assert "turns 700 to 1,199 of 1,199" in pages.inner_text()
        assert page.locator(f".spoken li[data-turn='{newest}']").count() == 1
        pages.get_by_role("link", name="earlier").click()
        page.wait_for_selector(".pages:has-text('turns 200 to 699 of 1,199')")
        assert "first=199" in address(page)
        pages.get_by_role("link", name="first").click()
        page.wait_for_selector(".pages:has-text('turns 1 to 500')")
        page.locator(f".spoken li[data-turn='{early}'] a").first.click()
        page.wait_for_selector(f".spoken li.on[data-turn='{early}']")
        assert "turns 1 to 500" in pages.inner_text()
        pages.get_by_role("link", name="newest").click()
        page.wait_for_selector(".pages:has-text('turns 700 to 1,199')")
        pages.get_by_role("link", name="first").click()
        page.wait_for_selector(".pages:has-text('turns 1 to 500')")
        for _ in range(2):  # the turn, and the session
            page.keyboard.press("Escape")
        page.locator("#sessions tr[data-call='long'] td").first.click()
        page.wait_for_selector(".pages:has-text('turns 700 to 1,199')")
    with opened(browser, receiver, f"/?view=sessions&call=long&turn={turns[600].trace_id}", expected=("404",)) as page:
        page.wait_for_selector(f".spoken li.on[data-turn='{turns[600].trace_id}']")
        assert page.locator(f".spoken li[data-turn='{newest}']").count() == 0


def test_cause_of_each_turn_of_the_demo_is_two_clicks_away(browser: Browser, receiver: Receiver) -> None:
    """The page of the demo: the slowest dot opens its turn, which says why; a second click opens the span to blame."""
    turns = demo(receiver)
    slow = max(
        (turn for turn in turns if turn.response_ns and not turn.unanswered), key=lambda turn: turn.response_ns or 0
    )
    assert slow.bottleneck == "tts"
    with opened(browser, receiver) as page:
        places = page.evaluate(
            "import('/chart.js').then(({ places: { x, y } }) => ({ x: [...x], y: [...y], scale: devicePixelRatio }))"
        )
        canvas = page.locator("#plot canvas").bounding_box()
        assert canvas is not None
        top = min(range(len(places["y"])), key=lambda place: places["y"][place])
        x, y = (places[axis][top] / places["scale"] for axis in "xy")
        page.mouse.click(canvas["x"] + x, canvas["y"] + y)
        page.wait_for_selector(f"#turn .foot code:text-is('{slow.trace_id}')")
        assert page.locator("#turn .why").inner_text() == cause(slow)
        assert page.locator("#turn .strip div").count() == sum(share > 0 for share in slow.shares.values())
        page.get_by_role("button", name="tts.first_audio").first.click()
        assert "took" in page.locator("#turn .details").inner_text()
        # Each other turn, whatever became of it, is one click away and says the same as the terminal.
        page.locator("#sort").select_option("start")
        for turn in turns:
            page.locator(f"#list tr[data-turn='{turn.trace_id}'] td").nth(3).click()
            page.wait_for_selector(f"#turn .foot code:text-is('{turn.trace_id}')")
            assert page.locator("#turn .why").inner_text() == cause(turn)
            bad = turn.unanswered or turn.error is not None
            tone = "bad" if bad else turn.bottleneck or "none"
            assert page.locator("#turn .why").get_attribute("class") == f"why why-{tone}"
            if turn.response_ns:
                end = "user gave up" if turn.unanswered else "user hears the reply"
                assert page.locator("#turn .silence-strip .scale span").last.inner_text() == end


def test_demo_is_a_conversation(browser: Browser, receiver: Receiver) -> None:
    """The demo's call in the page: each turn with the sentence of the terminal, in the colour of its bottleneck."""
    turns = demo(receiver)
    with opened(browser, receiver, f"/?view=sessions&call={turns[0].session_id}") as page:
        assert page.locator(".spoken .sentence").all_inner_texts() == [cause(turn) for turn in turns]
        waits = [turn for turn in turns if turn.response_ns]
        colours = [each.get_attribute("class") or "" for each in page.locator(".quiet-time").all()]
        expected = ["bad" if turn.unanswered else turn.bottleneck for turn in waits]
        assert [colour.removeprefix("quiet-time on-") for colour in colours] == expected
        assert page.locator(".overlap").count() == 1
        assert page.locator(".talk.agent .gap").count() >= 1
        for turn in turns:
            page.locator(f".turn-area[data-turn='{turn.trace_id}']").press("Enter")
            page.wait_for_selector(f"#turn .foot code:text-is('{turn.trace_id}')")
            assert page.locator("#turn .why").inner_text() == cause(turn)
            shown = page.locator("#turn .strip div").count()
            assert shown == (sum(share > 0 for share in turn.shares.values()) if turn.response_ns else 0)
            if turn.response_ns:
                page.wait_for_selector("#turn .compare td:last-child:text-matches('ms|s')")


# Runs


def two_runs(receiver: Receiver, longer_s: float, chance: random.Random | None = None) -> None:
    """Two runs of forty turns each; in the later one the model takes longer. The lengths vary, by `chance` if given."""
    for run, ago_s, silence_s in (("before", 9000.0, 0.5), ("after", 1200.0, 0.5 + longer_s)):
        for index in range(40):
            more_s = index % 7 / 50 if chance is None else chance.expovariate(5)
            add(receiver, recent(index, silence_s + more_s, session=f"{run}-1", ago_s=ago_s), run=run)


def test_two_runs_are_compared(browser: Browser, receiver: Receiver) -> None:
    """A slower run is called so in one sentence that names the stage; its line lies off the zero line, others on it."""
    two_runs(receiver, 0.4)
    with opened(browser, receiver, "/?view=runs") as page:
        assert page.locator("#runs tbody tr").count() == 2
        sentence = page.locator("#compare .why").inner_text()
        assert "Users wait 400 ms longer" in sentence
        assert "llm (+400 ms" in sentence
        row = page.locator("#compare tr", has=page.get_by_role("rowheader", name="llm", exact=True))
        assert row.locator(".whisker.worse").count() == 1
        low, zero = row.locator(".whisker i").bounding_box(), row.locator(".whisker").bounding_box()
        assert low is not None
        assert zero is not None
        assert low["x"] > zero["x"] + zero["width"] / 2
        assert "95 % interval" in (row.locator(".whisker").get_attribute("aria-label") or "")
        still = page.locator("#compare tr", has=page.get_by_role("rowheader", name="endpoint", exact=True)).first
        assert "no clear change" in still.inner_text()
        latency = page.locator("#compare tr", has=page.get_by_role("rowheader", name="heard silence", exact=True))
        assert "+400 ms" in latency.inner_text()
        page.get_by_role("button", name="slow ones (p95)").click()
        until(lambda: "rank=p95" in address(page))
        page.wait_for_selector("#compare tr:has-text('heard silence'):has-text('too few turns')")  # forty tell no p95
        # The other way round
        page.get_by_role("radio", name="before is now").check()
        page.get_by_role("radio", name="after is before").check()
        page.wait_for_selector("#compare .why:has-text('400 ms shorter')")
        page.get_by_role("link", name="see the turns").click()
        expect_count(page, "#list tbody tr", 40)
        assert "against=run" in address(page)


def test_a_run_is_compared_with_the_one_before_it(browser: Browser, receiver: Receiver) -> None:
    """Unless others are picked, the newest run stands against the one of the same service before it."""
    for run, service, ago_s in (("one", "agent", 9000.0), ("two", "other", 5000.0), ("three", "agent", 1200.0)):
        for index in range(5):
            trace = recent(index, session=f"{run}-1", ago_s=ago_s)
            trace.spans = [(service, scope, span) for _, scope, span in trace.spans]
            add(receiver, trace, run=run)
    with opened(browser, receiver, "/?view=runs") as page:
        assert "three (5 turns) against one (5 turns)" in page.locator("#compare .head").inner_text()


def test_the_largest_part_of_a_change_is_named(browser: Browser, receiver: Receiver) -> None:
    """Where several stages changed, the sentence names the one that changed most."""
    for run, ago_s, silence_s, tts_s in (("before", 9000.0, 0.5, 0.05), ("after", 1200.0, 1.2, 0.15)):
        for index in range(40):
            more_s = index % 7 / 100
            turn = recent(index, silence_s + more_s, session=f"{run}-1", ago_s=ago_s, tts_s=tts_s + more_s / 10)
            add(receiver, turn, run=run)
    with opened(browser, receiver, "/?view=runs") as page:
        assert "the largest part is llm (+600 ms" in page.locator("#compare .why").inner_text()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_is_no_news(browser: Browser, receiver: Receiver, seed: int) -> None:
    """Two runs whose turns are drawn from one distribution show no clear change, though no figure of them is equal."""
    two_runs(receiver, 0.0, random.Random(seed))
    with opened(browser, receiver, "/?view=runs") as page:
        changed = page.locator("#compare tr", has=page.get_by_role("rowheader", name="llm", exact=True))
        now, before = (changed.locator("td").nth(place).inner_text() for place in (0, 1))
        assert now != before
        assert "No clear change" in page.locator("#compare .why").inner_text()
        assert page.locator("#compare .whisker.worse, #compare .whisker.better").count() == 0


def test_figures_say_what_changed(browser: Browser, receiver: Receiver) -> None:
    """Compared with a run, key figures and stages show the change where it is clear, and else that there is none."""
    two_runs(receiver, 0.4)
    with opened(browser, receiver) as page:
        page.locator("#filter-run").select_option(label="after")
        page.locator("#filter-against").select_option(label="before")
        page.wait_for_selector("#figures .change.worse:has-text('+400 ms')")
        assert "was" in page.locator("#figures > div", has_text="p99").inner_text()
        assert "no clear change" in page.locator("#figures a[data-key=failed]").inner_text()
        words = [page.locator("#figures > div", has_text=name).inner_text() for name in ("p95", "p99")]
        assert ["too few turns" in each for each in words] == [True, True]  # each of 40 by itself
        silence = page.locator("#silence tbody tr", has_text="llm")
        assert "+400 ms" in silence.inner_text()
        assert silence.locator(".whisker.worse").count() == 1
        page.reload()
        page.wait_for_selector("#figures .change.worse:has-text('+400 ms')")
        page.locator("#filter-against").select_option("")
        expect_count(page, "#figures .change", 0)


def test_figures_lead_to_their_turns(browser: Browser, receiver: Receiver) -> None:
    """A count shows its turns with a click, and all of them with the next one; only what is bad is marked so."""
    for index in range(1, 21):
        add(receiver, recent(index, 0.4))
    add(receiver, recent(21, 0.4, outcome="interrupted"))
    with opened(browser, receiver) as page:
        expect_count(page, "#list tbody tr", 21)
        assert "100 %" in page.locator("#figures > div", has_text="within 600 ms").inner_text()
        assert page.locator("#figures strong.worse").count() == 0
        page.locator("#figures a[data-key=interrupted]").click()
        expect_count(page, "#list tbody tr", 1)
        page.locator("#figures a[data-key=interrupted]").click()
        expect_count(page, "#list tbody tr", 21)
        add(receiver, recent(22, 0.9), recent(23, 0.4, outcome="error"), recent(24, 1.4))
        page.wait_for_selector("#figures a[data-key=failed] strong.worse:text-is('1')")
        assert page.locator("#figures strong.worse").all_inner_texts() == ["92 %", "1"]


def test_silence_is_drawn_in_proportion(browser: Browser, receiver: Receiver) -> None:
    """Each stage has its mean, its share of the whole and a bar: the longest is full, the others as they are to it."""
    for index in range(1, 6):
        add(receiver, recent(index, 0.55))
    with opened(browser, receiver) as page:
        rows: dict[str, list[str]] = {}
        wide: dict[str, float] = {}
        for stage in ("endpoint", "llm", "tts"):
            row = page.locator("#silence tr", has=page.get_by_role("rowheader", name=stage, exact=True))
            left, right = box(page, f"#silence .bar.on-{stage}")
            wide[stage] = right - left
            rows[stage] = row.locator("td.r").all_inner_texts()
        assert rows == {
            "endpoint": ["100 ms", "18 %", "100 ms"],
            "llm": ["400 ms", "73 %", "400 ms"],
            "tts": ["50 ms", "9 %", "50 ms"],
        }
        full = page.locator("#silence td.bars").first.bounding_box()
        assert full is not None
        assert wide["llm"] == pytest.approx(full["width"], rel=0.2)
        assert [wide[stage] / wide["llm"] for stage in ("endpoint", "tts")] == pytest.approx([1 / 4, 1 / 8], abs=0.02)


def test_figures_are_compared_with_the_time_before(browser: Browser, receiver: Receiver) -> None:
    """With a time chosen, the time before it, as long, can be compared; without one the choice is not offered."""
    for index in range(20):
        add(
            receiver,
            recent(0, 0.5 + index % 5 / 50, ago_s=1700 - index * 10),
            recent(0, 0.9 + index % 5 / 50, ago_s=700 - index * 10),
            recent(0, 3.0 + index % 5 / 50, ago_s=2600 - index * 10),
        )
    with opened(browser, receiver) as page:
        assert page.locator("#filter-against option[value=before]").is_disabled()
        page.locator("#filter-last").select_option("15")
        page.locator("#filter-against").select_option("before")
        page.wait_for_selector("#figures .change.worse:has-text('+400 ms')")
        assert "against=before" in address(page)


def test_figures_say_how_soon_the_agent_is_silenced(browser: Browser, receiver: Receiver) -> None:
    """Where users spoke over the agent, a key figure says how soon it was silent; a click shows those turns as dots."""
    silenced = [turn.silenced_ns for turn in demo(receiver) if turn.silenced_ns]
    assert silenced
    with opened(browser, receiver) as page:
        figure = page.locator("#figures a", has_text="silenced within")
        assert f"{silenced[0] / 1e6:.0f} ms" in figure.inner_text()
        figure.click()
        page.wait_for_selector("#plot-words:has-text('turns without silenced within')")
        assert "of=silenced" in address(page)
        assert painted(page) == len(silenced)


# In progress


def tell(receiver: Receiver, *turns: dict[str, Any], instance: str = "one", interval_s: float = 60.0) -> None:
    """Tell the receiver of open turns, as a service does."""
    told = {"service": "voice-agent", "instance": instance, "interval_s": interval_s, "turns": list(turns)}
    assert httpx.post(f"{receiver.endpoint}/api/open", json=told).status_code == 200


def hanging(ago_s: float = 8.0) -> dict[str, Any]:
    """A turn that waits for a model."""
    start_s = time.time() - ago_s
    heard = {"component": "asr", "label": None, "start_s": start_s + 0.1, "first_s": None, "end_s": start_s + 2.2}
    stage = {"component": "llm", "label": "small-chat", "start_s": start_s + 2.4, "first_s": None, "end_s": None}
    return {
        "trace_id": "ab" * 16,
        "session_id": "call-1",
        "turn_index": 4,
        "initiator": "user",
        "input": "speech",
        "start_s": start_s,
        "marks": [{"name": "speech_end", "at_s": start_s + 2}, {"name": "committed", "at_s": start_s + 2.3}],
        "stages": [heard, stage],
    }


def test_turns_in_progress_say_what_they_wait_for(browser: Browser, receiver: Receiver) -> None:
    """A hanging turn is counted in every view, and shown with what it waits for and how long; then it is gone."""
    with opened(browser, receiver) as page:
        assert not page.locator("#open-count").is_visible()
        tell(receiver, hanging())
        page.wait_for_selector("#open-count:text-is('1')")
        page.locator("#views a[data-to=open]").click()
        page.wait_for_selector("#open .sentence:has-text('first token of small-chat')")
        first = page.locator("#open .spoken-head .took").inner_text()
        until(lambda: page.locator("#open .spoken-head .took").inner_text() != first)
        assert page.locator("#open .progress-row.running .bar").count() == 1
        assert page.locator("#open .progress-row.running .on-llm").count() == 1
        rows = page.locator("#open .progress-row", has=page.locator(".took"))
        over = {row.locator(".name").inner_text(): row.locator(".took").inner_text() for row in rows.all()[:2]}
        assert over == {"user": "2.00 s", "asr": "2.10 s"}
        tell(receiver)
        expect_count(page, "#open .open-turns li", 0)
        page.wait_for_selector("#open-count", state="hidden")


def test_lost_turns_are_marked(browser: Browser, receiver: Receiver) -> None:
    """A turn whose process says nothing any more is marked as lost."""
    with opened(browser, receiver, "/?view=open") as page:
        tell(receiver, hanging(), interval_s=0.2)
        page.wait_for_selector("#open li.lost .tag:text-is('lost')")
        assert "fell silent" in page.locator("#open li.lost .sentence").inner_text()
        assert page.locator("#open h2 small").inner_text() == "1 lost"


def test_open_turns_are_asked_for_only_while_looked_at(browser: Browser, receiver: Receiver) -> None:
    """In another view the page asks nobody each second: the receiver says when something changed."""
    with opened(browser, receiver) as page:
        page.wait_for_timeout(500)
        asked: list[str] = []
        page.on("request", lambda sent: asked.append(sent.url))
        page.wait_for_timeout(2500)
        assert asked == []
        page.keyboard.press("4")
        page.wait_for_timeout(2500)
        assert len([url for url in asked if url.endswith("/api/open")]) >= 2


def test_incomplete_turns_say_why(browser: Browser, receiver: Receiver) -> None:
    """A turn without its root span is listed with the reason, and opens to what came of it."""
    trace = recent(1)
    del trace.spans[0]
    add(receiver, trace, recent(2))
    with opened(browser, receiver, "/?view=open") as page:
        assert page.locator("#incomplete tbody tr").count() == 1
        assert "root span has not arrived" in page.locator("#incomplete tbody").inner_text()
        page.locator("#incomplete tbody tr").click()
        page.wait_for_selector("#turn .waterfall .row")


# Other traces


def test_other_traces_have_a_plain_waterfall(browser: Browser, receiver: Receiver) -> None:
    """A trace that is no turn is listed apart, and opens to its spans."""
    trace = Trace(onset_ns=time.time_ns() - 10_000 * MS)
    root = trace.add("GET /rooms", 0, 40, scope="http", service="shop")
    trace.add("SELECT", 5, 30, root, scope="db", service="shop")
    add(receiver, trace, recent(1))
    with opened(browser, receiver, "/?view=traces") as page:
        assert page.locator("#traces tbody tr").count() == 1
        page.locator("#traces tbody td").last.click()
        page.wait_for_selector("#turn .waterfall .row")
        assert page.locator("#turn .row .name").all_inner_texts() == ["GET /rooms", "SELECT"]
        assert page.locator("#turn .why").count() == 0
        page.get_by_role("button", name="SELECT").click()
        assert "25 ms" in page.locator("#turn .details").inner_text()
        late = Trace(onset_ns=time.time_ns())
        late.add("GET /late", 0, 40, scope="http", service="shop")
        add(receiver, late)
        page.wait_for_selector("#traces a:text-is('GET /late')")


def test_what_is_not_whole_says_so(browser: Browser, receiver: Receiver) -> None:
    """A trace without its root span is marked as incomplete, and one of which only log lines came opens to them."""
    part, bare = Trace(onset_ns=time.time_ns() - 20_000 * MS), Trace(onset_ns=time.time_ns() - 10_000 * MS)
    part.add("SELECT", 5, 30, b"12345678", scope="db", service="shop")
    add(receiver, part)
    line = log(bare, "nothing to see", severity_number=9)
    receiver.store.add_logs(decode_logs(PROTOBUF, log_request(line).SerializeToString()).logs)
    with opened(browser, receiver, "/?view=traces") as page:
        assert "incomplete" in page.locator(f"#traces tr[data-turn='{part.hex}']").inner_text()
        page.locator(f"#traces tr[data-turn='{part.hex}'] td").last.click()
        page.wait_for_selector("#turn h2 .tag.incomplete")
        page.goto(f"{receiver.endpoint}/?view=traces&turn={bare.hex}")
        page.wait_for_selector("#turn .log li:has-text('nothing to see')")
        assert "only what was logged" in page.locator("#turn .turn-head").inner_text()


# Files


def test_turns_leave_as_a_file_and_come_back(browser: Browser, receiver: Receiver, tmp_path: Path) -> None:
    """An exported turn is an OTLP JSON file; chosen or dropped on another viewer's page, the turn is there again."""
    trace, other = recent(1, 1.5), recent(2, session="call-2")
    add(receiver, trace, other)
    with opened(browser, receiver, f"/?turn={trace.hex}") as page:
        with page.expect_download() as download:
            page.locator("#turn").get_by_role("link", name="export").click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        assert trace.hex in file.read_text()
        assert other.hex not in file.read_text()
        page.keyboard.press("Escape")
        with page.expect_download() as download:
            page.get_by_role("link", name="export everything").click()
        every = tmp_path / "every.json"
        download.value.save_as(every)
        assert len(json.loads(every.read_text())["resourceSpans"]) >= 2
    with Receiver(port=0) as empty, opened(browser, empty) as page:
        page.locator("#live").click()
        page.locator("#import-file").set_input_files(file)
        page.wait_for_selector("#said:has-text('spans')")
        page.wait_for_selector(f"#list tr[data-turn='{trace.hex}']")
        drop = page.evaluate_handle(
            "(text) => { const data = new DataTransfer();"
            " data.items.add(new File([text], 'every.json', { type: 'application/json' })); return data; }",
            every.read_text(),
        )
        page.dispatch_event("main", "dragover", {"dataTransfer": drop})
        assert page.locator("body.dropping").count() == 1
        page.dispatch_event("main", "drop", {"dataTransfer": drop})
        expect_count(page, "#list tbody tr", 2)
        assert page.locator("body.dropping").count() == 0


def test_a_file_of_something_else_is_refused_in_words(browser: Browser, receiver: Receiver, tmp_path: Path) -> None:
    """A file that is no OTLP JSON is refused with the reason, and nothing else happens."""
    (tmp_path / "notes.json").write_text("[1, 2")
    with opened(browser, receiver, expected=("400",)) as page:
        page.locator("#import-file").set_input_files(tmp_path / "notes.json")
        page.wait_for_selector("#said:has-text('notes.json: ')")
        assert "JSON" in page.locator("#said").inner_text().partition("notes.json: ")[2]


def test_foot_says_what_is_kept_and_what_is_not_shown(browser: Browser, receiver: Receiver) -> None:
    """The foot of the page names the database and how long turns stay, what is not shown, and who else writes."""
    fill(receiver, 20)
    sent = {"Content-Type": PROTOBUF}
    for path, message in (("metrics", metrics_request()), ("logs", log_request(log(None, "no trace")))):
        body = message.SerializeToString()
        assert httpx.post(f"{receiver.endpoint}/v1/{path}", content=body, headers=sent).status_code == 200
    with opened(browser, receiver) as page:
        facts = {
            row.locator("dt").inner_text(): row.locator("dd").inner_text()
            for row in page.locator("footer dl div").all()
        }
        assert facts["database"].startswith(str(receiver.store.path))
        assert "20 turns" in facts["database"]
        assert facts["kept for"] == "14 days or 1 GiB"
        assert facts["transcripts and audio"] == "not kept"
        assert "1 log line without a trace" in facts["received, not shown"]
        assert "metric" in facts["received, not shown"]
        assert facts["OTLP/gRPC"]
        assert "also writes to it" not in facts
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(receiver.store.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            page.reload()
            page.wait_for_selector(f"footer dd:has-text('process {other.pid}')")
            other.communicate("\n")
