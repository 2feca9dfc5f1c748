"""Speech from text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from voicespan.demo import pcm
from voicespan.demo.speech import AGENT, CALLER, SpeechError, Voice, synthesized


def test_speaks_without_silence_around_it() -> None:
    """The sound has a plausible length, is loud, and begins and ends with speech."""
    sound = synthesized("We open at eight.")
    assert 0.6 < pcm.seconds(sound) < 2
    assert pcm.peak(sound) > 5000
    assert pcm.peak(sound[:640]) >= pcm.AUDIBLE
    assert pcm.peak(sound[-640:]) >= pcm.AUDIBLE


def test_every_thread_gets_its_own_speech() -> None:
    """Several threads at once, with two voices, each get the whole of what they asked for and nothing else."""
    texts = [f"{'one more ' * count} time" for count in range(6)]
    expected = [pcm.seconds(synthesized(text, AGENT)) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        others = threads.map(lambda text: synthesized(text, CALLER), texts)
        found = [pcm.seconds(sound) for sound in threads.map(lambda text: synthesized(text, AGENT), texts)]
        list(others)
    assert found == pytest.approx(expected, rel=0.05)  # the engine's voice flutters a little


def test_an_unknown_voice_is_an_error() -> None:
    """The error names the voice."""
    with pytest.raises(SpeechError, match="no such voice"):
        synthesized("hello", Voice("no such voice"))
