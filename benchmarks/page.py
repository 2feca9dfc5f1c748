"""How soon the viewer's page is there: first paint, and everything drawn, in Chromium; printed as JSON.

    python benchmarks/page.py [--turns 20000]

Each view is loaded several times with a fresh profile of the browser's; the minimum is the least disturbed one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright
from viewer import fill

from voicespan.local.server import Receiver

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LOADS = 5
VIEWS = ("turns", "sessions", "runs", "open", "traces")
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
WHEN_DRAWN = """new MutationObserver(() => {
  if (document.body?.classList.contains("loaded")) window.drawn ??= performance.now();
}).observe(document, {attributes: true, childList: true, subtree: true})"""


def load(browser: Browser, address: str) -> tuple[float, float]:
    """Return milliseconds until the first paint, and until everything is drawn."""
    page = browser.new_page()
    page.add_init_script(WHEN_DRAWN)
    page.goto(address)
    page.wait_for_selector("body.loaded")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    drawn = page.evaluate("window.drawn")
    page.close()
    return painted, drawn


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20_000)
    arguments = parser.parse_args()
    found = {}
    with Receiver(port=0) as receiver, sync_playwright() as playwright:
        fill(receiver.store, arguments.turns)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for view in VIEWS:
            loads = [load(browser, f"{receiver.endpoint}/?view={view}") for _ in range(LOADS)]
            found[view] = {
                name: {"min_ms": round(min(values)), "median_ms": round(statistics.median(values))}
                for name, values in zip(("first_paint", "drawn"), zip(*loads, strict=True), strict=True)
            }
        browser.close()
    print(json.dumps({"benchmark": "page", "turns": arguments.turns, "bar_ms": 1000, "views": found}, indent=2))


if __name__ == "__main__":
    main()
