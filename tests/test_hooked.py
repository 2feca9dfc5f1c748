"""What a silent installation says about itself."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from voicespan import diagnostics, hooked
from voicespan.stagemap.document import parse
from voicespan.stagemap.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.testing import VoiceRecorder


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    diagnostics.forget()
    hooked.forget()
    yield
    hooked.forget()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    hooked.explain()
    return capsys.readouterr().err


def test_a_framework_without_an_onset(voice: VoiceRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """A framework whose session has heard nothing says what it waits for, in its own words, once."""
    hooked.source("livekit-agents", "1.8.9", "VAD event").adopt(voice.session())
    assert said(capsys) == (
        "voicespan: no turn after 30 s: livekit-agents 1.8.9 hooked, 1 session, 0 turns: no VAD event\n"
    )
    assert said(capsys) == ""


def test_a_framework_with_an_onset_only(voice: VoiceRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """Where speech has begun and no turn was decided, that is what is missing."""
    session = voice.session()
    hooked.source("pipecat-ai", "1.14.0", "VAD event").adopt(session)
    session.user_turn()
    assert "pipecat-ai 1.14.0 hooked, 1 session, 0 turns: VAD event, but no end of a turn" in said(capsys)


def test_a_turn_is_all_that_is_wanted(voice: VoiceRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """After a turn there is nothing to explain."""
    voice.session().user_turn(input="text")
    assert said(capsys) == ""


def test_own_code_without_a_turn(voice: VoiceRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """The service's own session without a mark says which one it waits for."""
    voice.session()
    assert "own code hooked, 1 session, 0 turns: no user_turn()" in said(capsys)


def test_functions_of_a_stage_map_that_were_never_called(capsys: pytest.CaptureFixture[str]) -> None:
    """A stage map names the functions that nobody has called."""
    pipeline = Pipeline(parse({"stages": {"asr": "app.asr:finish", "llm": "app.llm:stream"}}))
    pipeline.called.add("app.llm:stream")
    assert "stage map hooked, 0 sessions, 0 turns: never called: app.asr:finish" in said(capsys)


def test_nothing_is_hooked(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing was found to hook, the line says what was looked for."""
    assert "nothing is hooked: no framework that voicespan knows was imported" in said(capsys)


def test_a_library_that_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    """A service of libraries only says so while none of them has given a span, and is silent afterwards."""
    hooked.library("grpcio", "1.85.1")
    spans: list[object] = []
    hooked._recorded[:] = [lambda: bool(spans)]
    try:
        spans.append("a span")
        assert said(capsys) == ""
        spans.clear()
        assert "grpcio 1.85.1 hooked, and none was used" in said(capsys)
    finally:
        hooked._recorded.clear()


def test_what_has_moved_is_not_hooked(capsys: pytest.CaptureFixture[str]) -> None:
    """A version that was said not to be instrumented is not called hooked afterwards, in whichever order it is told."""
    hooked.source("pipecat-ai", "1.99.0", "VAD event")
    hooked.moved("pipecat-ai", "1.99.0")
    hooked.moved("redis", "9.0.0")
    hooked.library("redis", "9.0.0")
    hooked.library("grpcio", "1.85.1")
    assert said(capsys) == (
        "voicespan: no turn after 30 s: grpcio 1.85.1 hooked, and none was used; not hooked, since it has moved "
        "something: pipecat-ai 1.99.0; not hooked, since it has moved something: redis 9.0.0\n"
    )


def test_a_parent_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """A process that has forked leaves it to its children, which hold the calls."""
    hooked._forked()
    assert said(capsys) == ""


def test_a_child_of_a_fork_waits_and_goes_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """A child of a prefork server says after a while that there was no turn, but not when it ends."""
    hooked._state.add("child")
    hooked.explain(at_end=True)
    assert capsys.readouterr().err == ""
    assert "nothing is hooked" in said(capsys)


def test_the_wait_is_a_daemon_s(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After the time the line is said by a daemon thread, which keeps no process from its end."""
    monkeypatch.setattr(hooked, "AFTER_S", 0.05)
    try:
        hooked.begin(lambda: False)
        (waiting,) = [thread for thread in threading.enumerate() if thread.name == "voicespan-hooked"]
        assert waiting.daemon
        waiting.join(10)
    finally:
        hooked._recorded.clear()
    assert "voicespan: no turn after 0.05 s: nothing is hooked" in capsys.readouterr().err
