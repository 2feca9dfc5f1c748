"""The terminal's commands against a real Tempo."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from tests.local.otlp import request, turn

from voicespan.cli import main
from voicespan.doctor import reading
from voicespan.doctor.check import Wanted
from voicespan.stack.programs import TEMPO

from .stack import until
from .test_queries import Tempo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.otlp import Trace


@pytest.fixture(scope="module")
def tempo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tempo]:
    """Tempo as deploy/ has it."""
    program = TEMPO.find()
    if program is None:
        pytest.skip(f"no tempo: {TEMPO.source}")
    started = Tempo(tmp_path_factory.mktemp("tempo"), str(program)).start()
    try:
        yield started
    finally:
        started.kill()  # asked to end, it takes its time


def send(tempo: Tempo, *traces: Trace) -> None:
    spans = [item for trace in traces for item in trace.spans]
    with grpc.insecure_channel(f"127.0.0.1:{tempo.otlp}") as channel:
        TraceServiceStub(channel).Export(request(*spans), timeout=10)  # type: ignore[no-untyped-call]


def run(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "140"}).invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.timeout(180)
@pytest.mark.covers("C-T11")
def test_turns_in_tempo_are_found_shown_and_compared(tempo: Tempo) -> None:
    """A turn is shown by its id at once, found by what was slow in it, exported, and compared with those of before."""
    began_ns = time.time_ns() - 90 * 10**9  # search finds nothing that is older than two minutes when it comes
    old = [turn(i, shares={"llm": 1.0 + i / 100}, onset_ns=began_ns + i * 10**9) for i in range(12)]
    new = [turn(i, shares={"tts": 0.3}, onset_ns=began_ns + (60 + i) * 10**9) for i in range(12)]
    slow = turn(99, session='call "9"', shares={"llm": 4.0}, onset_ns=began_ns + 20 * 10**9)
    send(tempo, *old, *new, slow)
    there = ("--from", tempo.url)
    until(lambda: tempo.ask(f"/api/v2/traces/{slow.hex}")["trace"].get("resourceSpans"), "the trace is there")
    (read,) = reading.tempo(Wanted(tempo=tempo.url, wait_s=10), slow.hex)
    assert read.verdict == "ok", read
    shown = run("show", slow.hex, *there)
    assert "The user waited 4.00 s: 4.00 s (100 %) for the model small-chat (llm)." in shown
    assert "tts.inference" in shown  # the worker's spans as well

    def listed() -> list[str]:
        found = json.loads(run("turns", *there, "--slower-than", "2000", "--session", 'call "9"', "--json"))
        return [each["trace_id"] for each in found]

    until(lambda: listed() == [slow.hex], "search finds it", timeout_s=60)
    until(lambda: len(json.loads(run("turns", *there, "--json"))) == 25, "search finds all", timeout_s=60)
    first = json.loads(run("turns", *there, "--sort", "response", "--limit", "1", "--json"))
    assert [each["trace_id"] for each in first] == [slow.hex]
    by_stage = json.loads(run("turns", *there, "--stage", "llm", "--over", "500", "--service", "voice-agent", "--json"))
    assert len(by_stage) == 13
    spans = json.loads(run("export", slow.hex, *there))["resourceSpans"]
    assert {each["traceId"] for of in spans for scope in of["scopeSpans"] for each in scope["spans"]} == {slow.hex}
    middle = began_ns / 10**9 + 50
    found = json.loads(run("compare", f"{began_ns // 10**9 - 5}..{middle}", f"{middle}..", *there, "--json"))
    assert (found["before"]["turns"], found["now"]["turns"]) == (13, 12)
    assert found["latencies"]["response"]["p50"]["clear"] is True


def test_what_tempo_lacks_is_said(tempo: Tempo) -> None:
    """A trace that it does not have, a part of an id, a run: each is one line that says why."""
    runner = CliRunner()
    for arguments, words in (
        (("show", "0" * 31 + "1"), f"{tempo.url} has no trace"),
        (("show", "abc"), "by their whole id"),
        (("compare",), "Tempo knows no runs"),
    ):
        result = runner.invoke(main, [*arguments, "--from", tempo.url])
        assert (result.exit_code, words in result.output) == (1, True), result.output
