"""The finish of the page in Chromium: every view, at every width, in both themes, for everybody, with many turns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

from voicespan.local.server import Receiver

from .otlp import MS, Trace
from .pages import MANY, add, demo, expect_count, fill, moved, needs_chromium, opened, recent, until
from .test_views import hanging, tell, two_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

pytestmark = [needs_chromium, pytest.mark.timeout(300)]

SERIOUS = ("serious", "critical")
JUMPS = 0.05
"""What may move by itself (Cumulative Layout Shift); up to 0.1 is called good elsewhere."""
WIDTHS = (390, 820, 1440, 2560)
LONG_NAME = "a-session-with-a-very-long-identifier-0123456789abcdef"
SLOW = recent(5, 2.2, session=LONG_NAME, outcome="error")
OTHER = Trace(onset_ns=time.time_ns() - 10_000 * MS)
OTHER.add("GET /rooms", 0, 40, scope="http", service="shop")

VIEWS = {
    "turns": "/",
    "turn": f"/?turn={SLOW.hex}",
    "change": "/?run={after}&against=run:{before}",
    "nothing": "/?search=nothing-of-that-kind",
    "sessions": "/?view=sessions",
    "conversation": "/?view=sessions&call=after-1",
    "turn of a conversation": f"/?view=sessions&call={LONG_NAME}&turn={SLOW.hex}",
    "runs": "/?view=runs&now={after}&before={before}",
    "open": "/?view=open",
    "traces": "/?view=traces",
    "trace": f"/?view=traces&turn={OTHER.hex}",
}
"""An address of every view."""


def crowd(receiver: Receiver, turns: int) -> None:
    """Put so many turns into a receiver that has something in every view already, in its two runs."""
    found = httpx.get(f"{receiver.endpoint}/api/runs").json()["runs"]
    runs = [run["id"] for run in found if run["label"]]
    for place, run in enumerate(runs):
        fill(receiver, turns // len(runs), first=place * turns, run=run)


def furnish(receiver: Receiver) -> None:
    """Put something there for every view, whole traces among it."""
    demo(receiver)
    two_runs(receiver, 0.3)
    left = recent(6)
    del left.spans[0]
    add(receiver, SLOW, left, OTHER)
    tell(receiver, hanging(), interval_s=60)


@pytest.fixture(scope="module")
def rich() -> Iterator[Receiver]:
    """A receiver that has something to show in every view."""
    with Receiver(port=0) as started:
        furnish(started)
        yield started


@pytest.fixture(scope="module")
def crowded() -> Iterator[Receiver]:
    """The same with twenty thousand turns in two runs, and three hundred traces that are none."""
    with Receiver(port=0) as started:
        furnish(started)
        crowd(started, MANY)
        for index in range(300):
            other = Trace(onset_ns=time.time_ns() - index * 1000 * MS)
            other.add("GET /rooms", 0, 40, scope="http", service="shop")
            add(started, other)
        yield started


def address(receiver: Receiver, view: str) -> str:
    """The address of a view, with the ids of the runs in it."""
    runs = {run["label"]: run["id"] for run in httpx.get(f"{receiver.endpoint}/api/runs").json()["runs"]}
    return VIEWS[view].format(before=runs.get("before"), after=runs.get("after"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(browser: Browser, rich: Receiver, view: str, dark: bool) -> None:
    """The rules of axe for WCAG find nothing serious or critical, with everything unfolded."""
    with opened(browser, rich, address(rich, view), dark=dark) as page:
        if view == "turn":
            page.locator("#turn .row").nth(3).click()
            page.locator("#turn summary").last.click()
        found = Axe().run(page).response["violations"]
        problems = [
            (each["id"], [node["target"] for node in each["nodes"]]) for each in found if each["impact"] in SERIOUS
        ]
        assert problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_in_the_help_and_without_turns(
    browser: Browser, receiver: Receiver, dark: bool
) -> None:
    """The first page that anybody sees and the help pass as well."""
    with opened(browser, receiver, dark=dark) as page:
        for key in ("Escape", "?"):
            page.keyboard.press(key)
            found = Axe().run(page).response["violations"]
            assert [each["id"] for each in found if each["impact"] in SERIOUS] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_it_fits_every_width(browser: Browser, rich: Receiver, view: str, width: int) -> None:
    """At every width nothing makes the page scroll sideways, nothing moves by itself, and controls have names."""
    with opened(browser, rich, address(rich, view), width=width, dark=width % 20 == 0) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, a, select, input')].filter((each) => each.checkVisibility()"
            " && !(each.textContent.trim() || each.ariaLabel || each.title || each.labels?.length)).length"
        )
        assert unnamed == 0
        assert moved(page) < JUMPS


@pytest.mark.parametrize("view", ["turns", "turn", "sessions", "conversation", "runs", "open"])
def test_nothing_jumps_when_turns_come(browser: Browser, view: str) -> None:
    """While turns come in, what somebody looks at stays where it is."""
    with Receiver(port=0) as receiver:
        two_runs(receiver, 0.3)
        add(receiver, SLOW)
        with opened(browser, receiver, address(receiver, view)) as page:
            before = moved(page)
            for index in range(5):
                add(receiver, recent(60 + index, 3.0 + index, session="after-1"), run="after")
                tell(receiver, *([hanging()] * (index % 2)))
                page.wait_for_timeout(1100)
            assert moved(page) - before < JUMPS


SHOWN = {
    "turns": ("#list tbody tr", 50),
    "turn": ("#turn .waterfall .row", len(SLOW.spans)),
    "change": ("#figures .change", 7),
    "nothing": ("#list .hint", 1),
    "sessions": ("#sessions tbody tr", 200),
    "conversation": (".spoken li", 40),
    "turn of a conversation": ("#turn .waterfall .row", len(SLOW.spans)),
    "runs": ("#compare .whisker", 6),
    "open": ("#open .open-turns li", 1),
    "traces": ("#traces tbody tr", 200),
    "trace": ("#turn .waterfall .row", 1),
}
"""What stands in each view of many turns, and how often at least."""


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_works_with_many_turns(browser: Browser, crowded: Receiver, view: str) -> None:
    """With twenty thousand turns each view shows what it is for, stays as wide as the screen, and nothing jumps."""
    with opened(browser, crowded, address(crowded, view)) as page:
        selector, least = SHOWN[view]
        page.wait_for_selector(selector)
        assert page.locator(selector).count() >= least
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440
        assert moved(page) < JUMPS


def test_many_turns_can_be_worked_with(browser: Browser, crowded: Receiver) -> None:
    """With twenty thousand turns sessions open, filters answer, and the list grows on demand."""
    with opened(browser, crowded, "/?view=sessions") as page:
        assert "the newest 200 of 1,0" in page.locator("#sessions h2").inner_text()
        page.locator("#sessions tr[data-call='call-7']").click()
        expect_count(page, ".spoken li", 20)
        page.keyboard.press("1")
        expect_count(page, "#list tbody tr", 50)
        page.get_by_role("button", name="show more").click()
        expect_count(page, "#list tbody tr", 200)
        page.locator("input[name=over]").fill("900")
        page.wait_for_selector("#hidden-count:has-text('turns hidden by filters')")
        shown = page.locator("#list h2 small")
        until(lambda: 0 < int(shown.inner_text().split()[0].replace(",", "")) < MANY)


def test_ten_times_as_many_are_still_usable(browser: Browser) -> None:
    """With two hundred thousand turns every view opens, counts them all, filters, and opens a turn."""
    with Receiver(port=0) as receiver:
        furnish(receiver)
        crowd(receiver, 10 * MANY)
        every = receiver.store.reader.count()
        assert every > 10 * MANY
        with opened(browser, receiver) as page:
            assert f"turns\n{every:,}" in page.locator("#figures").inner_text()
            page.locator("#list tbody tr").first.click()
            page.wait_for_selector("#turn .why")
            page.keyboard.press("Escape")
            page.locator("input[name=over]").fill("900")
            page.wait_for_selector("#hidden-count:has-text('turns hidden by filters')")
            page.locator("#clear").click()
            for view in ("sessions", "runs", "open", "traces"):
                page.locator(f"#views a[data-to={view}]").click()
                selector, least = SHOWN[view]
                page.wait_for_selector(selector)
                assert page.locator(selector).count() >= (1 if view == "traces" else least)
