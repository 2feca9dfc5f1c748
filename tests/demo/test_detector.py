"""Voice activity on real speech."""

from __future__ import annotations

import pytest

from voicespan.demo import pcm, scenarios
from voicespan.demo.detector import Activity, Detector, Noticed

from .sounds import cough, noise, on_the_line, spoken, tone

QUESTIONS = sorted(scenarios.questions())


def listen(sound: bytes) -> list[tuple[Noticed, int]]:
    """Return what is noticed, and after how many samples."""
    detector = Detector()
    found = []
    for number, frame in enumerate(pcm.frames(sound), start=1):
        found += [(noticed, number * pcm.FRAME_SAMPLES) for noticed in detector.listen(frame)]
    return found


def activities(sound: bytes) -> list[Activity]:
    """Return what is noticed."""
    return [noticed.activity for noticed, _ in listen(sound)]


@pytest.mark.parametrize("question", QUESTIONS)
def test_onset_and_end_are_exact(question: str) -> None:
    """Where speech begins and ends is found to 25 ms, whatever sounds it begins and ends with."""
    sound = on_the_line(spoken(question))
    extent = pcm.extent(sound)
    assert extent is not None
    found = {noticed.activity: noticed.sample for noticed, _ in listen(sound)}
    assert found[Activity.STARTED] / pcm.RATE == pytest.approx(extent[0] / pcm.RATE, abs=0.025)
    assert found[Activity.ENDED] / pcm.RATE == pytest.approx(extent[1] / pcm.RATE, abs=0.025)
    assert found[Activity.FINISHED] == found[Activity.ENDED]


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_decisions_come_in_time(question: str) -> None:
    """Speech is noticed within 160 ms, its end after 200 ms of silence, the end of the turn after 350 ms."""
    late_s = {
        noticed.activity: (position - noticed.sample) / pcm.RATE
        for noticed, position in listen(on_the_line(spoken(question)))
    }
    assert late_s[Activity.STARTED] <= 0.16
    assert 0.25 <= late_s[Activity.LASTING] <= 0.31
    assert 0.2 <= late_s[Activity.ENDED] <= 0.26
    assert 0.35 <= late_s[Activity.FINISHED] <= 0.41


def test_a_cough_does_not_last() -> None:
    """A cough begins and ends, but is never taken for somebody who wants to speak."""
    assert activities(on_the_line(cough())) == [Activity.STARTED, Activity.ENDED, Activity.FINISHED]


@pytest.mark.parametrize("sound", [noise(0.3, 6000), tone(0.4, 1000), pcm.silence(1)], ids=["noise", "tone", "silence"])
def test_what_is_no_voice_is_not_noticed(sound: bytes) -> None:
    """Noise, tones and silence are not speech."""
    assert activities(on_the_line(sound)) == []


def test_a_short_pause_does_not_finish_the_turn() -> None:
    """Who pauses for 300 ms has ended, goes on, and has finished once, where the second part ends."""
    first, second = spoken("okay"), spoken("where is my order")
    sound = on_the_line(first, pcm.silence(0.3), second)
    found = listen(sound)
    assert [noticed.activity for noticed, _ in found] == [
        Activity.STARTED,
        Activity.LASTING,
        Activity.ENDED,
        Activity.STARTED,
        Activity.LASTING,
        Activity.ENDED,
        Activity.FINISHED,
    ]
    extent = pcm.extent(sound)
    assert extent is not None
    assert found[-1][0].sample / pcm.RATE == pytest.approx(extent[1] / pcm.RATE, abs=0.025)


def test_the_size_of_the_frames_does_not_matter() -> None:
    """The same is noticed when the sound comes in one piece."""
    sound = on_the_line(spoken("where is my order"))
    assert Detector().listen(sound) == [noticed for noticed, _ in listen(sound)]
