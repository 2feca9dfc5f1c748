"""What can be measured in a recording."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import pytest

from voicespan.demo import pcm
from voicespan.demo.recording import Recording

from .sounds import noise, tone

if TYPE_CHECKING:
    from pathlib import Path

SECOND = pcm.RATE


@pytest.fixture
def recording() -> Recording:
    """Give a call: the caller speaks from 1 s to 2 s, the agent from 2.5 s to 3.5 s and from 4.5 s to 5.5 s."""
    said = noise(1, 12) + tone(1) + noise(4, 12, seed=2)
    heard = pcm.silence(2.5) + tone(1) + pcm.silence(1) + tone(1) + pcm.silence(0.5)
    return Recording(bytearray(said), bytearray(heard))


def test_silence_is_from_last_sound_to_first(recording: Recording) -> None:
    """The silence is 0.5 s, although the caller's frames reach beyond the speech."""
    found = recording.silence_after(SECOND, 2 * SECOND + 5000, 6 * SECOND)
    assert found == pytest.approx(0.5, abs=0.006)


def test_no_answer_is_none(recording: Recording) -> None:
    """What comes only after the caller's next words is no answer."""
    assert recording.silence_after(SECOND, 2 * SECOND, 2 * SECOND + 100) is None


def test_the_answer_comes_after_the_first_pause(recording: Recording) -> None:
    """After a filler, the answer is what follows the pause; without a pause there is none."""
    assert recording.answer_after(SECOND, 2 * SECOND, 6 * SECOND) == pytest.approx(2.5, abs=0.006)
    assert recording.answer_after(SECOND, 2 * SECOND, 4 * SECOND) is None


def test_the_agent_is_still_heard(recording: Recording) -> None:
    """Who begins to speak at 3 s hears the agent for another 0.5 s; at 1 s, not at all."""
    recording.said[2 * 3 * SECOND : 2 * 4 * SECOND] = tone(1)
    assert recording.sound_after(3 * SECOND, 4 * SECOND) == pytest.approx(0.5, abs=0.006)
    assert recording.sound_after(SECOND, 2 * SECOND) is None


def test_nothing_said_is_nothing_measured(recording: Recording) -> None:
    """In a stretch without speech there is no onset to measure from."""
    assert recording.sound_after(0, SECOND // 2) is None


def test_writes_both_directions(recording: Recording, tmp_path: Path) -> None:
    """The WAV file has the caller on the left, the agent on the right, and the length of the longer one."""
    recording.heard += tone(1)
    recording.write(tmp_path / "call.wav")
    with wave.open(str(tmp_path / "call.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, pcm.RATE, 7 * SECOND)
        frames = file.readframes(file.getnframes())
    assert frames[0::4] == bytes(recording.said.ljust(14 * SECOND, b"\0"))[0::2]
    assert frames[2::4] == bytes(recording.heard)[0::2]
