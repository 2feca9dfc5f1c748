"""Sound as bytes."""

from __future__ import annotations

import itertools
from array import array

import pytest

from voicespan.demo import pcm

from .sounds import noise, tone


def test_frames_are_whole() -> None:
    """Every frame has 20 ms; the last one is filled up with silence."""
    found = list(pcm.frames(tone(0.05)))
    assert [len(frame) for frame in found] == [pcm.FRAME_BYTES] * 3
    assert b"".join(found) == tone(0.05) + pcm.silence(0.01)


def test_length_in_seconds() -> None:
    """Length and silence are in seconds."""
    assert pcm.seconds(pcm.silence(1.5)) == 1.5


def test_peak_is_the_largest_in_either_direction() -> None:
    """The peak of nothing is 0, and the lowest sample counts as well as the highest."""
    assert pcm.peak(b"") == 0
    assert pcm.peak(array("h", [3, -7, 5]).tobytes()) == 7
    assert pcm.peak(array("h", [-32768]).tobytes()) == 32768


@pytest.mark.parametrize("rate", [22_050, 8_000, 48_000])
def test_resampling_keeps_length_and_pitch(rate: int) -> None:
    """A tone of another rate has the same length and frequency at 16 kHz."""
    result = pcm.resampled(tone(0.5, 440, rate=rate), rate)
    assert pcm.seconds(result) == pytest.approx(0.5, abs=0.001)
    samples = array("h", result)
    crossings = sum(left < 0 <= right for left, right in itertools.pairwise(samples))
    assert crossings == pytest.approx(220, abs=2)


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    """16 kHz stays as it is, and nothing stays nothing."""
    assert pcm.resampled(tone(0.1), pcm.RATE) == tone(0.1)
    assert pcm.resampled(b"", 22_050) == b""


def test_extent_finds_the_sound() -> None:
    """The first and last audible sample are found to within the window, over faint noise."""
    sound = noise(0.3, 12) + tone(0.2) + noise(0.4, 12, seed=2)
    found = pcm.extent(sound)
    assert found is not None
    assert found[0] / pcm.RATE == pytest.approx(0.3, abs=0.006)
    assert found[1] / pcm.RATE == pytest.approx(0.5, abs=0.006)


def test_extent_of_silence_is_none() -> None:
    """Noise that nobody hears is no sound."""
    assert pcm.extent(noise(0.2, 12)) is None
    assert pcm.trimmed(noise(0.2, 12)) == b""


def test_trimming_cuts_the_silence_around() -> None:
    """What is left begins and ends with the sound."""
    assert pcm.seconds(pcm.trimmed(pcm.silence(0.2) + tone(0.3) + pcm.silence(0.1))) == pytest.approx(0.3, abs=0.006)


def test_fading_ends_in_silence() -> None:
    """The end fades to nothing, the beginning is untouched."""
    faded = pcm.faded(tone(0.2), 0.05)
    assert faded[: len(faded) // 2] == tone(0.2)[: len(faded) // 2]
    assert pcm.peak(faded[-20:]) < 200
    assert pcm.faded(b"", 0.05) == b""
