"""The fixture of the scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.sdk.parity import same

from .timeline import Timeline, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.testing import VoiceRecorder


@pytest.fixture
def at(voice: VoiceRecorder) -> Iterator[Timeline]:
    """Give a timeline whose zero is now; at the end, every turn of the scenario must keep what all turns keep.

    And its bytes are those that the SDK would have made of its spans.
    """
    yield Timeline(voice)
    for turn in voice.turns:
        check(turn)
    same(voice.turns)
