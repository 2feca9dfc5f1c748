"""The page where a person talks: what is served, to whom, and what it says when there is no microphone."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import voicespan
from voicespan.demo import page
from voicespan.demo.processes import PAGE_VARIABLE
from voicespan.local.server import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
FAKE = "--use-fake-device-for-media-stream"
needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium")


@pytest.fixture(scope="module")
def viewer() -> Iterator[Receiver]:
    """A viewer."""
    with Receiver(port=0) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def address(viewer: Receiver) -> Iterator[str]:
    """The page, served by an app that is no agent."""
    app = FastAPI()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PAGE_VARIABLE, viewer.endpoint)
        page.serve(app)
    app.mount("/api", voicespan.client_reports())

    @app.websocket("/call")
    async def call(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_without_a_viewer_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is started otherwise serves none."""
    monkeypatch.delenv(PAGE_VARIABLE, raising=False)
    app = FastAPI()
    before = len(app.routes)
    page.serve(app)
    assert len(app.routes) == before


def test_every_answer_has_the_policy(address: str) -> None:
    """A page, a script, a report's refusal: all may reach this server only, and stand in no frame."""
    socket = address.replace("http", "ws")
    for path in ("/", "/main.js", "/style.css", "/api/performance-tracker.js", "/nothing"):
        headers = httpx.get(f"{address}{path}").headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert f"connect-src 'self' {socket};" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["permissions-policy"].startswith("microphone=(self)")
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "127.0.0.1:x; img-src *"]
)
def test_other_names_of_this_machine_are_refused(address: str, host: str) -> None:
    """A page that was given a name of its own for this machine gets nothing."""
    assert httpx.get(address, headers={"host": host}).status_code == 403


def test_pages_of_other_origins_cannot_call(address: str) -> None:
    """A WebSocket and a token are for the own page, and for programs, which have no origin."""
    socket = f"{address.replace('http', 'ws')}/call"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        with pytest.raises(InvalidStatus), connect(socket, origin=origin):  # type: ignore[arg-type]
            pass
        assert httpx.post(f"{address}/token", headers={"origin": origin}).status_code == 403
    with connect(socket, origin=address):  # type: ignore[arg-type]
        pass
    with connect(socket):
        pass


def test_the_viewer_is_asked_for_three_things_only(address: str, viewer: Receiver) -> None:
    """What the page needs of the viewer is passed on as it is; nothing else can be asked through it."""
    assert httpx.get(f"{address}/viewer/open").json() == httpx.get(f"{viewer.endpoint}/api/open").json()
    unknown = httpx.get(f"{address}/viewer/turns/{'0' * 32}")
    assert unknown.status_code == 404
    for path in ("/viewer/turns/..%2Fexport", "/viewer/export", "/viewer/turns/a%3Fb", "/viewer/turns/a/audio/user"):
        assert httpx.get(f"{address}{path}").status_code in (400, 404)
    for name in ("a%3Fb", "a%23b", "a.b"):  # the viewer itself is not asked
        assert httpx.get(f"{address}/viewer/turns/{name}").json() == {"error": "no trace id"}
    with httpx.stream("GET", f"{address}/viewer/events", timeout=10) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert "ready" in next(events.iter_text())
    about = httpx.get(f"{address}/viewer/about").json()
    assert about["viewer"] == viewer.endpoint
    assert "what time do you open tomorrow" in [each["question"] for each in about["questions"]]


def test_a_viewer_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the viewer the answer is 502 and not a failure of the agent."""
    from starlette.testclient import TestClient

    monkeypatch.setenv(PAGE_VARIABLE, "http://127.0.0.1:9")
    app = FastAPI()
    page.serve(app)
    answer = TestClient(app, base_url="http://127.0.0.1").get("/viewer/open")
    assert answer.status_code == 502
    assert "viewer does not answer" in answer.json()["error"]


@pytest.mark.parametrize("path", sorted(page.STATIC.iterdir()), ids=lambda path: path.name)
def test_no_file_names_another_machine(path: Path) -> None:
    """No file of the page has an address outside, or makes elements of text."""
    text = path.read_text()
    assert not re.search(r"https?://(?!\$|127\.0\.0\.1)|innerHTML|outerHTML|insertAdjacentHTML|eval\(", text)


def opened(browser: Browser, address: str, errors: list[str]) -> Page:
    """Open the page, and note what it complains of."""
    shown = browser.new_page()
    shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.goto(address)
    shown.get_by_role("button", name="Start talking").wait_for()
    return shown


@needs_chromium
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--deny-permission-prompts", FAKE], "did not let this page use the microphone"),
        (["--use-fake-ui-for-media-stream"], "There is no microphone on this machine"),
    ],
    ids=["refused", "absent"],
)
def test_why_there_is_no_microphone(address: str, arguments: list[str], words: str) -> None:
    """A microphone that is refused or absent is said clearly, and the button is there to try again."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*ARGUMENTS, *arguments])
        shown = opened(browser, address, [])
        shown.get_by_role("button", name="Start talking").click()
        alert = shown.get_by_role("alert")
        alert.wait_for()
        assert words in alert.inner_text()
        assert shown.get_by_role("button", name="Start talking").is_visible()
        assert shown.evaluate("() => window.perfTracker.metrics().counters.errors") == {"microphone": 1}
        browser.close()


@needs_chromium
def test_the_page_runs_under_its_policy(address: str) -> None:
    """Microphone, speaker and tracker start under the strict policy; that no call is taken is said after some tries."""
    from playwright.sync_api import sync_playwright

    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=[*ARGUMENTS, FAKE, "--use-fake-ui-for-media-stream"]
        )
        shown = opened(browser, address, errors)
        shown.get_by_role("button", name="Start talking").click()
        shown.wait_for_function(
            "() => parseFloat(document.getElementById('level').style.getPropertyValue('--level')) > 0"
        )
        alert = shown.get_by_role("alert")
        alert.wait_for(timeout=30_000)
        assert "cannot be reached" in alert.inner_text()
        browser.close()
    assert not [error for error in errors if "Content Security Policy" in error]


@needs_chromium
@pytest.mark.parametrize("width", [390, 800, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width(address: str, width: int, scheme: str) -> None:
    """From a telephone to a wide screen nothing stands outside, and the text can be read on its ground."""
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        shown.goto(address)
        shown.wait_for_selector("#questions li")
        assert shown.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(shown).response["violations"]
        assert [violation["id"] for violation in found] == []
        browser.close()
