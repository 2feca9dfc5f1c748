"""The door for reports: what it takes, what it refuses, and that it keeps nothing of what it refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from itertools import chain
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

import voicespan
from voicespan import diagnostics
from voicespan.client.endpoint import Limits, Taken, openapi
from voicespan.client.forward import CLOCK_HEADER
from voicespan.client.rate import Rate
from voicespan.client.report import MalformedReportError, Report, read

from .service import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette

CLIENT = "0123456789abcdef0123456789abcdef"
ORIGIN = "http://service.test"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    diagnostics.forget()
    yield
    diagnostics.forget()


class Endpoint:
    """The application in a FastAPI app, without a network."""

    def __init__(self, **options: Any) -> None:
        self.taken: list[Taken] = []
        self.mounted: Starlette = voicespan.client_reports(on_report=self.taken.append, **options)
        self.app = FastAPI()
        self.app.mount("/api", self.mounted)

    @property
    def door(self) -> Any:
        """What holds the endpoint's state."""
        return self.mounted.routes[0].endpoint.__self__  # type: ignore[attr-defined]

    def post(self, body: bytes | dict[str, Any], **headers: str) -> httpx.Response:
        """Send a report."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", "/api/metrics", content=content, headers=headers)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=ORIGIN) as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())


def report(number: int = 1, **fields: Any) -> dict[str, Any]:
    """A report that is taken."""
    return {"version": 1, "client": CLIENT, "number": number, "sent_ms": 1000.0, **fields}


@pytest.mark.covers("A-E02", "A-V02")
def test_a_report_is_taken() -> None:
    """A report is answered with 204 and the times of its exchange, and handed on."""
    endpoint = Endpoint()
    before = time.monotonic_ns() / 1e6
    answer = endpoint.post(report())
    assert answer.status_code == 204
    assert answer.content == b""
    _, received, answered = answer.headers[CLOCK_HEADER].split()
    assert before <= float(received) <= float(answered) <= time.monotonic_ns() / 1e6
    assert [each.report.number for each in endpoint.taken] == [1]


WRONG = {
    "no JSON": b"{",
    "no object": b"[]",
    "NaN": b'{"version":1,"client":"%s","number":1,"sent_ms":NaN}' % CLIENT.encode(),
    "infinite": b'{"version":1,"client":"%s","number":1,"sent_ms":1e999}' % CLIENT.encode(),
    "deep": b"[" * 50_000,
    "not UTF-8": b'{"version":1,"client":"\xff"}',
    "another version": report(version=2),
    "a field too much": report(surprise=1),
    "a number as text": report(sent_ms="1000"),
    "a client's name": report(client="me"),
    "an unknown mark": report(turns=[{"turn": 1, "marks": {"party": 1.0}}]),
    "a mark of the future": report(turns=[{"turn": 1, "marks": {"speech_start": 2001.0}}]),
    "a mark of yesterday": report(sent_ms=1e9, turns=[{"turn": 1, "marks": {"speech_start": 5.0}}]),
    "too many turns": report(turns=[{"turn": 1}] * 51),
    "a traceparent": report(turns=[{"turn": 1, "traceparent": "00-x-y-01"}]),
    "an error's name": report(counters={"errors": {"<script>": 1}}),
    "too many errors": report(counters={"errors": {f"e{i}": 1 for i in range(21)}}),
    "a negative count": report(counters={"reconnections": -1}),
    "a loss over 1": report(network={"loss": 1.5}),
    "an exchange backwards": report(clocks=[{"server": "a", "exchanges": [[900.0, 5.0, 6.0, 800.0]]}]),
    "an exchange of three": report(clocks=[{"server": "a", "exchanges": [[900.0, 5.0, 6.0]]}]),
    "a phase backwards": report(turns=[{"turn": 1, "barge_in": [{"phase": "total", "start_ms": 9.0, "end_ms": 8.0}]}]),
}


@pytest.mark.covers("A-Q07")
@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_what_is_malformed_is_refused(body: bytes | dict[str, Any]) -> None:
    """A report in another form, or with times that cannot be, is 400 with the reason; nothing of it is kept."""
    endpoint = Endpoint()
    answer = endpoint.post(body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert "script" not in answer.text
    assert (endpoint.taken, len(endpoint.door._totals), len(endpoint.door._clients)) == ([], 0, 0)


def test_what_is_too_large_is_refused() -> None:
    """A report above the limit is 413, with and without a Content-Length, and when it unpacks to more."""
    endpoint = Endpoint(limits=Limits(body_bytes=1000))
    assert endpoint.post(b" " * 1001).status_code == 413
    assert endpoint.post(gzip.compress(b" " * 100_000), **{"content-encoding": "gzip"}).status_code == 413

    async def parts() -> Any:
        for _ in range(20):
            yield b" " * 100

    assert endpoint.request("POST", "/api/metrics", content=parts()).status_code == 413
    assert endpoint.taken == []


def test_the_token() -> None:
    """Without the token a report is 401; a function may say which tokens are good, and one that fails refuses."""
    endpoint = Endpoint(token="a-secret-of-the-service")
    assert endpoint.post(report()).status_code == 401
    assert endpoint.post(report(), authorization="Bearer wrong").status_code == 401
    assert endpoint.taken == []
    assert endpoint.post(report(), authorization="Bearer a-secret-of-the-service").status_code == 204
    asked = Endpoint(token=lambda given: given == "of-this-call")
    assert asked.post(report(), authorization="Bearer of-this-call").status_code == 204
    assert asked.post(report(2), authorization="Bearer other").status_code == 401

    def broken(_: str) -> bool:
        raise LookupError

    assert Endpoint(token=broken).post(report(), authorization="Bearer any").status_code == 401


def test_origins() -> None:
    """The service's own pages and those of the list may report, with the CORS headers; others may not."""
    endpoint = Endpoint(origins=["https://app.example"])
    assert endpoint.post(report(), origin=ORIGIN).status_code == 204
    answer = endpoint.post(report(2), origin="https://app.example")
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-expose-headers"] == CLOCK_HEADER
    refused = endpoint.post(report(3), origin="https://evil.example")
    assert refused.status_code == 401
    assert "access-control-allow-origin" not in refused.headers
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        preflight = endpoint.request("OPTIONS", "/api/metrics", headers={"origin": origin})
        assert preflight.status_code == 204
        assert ("access-control-allow-headers" in preflight.headers) is allowed
    assert Endpoint(origins=["*"]).post(report(), origin="https://any.example").status_code == 204


def test_who_reports_too_often() -> None:
    """A client, and an address, that reports more often than allowed is 429 until it waits."""
    endpoint = Endpoint(limits=Limits(client_burst=2, client_per_s=0.001))
    answers = [endpoint.post(report(number)) for number in range(1, 4)]
    assert [each.status_code for each in answers] == [204, 204, 429]
    assert answers[2].headers["retry-after"] == "1"
    assert endpoint.post(report(1, client="f" * 32)).status_code == 204
    crowd = Endpoint(limits=Limits(address_burst=2, address_per_s=0.001))
    assert [crowd.post(b"junk").status_code for _ in range(3)] == [400, 400, 429]
    assert len(endpoint.taken) == 3


def test_a_long_report_counts_more() -> None:
    """Of its address's share a report takes one, and one more for each piece that it is long."""
    endpoint = Endpoint(limits=Limits(address_burst=5, address_per_s=0.001, piece_bytes=4096))
    answers = [endpoint.post(b" " * 9000).status_code, *(endpoint.post(b"junk").status_code for _ in range(3))]
    assert answers == [400, 400, 400, 429]
    endpoint = Endpoint(limits=Limits(address_burst=2, address_per_s=0.001, piece_bytes=4096))
    assert endpoint.post(json.dumps(report()).encode() + b" " * 9000).status_code == 429
    assert endpoint.taken == []


def test_what_is_wrong_everywhere_is_not_listed() -> None:
    """A report with thousands of errors is malformed in few words."""
    with pytest.raises(MalformedReportError, match=r"^the report: too many errors$"):
        read(json.dumps(report(**{f"more{number}": 1 for number in range(2000)})).encode())


def test_rates_recover_and_are_bounded() -> None:
    """A bucket fills again with time, and the keys that are remembered are bounded."""
    now = [0]
    rate = Rate(2, 1, lambda: now[0], max_keys=10)
    assert [rate.allows("a"), rate.allows("a")] == [True, False]
    now[0] += 500_000_000
    assert rate.allows("a")
    for number in range(100):
        rate.allows(str(number))
    assert len(rate) == 10


@pytest.mark.covers("A-Q06")
def test_absolute_counts_become_differences() -> None:
    """Counts are of the page since it was loaded: what is new is handed on, what went down counts nothing."""
    endpoint = Endpoint()
    for number, weather, received in ((1, 5, 100), (2, 8, 300), (3, 2, 250), (4, 9, 301)):
        endpoint.post(
            report(number, counters={"intents": {"weather": weather}, "audio_received_bytes": received, "errors": {}})
        )
    assert [each.news.intents.get("weather", 0) for each in endpoint.taken] == [5, 3, 0, 1]
    assert [each.news.audio_received_bytes for each in endpoint.taken] == [100, 200, 0, 1]


def test_a_restarted_server_counts_from_there() -> None:
    """Of a client whose first report was not seen, only what comes afterwards counts."""
    endpoint = Endpoint()
    endpoint.post(report(7, counters={"reconnections": 40}))
    endpoint.post(report(8, counters={"reconnections": 41}))
    assert [each.news.reconnections for each in endpoint.taken] == [0, 1]


def test_duplicates_are_ignored() -> None:
    """A report that comes again is answered as before and taken once, also when reports overtake each other."""
    endpoint = Endpoint()
    for number in (1, 1, 3, 2, 3, 2, 200, 100, 199, 199):
        assert endpoint.post(report(number)).status_code == 204
    assert [each.report.number for each in endpoint.taken] == [1, 3, 2, 200, 199]


def test_a_number_far_back_costs_nothing() -> None:
    """A client that counts to a trillion and then begins again is answered, and nothing fails or grows for it."""
    endpoint = Endpoint()
    for number in (1 << 40, 1):
        assert endpoint.post(report(number)).status_code == 204
    assert [each.report.number for each in endpoint.taken] == [1 << 40]
    assert diagnostics.counters.get("internal_error") == 0


def test_clients_are_bounded() -> None:
    """No more clients are remembered than there is room for."""
    endpoint = Endpoint(limits=Limits(address_burst=10**6))
    endpoint.door._totals._max_clients = 5
    for number in range(20):
        endpoint.post(report(client=f"{number:032x}"))
    assert len(endpoint.door._totals) == 5


def test_a_callback_that_fails_refuses_nothing() -> None:
    """What on_report raises is counted and not the client's fault."""

    def broken(_: Taken) -> None:
        raise LookupError

    app = FastAPI()
    endpoint = Endpoint()
    endpoint.app = app
    app.mount("/api", voicespan.client_reports(on_report=broken))
    assert endpoint.post(report()).status_code == 204
    assert diagnostics.counters.get("internal_error") == 1


def test_the_files_and_the_schema() -> None:
    """The tracker, its module and types are served, and the schema describes what is taken."""
    endpoint = Endpoint()
    script = endpoint.request("GET", "/api/performance-tracker.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "class PerformanceTracker" in script.text
    for name in ("performance-tracker.mjs", "performance-tracker.d.ts"):
        assert endpoint.request("GET", f"/api/{name}").status_code == 200
    described = endpoint.request("GET", "/api/openapi.json").json()
    assert described == openapi()
    assert {"204", "400", "401", "413", "429"} <= described["paths"]["/metrics"]["post"]["responses"].keys()
    assert set(described["components"]["schemas"]["Report"]["properties"]) == set(Report.model_fields)
    assert endpoint.request("GET", "/api/metrics").status_code == 405


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(list(Report.model_fields)) |
                                                                st.text(max_size=10), inner, max_size=6),
    max_leaves=30,
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(inner, (*path, key))


WHOLE = report(
    clocks=[{"server": "abc", "exchanges": [[900.0, 5.0, 6.0, 950.0]]}],
    turns=[{"turn": 1, "traceparent": f"00-{1:032x}-{1:016x}-01", "marks": {"speech_start": 10.0},
            "durations_ms": {"playback_start": 5.0},
            "barge_in": [{"phase": "total", "start_ms": 10.0, "end_ms": 20.0}]}],
    counters={"audio_sent_bytes": 5, "errors": {"websocket": 1}, "intents": {"weather": 1}},
    latencies={"asr": {"count": 1, "min_ms": 1.0, "mean_ms": 1.0, "p95_ms": 1.0, "max_ms": 1.0}},
    network={"jitter_ms": 1.0, "loss": 0.1, "round_trip_ms": None}, stability={"jitter_ms": 1.0, "longest_gap_ms": 2.0},
)  # fmt: skip
PLACES = list(_places(WHOLE))[1:]


@settings(max_examples=100, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON, text=st.booleans())
def test_any_change_of_a_report_is_taken_or_malformed(place: tuple[Any, ...], value: Any, text: bool) -> None:
    """Whatever stands at any place of a report, it is a report or it is refused; nothing else is raised."""
    changed = json.loads(json.dumps(WHOLE))
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    body = json.dumps(changed)
    if text:
        body = body[: len(body) // 2]
    reason = "" if text else "taken"
    try:
        read(body.encode())
    except MalformedReportError as error:
        reason = str(error)
    assert 0 < len(reason) < 200


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_refused(body: bytes) -> None:
    """Bytes and JSON of any kind are refused."""
    with pytest.raises(MalformedReportError):
        read(body)


def test_a_flood_stays_outside() -> None:
    """While bad requests come as fast as they can, a good client is served, and nothing of the bad ones is kept."""
    bad = [b"{", b"x" * 70_000, json.dumps(report(version=3)).encode(), b"\x00" * 500]

    async def flood(address: str) -> tuple[list[int], list[int]]:
        async with httpx.AsyncClient(base_url=address, timeout=20) as many, httpx.AsyncClient(base_url=address) as one:

            async def send(first: int) -> list[int]:
                return [
                    (await many.post("/api/metrics", content=bad[number % 4])).status_code
                    for number in range(first, first + 63)
                ]

            flooding = [asyncio.create_task(send(first)) for first in range(16)]
            good = []
            for number in range(1, 11):
                answer = await one.post("/api/metrics", content=json.dumps(report(number)), timeout=20)
                good.append(answer.status_code)
            return list(chain.from_iterable(await asyncio.gather(*flooding))), good

    with running(limits=Limits(address_burst=10**6)) as service:
        answers, good = asyncio.run(flood(service.address))
        assert len(answers) == 1008
        assert set(answers) <= {400, 413, 429}
        assert good == [204] * 10
        assert [each.report.number for each in service.taken] == list(range(1, 11))
        assert (len(service.door._totals), len(service.door._clients), len(service.door._joining)) == (1, 1, 0)
