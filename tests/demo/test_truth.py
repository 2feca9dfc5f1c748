"""Notes of what happened."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from voicespan.demo import truth

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_notes_are_read_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note keeps its event, scenario, time and details; without a time it is of now."""
    path = tmp_path / "truth.jsonl"
    monkeypatch.setenv(truth.VARIABLE, str(path))
    begin_ns = time.monotonic_ns()
    truth.note("model.request", "plain", size=3)
    truth.note("model.first_token", "plain", at_ns=7)
    now, past = truth.read(path)
    assert begin_ns <= now.at_ns <= time.monotonic_ns()
    assert (now.event, now.scenario, now.details) == ("model.request", "plain", {"size": 3})
    assert past == truth.Note("model.first_token", "plain", 7, {})


def test_nothing_is_written_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody asked for notes, none are taken; a file that is not there has none."""
    monkeypatch.delenv(truth.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    truth.note("model.request", "plain")
    assert list(tmp_path.iterdir()) == []
    assert list(truth.read(tmp_path / "none")) == []


def test_writers_do_not_mix_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many writers at once leave whole lines."""
    path = tmp_path / "truth.jsonl"
    monkeypatch.setenv(truth.VARIABLE, str(path))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: truth.note("event", "plain", number=number), range(200)))
    assert sorted(int(note.details["number"] or 0) for note in truth.read(path)) == list(range(200))
