"""The viewer's page in Chromium, and turns to look at."""

from __future__ import annotations

import gzip
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from voicespan.local.decode import decode_protobuf
from voicespan.local.query import TurnQuery

from .otlp import MS, Trace, pairs, request, turn
from .rows import put_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from playwright.sync_api import Browser, Locator, Page

    from voicespan.local.server import Receiver
    from voicespan.local.turn import Turn

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium")
WAIT_MS = 20_000
BUSY_MS = 2_000
MANY = 20_000
AS_JSON = {"Content-Type": "application/json"}

# What moves by itself is summed up, and the moment noted at which the page can be used.
_WATCH = """
window.moved = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
}).observe({ type: "layout-shift", buffered: true });
addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
  if (document.body.classList.contains("loaded")) window.usable ??= performance.now();
}).observe(document.body, { attributes: true }));
"""


def add(receiver: Receiver, *traces: Trace, run: str | None = None) -> None:
    """Store traces as if they had been sent, by a run of this name."""
    for trace in traces:
        sent = request(*trace.spans)
        for of_resource in sent.resource_spans if run else ():
            of_resource.resource.attributes.extend(pairs({"voicespan.run": run}))
        receiver.store.add(decode_protobuf(sent.SerializeToString()).spans)


def demo(receiver: Receiver) -> list[Turn]:
    """Import what the demo sent once, recorded with `voicespan export --all`, and return its turns in order."""
    with gzip.open(Path(__file__).with_name("demo.json.gz")) as file:
        answer = httpx.post(f"{receiver.endpoint}/api/import", content=file.read(), headers=AS_JSON)
    assert answer.status_code == 200
    return receiver.store.reader.turns(TurnQuery(ascending=True))


def recent(
    index: int = 1,
    silence_s: float = 0.5,
    *,
    session: str = "call-1",
    outcome: str = "completed",
    ago_s: float = 600.0,
    tts_s: float = 0.05,
) -> Trace:
    """A turn of the last minutes whose silence has this length, mostly the language model's."""
    shares = {"endpoint": 0.1, "llm": silence_s - 0.1 - tts_s, "tts": tts_s}
    onset_ns = time.time_ns() - round(ago_s * 1000) * MS + index * 10_000 * MS
    return turn(index, session=session, shares=shares, outcome=outcome, onset_ns=onset_ns)


def fill(receiver: Receiver, count: int, first: int = 0, **changes: Any) -> None:
    """Put the rows of many turns straight into the store, numbered from `first` on; spans there are of one only."""
    store = receiver.store
    if not store.reader.count():
        add(receiver, recent())
    (model,) = store.reader.turns(TurnQuery(limit=1))
    rows = []
    for index in range(first, first + count - 1):
        factor = 0.4 + (index * 7919 % 1000) / 500
        shares = {stage: round(share * factor) for stage, share in model.shares.items()}
        rows.append(
            model._replace(
                trace_id=f"{index + 1:032x}",
                session_id=f"call-{index // 20}",
                turn_index=index % 20 + 1,
                start_ns=model.start_ns - (index + 1) * 5_000 * MS,
                shares=shares,
                response_ns=sum(shares.values()),
            )._replace(**changes)
        )
    put_turns(store, rows)


@contextmanager
def opened(
    browser: Browser,
    receiver: Receiver,
    address: str = "/",
    *,
    width: int = 1440,
    dark: bool = False,
    expected: tuple[str, ...] = (),
) -> Iterator[Page]:
    """The loaded page; afterwards, that nothing went wrong and nothing was asked of another machine.

    Messages of the console that contain one of `expected` are meant to be there.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )
    problems: list[str] = []
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.add_init_script(_WATCH)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda sent: None if sent.url.startswith(receiver.endpoint) else problems.append(sent.url))
    page.goto(receiver.endpoint + address)
    page.wait_for_selector("body.loaded")
    page.locator = _patient(page)  # type: ignore[method-assign]
    yield page
    context.close()
    unexpected = [problem for problem in problems if not any(words in problem for words in expected)]
    assert not unexpected, unexpected


def _patient(page: Page) -> Callable[..., Locator]:
    """Return a `page.locator` that looks when the page waits for no answer: what was done shows part by part."""
    from playwright.sync_api import TimeoutError as StillBusy

    look = page.locator

    def locator(*selector: Any, **options: Any) -> Locator:
        with suppress(StillBusy):  # a receiver that is slow on purpose, or one that is gone
            page.wait_for_selector("body[aria-busy=false]", timeout=BUSY_MS)
        return look(*selector, **options)

    return locator


def expect_count(page: Page, selector: str, count: int) -> None:
    """Wait until so many elements match."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(count, timeout=WAIT_MS)


def address(page: Page) -> str:
    """Return where the page is, as it says itself: `page.url` knows only what was told while somebody asked."""
    return str(page.evaluate("location.href"))


def until(true: Callable[[], bool]) -> None:
    """Wait until something is true; the policy of the page forbids to ask it again and again from within."""
    end = time.monotonic() + WAIT_MS / 1000
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def painted(page: Page) -> int:
    """How many of the dots are really on the canvas: where each one stands, something is painted."""
    return int(
        page.evaluate("""async () => {
          const { places } = await import("/chart.js");
          const canvas = document.querySelector("#plot canvas");
          const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const seen = (_, i) => data[(Math.round(places.y[i]) * width + Math.round(places.x[i])) * 4 + 3] > 40;
          return [...places.x].filter(seen).length;
        }""")
    )


def spread(page: Page) -> int:
    """How many columns of the chart have a dot, in pixels."""
    return int(
        page.evaluate("""async () => {
          const { places } = await import("/chart.js");
          return new Set([...places.x].map(Math.round)).size;
        }""")
    )


def moved(page: Page) -> float:
    """How much of the page moved by itself so far, as a cumulative layout shift."""
    page.wait_for_timeout(100)
    return float(page.evaluate("window.moved"))
