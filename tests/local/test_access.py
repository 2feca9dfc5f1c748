"""Who may ask the receiver."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from starlette.requests import HTTPConnection

from voicespan.local.access import checked_token, is_near, new_token, sender_headers
from voicespan.local.server import Receiver
from voicespan.sdk.endpoint import is_loopback

from .otlp import log, log_request, pairs, request, turn

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "a~token.of-the_tests+/"
PROTOBUF = {"Content-Type": "application/x-protobuf"}
BODY = request(*turn().spans).SerializeToString()


@pytest.fixture(scope="module")
def guarded() -> Iterator[Receiver]:
    """A receiver that asks everyone for its token."""
    with Receiver(port=0, token=TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def plain() -> Iterator[Receiver]:
    """A receiver that only this machine can reach."""
    with Receiver(port=0) as started:
        yield started


@pytest.fixture
def client(guarded: Receiver) -> Iterator[httpx.Client]:
    """A browser without cookies."""
    with httpx.Client(base_url=guarded.endpoint) as made:
        yield made


PATHS = ["/", "/main.js", "/health", "/api/turns", "/api/status", "/api/events", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_the_token(client: httpx.Client, path: str) -> None:
    """The page, its files and its data are refused alike, whether or not they exist."""
    answer = client.get(path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "token" in answer.text
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong-token-of-the-tests"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xe4\xe4"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Cookie": "voicespan_1=x; ;;="},
    ],
)
def test_wrong_tokens_are_refused(guarded: Receiver, headers: dict[str, str]) -> None:
    """What is not exactly the token is refused, whatever its letters."""
    before = guarded.store.reader.count()
    raw = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    of_otlp = [(key.encode(), value.encode()) for key, value in PROTOBUF.items()]
    with httpx.Client() as client:
        assert client.get(f"{guarded.endpoint}/health", headers=raw).status_code == 401
        assert client.post(f"{guarded.endpoint}/v1/traces", content=BODY, headers=raw + of_otlp).status_code == 401
    assert guarded.store.reader.count() == before


def test_bearer_token_is_enough(client: httpx.Client) -> None:
    """Programs send the token with each request, and it sets no cookie."""
    for scheme in ("Bearer", "bearer"):
        answer = client.get("/api/turns", headers={"Authorization": f"{scheme} {TOKEN}"})
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers


def test_browser_changes_the_address_for_a_cookie(guarded: Receiver, client: httpx.Client) -> None:
    """The printed address leads to one without the token; the cookie opens the rest, and no script can read it."""
    assert guarded.page.startswith(f"{guarded.endpoint}/?token=")
    first = client.get(guarded.page)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith(f"voicespan_{guarded.port}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert (first.headers["cache-control"], first.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert client.get("/").status_code == 200
    assert client.get("/api/turns").status_code == 200


def test_the_rest_of_the_address_stays(client: httpx.Client) -> None:
    """The state of the page in its address survives; a wrong token leads nowhere."""
    answer = client.get("/", params={"sort": "llm", "token": TOKEN, "search": "a b&c"})
    assert answer.headers["location"] == "/?sort=llm&search=a+b%26c"


def test_wrong_token_in_the_address_is_refused(client: httpx.Client) -> None:
    """An address with another token sets no cookie."""
    answer = client.get("/", params={"token": TOKEN + "x"})
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert client.post("/v1/traces", params={"token": TOKEN}, content=BODY, headers=PROTOBUF).status_code == 401


@pytest.mark.parametrize("path", ["//evil.test/", "/\\evil.test", "//evil.test/%2e%2e"])
def test_the_address_leads_nowhere_else(guarded: Receiver, path: str) -> None:
    """However the path is written, the answer leads to this server."""
    with socket.create_connection(("127.0.0.1", guarded.port)) as connection:
        connection.sendall(f"GET {path}?token={quote(TOKEN, safe='')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = connection.recv(4096).decode()
    assert head.startswith("HTTP/1.1 303")
    location = re.search(r"(?im)^location: (.*)\r$", head)
    assert location
    assert re.match(r"/(?![/\\])", location[1])


def test_exporter_sends_with_the_printed_headers(guarded: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that is printed for services lets the SDK's exporter in."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", sender_headers(TOKEN))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{guarded.endpoint}/v1/traces")))
    span = provider.get_tracer("voicespan").start_span("voice.turn")
    span.end()
    provider.shutdown()
    assert guarded.store.reader.turn(f"{span.get_span_context().trace_id:032x}") is not None
    assert unquote(sender_headers(TOKEN)) == f"authorization=Bearer {TOKEN}"


def test_a_token_is_made_where_others_can_reach() -> None:
    """A receiver that listens beyond this machine has a token, a new one each time; on this machine it needs none."""
    beyond = [Receiver(host=host).token for host in ("0.0.0.0", "::", "192.0.2.1", "bot.example", "0.0.0.0")]
    assert len(set(beyond)) == len(beyond)
    assert all(token is not None and checked_token(token) for token in beyond)
    assert [Receiver(host=host).token for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [None] * 4
    assert Receiver(host="0.0.0.0", token=TOKEN).token == TOKEN


def test_other_names_are_answered_with_the_token() -> None:
    """Beyond this machine there is no telling under which name it is known: the token decides."""
    with Receiver(host="0.0.0.0", port=0) as receiver:
        address = f"http://127.0.0.1:{receiver.port}/health"
        assert receiver.endpoint == f"http://127.0.0.1:{receiver.port}"
        headers = {"Host": "bot.example:4318"}
        assert httpx.get(address, headers=headers).status_code == 401
        assert httpx.get(address, headers=headers | {"Authorization": f"Bearer {receiver.token}"}).status_code == 200


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "x" * 257, "with a blank in it", "semicolon;semicolon", "ä" * 20]
)
def test_impossible_tokens_are_refused(token: str) -> None:
    """A token that is easily guessed, or that no header carries, is none."""
    with pytest.raises(ValueError, match="16 to 256"):
        checked_token(token)


def test_loopback_addresses_are_known() -> None:
    """Names are not asked of a name server: what is not evidently this machine is not."""
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.example"))
    assert new_token() != new_token()


# Pages of other origins


def change(receiver: Receiver, **headers: str) -> int:
    """The status of a request that would change something."""
    answer = httpx.post(f"{receiver.endpoint}/api/import", content=b"{}", headers=headers)
    return answer.status_code


def test_pages_of_other_origins_change_nothing(plain: Receiver) -> None:
    """What changes something is asked in JSON, which a page of another origin may not send, and of one's own origin."""
    own = plain.endpoint
    here = f"http://localhost:{plain.port}"
    assert change(plain, **{"Content-Type": "application/json"}) == 200
    assert change(plain, **{"Content-Type": "application/json; charset=utf-8", "Origin": own}) == 200
    assert change(plain, **{"Content-Type": "application/json", "Origin": here, "Host": here[7:]}) == 200
    for origin in ("https://evil.test", "null", "http://localhost:1", f"{own}.evil.test", own.replace("http", "ftp")):
        assert change(plain, **{"Content-Type": "application/json", "Origin": origin}) == 403
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert change(plain, **{"Content-Type": media_type}) == 415


def test_senders_of_telemetry_have_no_origin(plain: Receiver) -> None:
    """The rule is for the page's own requests: telemetry in protobuf is taken as before."""
    assert httpx.post(f"{plain.endpoint}/v1/traces", content=BODY, headers=PROTOBUF).status_code == 200


# What was said

FAR = {"X-Forwarded-For": "192.0.2.7"}
"""As a proxy of this machine passes on what comes from another one."""
SECRET = "my number is 0041"


@pytest.fixture(scope="module")
def spoken() -> Iterator[tuple[Receiver, str]]:
    """A receiver that keeps what is said, with a turn in which everything that can hold words does."""
    trace = turn(session="call-7")
    trace.spans[0][2].attributes.extend(pairs({"lk.user_transcript": SECRET}))
    trace.last().attributes.extend(pairs({"gen_ai.input.messages": SECRET}))
    trace.last().events.add(name="gen_ai.user.message", attributes=pairs({"content": SECRET}))
    records = [
        log(trace, SECRET, event_name="gen_ai.user.message"),
        log(trace, {"gen_ai.prompt": SECRET, "kept": {"lk.input_text": SECRET}}),
        log(trace, "said", {"output.value": SECRET}),
    ]
    with Receiver(port=0, content=True) as receiver, httpx.Client(base_url=receiver.endpoint) as near:
        near.post("/v1/traces", content=request(*trace.spans).SerializeToString(), headers=PROTOBUF)
        near.post("/v1/logs", content=log_request(*records).SerializeToString(), headers=PROTOBUF)
        receiver.store.add_content(trace.trace_id, "user", SECRET, bytes(2000), 16_000)
        yield receiver, trace.hex


def test_what_was_said_stays_on_this_machine(spoken: tuple[Receiver, str]) -> None:
    """Of all that a viewer with content answers, nothing tells another machine what was said; it is told why."""
    receiver, trace_id = spoken
    with httpx.Client(base_url=receiver.endpoint) as client:
        for path in (f"/api/turns/{trace_id}", "/api/session?id=call-7"):
            near, far = client.get(path), client.get(path, headers=FAR)
            assert SECRET in near.text
            assert (near.json()["content_withheld"], near.json()["content_kept"]) == (None, True)
            assert SECRET not in far.text
            assert "own machine only" in far.json()["content_withheld"]
            assert "voice.turn" in far.text
        for path in ("/api/turns", "/api/sessions", "/api/dots", "/api/choices", "/api/export", "/api/open"):
            assert SECRET not in client.get(path, headers=FAR).text
        assert SECRET in client.get("/api/turns").text
        for path in (f"/api/turns/{trace_id}/audio/user", "/api/export?content=true"):
            assert client.get(path).status_code == 200
            refused = client.get(path, headers=FAR)
            assert (refused.status_code, "own machine only" in refused.json()["error"]) == (403, True)
        assert SECRET in client.get("/api/export?content=true").text
        assert SECRET not in client.get("/api/export").text
        assert client.get("/api/status").json()["content_withheld"] is None
        assert "own machine" in client.get("/api/status", headers=FAR).json()["content_withheld"]


@pytest.mark.parametrize(
    ("client", "server", "near"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.8", "192.0.2.7", False),
        ("2001:db8::1", "2001:db8::2", False),
        ("testclient", "127.0.0.1", False),
        (None, "127.0.0.1", False),
    ],
)
def test_who_is_near(client: str | None, server: str, near: bool) -> None:
    """Near is who asks from this machine, also at the address that others know it by."""
    scope: dict[str, object] = {
        "type": "http",
        "client": client and (client, 5),
        "server": (server, 4318),
        "headers": [],
    }
    assert is_near(HTTPConnection(scope)) is near


def test_every_answer_has_the_security_headers(spoken: tuple[Receiver, str], guarded: Receiver) -> None:
    """Pages, data, audio, files and refusals alike: no sniffing, no use by other origins, nothing to load elsewhere."""
    receiver, trace_id = spoken
    asked = [
        *(
            f"{receiver.endpoint}{path}"
            for path in ("/", "/main.js", "/health", "/nothing", "/api/turns", "/api/export")
        ),
        *(f"{receiver.endpoint}{path}" for path in ("/api/turns?limit=x", f"/api/turns/{trace_id}/audio/user")),
        f"{guarded.endpoint}/api/turns",
        f"{guarded.endpoint}/?token={quote(TOKEN)}",
    ]
    answers = [httpx.get(address) for address in asked]
    answers.append(httpx.get(f"{receiver.endpoint}/", headers={"Host": "evil.test"}))
    answers.append(httpx.post(f"{receiver.endpoint}/v1/traces", content=b"x", headers=PROTOBUF))
    answers.append(httpx.post(f"{receiver.endpoint}/api/import", content=b"x"))
    assert {answer.status_code for answer in answers} == {200, 303, 400, 401, 403, 404, 415}
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
