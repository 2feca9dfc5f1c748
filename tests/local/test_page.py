"""The viewer's page: its files, and what Chromium makes of them."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from voicespan.local import page as pages
from voicespan.local.decode import decode_protobuf
from voicespan.local.reader import TurnQuery
from voicespan.local.server import Receiver
from voicespan.local.stages import ACCENT, COLOURS
from voicespan.local.store import _INSERT_TURNS, _row
from voicespan.local.words import cause

from .otlp import MS, Trace, request, turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium")
WAIT_MS = 20_000


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


def test_colours_are_those_of_the_terminal() -> None:
    """A stage has the same colour on the page as in the terminal."""
    style = (pages.STATIC / "style.css").read_text()
    for stage, colour in {**COLOURS, "silence": ACCENT}.items():
        assert f"--{stage}: {colour};" in style
        assert f".on-{stage} {{" in style


def add(receiver: Receiver, *traces: Trace) -> None:
    """Store traces as if they had been sent."""
    for trace in traces:
        receiver.store.add(decode_protobuf(request(*trace.spans).SerializeToString()).spans)


def recent(index: int = 1, silence_s: float = 0.5, *, session: str = "call-1", outcome: str = "completed") -> Trace:
    """A turn of the last minutes whose silence has this length, mostly the language model's."""
    shares = {"endpoint": 0.1, "llm": silence_s - 0.15, "tts": 0.05}
    onset_ns = time.time_ns() - 600_000 * MS + index * 10_000 * MS
    return turn(index, session=session, shares=shares, outcome=outcome, onset_ns=onset_ns)


def fill(receiver: Receiver, count: int) -> None:
    """Put the rows of many turns straight into the store; the first turn's spans are all that there are."""
    store = receiver.store
    add(receiver, recent())
    (model,) = store.reader.turns(TurnQuery())
    rows = []
    for index in range(count - 1):
        factor = 0.4 + (index * 7919 % 1000) / 500
        shares = {stage: round(share * factor) for stage, share in model.shares.items()}
        rows.append(
            _row(
                model._replace(
                    trace_id=f"{index + 1:032x}",
                    session_id=f"call-{index // 20}",
                    turn_index=index % 20 + 1,
                    start_ns=model.start_ns - (index + 1) * 5_000 * MS,
                    shares=shares,
                    response_ns=sum(shares.values()),
                )
            )
        )
    store._connection.execute("BEGIN")
    store._insert(_INSERT_TURNS, rows)
    store._connection.execute("COMMIT")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@contextmanager
def opened(
    browser: Browser,
    receiver: Receiver,
    address: str = "/",
    *,
    width: int = 1440,
    height: int = 900,
    dark: bool = False,
) -> Iterator[Page]:
    """The loaded page; afterwards, that nothing went wrong and nothing was asked of another machine."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    problems: list[str] = []
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda sent: None if sent.url.startswith(receiver.endpoint) else problems.append(sent.url))
    page.goto(receiver.endpoint + address)
    page.wait_for_selector("body.loaded")
    yield page
    context.close()
    assert problems == []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver with an empty store of its own."""
    with Receiver(port=0) as started:
        yield started


def expect_lines(page: Page, count: int) -> None:
    """Wait until the list has so many lines."""
    from playwright.sync_api import expect

    expect(page.locator("#list tbody tr")).to_have_count(count, timeout=WAIT_MS)


@needs_chromium
def test_without_turns_it_says_how_to_send_some(browser: Browser, receiver: Receiver) -> None:
    """An empty store shows commands with this receiver's address; the first turn replaces them by itself."""
    with opened(browser, receiver) as page:
        commands = page.locator(".command code").all_inner_texts()
        assert "voicespan demo" in commands
        assert any(receiver.endpoint in command for command in commands)
        assert not page.locator("#chart").is_visible()
        add(receiver, recent())
        page.wait_for_selector("#list tbody tr")
        assert not page.locator("#empty").is_visible()


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
        assert f"turn={slow.hex}" in page.url
        strip = page.locator("#turn .strip").get_attribute("aria-label")
        assert strip is not None
        assert "llm 2.35 s" in strip
        assert page.locator("#turn .waterfall.heard .row").count() == len(slow.spans)
        page.get_by_role("button", name="llm.ttft").click()
        assert "voice.critical_path" in page.locator("#turn .details").inner_text()
        page.go_back()
        page.wait_for_selector("#turn", state="hidden")


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
        expect_lines(page, 1)
        assert "outcome=interrupted" in page.url
        page.reload()
        page.wait_for_selector("body.loaded")
        assert page.locator("#list tbody tr").get_attribute("data-turn") == other.hex
        page.locator("#clear").click()
        expect_lines(page, 4)
        page.get_by_role("button", name="heard silence").click()
        page.wait_for_selector(f"#list tbody tr:first-child[data-turn='{slow.hex}']")


@needs_chromium
def test_keys_walk_through_the_slow_turns(browser: Browser, receiver: Receiver) -> None:
    """The keys j and k go through the list, [ and ] through the session, / searches, ? helps, Esc goes back."""
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
        page.keyboard.press("Escape")
        assert "turn=" not in page.url
        page.keyboard.press("/")
        page.keyboard.type(third.hex[:8])
        expect_lines(page, 1)


@needs_chromium
def test_new_turns_appear_and_can_be_held_back(browser: Browser, receiver: Receiver) -> None:
    """A turn appears without a reload; paused, the page counts each hidden turn once and then shows them."""
    add(receiver, recent(1))
    with opened(browser, receiver) as page:
        add(receiver, recent(2))
        expect_lines(page, 2)
        page.locator("#live").click()
        late = recent(3)
        add(receiver, recent(4), late)
        add(receiver, late)
        page.wait_for_selector("#live:has-text('2 new turns hidden')")
        assert page.locator("#list tbody tr").count() == 2
        page.locator("#live").click()
        expect_lines(page, 4)


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
@pytest.mark.parametrize("width", [390, 820, 1440, 2560])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_every_width(browser: Browser, receiver: Receiver, width: int, dark: bool) -> None:
    """At every width nothing makes the page scroll sideways, with and without a turn; controls have names."""
    slow = recent(5, 2.2, session="a-session-with-a-very-long-identifier-0123456789abcdef")
    add(receiver, *[recent(index, 0.3 + index / 10) for index in range(1, 5)], slow)
    for address in ("/", f"/?turn={slow.hex}", f"/?session={'x' * 30}"):
        with opened(browser, receiver, address, width=width, dark=dark) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            unnamed = page.evaluate(
                "[...document.querySelectorAll('button, a, select, input')].filter((each) => each.checkVisibility()"
                " && !(each.textContent.trim() || each.ariaLabel || each.title || each.labels?.length)).length"
            )
            assert unnamed == 0


@needs_chromium
@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [1, 20, 20_000])
def test_it_works_with_few_and_with_many(browser: Browser, receiver: Receiver, count: int) -> None:
    """One turn, twenty, and twenty thousand: the figures count them all, each is a dot, a line opens its turn."""
    fill(receiver, count)
    with opened(browser, receiver, "/?sort=start") as page:
        assert f"turns\n{count:,}" in page.locator("#figures").inner_text()
        drawn = page.evaluate("fetch('/api/dots').then((answer) => answer.json()).then((dots) => dots.trace_id.length)")
        assert drawn == count
        assert page.locator("#plot canvas").count() == 1
        assert page.locator("#list tbody tr").count() == min(count, 50)
        page.locator("#list tbody tr").first.click()
        page.wait_for_selector("#turn .why")
