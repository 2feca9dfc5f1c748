"""Turns that are elsewhere: the commands of the terminal against a real viewer, and what is not one."""

from __future__ import annotations

import csv
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from tests.ports import free_port

from voicespan import settings
from voicespan.cli import main
from voicespan.local import view
from voicespan.local.decode import decode_protobuf
from voicespan.local.form import PROTOBUF
from voicespan.local.log import decode_logs
from voicespan.local.origin import OriginError, parameters, traceql
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver
from voicespan.local.times import moment_ns, stretch_ns

from .otlp import Trace, log, log_request, request, turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from voicespan.local.store import Store

TOKEN = "a-token-of-this-test"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No database of the user, a terminal of known width."""
    monkeypatch.setenv("VOICESPAN_DB", str(tmp_path / "none.db"))
    monkeypatch.setenv("COLUMNS", "140")
    settings.reset()
    yield
    settings.reset()


def add(store: Store, *traces: Trace, **resource: str) -> None:
    spans = [item for trace in traces for item in trace.spans]
    store.add(decode_protobuf(request(*spans, resource=resource).SerializeToString()).spans)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_turns_of_a_viewer_are_listed_as_it_would(receiver: Receiver) -> None:
    """The list, its filters and its order are those of the viewer that is named; the local store is not asked."""
    slow, quick, other = turn(1, shares={"llm": 2.0}), turn(2), turn(3, session="else")
    slow.add("llm.ttft", 0, 1900, voice__critical_path=True)
    add(receiver.store, quick, slow, other)
    lines = run("turns", "--from", receiver.endpoint, "--session", "call-1", "--sort", "response").output.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == [slow.hex[:12], quick.hex[:12]]
    found = json.loads(run("turns", "--from", receiver.endpoint, "--stage", "llm", "--over", "1000", "--json").output)
    assert [each["trace_id"] for each in found] == [slow.hex]
    assert found[0]["cause"] == "The user waited 2.00 s: 2.00 s (100 %) for the model small-chat (llm)."


def test_a_turn_of_a_viewer_is_shown_as_here(receiver: Receiver) -> None:
    """The picture is that of the viewer's own store: the sentence, the strip, the waterfall; a prefix will do."""
    trace = turn()
    add(receiver.store, trace)
    receiver.store.add_logs(decode_logs(PROTOBUF, log_request(log(trace, "hello")).SerializeToString()).logs)
    there = run("show", trace.hex[:8], "--from", receiver.endpoint).output
    assert there == run("show", "last", "--db", str(receiver.store.path)).output
    assert "The user waited 1.00 s: 0.41 s (41 %) for the model small-chat (llm) and 0.30 s (30 %)" in " ".join(
        there.split()
    )
    assert "voice.response" in there


def test_turns_of_a_viewer_become_a_file(receiver: Receiver) -> None:
    """A file of turns that are elsewhere has their spans and log lines, and comes in here as it was."""
    trace, other = turn(), turn(session="else")
    add(receiver.store, trace, other)
    receiver.store.add_logs(decode_logs(PROTOBUF, log_request(log(trace, "hello")).SerializeToString()).logs)
    result = run("export", "--session", "call-1", "--from", receiver.endpoint)
    assert json.loads(result.stdout) == json.loads(run("export", trace.hex, "--db", str(receiver.store.path)).stdout)
    assert '"hello"' in result.stdout


def test_turns_become_a_table(receiver: Receiver) -> None:
    """CSV has a row for each turn, oldest first, with latencies and shares in seconds, and nothing that was said."""
    first, second = turn(1), turn(2, shares={"tts": 2.0})
    first.add("anything", 0, 1, scope="other")
    second.spans[0][2].attributes.add(key="lk.user_transcript").value.string_value = "my secret"
    add(receiver.store, second, first)
    result = run("export", "--all", "--csv", "--db", str(receiver.store.path))
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["trace_id"] for row in rows] == [first.hex, second.hex]
    assert [float(row["response_s"]) for row in rows] == [1.0, 2.0]
    assert (rows[0]["share_llm_s"], rows[1]["share_llm_s"], rows[1]["share_tts_s"]) == ("0.41", "", "2.0")
    assert rows[0]["cause"].startswith("The user waited 1.00 s")
    assert not {"attributes", "shares"} & rows[0].keys()
    assert "secret" not in result.stdout


def test_a_viewer_with_a_token_is_asked_with_it() -> None:
    """Without its token the answer says what is missing; with it, and as a header, turns are read."""
    with Receiver(port=0, token=TOKEN) as receiver:
        trace = turn()
        add(receiver.store, trace)
        refused = run("show", "last", "--from", receiver.endpoint)
        assert refused.exit_code == 1
        assert "give its --token" in refused.output
        assert trace.hex in run("show", "last", "--from", receiver.endpoint, "--token", TOKEN).output
        headers = ("--header", f"Authorization=Bearer {TOKEN}")
        assert trace.hex in run("show", "last", "--from", receiver.endpoint, *headers).output


def test_what_is_no_viewer_is_said(receiver: Receiver) -> None:
    """Nobody there, somebody else there, no address, no such trace: one line each, and status 1."""
    nobody = f"http://127.0.0.1:{free_port()}"

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        other = f"http://127.0.0.1:{server.server_address[1]}"
        said = [run("turns", "--from", url) for url in (nobody, other, "localhost:4318")]
        server.shutdown()
    said.append(run("show", "abcdef", "--from", receiver.endpoint))
    assert [result.exit_code for result in said] == [1] * 4
    assert [result.output.strip() for result in said] == [
        f"Error: nothing answers at {nobody}: connection refused",
        f"Error: {other} is neither a viewer of voicespan (usually port 4318) nor Tempo (usually port 3200)",
        "Error: localhost:4318 is no address: write http://HOST:PORT",
        "Error: no trace begins with 'abcdef'",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("turns", "--token", "x"),
        ("turns", "--from", "http://x", "--db", "y"),
        ("turns", "--stage", "llm"),
        ("turns", "--since", "yesterday"),
        ("compare", "2h..1h", "1..x"),
        ("turns", "--from", "http://x", "--header", "no-value"),
        ("export", "last", "--csv", "--content"),
    ],
)
def test_wrong_use_is_said(arguments: tuple[str, ...]) -> None:
    """What makes no sense together is a mistake of usage: status 2, before anything is read."""
    assert run(*arguments).exit_code == 2


def test_a_query_is_the_same_there() -> None:
    """What a command asks a viewer is read there as the very same query."""
    query = TurnQuery(
        session="a b", outcome="failed", service="s", model="m", voice="v", worker="w", run=3, slower_than_ns=5_500_000,
        stage="llm", over_ns=7_000_000, since_ns=10**18, until_ns=10**18 + 10**9, sort="tts", limit=7,
    )  # fmt: skip
    given = {key: str(value) for key, value in parameters(query).items() if value is not None}
    assert view.query(given) == query


def test_a_query_in_traceql() -> None:
    """Each filter is a condition on the span that knows it; text is quoted; what cannot be asked is said."""
    query = TurnQuery(session='a"b', outcome="failed", model="m", slower_than_ns=600, stage="tool", over_ns=9)
    assert traceql(query) == (
        '{ span:name = "voice.turn" && span."session.id" = "a\\"b" && span."voice.turn.outcome" =~ "error|timeout" }'
        ' && { span:name =~ "voice.response|voice.unanswered"'
        ' && span."gen_ai.request.model" = "m" && span:duration > 600ns }'
        ' && { span:name =~ "execute_tool.*" && span:duration > 9ns } with (most_recent=true)'
    )
    with pytest.raises(OriginError, match="cannot be asked"):
        traceql(TurnQuery(outcome="incomplete"))


def test_times_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So long ago, a date of this time zone or of another, Unix seconds; a stretch may be open on either side."""
    monkeypatch.setattr("time.time_ns", lambda: 10_000 * 10**9)
    assert [moment_ns(text) for text in ("90s", "1.5m", "2h", "12", "1970-01-01T00:00:07+00:00")] == [
        number * 10**9 for number in (9_910, 9_910, 2_800, 12, 7)
    ]
    assert [stretch_ns(text) for text in ("5..", "..6", "5..6")] == [
        (5 * 10**9, None), (None, 6 * 10**9), (5 * 10**9, 6 * 10**9)
    ]  # fmt: skip
    for text in ("6..5", "5", "x..y"):
        with pytest.raises(ValueError, match=r"write|ends before"):
            stretch_ns(text)
