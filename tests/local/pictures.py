"""The pictures of docs/pictures: the page with two evenings of calls, made up from a fixed seed (scripts/pictures)."""

from __future__ import annotations

import base64
import math
import os
import random
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from PIL import Image
from playwright.sync_api import sync_playwright

from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver

from .otlp import MS, Trace, turn
from .pages import ARGUMENTS, CHROMIUM, add, demo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

OUT = Path(os.environ.get("OUT", Path(__file__).parents[2] / "docs" / "pictures"))
MOST_BYTES = 200_000
USUAL_S = {"endpoint": 0.25, "asr": 0.025, "llm": 0.29, "sentence": 0.07, "tts": 0.09, "send": 0.003, "network": 0.035}
HICCUPS = {"llm": 0.02, "tts": 0.025, "network": 0.006}
"""How often a stage takes several times as long."""


class Picture(NamedTuple):
    """What is looked at, and how."""

    name: str
    address: str
    width: int = 1440
    height: int = 1000
    dark: bool = False


PICTURES = (
    Picture("viewer", "/?run={after}&objective=1000&turn={slow}"),
    Picture("viewer-dark", "/?run={after}&against=run:{before}&objective=1000", dark=True),
    Picture("viewer-wide", "/?run={after}&objective=1000&turn={slow}", width=2560, height=1300),
    Picture("narrow", "/?run={after}&objective=1000", width=390, height=844),
    Picture("session", "/?view=sessions&call={call}"),
    Picture("said", "/?view=sessions&call={said}&turn={heard}", height=900),
    Picture("runs", "/?view=runs&now={after}&before={before}"),
    Picture("progress", "/?view=open", height=720),
)


def shares(chance: random.Random, faster: float) -> dict[str, float]:
    """The parts of one silence, in seconds."""
    found = {stage: usual * math.exp(chance.gauss(0, 0.22)) for stage, usual in USUAL_S.items()}
    found["llm"] *= faster
    for stage, often in HICCUPS.items():
        if chance.random() < often:
            found[stage] *= chance.uniform(3, 9)
    return found


def calls(chance: random.Random, count: int, ago_s: float, faster: float) -> Iterator[Trace]:
    """Turns of calls that follow one another."""
    onset_s, index, left, session = time.time() - ago_s, 0, 0, ""
    for _ in range(count):
        if not left:
            index, left, session = 0, chance.randint(5, 14), f"call-{chance.randrange(1 << 16):04x}"
        index, left = index + 1, left - 1
        onset_s += chance.uniform(8, 22)
        kind = chance.choices(("completed", "interrupted"), (14, 1))[0]
        yield turn(index, session=session, outcome=kind, shares=shares(chance, faster), onset_ns=round(onset_s * 1e9))


def voice(chance: random.Random, seconds: float, rate: int = 8000) -> bytes:
    """Something as loud and as quiet as speech, as 16-bit samples."""
    loudness, samples = 0.0, []
    for at in range(round(seconds * rate)):
        if at % (rate // 12) == 0:
            loudness = chance.random() ** 1.5 if chance.random() < 0.85 else 0.02
        samples.append(round(24_000 * loudness * math.sin(at / 5)))
    return struct.pack(f"<{len(samples)}h", *samples)


def said(receiver: Receiver, chance: random.Random) -> tuple[str, str]:
    """A call of which transcripts and audio are kept; return its session and a turn of it."""
    onset_ns = time.time_ns() - 300_000 * MS
    talk = (
        ("What does the train to Bergen cost?", "The next one is at ten past four and costs 740 kroner."),
        ("And the night train?", "It leaves at eleven; a bed in a cabin is 1,250 kroner."),
        ("Then the night train, please.", "Gladly. Shall I book one bed for tonight?"),
    )
    traces = [
        turn(index, session="call-train", shares=shares(chance, 1), onset_ns=onset_ns + index * 11_000 * MS)
        for index in (1, 2, 3)
    ]
    add(receiver, *traces, run="prompt-v2")
    for trace, (asked, answered) in zip(traces, talk, strict=True):
        for role, text, seconds in (("user", asked, 2.0), ("agent", answered, 3.0)):
            audio = base64.b64encode(voice(chance, seconds)).decode()
            told = {"trace_id": trace.hex, "role": role, "text": text, "audio": audio, "sample_rate": 8000}
            assert httpx.post(f"{receiver.endpoint}/api/content", json=told).status_code == 200
    return "call-train", traces[1].hex


def open_turns() -> list[dict[str, Any]]:
    """Turns in progress: one waits for a model, one plays."""
    now_s = time.time()

    def stage(component: str, label: str, start_s: float, first_s: float | None, end_s: float | None) -> dict[str, Any]:
        return {"component": component, "label": label, "start_s": start_s, "first_s": first_s, "end_s": end_s}

    waits_s, plays_s = now_s - 8, now_s - 5
    common = {"initiator": "user", "input": "speech"}
    waiting = {
        **common, "trace_id": "ab" * 16, "session_id": "call-7f21", "turn_index": 4, "start_s": waits_s,
        "marks": [{"name": "speech_end", "at_s": waits_s + 2}, {"name": "committed", "at_s": waits_s + 2.3}],
        "stages": [
            stage("asr", "stream", waits_s, waits_s + 0.3, waits_s + 2.4),
            stage("llm", "large-chat", waits_s + 2.4, None, None),
        ],
    }  # fmt: skip
    playing = {
        **common, "trace_id": "cd" * 16, "session_id": "call-90aa", "turn_index": 11, "start_s": plays_s,
        "marks": [
            {"name": "speech_end", "at_s": plays_s + 1.5}, {"name": "committed", "at_s": plays_s + 1.8},
            {"name": "first_sent", "at_s": plays_s + 2.3}, {"name": "heard", "at_s": plays_s + 2.4},
            {"name": "plays_until", "at_s": now_s + 60},
        ],
        "stages": [
            stage("llm", "large-chat", plays_s + 1.8, plays_s + 2.1, plays_s + 3.4),
            stage("tts", "sam", plays_s + 2.1, plays_s + 2.3, plays_s + 4),
        ],
    }  # fmt: skip
    lost = {
        **common, "trace_id": "ef" * 16, "session_id": "call-02d4", "turn_index": 2, "start_s": waits_s,
        "marks": [{"name": "speech_end", "at_s": waits_s + 3}, {"name": "committed", "at_s": waits_s + 3.4}],
        "stages": [stage("llm", "large-chat", waits_s + 3.4, waits_s + 3.9, waits_s + 5)],
    }  # fmt: skip
    return [waiting, playing, lost]


def tell_open(receiver: Receiver) -> None:
    """Tell of turns in progress, the last of which is of a process that says nothing more."""
    *alive, lost = open_turns()
    for instance, turns, interval_s in (("one", alive, 60), ("two", [lost], 0.1)):
        told = {"service": "voice-agent", "instance": instance, "interval_s": interval_s, "turns": turns}
        assert httpx.post(f"{receiver.endpoint}/api/open", json=told).status_code == 200


def fill(receiver: Receiver) -> dict[str, Any]:
    """Put everything there, and return what the addresses name."""
    chance = random.Random(5)
    conversation = demo(receiver)[0].session_id
    add(receiver, *calls(chance, 360, 17_000, 1.0), run="prompt-v1")
    add(receiver, *calls(chance, 412, 7_500, 1.5), run="prompt-v2")
    call, heard = said(receiver, chance)
    left = turn(3, session="call-7f21", onset_ns=time.time_ns() - 900_000 * MS)
    del left.spans[0]
    add(receiver, left, run="prompt-v2")
    runs = {run["label"]: run["id"] for run in httpx.get(f"{receiver.endpoint}/api/runs").json()["runs"]}
    slow = receiver.store.reader.turns(TurnQuery(sort="response", run=runs["prompt-v2"], limit=8))[5]
    return {
        "before": runs["prompt-v1"], "after": runs["prompt-v2"], "slow": slow.trace_id,
        "call": conversation, "said": call, "heard": heard,
    }  # fmt: skip


def with_few_colours(image: Image.Image) -> Image.Image:
    """The image in its 256 most frequent colours: areas keep theirs exactly, edges of letters take the nearest."""
    counted = image.getcolors(image.width * image.height) or []
    frequent: list[Any] = [colour for _, colour in sorted(counted, reverse=True)[:256]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in frequent for part in colour])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def draw(browser: Browser, receiver: Receiver, picture: Picture, address: str) -> None:
    """Take one picture."""
    page = browser.new_page(
        viewport={"width": picture.width, "height": picture.height},
        color_scheme="dark" if picture.dark else "light",
        reduced_motion="reduce",
    )
    if "view=open" in address:
        tell_open(receiver)
    page.goto(receiver.endpoint + address)
    page.wait_for_selector("body.loaded")
    page.wait_for_timeout(1500)
    path = OUT / f"{picture.name}.png"
    page.screenshot(path=path)
    page.close()
    with Image.open(path) as image:
        with_few_colours(image.convert("RGB")).save(path, optimize=True)
    size = path.stat().st_size
    sys.stdout.write(f"{path} {size} bytes\n")
    if size > MOST_BYTES:
        raise SystemExit(f"{path.name} is larger than {MOST_BYTES} bytes")


def main() -> None:
    """Draw those whose name begins with an argument, or all."""
    wanted = tuple(sys.argv[1:]) or ("",)
    with Receiver(port=0, content=True) as receiver, sync_playwright() as playwright:
        names = fill(receiver)
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        for picture in PICTURES:
            if picture.name.startswith(wanted):
                draw(browser, receiver, picture, picture.address.format(**names))
        browser.close()


if __name__ == "__main__":
    main()
