from __future__ import annotations

import contextlib
import gc
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from tests.ports import free_port

from voicespan import settings
from voicespan.cli import main
from voicespan.local.decode import decode_protobuf
from voicespan.local.options import Options, kept
from voicespan.local.retention import Retention
from voicespan.local.server import Receiver
from voicespan.local.store import Store

from .otlp import Trace, request, turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No database of the user, a terminal of known width."""
    monkeypatch.setenv("VOICESPAN_DB", str(tmp_path / "turns.db"))
    monkeypatch.setenv("COLUMNS", "140")
    settings.reset()
    yield
    settings.reset()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The store that the commands read, open for writing as a running receiver has it."""
    with Store(tmp_path / "turns.db") as made:
        yield made


def add(store: Store, *traces: Trace) -> None:
    spans = [item for trace in traces for item in trace.spans]
    store.add(decode_protobuf(request(*spans).SerializeToString()).spans)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_turns_are_listed(store: Store) -> None:
    """Each turn is a line with session, number, heard silence, its largest part, outcome and the trace to show."""
    first, second = turn(1, session="a"), turn(2, session="a", outcome="interrupted", shares={"tts": 2.0})
    add(store, first, second)
    result = run("turns")
    assert result.exit_code == 0
    head, newest, oldest = result.output.splitlines()
    assert head.split() == ["time", "session", "turn", "heard", "silence", "mostly", "outcome", "model", "trace"]
    assert newest.split()[-9:] == ["2", "2,000", "ms", "tts", "100", "%", "interrupted", "small-chat", second.hex[:12]]
    assert oldest.split()[-9:] == ["1", "1,000", "ms", "llm", "41", "%", "completed", "small-chat", first.hex[:12]]


@pytest.mark.covers("C-T11")
def test_slow_turns_are_found_with_their_cause(store: Store) -> None:
    """Sorted by heard silence and filtered by it, the slow turns come first, each with the stage that took longest."""
    quick, slow, slower = (
        turn(shares={"endpoint": 0.3, stage: s}) for stage, s in (("llm", 0.4), ("asr", 1), ("tts", 2))
    )
    add(store, slower, quick, slow)
    lines = run("turns", "--sort", "response", "--slower-than", "1000").output.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == [slower.hex[:12], slow.hex[:12]]
    assert ["tts 87 %" in lines[0], "asr 77 %" in lines[1]] == [True, True]


def test_turns_are_sorted_by_a_stage(store: Store) -> None:
    """Sorting by a stage shows its latency."""
    short, long = turn(), turn()
    long.add("llm.ttft", 0, 5000, voice__critical_path=True)
    add(store, long, short)
    lines = run("turns", "--sort", "llm").output.splitlines()
    assert "llm" in lines[0].split()
    assert "5,000 ms" in lines[1]
    assert "410 ms" in lines[2]


@pytest.mark.parametrize(("width", "titles"), [(140, "mostly outcome model"), (84, "mostly outcome"), (62, "")])
def test_list_fits_the_terminal(store: Store, monkeypatch: pytest.MonkeyPatch, width: int, titles: str) -> None:
    """Where it is narrow, whole columns are left out instead of all being cut."""
    trace = turn()
    add(store, trace)
    monkeypatch.setenv("COLUMNS", str(width))
    head, line = run("turns").output.splitlines()
    assert " ".join(head.split("silence")[1].split()[:-1]) == titles
    assert max(len(head.rstrip()), len(line.rstrip())) <= width


def test_turns_are_filtered(store: Store) -> None:
    """Session, outcome and limit choose; no match is said, not an error."""
    add(store, turn(session="a"), turn(session="b", outcome="error"), turn(session="b"))
    assert len(run("turns", "--session", "b").output.splitlines()) == 3
    assert len(run("turns", "--session", "b", "--outcome", "error").output.splitlines()) == 2
    assert len(run("turns", "--limit", "1").output.splitlines()) == 2
    nothing = run("turns", "--outcome", "incomplete")
    assert (nothing.exit_code, nothing.output) == (0, "No turn matches.\n")


def test_turns_as_json(store: Store) -> None:
    """Programs get every column, with lengths in seconds."""
    trace = turn(5)
    add(store, trace)
    (row,) = json.loads(run("turns", "--json").output)
    assert (row["trace_id"], row["turn_index"], row["response_s"], row["llm_ttft_s"]) == (trace.hex, 5, 1.0, 0.41)
    assert row["shares"]["llm"] == 0.41


@pytest.mark.parametrize(
    "arguments", [["--sort", "evil"], ["--limit", "0"], ["--outcome", "bad"], ["--slower-than", "x"]]
)
def test_impossible_options_are_refused(arguments: list[str]) -> None:
    """A wrong option is a mistake of use: status 2 and the possible values."""
    assert run("turns", *arguments).exit_code == 2


def test_turn_is_shown(store: Store) -> None:
    """A turn is drawn by the beginning of its id or as the last: sentence, strip, waterfall."""
    older, newer = turn(1), turn(2)
    add(store, older, newer)
    by_prefix = run("show", older.hex[:8])
    assert by_prefix.exit_code == 0
    assert (
        "turn 1 · completed\nThe user waited 1.00 s: 0.41 s (41 %) for the model small-chat (llm)" in by_prefix.output
    )
    assert "tts.inference [tts-worker]" in by_prefix.output
    assert "■ endpoint 300 ms 30 %" in by_prefix.output
    for last in (run("show", "last"), run("show")):
        assert f"trace {newer.hex}" in last.output


def test_shown_turn_as_json(store: Store) -> None:
    """Programs get the turn with its spans."""
    trace = turn()
    add(store, trace)
    found = json.loads(run("show", "last", "--json").output)
    assert found["turn"]["trace_id"] == trace.hex
    assert len(found["spans"]) == len(trace.spans)


def test_unknown_and_ambiguous_traces_are_errors(store: Store) -> None:
    """Status 1 and the reason on stderr where the words name no trace, or several."""
    for first in (b"\xab\xcd", b"\xab\xce"):
        trace = Trace(first + bytes(14))
        trace.add("voice.turn", 0, 1)
        add(store, trace)
    for prefix, reason in (("ab", "more than one"), ("f0", "no trace begins"), ("xyz", "not the beginning")):
        result = run("show", prefix)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert reason in result.stderr


@pytest.mark.parametrize("command", [["turns"], ["show", "last"]])
def test_missing_database_is_explained(command: list[str], tmp_path: Path) -> None:
    """Before anything was received, the commands say where they looked and what to do; no file appears."""
    result = run(*command)
    assert result.exit_code == 1
    assert str(tmp_path / "turns.db") in result.stderr
    assert "voicespan ui" in result.stderr
    assert not (tmp_path / "turns.db").exists()


def test_other_database_can_be_named(tmp_path: Path) -> None:
    """--db wins over the variable."""
    with Store(tmp_path / "other.db") as store:
        add(store, turn())
    assert run("turns").exit_code == 1
    assert run("turns", "--db", str(tmp_path / "other.db")).exit_code == 0


def test_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    """A wrong file is told in words."""
    (tmp_path / "turns.db").write_text("hello " * 1000)
    result = run("turns")
    assert result.exit_code == 1
    assert "not a database" in result.stderr


def test_reading_works_while_a_receiver_runs(tmp_path: Path) -> None:
    """The commands read what a receiver in another thread has just answered."""
    with Receiver(port=0, database=tmp_path / "turns.db") as receiver:
        trace = turn()
        send(receiver.endpoint, trace)
        assert trace.hex[:12] in run("turns").output
        assert run("show", trace.hex).exit_code == 0


def send(endpoint: str, *traces: Trace) -> None:
    spans = [item for trace in traces for item in trace.spans]
    body = request(*spans).SerializeToString()
    message = urllib.request.Request(f"{endpoint}/v1/traces", body, {"Content-Type": "application/x-protobuf"})
    with urllib.request.urlopen(message, timeout=30) as answer:
        assert answer.status == 200


class Ui:
    """`voicespan ui` as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", "from voicespan.cli import main; main()", "ui", "--grpc-port", "0", *arguments]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", env=environment)
        self.said = ""
        self.endpoint = self.read_until(r"at (http://\S+)")

    def read_until(self, pattern: str) -> str:
        """Read lines until one matches; return the first group."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := re.search(pattern, line):
                return found.group(1)
        raise AssertionError(f"{pattern!r} did not come: {self.said} {self.process.communicate()}")

    def end(self, how: signal.Signals) -> tuple[int, str]:
        """Send the signal; return the status and what stood on stderr."""
        self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ui_receives_until_it_is_told_to_end(how: signal.Signals) -> None:
    """`voicespan ui` says where to send and where it keeps turns, lists them as they come, and ends with status 0."""
    ui = Ui("--port", "0")
    ui.read_until(r"database +(\S+turns\.db) \(0 turns\)")
    assert ui.read_until(r"OTEL_EXPORTER_OTLP_ENDPOINT=(\S+)") == ui.endpoint
    trace = turn(3, session="call-5")
    send(ui.endpoint, trace)
    assert ui.read_until(rf"call-5 · 3 +1\.00 s +llm 41 % +completed +({trace.hex[:12]})")
    assert ui.end(how) == (0, "")
    assert trace.hex[:12] in run("turns").output


def test_taken_port_is_said() -> None:
    """When another receiver holds the port, the message names it and the next port is used."""
    with Receiver(port=0) as first:
        ui = Ui("--port", str(first.port))
        assert ui.endpoint != first.endpoint
        status, errors = ui.end(signal.SIGTERM)
    assert status == 0
    assert f"port {first.port} is taken by another voicespan receiver" in errors
    assert f"using port {ui.endpoint.rpartition(':')[2]}" in errors


def test_killed_receiver_keeps_what_it_answered() -> None:
    """kill -9 while requests come in: every turn whose request was answered can be listed, and the next start works."""
    ui = Ui("--port", "0")
    answered: list[Trace] = []
    enough = threading.Event()

    def keep_sending() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                traces = [turn() for _ in range(10)]
                send(ui.endpoint, *traces)
                answered.extend(traces)
                if len(answered) > 100:
                    enough.set()

    sender = threading.Thread(target=keep_sending)
    sender.start()
    assert enough.wait(30)
    ui.end(signal.SIGKILL)
    sender.join()
    output = run("turns", "--limit", "20000").output
    assert all(trace.hex[:12] in output for trace in answered)
    again = Ui("--port", "0")
    again.read_until(r"\((\d+0) turns\)")
    assert again.end(signal.SIGTERM) == (0, "")


def test_ui_takes_turns_while_nobody_reads_what_it_writes() -> None:
    """A pipe that is full, or a terminal that is stopped, keeps no sender waiting, and the viewer still ends."""
    ui = Ui()
    for _ in range(60):
        send(ui.endpoint, *(turn() for _ in range(50)))
    ui.process.send_signal(signal.SIGTERM)
    assert ui.process.wait(timeout=20) == 0
    ui.process.communicate()


def test_ui_with_an_unusable_database_is_an_error(tmp_path: Path) -> None:
    """A path that cannot be a database ends the command with status 1 and the reason."""
    (tmp_path / "file").write_text("x" * 5000)
    unusable = run("ui", "--port", "0", "--db", str(tmp_path / "file"))
    assert unusable.exit_code == 1
    assert "not a database" in unusable.stderr


def test_ui_says_what_it_takes_and_keeps() -> None:
    """At the start stand the gRPC address, how long turns are kept, and whether what is said is kept."""
    ui = Ui("--port", "0", "--keep-days", "2", "--keep-mib", "64", "--trace-link", "https://tempo.example/{trace_id}")
    ui.read_until("(to look)")
    with urllib.request.urlopen(f"{ui.endpoint}/api/status", timeout=30) as answer:
        assert json.load(answer)["trace_link"] == "https://tempo.example/{trace_id}"
    ui.end(signal.SIGTERM)
    assert re.search(r"over gRPC +nowhere \(--grpc-port\)", ui.said)
    assert re.search(r"turns\.db \(0 turns\), kept for 2 days and up to 64 MiB", ui.said)
    assert "prompts and audio are not kept (--content)" in ui.said

    port = free_port()
    ui = Ui("--port", "0", "--keep-days", "0.5", "--keep-mib", "1024", "--content", "--grpc-port", str(port))
    assert ui.read_until(r"over gRPC +(\S+)") == f"http://127.0.0.1:{port}"
    assert ui.read_until("kept for (.+)") == "12 hours and up to 1,024 MiB"
    assert ui.read_until("audio are (.+)") == "kept"
    with urllib.request.urlopen(f"{ui.endpoint}/health", timeout=30) as answer:
        assert json.load(answer)["content"] is True
    assert ui.end(signal.SIGTERM) == (0, "")


def test_another_viewer_of_the_file_is_said(tmp_path: Path) -> None:
    """Two viewers may write to one file; the second says that, and which process the other is."""
    with Store(tmp_path / "turns.db"):
        ui = Ui("--port", "0")
        _, errors = ui.end(signal.SIGTERM)
    assert f"turns.db is also written to by process {os.getpid()}: its turns are shown here as well" in errors


def test_beyond_this_machine_a_token_is_printed() -> None:
    """With an address that others can reach, the lines to copy carry the token; without it nothing is answered."""
    ui = Ui("--port", "0", "--host", "0.0.0.0")
    port = ui.endpoint.rpartition(":")[2]
    variables = ui.read_until("(OTEL_EXPORTER_OTLP_ENDPOINT=.*) voicespan run").split()
    page = ui.read_until("to look +(\\S+)")
    address, headers = (variable.partition("=")[2] for variable in variables)
    assert address == ui.endpoint == f"http://{socket.gethostname()}:{port}"
    name, _, value = urllib.parse.unquote(headers).partition("=")
    health = urllib.request.Request(f"http://127.0.0.1:{port}/health", headers={name: value})
    with urllib.request.urlopen(health, timeout=30) as answer:
        assert answer.status == 200
    assert page.partition("/?token=")[2] == value.removeprefix("Bearer ")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30)
    assert ui.end(signal.SIGTERM) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--token", "short"],
        ["--trace-link", "tempo/{trace_id}"],
        ["--trace-link", "https://tempo.example/"],
        ["--grpc-port", "70000"],
        ["--port", "-1"],
    ],
)
def test_impossible_options_of_the_viewer_are_refused(arguments: list[str]) -> None:
    """A token that is none, a link without a trace and a port that is none are mistakes of use."""
    for command in (["ui"], ["run", "--ui", "--", sys.executable]):
        if "--port" in arguments and command[0] == "run":
            continue
        result = run(command[0], *arguments, *command[1:])
        assert (result.exit_code, result.stdout) == (2, "")


def test_the_environment_says_what_the_command_line_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token, link and content come from VOICESPAN_* variables where no option says otherwise."""
    monkeypatch.setenv("VOICESPAN_TOKEN", "token-of-the-environment")
    monkeypatch.setenv("VOICESPAN_TRACE_LINK", "https://tempo.example/{trace_id}")
    monkeypatch.setenv("VOICESPAN_CONTENT", "true")
    settings.reset()
    receiver = Options(port=0).receiver()
    assert (receiver.token, receiver.content) == ("token-of-the-environment", True)
    assert Options(token="token-of-the-command").receiver().token == "token-of-the-command"
    with Options(port=0, grpc_port=0).receiver() as started:
        status = urllib.request.Request(
            f"{started.endpoint}/api/status", headers={"Authorization": f"Bearer {started.token}"}
        )
        with urllib.request.urlopen(status, timeout=30) as answer:
            said = json.load(answer)
    assert (said["trace_link"], said["grpc"]["endpoint"]) == ("https://tempo.example/{trace_id}", None)
    assert said["send"] == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": started.endpoint,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20token-of-the-environment",
    }


@pytest.mark.parametrize(
    ("age_s", "size", "words"),
    [
        (14 * 86_400, 1 << 30, "kept for 14 days and up to 1,024 MiB"),
        (7_200, None, "kept for 2 hours"),
        (None, 5 << 20, "kept up to 5 MiB"),
        (None, None, "kept for ever"),
    ],
)
def test_limits_are_told_in_words(age_s: int | None, size: int | None, words: str) -> None:
    """How long turns are kept is said as a person would."""
    assert kept(Retention(max_age_s=age_s, max_bytes=size)) == words


@pytest.mark.parametrize("arguments", [(["--db", ":memory:"], None), ([], ":memory:"), (["--db", "memory"], None)])
def test_ui_in_memory(arguments: tuple[list[str], str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The viewer keeps nothing that outlives it, and says so."""
    options, named = arguments
    if named:
        monkeypatch.setenv("VOICESPAN_DB", named)
    monkeypatch.chdir(tmp_path)
    viewer = Ui("--port", "0", *options)
    viewer.read_until(r"database +(in memory, gone when it ends) \(0 turns\)")
    assert viewer.end(signal.SIGTERM) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_imported_into_memory(tmp_path: Path) -> None:
    """It would be gone at once."""
    (tmp_path / "x.json").write_text("{}")
    result = run("import", str(tmp_path / "x.json"), "--db", ":memory:")
    assert result.exit_code == 2
    assert "gone at once" in result.output


def test_limits_stay_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ui` was told once holds for every later start, and for `import` and `run --ui`; a variable changes it."""
    path = tmp_path / "turns.db"
    (tmp_path / "x.json").write_text("{}")

    def limits(**options: Any) -> Retention:
        with Options(port=0, grpc_port=0, database=path, **options).receiver() as receiver:
            return receiver.store.retention

    assert limits(keep_days=30.0) == Retention(max_age_s=30 * 86_400)
    assert limits() == Retention(max_age_s=30 * 86_400)
    assert run("import", str(tmp_path / "x.json")).exit_code == 0
    monkeypatch.setenv("VOICESPAN_KEEP_MIB", "5000")
    settings.reset()
    assert limits(keep_days=60.0) == Retention(max_age_s=60 * 86_400, max_bytes=5000 << 20)
    monkeypatch.delenv("VOICESPAN_KEEP_MIB")
    settings.reset()
    assert run("import", str(tmp_path / "x.json")).exit_code == 0
    assert limits() == Retention(max_age_s=60 * 86_400, max_bytes=5000 << 20)


def test_ui_hands_on_what_it_takes() -> None:
    """With --forward another OTLP endpoint gets the same turns."""
    trace = turn()
    with Receiver(port=0) as behind:
        viewer = Ui("--port", "0", "--forward", behind.endpoint)
        send(viewer.endpoint, trace)
        assert viewer.end(signal.SIGTERM) == (0, "")
        assert behind.store.reader.turn(trace.hex) is not None


def test_a_viewer_looks_for_cycles_seldom() -> None:
    """The process of a viewer, which makes thousands of objects for each request, is not walked for each of them."""
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, *before[1:])
        Options(port=0).receiver()
        assert gc.get_threshold() == (20_000, *before[1:])
    finally:
        gc.set_threshold(*before)
