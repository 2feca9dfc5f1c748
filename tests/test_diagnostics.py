from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from voicespan import diagnostics, settings
from voicespan.diagnostics import Counters, number, say
from voicespan.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing has been said or counted, and the settings are the defaults."""
    settings.reset(Settings())
    diagnostics.forget()
    yield
    settings.reset()
    diagnostics.forget()


def test_a_line_is_said_once_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The same key is one line until a minute has passed; another key is a line of its own."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert [say("a", "first"), say("a", "again"), say("b", "other")] == [True, False, True]
    now[0] += diagnostics.REPEAT_AFTER_S
    assert [say("a", "later"), say("a", "again")] == [True, False]
    assert capsys.readouterr().err == "voicespan: first\nvoicespan: other\nvoicespan: later\n"


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks in a message do not make a second line."""
    say("a", "one\n  two")
    assert capsys.readouterr().err == "voicespan: one two\n"


@pytest.mark.parametrize(("level", "shown"), [("off", []), ("warning", ["w"]), ("debug", ["d", "w"])])
def test_the_level_chooses(level: str, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """VOICESPAN_LOG_LEVEL keeps details, or everything, from being written."""
    settings.reset(Settings(log_level=level))  # type: ignore[arg-type]
    say("d", "d", level="debug")
    say("w", "w")
    assert capsys.readouterr().err == "".join(f"voicespan: {word}\n" for word in shown)


def test_a_broken_stderr_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised when stderr is closed or absent."""

    class Broken:
        def write(self, text: str) -> None:
            raise OSError("closed")

    monkeypatch.setattr(sys, "stderr", Broken())
    assert say("a", "lost") is False
    monkeypatch.setattr(sys, "stderr", None)
    assert say("b", "lost") is True


def test_keys_are_bounded() -> None:
    """However many keys are used, only a bounded number is remembered."""
    settings.reset(Settings(log_level="off"))
    for index in range(5000):
        say(f"key {index}", "text")
    assert len(diagnostics._said) <= 512


def test_counters_add_up() -> None:
    """Counts from several threads are all there, by name and in order."""
    counters = Counters()

    def count() -> None:
        for _ in range(1000):
            counters.add("b")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters.add("a", 3)
    assert counters.snapshot() == {"a": 3, "b": 4000}
    assert list(counters.snapshot()) == ["a", "b"]
    assert (counters.get("b"), counters.get("c")) == (4000, 0)


def test_counters_are_bounded() -> None:
    """Names beyond the limit are counted together."""
    counters = Counters(max_names=2)
    for name in "abcd":
        counters.add(name)
    assert counters.snapshot() == {"a": 1, "b": 1, "other": 2}


def test_a_held_lock_stops_nobody() -> None:
    """A count is kept although the lock is held by a thread that a signal has stopped."""
    counters = Counters()
    counters._lock.acquire()
    counters.add("a")
    assert counters.snapshot() == {"a": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_begins_at_zero() -> None:
    """The child of a fork inherits no count."""
    diagnostics.counters.add("a", 7)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, repr(diagnostics.counters.snapshot()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"{}"
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(("count", "text"), [(0, "0 spans"), (1, "1 span"), (2, "2 spans")])
def test_numbers_agree_with_their_noun(count: int, text: str) -> None:
    """One span, several spans."""
    assert number(count, "span") == text
