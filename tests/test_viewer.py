"""What a viewer is told, by a reporter whose steps the test takes itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import pytest

from voicespan import diagnostics, settings
from voicespan.emit import BackgroundRecorder
from voicespan.sdk.endpoint import Endpoint
from voicespan.sessions import Session
from voicespan.settings import Settings
from voicespan.testing import FixedClock
from voicespan.viewer import MAX_TURNS, Address, Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VIEWER = {"service": "voicespan", "content": True}


class Server:
    """An HTTP server that answers /health with `health`, and keeps everything else."""

    def __init__(self, health: Mapping[str, Any] | None) -> None:
        self.health = health
        self.status = 200
        self.asked = 0
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked += 1
                self._answer(200 if server.health else 404, json.dumps(server.health).encode())

            def do_POST(self) -> None:
                server.posts.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                self._answer(server.status, b"{}")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def paths(self) -> list[str]:
        return [path for path, _ in self.posts]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Settings and diagnostics of this test."""
    settings.reset(Settings(content=True))
    diagnostics.forget()
    yield
    settings.reset()
    diagnostics.forget()


@pytest.fixture
def clock() -> FixedClock:
    """A clock that the test moves."""
    return FixedClock()


@pytest.fixture
def recorder(clock: FixedClock) -> BackgroundRecorder:
    """A recorder without its thread."""
    recorder = BackgroundRecorder(clock=clock)
    recorder._thread = threading.current_thread()
    return recorder


class Steps(Reporter):
    """A reporter that takes its steps when it is told to."""

    def step(self) -> None:
        self._report(5.0)


Make = Callable[[Address], Steps]


@pytest.fixture
def make(recorder: BackgroundRecorder) -> Iterator[Make]:
    """Makes reporters for addresses, and closes their connections."""
    made: list[Steps] = []

    def reporter(address: Address) -> Steps:
        made.append(Steps(recorder, address))
        return made[-1]

    yield reporter
    for each in made:
        each.finish(5.0)


def test_open_turns_are_told_while_there_are_any(make: Make, recorder: BackgroundRecorder, clock: FixedClock) -> None:
    """A turn is told once it is half a second old, then each time; when it is over an empty list, once."""
    with Server(VIEWER) as server, Session(recorder, "call-1") as session:
        reporter = make(Address(server.url))
        turn = session.user_turn()
        clock.advance(s=0.4)
        reporter.step()
        assert (server.asked, server.posts) == (0, [])
        clock.advance(s=0.1)
        reporter.step()
        reporter.step()
        assert server.asked == 1
        turn.committed()
        turn.suppressed()
        reporter.step()
        reporter.step()
        told = [[each["trace_id"] for each in body["turns"]] for _, body in server.posts]
        assert told == [[f"{turn.trace_id:032x}"]] * 2 + [[]]
        assert server.paths() == ["/api/open"] * 3
        assert server.posts[0][1]["interval_s"] == 1.0


def test_only_the_oldest_are_told(make: Make, recorder: BackgroundRecorder, clock: FixedClock) -> None:
    """Of more turns than a report holds the oldest are told, and how many are left out; unsampled ones are not."""
    with Server(VIEWER) as server:
        sessions = [Session(recorder, f"call-{number}") for number in range(MAX_TURNS + 8)]
        turns = [session.user_turn() for session in sessions]
        turns[0].record.sampled = False
        clock.advance(s=1)
        make(Address(server.url)).step()
        (_, body), = server.posts  # fmt: skip
        assert [each["session_id"] for each in body["turns"]] == [f"call-{n}" for n in range(1, MAX_TURNS + 1)]
        assert body["beyond"] > 0


@pytest.mark.parametrize("health", [None, {}, {"service": "collector"}, ["voicespan"], "voicespan"])
def test_who_is_no_viewer_is_told_nothing(
    make: Make, recorder: BackgroundRecorder, clock: FixedClock, health: Any
) -> None:
    """What answers at the address but is no viewer gets no report, and nothing that was said is kept for it."""
    with Server(health) as server, Session(recorder, "call-1") as session:
        reporter = make(Address(server.url))
        turn = session.user_turn()
        reporter.content.add(turn, "user", "secret", None, None)
        clock.advance(s=1)
        reporter.step()
        assert server.posts == []
        assert reporter.content.wanted is False
        server.health = VIEWER  # it starts later
        reporter.step()
        assert server.paths() == ["/api/open"]


def test_what_was_said_goes_after_its_turn(make: Make, recorder: BackgroundRecorder) -> None:
    """What was said is sent when its turn is over, each side for itself."""
    with Server(VIEWER) as server, Session(recorder, "call-1") as session:
        reporter = make(Address(server.url))
        turn = session.user_turn()
        reporter.content.add(turn, "user", "hello", b"\1\0", 8000)
        reporter.content.add(turn, "agent", "hi", None, None)
        reporter.step()
        assert "/api/content" not in server.paths()
        turn.committed()
        turn.suppressed()
        reporter.step()
        said = [body for path, body in server.posts if path == "/api/content"]
        trace_id = f"{turn.trace_id:032x}"
        assert said == [
            {"trace_id": trace_id, "role": "user", "text": "hello", "audio": "AQA=", "sample_rate": 8000},
            {"trace_id": trace_id, "role": "agent", "text": "hi", "audio": None, "sample_rate": None},
        ]


@pytest.mark.parametrize(
    ("kept", "wanted", "loopback"), [(False, True, True), (True, False, True), (True, True, False)]
)
def test_what_was_said_needs_three_consents(
    make: Make,
    recorder: BackgroundRecorder,
    clock: FixedClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    kept: bool,
    wanted: bool,
    loopback: bool,
) -> None:
    """Without VOICESPAN_CONTENT, a viewer that keeps content, and a loopback address, nothing that was said is sent."""
    settings.reset(Settings(content=wanted))
    monkeypatch.setattr(Address, "loopback", property(lambda _: loopback))
    with Server({**VIEWER, "content": kept}) as server, Session(recorder, "call-1") as session:
        reporter = make(Address(server.url))
        Session(recorder, "call-2").user_turn()
        clock.advance(s=1)
        for count in (1, 2):
            turn = session.user_turn()
            reporter.content.add(turn, "user", "secret", b"\1\0", 8000)
            turn.committed()
            turn.suppressed()
            reporter.step()
            assert server.paths() == ["/api/open"] * count
        assert "secret" not in json.dumps(server.posts)


def test_a_viewer_that_goes_is_found_again(make: Make, recorder: BackgroundRecorder, clock: FixedClock) -> None:
    """Who refuses a report is asked anew who they are before the next one."""
    with Server(VIEWER) as server, Session(recorder, "call-1") as session:
        reporter = make(Address(server.url))
        session.user_turn()
        clock.advance(s=1)
        server.status = 500
        reporter.step()
        server.status = 200
        reporter.step()
        assert server.asked == 2
        assert len(server.posts) == 2


def test_the_end_tells_what_is_left(make: Make, recorder: BackgroundRecorder) -> None:
    """At the end of the process the last turn's words are sent although no report had its turn."""
    with Server(VIEWER) as server, Session(recorder, "call-1") as session:
        reporter = make(Address(server.url))
        turn = session.user_turn()
        reporter.content.add(turn, "user", "goodbye", None, None)
        session.hung_up()
        reporter.finish(5.0)
        assert [body["text"] for path, body in server.posts if path == "/api/content"] == ["goodbye"]


def address(environ: dict[str, str], viewer: str | None = None) -> Address | None:
    settings.reset(Settings(viewer_endpoint=viewer))
    return Address.read(Endpoint.read("traces", environ), environ)


@pytest.mark.parametrize(
    ("environ", "viewer", "url"),
    [
        ({}, None, "http://localhost:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9/"}, None, "http://127.0.0.1:9"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1]:9/v1/traces"}, None, "http://[::1]:9"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.example.org:4318"}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://localhost:4318"}, None, None),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "http://localhost:4319/", "http://localhost:4319"),
        ({}, "localhost:4319", None),
    ],
)
def test_where_a_viewer_may_be(environ: dict[str, str], viewer: str | None, url: str | None) -> None:
    """A viewer is looked for where spans go over HTTP on this machine, or where VOICESPAN_VIEWER_ENDPOINT says."""
    found = address(environ, viewer)
    assert (None if found is None else found.url) == url


def test_headers_go_where_the_spans_go() -> None:
    """A viewer that asks for a token gets the headers that the spans have; another address never gets them."""
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc"}
    found, other = address(environ), address(environ, "http://localhost:4319")
    assert found is not None
    assert other is not None
    assert (dict(found.headers), dict(other.headers)) == ({"authorization": "Bearer abc"}, {})


def test_token_goes_to_the_viewer_that_is_named() -> None:
    """A viewer that asks for a token is told of open turns too, where it is not the one that the spans are sent to."""
    settings.reset(Settings(viewer_endpoint="http://localhost:4319", token="a-token-of-the-tests"))
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=of-the-collector"}
    named = Address.read(Endpoint.read("traces", environ), environ)
    assert named is not None
    assert dict(named.headers) == {"authorization": "Bearer a-token-of-the-tests"}
    settings.reset()


def test_the_headers_are_sent(make: Make, recorder: BackgroundRecorder, clock: FixedClock) -> None:
    """The headers of the address stand in every request."""
    with Server(VIEWER) as server, Session(recorder, "call-1") as session:
        session.user_turn()
        clock.advance(s=1)
        make(Address(server.url, {"authorization": "Bearer abc"})).step()
        assert server.headers[0]["authorization"] == "Bearer abc"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:1", True),
        ("http://127.9.9.9:1", True),
        ("http://[::1]:1", True),
        ("http://10.0.0.1:1", False),
        ("http://localhost.example.org", False),
        ("http://[bad", False),
    ],
)
def test_loopback_is_known_without_asking_anybody(url: str, *, loopback: bool) -> None:
    """Only this machine's own names and addresses are taken for it."""
    assert Address(url).loopback is loopback
