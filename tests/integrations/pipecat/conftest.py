"""Bots on the real framework; without it these tests are skipped."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("pipecat")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of modules that Pipecat imports

    from . import phone  # noqa: F401

from voicespan import diagnostics, emit
from voicespan.emit import BackgroundRecorder
from voicespan.integrations.pipecat import SETUP_FILES, PipecatInstrumentor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.finished import FinishedTurn


class Turns(list["FinishedTurn"]):
    """The turns that were finished, in order of their end."""

    def __init__(self, recorder: BackgroundRecorder) -> None:
        super().__init__()
        self._recorder = recorder
        recorder.watch = self.append

    def all(self) -> Turns:
        """Wait for those that are being finished; in order of their onset."""
        self._recorder.drain()
        self.sort(key=lambda turn: turn.root.start_ns)
        return self


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """Instrument Pipecat, as the distribution does it at start, and collect what comes of it."""
    recorder = BackgroundRecorder()
    monkeypatch.setattr(emit, "_recorder", recorder)
    monkeypatch.setenv(SETUP_FILES, "")
    diagnostics.forget()
    instrumentor = PipecatInstrumentor()
    instrumentor.instrument(skip_dep_check=True)
    yield Turns(recorder)
    instrumentor.uninstrument()
    assert SETUP_FILES not in os.environ
    assert diagnostics.counters.get("internal_error") == 0
