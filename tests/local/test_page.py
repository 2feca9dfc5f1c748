"""The viewer's page: its files, and the view of all turns in Chromium."""

from __future__ import annotations

import math
import re
import subprocess
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httpx
import pytest

from voicespan.local import page as pages
from voicespan.local.form import PROTOBUF
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver
from voicespan.local.words import cause

from .otlp import MS, Trace, request, turn
from .pages import (
    MANY,
    add,
    address,
    expect_count,
    fill,
    needs_chromium,
    opened,
    painted,
    recent,
    spread,
    until,
)
from .rows import put_turns

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser


def assets() -> list[Path]:
    """The files of the page."""
    return sorted(path for path in pages.STATIC.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", assets(), ids=lambda path: str(path.relative_to(pages.STATIC)))
def test_no_asset_names_another_machine(path: Path) -> None:
    """No file of the page holds an address outside of this machine, but for the name space of SVG and comments."""
    text = path.read_text()
    if path.name == "uPlot.esm.js":  # vendored as it is: links to explanations stand in its comments
        text = re.sub(r"(?m)(?<!:)//.*$|/\*[\s\S]*?\*/", "", text)
    found = re.findall(r"(?:https?|wss?)://[^\s\"'`)]*", text.replace("http://www.w3.org/2000/svg", ""))
    assert found == []


@pytest.mark.parametrize("path", assets(), ids=lambda path: str(path.relative_to(pages.STATIC)))
def test_no_asset_makes_elements_of_text(path: Path) -> None:
    """What a sender wrote can never become an element, a script or a style, by no way there is."""
    ways = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "cssText")
    if "uplot" not in path.parts:
        assert [way for way in ways if way in path.read_text()] == []
    if path.suffix == ".html":
        assert re.findall(r"\s(?:on\w+|style)=|<style|<script>", path.read_text()) == []


def test_every_module_is_asked_for_at_once() -> None:
    """The head of the page names every module, so that they are not found one behind the other."""
    head = (pages.STATIC / "index.html").read_text()
    named = set(re.findall(r'<link rel="modulepreload" href="/([\w./]+)">', head))
    modules = {path.relative_to(pages.STATIC).as_posix() for path in assets() if path.suffix == ".js"}
    assert named == modules - {"theme.js", "main.js"}


def test_page_can_reach_this_server_only() -> None:
    """Every file comes with a policy without exceptions, and no file can be named that is not of the page."""
    with Receiver(port=0) as receiver, httpx.Client(base_url=receiver.endpoint) as client:
        for path in assets():
            name = path.relative_to(pages.STATIC).as_posix()
            answer = client.get("/" if name == "index.html" else f"/{name}")
            if path.name == "LICENSE":
                assert answer.status_code == 404
                continue
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none';")
            assert "unsafe" not in policy
            assert "*" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = client.get(answer.request.url.path, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert client.get("/").headers["content-type"].startswith("text/html")
        assert client.get("/main.js").headers["content-type"].startswith("text/javascript")
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/%2e%2e/page.py").status_code == 404


@needs_chromium
def test_without_turns_it_says_how_to_send_some(browser: Browser, receiver: Receiver) -> None:
    """An empty store shows commands with this receiver's address; the first turn replaces them by itself."""
    with opened(browser, receiver) as page:
        commands = page.locator(".command code").all_inner_texts()
        assert "voicespan demo" in commands
        assert any(receiver.endpoint in command for command in commands)
        assert not page.locator("#chart").is_visible()
        page.locator(".command button").first.click()
        page.wait_for_selector("#said:has-text('Command copied')")
        assert page.evaluate("navigator.clipboard.readText()") == "voicespan demo"
        add(receiver, recent())
        page.wait_for_selector("#list tbody tr")
        assert not page.locator("#empty").is_visible()


@needs_chromium
def test_commands_carry_the_token(browser: Browser) -> None:
    """Of a receiver with a token the commands set what a service needs to be let in; sent like that, a turn comes."""
    token = "a-token-of-20-letters"
    with Receiver(port=0, token=token) as receiver, opened(browser, receiver, f"/?token={token}") as page:
        page.wait_for_selector(".command code:has-text('OTEL_EXPORTER_OTLP_HEADERS')")
        (command,) = (text for text in page.locator(".command code").all_inner_texts() if text.startswith("export"))
        found = subprocess.run(
            ["/bin/sh", "-c", f"{command}; echo $OTEL_EXPORTER_OTLP_ENDPOINT; echo $OTEL_EXPORTER_OTLP_HEADERS"],
            capture_output=True,
            text=True,
            check=True,
        )
        endpoint, headers = found.stdout.split()
        name, _, value = headers.partition("=")
        sent = request(*recent().spans).SerializeToString()
        answer = httpx.post(
            f"{endpoint}/v1/traces", content=sent, headers={"Content-Type": PROTOBUF, name: unquote(value)}
        )
        assert answer.status_code == 200
        page.wait_for_selector("#list tbody tr")


@needs_chromium
def test_it_says_when_what_came_is_no_turn(browser: Browser, receiver: Receiver) -> None:
    """Where only other traces came, the page says how many, and leads to them."""
    trace = Trace(onset_ns=time.time_ns() - 1000 * MS)
    trace.add("GET /rooms", 0, 40, scope="http", service="shop")
    add(receiver, trace)
    with opened(browser, receiver) as page:
        page.wait_for_selector("#empty h2:text-is('1 trace came, none is a turn')")
        page.get_by_role("link", name="see what came").click()
        expect_count(page, "#traces tbody tr", 1)


@needs_chromium
@pytest.mark.timeout(120)
def test_the_slow_turn_is_two_clicks_away(browser: Browser, receiver: Receiver) -> None:
    """A click on the slowest dot opens its turn: the sentence of the terminal, the strip, the marked silence."""
    slow = recent(7, 2.5)
    add(receiver, *[recent(index) for index in range(1, 7)], slow)
    stored = receiver.store.reader.turn(slow.hex)
    assert stored is not None
    with opened(browser, receiver) as page:
        box = page.locator("#plot .u-over").bounding_box()
        assert box is not None
        # The newest turn is at the right edge, and the longest silence at the top.
        for down in range(0, 120, 6):
            page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + down)
            if page.locator(".tooltip").is_visible() and "2.50 s" in page.locator(".tooltip").inner_text():
                break
        page.mouse.down()
        page.mouse.up()
        page.wait_for_selector("#turn .why")
        assert page.locator("#turn .why").inner_text() == cause(stored)
        assert "measured at the client ± 4 ms" in page.locator("#turn .turn-head p").inner_text()
        assert f"turn={slow.hex}" in address(page)
        strip = page.locator("#turn .strip").get_attribute("aria-label")
        assert strip is not None
        assert "llm 2.35 s" in strip
        labels = [page.locator(f"#turn .strip .on-{stage}").inner_text() for stage in ("endpoint", "llm", "tts")]
        assert labels == ["", "llm 2.35 s", ""]  # what is too narrow for its name has it in the tooltip
        assert page.locator("#turn .silence-strip .scale").inner_text().split("\n")[-1] == "user hears the reply"
        beside = page.locator("#turn .compare tr", has=page.get_by_role("rowheader", name="llm", exact=True))
        assert beside.locator("td.worse").inner_text() == "+2.00 s"
        assert page.locator(f"#list tr[data-turn='{slow.hex}'] .mostly").inner_text() == "llm 94 %"
        assert page.locator("#turn .waterfall.heard .row").count() == len(slow.spans)
        page.get_by_role("button", name="llm.ttft").click()
        assert "voice.critical_path" in page.locator("#turn .details").inner_text()
        page.go_back()
        page.wait_for_selector("#turn", state="hidden")


_COLOURS = """async () => {
  const { places } = await import("/chart.js");
  const { ink } = await import("/dots.js");
  const canvas = document.querySelector("#plot canvas");
  const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = (x, y) => drawn.data.subarray((Math.round(y) * drawn.width + Math.round(x)) * 4).subarray(0, 4);
  const resolved = (name) => {
    const probe = new OffscreenCanvas(1, 1).getContext("2d");
    probe.fillStyle = ink(name);
    probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data];
  };
  const inks = Object.fromEntries(["--accent", "--slow", "--bad"].map((name) => [name, resolved(name)]));
  const apart = (a, b) => Math.max(...[0, 1, 2].map((i) => Math.abs(a[i] - b[i])));
  const alike = (pixel) => Object.keys(inks).find((name) => apart(inks[name], pixel) < 24) ?? "other";
  const named = (pixel) => (pixel[3] < 40 ? "none" : alike(pixel));
  const beside = 2 * devicePixelRatio; // within a disc and beside the middle, where lines may go through
  const dots = [...places.x].map((x, i) => named(seen(x + beside, places.y[i] - beside)));
  const all = Array.from({ length: drawn.width }, (_, x) => x);
  const row = (y) => all.filter((x) => named(seen(x, y)) === "--slow").length;
  return { dots, y: [...places.y], rows: Array.from({ length: drawn.height }, (_, y) => row(y)) };
}"""
"""The colour of each dot, and how many pixels of each row have that of what is too slow."""


@needs_chromium
def test_a_dot_says_how_its_turn_went(browser: Browser, receiver: Receiver) -> None:
    """Within the objective, slower, unanswered (a ring), an error (a cross); the objective is a line between them."""
    # Dots are see-through, and one on a line of the grid has another colour: halfway between two lines, 5 s apart.
    ago_s = 600 + (time.time() + 2.5) % 5
    unanswered = recent(4, 1.1, ago_s=ago_s)
    unanswered.last().name = "voice.unanswered"
    answered = (recent(index, silence_s, ago_s=ago_s) for index, silence_s in ((1, 0.4), (2, 0.45), (3, 0.9)))
    add(receiver, *answered, unanswered, recent(5, 0.5, ago_s=ago_s, outcome="error"))
    with opened(browser, receiver, expected=("willReadFrequently",)) as page:
        found = page.evaluate(_COLOURS)
        assert found["dots"] == ["--accent", "--accent", "--slow", "none", "--bad"]
        y, rows = found["y"], found["rows"]
        # The axis is logarithmic: so far down from 0.9 s is 0.6 s.
        line = y[2] + (y[0] - y[2]) * math.log(0.9 / 0.6) / math.log(0.9 / 0.4)
        assert max(rows[round(line) - 1 : round(line) + 2]) > 200
        page.locator("#objective").fill("1000")
        page.locator("#objective").press("Enter")
        until(lambda: page.evaluate(_COLOURS)["dots"][2] == "--accent")


@needs_chromium
def test_the_lines_are_percentiles(browser: Browser, receiver: Receiver) -> None:
    """Where too few turns are behind a running percentile, its line is that of all turns that were answered."""
    add(receiver, recent(1))
    with opened(browser, receiver) as page:
        found = page.evaluate(
            """async () => {
              const { linesOver } = await import("/percentiles.js");
              const value_s = [...Array.from({ length: 200 }, (_, i) => (i + 1) / 100), 9, 9, 9, 9];
              const mark = value_s.map((value) => (value === 9 ? 2 : 0)); // who was not answered
              const lines = { window: 100, time_s: [1], p50_s: [1], p95_s: [2], p99_s: [3] };
              return ["response", "llm"].map((of) => linesOver({ lines, value_s, mark, of }));
            }"""
        )
        assert [list(each["running"]) for each in found] == [["p50_s", "p95_s"]] * 2
        assert [each["level"] for each in found] == [{"p99_s": 1.98}, {"p99_s": 9}]
        assert found[0]["words"] == ["p50, p95 of the last 100 turns", "p99 of all"]


@needs_chromium
def test_the_dot_next_to_the_pointer_is_taken(browser: Browser, receiver: Receiver) -> None:
    """Where dots are close together, a click opens the nearest one."""
    turns = [recent(index, 0.5 + index % 3 / 100) for index in range(60)]
    add(receiver, *turns)
    with opened(browser, receiver) as page:
        canvas = page.locator("#plot canvas").bounding_box()
        assert canvas is not None
        for number in (29, 30, 31):
            x, y = page.evaluate(
                """(number) => import("/chart.js").then(({ places: { x, y } }) =>
                  [x[number] / devicePixelRatio, y[number] / devicePixelRatio])""",
                number,
            )
            page.mouse.click(canvas["x"] + x, canvas["y"] + y)
            page.wait_for_selector(f"#turn .foot code:text-is('{turns[number].hex}')")


@needs_chromium
def test_the_address_is_the_view(browser: Browser, receiver: Receiver) -> None:
    """Filters, order and turn come from the address, and what is changed goes there."""
    slow, other = recent(3, 1.5, session="call-9"), recent(4, 0.9, session="call-9", outcome="interrupted")
    add(receiver, recent(1), recent(2), slow, other)
    with opened(browser, receiver, f"/?session=call-9&sort=start&order=asc&turn={slow.hex}&objective=1000") as page:
        assert page.locator("#list tbody tr").count() == 2
        assert page.locator("#list tbody tr.on").get_attribute("data-turn") == slow.hex
        assert "within 1.00 s" in page.locator("#figures").inner_text()
        page.locator("#filter-outcome").select_option("interrupted")
        expect_count(page, "#list tbody tr", 1)
        assert "outcome=interrupted" in address(page)
        page.reload()
        page.wait_for_selector("body.loaded")
        assert page.locator("#list tbody tr").get_attribute("data-turn") == other.hex
        page.locator("#clear").click()
        expect_count(page, "#list tbody tr", 4)
        page.get_by_role("button", name="heard silence").click()
        page.wait_for_selector(f"#list tbody tr:first-child[data-turn='{slow.hex}']")


@needs_chromium
def test_keys_walk_through_the_slow_turns(browser: Browser, receiver: Receiver) -> None:
    """Keys go through the list (j, k), the session ([, ]) and the views (1 to 5), search (/), copy (c) and help (?)."""
    first, second, third = recent(1, 0.7), recent(2, 0.9), recent(3, 0.8)
    add(receiver, first, second, third)
    with opened(browser, receiver) as page:
        for key, expected in (("j", second), ("j", third), ("j", first), ("k", third), ("[", second)):
            page.keyboard.press(key)
            page.wait_for_selector(f"#turn .foot code:text-is('{expected.hex}')")
            assert page.locator("#list tr.on").get_attribute("data-turn") == expected.hex
        page.keyboard.press("?")
        assert page.locator("dialog").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("c")
        page.wait_for_selector("#said:has-text('Trace id copied')")
        assert page.evaluate("navigator.clipboard.readText()") == second.hex
        page.keyboard.press("Escape")
        assert "turn=" not in address(page)
        for key, view in (("2", "sessions"), ("3", "runs"), ("4", "open"), ("5", "traces"), ("1", "turns")):
            page.keyboard.press(key)
            page.wait_for_selector(f"#views a[data-to={view}][aria-current=page]")
            assert ("view=" in address(page)) == (view != "turns")
        page.wait_for_selector("#list tbody tr")
        page.locator("#plot").focus()
        for key, expected in (("ArrowRight", first), ("ArrowRight", second), ("ArrowLeft", first)):
            page.keyboard.press(key)
            page.wait_for_selector(f"#turn .foot code:text-is('{expected.hex}')")
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        page.keyboard.type(third.hex[:8])
        expect_count(page, "#list tbody tr", 1)


@needs_chromium
def test_new_turns_appear_and_can_be_held_back(browser: Browser, receiver: Receiver) -> None:
    """A turn appears without a reload; paused, the page counts each hidden turn once and then shows them."""
    add(receiver, recent(1))
    with opened(browser, receiver) as page:
        add(receiver, recent(2))
        expect_count(page, "#list tbody tr", 2)
        page.locator("#live").click()
        late = recent(3)
        add(receiver, recent(4), late)
        add(receiver, late)
        page.wait_for_selector("#live:has-text('2 new turns hidden')")
        assert page.locator("#list tbody tr").count() == 2
        # What the reader asks for shows them as well, and then they are hidden no more.
        page.locator("#sort").select_option("start")
        expect_count(page, "#list tbody tr", 4)
        page.wait_for_selector("#live:has-text('paused · nothing hidden')")
        add(receiver, recent(5))
        page.wait_for_selector("#live:has-text('1 new turn hidden')")
        page.locator("#live").click()
        expect_count(page, "#list tbody tr", 5)


@needs_chromium
def test_a_flood_of_turns_leaves_it_idle(browser: Browser, receiver: Receiver) -> None:
    """However fast turns come, the page asks again after a second at the earliest, and shows all of them in the end."""
    add(receiver, recent(1))
    with opened(browser, receiver) as page:
        asked: list[float] = []
        page.on("request", lambda sent: asked.append(time.monotonic()) if "/api/figures" in sent.url else None)
        for index in range(2, 32):
            add(receiver, recent(index))
            page.wait_for_timeout(80)
        expect_count(page, "#list tbody tr", 31)
        assert len(asked) <= 2 + asked[-1] - asked[0]


@needs_chromium
@pytest.mark.timeout(120)
def test_a_refresh_disturbs_no_hand(browser: Browser, receiver: Receiver) -> None:
    """While turns come, an unfolded select, a marked text and the tooltip stay, and a drag chooses its time."""
    add(receiver, *[recent(index) for index in range(1, 9)])
    with opened(browser, receiver) as page:
        page.locator("#sort").focus()
        page.evaluate(
            "getSelection().selectAllChildren(document.querySelector('#list tbody .strong'));"
            "window.kept = ['#sort', '#sort option', '#list tbody tr', '#plot canvas', '#figures strong', '#silence td'"
            "].map((selector) => [selector, document.querySelector(selector)]);"
        )
        marked = page.evaluate("getSelection().toString()")
        area = page.locator("#plot .u-over").bounding_box()
        assert area is not None
        top, left, width = area["y"], area["x"], area["width"]
        for down in range(0, int(area["height"]), 6):
            page.mouse.move(left + width * 0.98, top + down)
            if page.locator(".tooltip").is_visible():
                break
        add(receiver, recent(9, 0.4))
        expect_count(page, "#list tbody tr", 9)
        assert (
            page.evaluate("kept.filter(([name, old]) => document.querySelector(name) !== old).map(([name]) => name)")
            == []
        )
        assert page.evaluate("document.activeElement.id") == "sort"
        assert page.evaluate("getSelection().toString()") == marked
        # Nothing changes under a pointer that is down, and a drag goes on.
        page.mouse.move(left + width * 0.2, top + 40)
        page.mouse.down()
        page.mouse.move(left + width * 0.5, top + 40, steps=4)
        add(receiver, recent(10, 0.4))
        page.wait_for_timeout(2500)
        assert page.locator("#list tbody tr").count() == 9
        page.mouse.move(left + width * 0.6, top + 40, steps=4)
        page.mouse.up()
        until(lambda: "from=" in address(page) and "to=" in address(page))
        page.locator("#unzoom").click()
        expect_count(page, "#list tbody tr", 10)


@needs_chromium
@pytest.mark.timeout(120)
def test_a_click_during_a_refresh_counts(browser: Browser, receiver: Receiver) -> None:
    """A line that is pressed while turns come is the one that opens when the button is let go."""
    first = recent(1, 0.9)
    add(receiver, first, recent(2))
    with opened(browser, receiver) as page:
        page.locator(f"#list tr[data-turn='{first.hex}'] td").nth(3).hover()
        page.mouse.down()
        add(receiver, recent(3, 1.5))
        page.wait_for_timeout(2000)
        page.mouse.up()
        page.wait_for_selector(f"#turn .foot code:text-is('{first.hex}')")
        expect_count(page, "#list tbody tr", 3)


_HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@needs_chromium
@pytest.mark.timeout(180)
def test_many_tabs_do_not_hang_it(browser: Browser, receiver: Receiver) -> None:
    """Tabs that nobody looks at hold no connection; looked at again, they show what came meanwhile."""
    add(receiver, recent(1))
    context = browser.new_context()
    pages = []
    for _ in range(8):
        page = context.new_page()
        page.goto(receiver.endpoint)
        page.wait_for_selector("body.loaded")
        page.wait_for_selector("#list tbody tr")
        page.evaluate(_HIDE, True)
        pages.append(page)
    add(receiver, recent(2))
    pages[0].wait_for_timeout(1500)
    assert pages[0].locator("#list tbody tr").count() == 1
    pages[0].evaluate(_HIDE, False)
    expect_count(pages[0], "#list tbody tr", 2)
    add(receiver, recent(3))
    expect_count(pages[0], "#list tbody tr", 3)
    # What a paused tab missed it does not pretend to have counted.
    pages[0].locator("#live").click()
    pages[0].evaluate(_HIDE, True)
    add(receiver, recent(4))
    pages[0].wait_for_timeout(500)
    pages[0].evaluate(_HIDE, False)
    pages[0].wait_for_selector("#live:has-text('may be hidden')")
    add(receiver, recent(5))
    pages[0].wait_for_selector("#live:has-text('at least 1 new turn hidden')")
    context.close()


@needs_chromium
def test_a_clock_that_is_years_off_squeezes_nothing(browser: Browser, receiver: Receiver) -> None:
    """One turn of 1970 and one of many hours leave the dots spread over the chart; the legend says where they are."""
    add(receiver, *[recent(index, 0.4 + index / 60) for index in range(1, 41)])
    with opened(browser, receiver) as page:
        usual = spread(page)
        assert usual > 35
        height = page.evaluate(
            "import('/chart.js').then(({ places }) => Math.max(...places.y) - Math.min(...places.y))"
        )
    model = receiver.store.reader.turns(TurnQuery(limit=1))[0]
    long = round(4e4 * 1e9)
    put_turns(
        receiver.store,
        [
            model._replace(trace_id="1" * 32, start_ns=5_000_000_000),
            model._replace(trace_id="2" * 32, response_ns=long, shares={"llm": long}),
        ],
    )
    with opened(browser, receiver) as page:
        assert spread(page) >= usual
        assert "1 turn longer than" in page.locator("#plot-words").inner_text()
        tall = page.evaluate(
            "import('/chart.js').then(({ places }) => places.y.toSorted().at(-1) - places.y.toSorted()[1])"
        )
        assert tall > height / 4
        page.get_by_role("button", name="1 turn far earlier, 1970-01-01").click()
        expect_count(page, "#list tbody tr", 1)
        page.wait_for_selector(f"#list tr[data-turn='{'1' * 32}']")


@needs_chromium
def test_a_stage_can_have_a_limit_of_its_own(browser: Browser, receiver: Receiver) -> None:
    """The objective is of the heard silence; a stage has no line unless it is given one, which is in the address."""
    add(receiver, *[recent(index) for index in range(1, 5)])
    with opened(browser, receiver, "/?of=llm") as page:
        assert page.locator("#objective").input_value() == ""
        assert "slower" not in page.locator("#plot-words").inner_text()
        page.locator("#objective").fill("200")
        page.locator("#objective").press("Enter")
        page.wait_for_selector("#plot-words:has-text('within 200 ms')")
        assert "limits=llm.200" in address(page)
        page.locator("#of").select_option("response")
        page.wait_for_selector("#plot-words:has-text('within 600 ms')")
        assert page.locator("#objective").input_value() == "600"
        page.locator("#of").select_option("llm")
        page.wait_for_selector("#plot-words:has-text('within 200 ms')")


@needs_chromium
def test_arrow_keys_scroll_where_there_is_no_list(browser: Browser, receiver: Receiver) -> None:
    """In the turn the arrow keys scroll it; in the list they step through it; single keys can be switched off."""
    first, second = recent(1, 0.9), recent(2, 0.7)
    add(receiver, first, second)
    with opened(browser, receiver, f"/?turn={first.hex}") as page:
        page.set_viewport_size({"width": 1440, "height": 420})
        page.locator("#turn").focus()
        for _ in range(4):
            page.keyboard.press("ArrowDown")
        until(lambda: page.locator("#turn").evaluate("(turn) => turn.scrollTop") > 0)
        assert first.hex in address(page)
        page.locator(f"#list tr[data-turn='{first.hex}'] a").first.focus()
        page.keyboard.press("ArrowDown")
        page.wait_for_selector(f"#turn .foot code:text-is('{second.hex}')")
        assert page.locator("#announced").inner_text().startswith("Turn 2: The user waited")
        page.keyboard.press("?")
        page.locator("#letters").uncheck()
        page.get_by_role("button", name="close", exact=True).click()
        page.keyboard.press("k")
        page.wait_for_timeout(200)
        assert second.hex in address(page)
        page.reload()
        page.wait_for_selector("body.loaded")
        page.keyboard.press("2")
        assert "view=" not in address(page)
        page.keyboard.press("Escape")
        page.wait_for_selector("#turn", state="hidden")


@needs_chromium
def test_it_copies_without_a_clipboard(browser: Browser, receiver: Receiver) -> None:
    """Where the browser gives a page no clipboard, as without TLS from another machine, copying works nevertheless."""
    trace = recent(1)
    add(receiver, trace)
    with opened(browser, receiver, f"/?turn={trace.hex}") as page:
        page.evaluate("navigator.clipboard.writeText('before')")
        page.evaluate(
            "window.real = navigator.clipboard; Object.defineProperty(navigator, 'clipboard', { value: undefined })"
        )
        page.get_by_role("button", name="copy trace id").click()
        page.wait_for_selector("#said:has-text('Trace id copied')")
        assert page.evaluate("real.readText()") == trace.hex
        page.evaluate("document.execCommand = () => false")
        page.get_by_role("button", name="copy trace id").click()
        assert page.locator("#said input").input_value() == trace.hex
        assert page.evaluate("getSelection().toString()") == trace.hex


@needs_chromium
def test_it_finds_the_receiver_again(browser: Browser, tmp_path: Path) -> None:
    """While nobody answers the page says so and stays as it is; afterwards it shows what came meanwhile."""
    first = Receiver(port=0, database=tmp_path / "turns.db")
    with first as receiver, opened(browser, receiver, "/?view=open", expected=("net::ERR_",)) as page:
        add(receiver, recent(1))
        port = receiver.port
        receiver.stop()
        page.wait_for_selector("#live.lost:has-text('receiver not reachable')")
        page.wait_for_timeout(1500)
        assert page.locator("#said.shown").count() == 0
        page.keyboard.press("1")
        with Receiver(port=0, database=tmp_path / "turns.db") as elsewhere:
            add(elsewhere, recent(2))
        with Receiver(port=port, database=tmp_path / "turns.db") as again:
            assert again.port == port
            page.wait_for_selector("#live:not(.lost)")
            expect_count(page, "#list tbody tr", 2)
            add(again, recent(3))
            expect_count(page, "#list tbody tr", 3)


@needs_chromium
def test_clear_shows_what_comes_from_now_on(browser: Browser, receiver: Receiver) -> None:
    """Cleared, the page says how many turns it hides, shows new ones, and takes it back; all of it in the address."""
    add(receiver, recent(1), recent(2))
    with opened(browser, receiver) as page:
        page.locator("#clear-live").click()
        page.wait_for_selector("#hidden-count:has-text('2 turns hidden')")
        assert "from=" in address(page)
        page.wait_for_selector("#list:has-text('No turn matches')")
        new = recent(0, ago_s=-1)
        add(receiver, new)
        page.wait_for_selector(f"#list tr[data-turn='{new.hex}']")
        page.wait_for_selector("#hidden-count:has-text('2 turns hidden')")
        page.get_by_role("button", name="undo").click()
        expect_count(page, "#list tbody tr", 3)
        assert "from=" not in address(page)
        assert not page.locator("#hidden-count").is_visible()


@needs_chromium
def test_filters_choose_worker_run_and_stage(browser: Browser, receiver: Receiver) -> None:
    """Turns can be chosen by worker, by run, and by a stage that took longer than so many milliseconds."""
    slow = recent(1, 1.5)
    add(receiver, slow, run="first")
    add(receiver, recent(2), run="second")
    fill(receiver, 3, worker="tts-9", llm_ttft_ns=900 * MS)
    with opened(browser, receiver) as page:
        expect_count(page, "#list tbody tr", 4)
        page.locator("#filter-worker").select_option("tts-9")
        expect_count(page, "#list tbody tr", 2)
        page.wait_for_selector("#hidden-count:has-text('2 turns hidden by filters')")
        assert "worker=tts-9" in address(page)
        page.locator("#clear").click()
        page.locator("#filter-run").select_option(label="first")
        page.wait_for_selector(f"#list tr[data-turn='{slow.hex}']")
        expect_count(page, "#list tbody tr", 1)
        page.locator("#clear").click()
        page.locator("#filter-stage").select_option("llm")
        page.locator("input[name=over]").fill("500")
        expect_count(page, "#list tbody tr", 3)
        assert "stage=llm&over=500" in address(page)
        page.locator("input[name=over]").fill("")
        expect_count(page, "#list tbody tr", 4)
        page.locator("#sort").select_option("llm")
        page.wait_for_selector("#list th[aria-sort=descending] button:has-text('llm')")
        # A value that no turn has stays chosen, and can be seen.
        page.goto(f"{receiver.endpoint}/?worker=gone&from=1&to=2")
        page.wait_for_selector("body.loaded")
        assert page.locator("#filter-worker").input_value() == "gone"
        page.locator("#filter-last").select_option("60")
        until(lambda: "last=60" in address(page))
        assert "from=" not in address(page)
        assert "to=" not in address(page)


@needs_chromium
def test_what_is_typed_is_asked_for_at_rest(browser: Browser, receiver: Receiver) -> None:
    """The search waits until nothing was typed for a quarter of a second."""
    add(receiver, recent(1), recent(2, session="other"))
    with opened(browser, receiver) as page:
        search = page.locator("#search")
        page.clock.install()
        page.clock.pause_at(time.time() + 60)  # else time goes on by itself too, while a busy machine types
        for typed in ("o", "ot", "oth"):
            search.fill(typed)
            page.clock.run_for(200)
            assert "search=" not in address(page)
        page.clock.run_for(100)
        until(lambda: "search=oth" in address(page))
        expect_count(page, "#list tbody tr", 1)


@needs_chromium
def test_turns_are_sorted_by_what_has_no_span(browser: Browser, receiver: Receiver) -> None:
    """The share that left the server late, and the one that nothing explains, order the list and stand in it."""
    made = [
        turn(index, shares={"llm": 0.3, "send": late, "unattributed": 0.2 - late}, onset_ns=recent(index).onset_ns)
        for index, late in enumerate((0.05, 0.15, 0.1))
    ]
    add(receiver, *made)
    with opened(browser, receiver, "/?sort=send") as page:
        found = page.locator("#list tbody tr")
        assert [found.nth(i).get_attribute("data-turn") for i in range(3)] == [made[i].hex for i in (1, 2, 0)]
        assert "150 ms" in found.nth(0).inner_text()
        page.locator("#sort").select_option("unattributed")
        page.wait_for_selector(f"#list tbody tr:first-child[data-turn='{made[0].hex}']")
        # A head orders by its column, and the other way round at the next click.
        for place, arrow in ((1, "↑"), (0, "↓")):
            page.locator("#list th button[data-key=by-unattributed]").click()
            page.wait_for_selector(f"#list tbody tr:first-child[data-turn='{made[place].hex}']")
            assert arrow in page.locator("#list th[aria-sort]").inner_text()


@needs_chromium
def test_what_a_sender_wrote_stays_text(browser: Browser, receiver: Receiver) -> None:
    """Markup in names, sessions and attributes is shown as it is."""
    hostile = "<img src=x onerror=document.title='owned'>"
    trace = recent(1, session=hostile)
    trace.add(hostile, 100, 200, trace.spans[0][2].span_id, evil=hostile)
    trace.spans[0][2].attributes[0].value.string_value = hostile
    add(receiver, trace)
    with opened(browser, receiver, f"/?turn={trace.hex}") as page:
        page.wait_for_selector("#turn .row")
        assert hostile in page.locator("#turn").inner_text()
        assert page.locator("img").count() == 0
        assert page.title() == "voicespan"


@needs_chromium
@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [1, 20, MANY])
def test_it_works_with_few_and_with_many(browser: Browser, receiver: Receiver, count: int) -> None:
    """One turn, twenty, and twenty thousand: the figures count them all, each is a dot, a line opens its turn."""
    fill(receiver, count)
    with opened(browser, receiver, "/?sort=start") as page:
        assert f"turns\n{count:,}" in page.locator("#figures").inner_text()
        assert painted(page) == count
        assert page.locator("#plot canvas").count() == 1
        assert page.locator("#list tbody tr").count() == min(count, 50)
        page.locator("#list tbody tr").first.click()
        page.wait_for_selector("#turn .why")
