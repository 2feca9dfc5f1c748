"""Recognition of real speech by a grammar."""

from __future__ import annotations

import pytest

from voicespan.demo import pcm, scenarios
from voicespan.demo.recognizer import Recognizer, Recognizers

from .sounds import cough, on_the_line, spoken


@pytest.fixture
def recognizer() -> Recognizer:
    """Give one with the grammar of the demo, used to the line by one question, as in a call.

    A new one for each test: it adapts to what it hears, and tests come in any order.
    """
    recognizer = Recognizer(scenarios.questions())
    heard(recognizer, spoken("what time do you open tomorrow"))
    return recognizer


def heard(recognizer: Recognizer, sound: bytes) -> str | None:
    """Return what is understood."""
    recognizer.start()
    for frame in pcm.frames(on_the_line(sound, after_s=0.35)):
        recognizer.listen(frame)
    return recognizer.finish()


@pytest.mark.parametrize("question", sorted(scenarios.questions()))
def test_understands_every_question(recognizer: Recognizer, question: str) -> None:
    """What the caller of the demo says is understood word by word."""
    assert heard(recognizer, spoken(question)) == question


@pytest.mark.parametrize("text", ["blah blah", "stop please", "I am sorry"])
def test_other_words_are_not_understood(recognizer: Recognizer, text: str) -> None:
    """What the grammar does not have is no text, and not the nearest sentence."""
    assert heard(recognizer, spoken(text)) is None


def test_a_cough_is_no_text(recognizer: Recognizer) -> None:
    """A cough is not understood."""
    assert heard(recognizer, cough()) is None


def test_counts_words_while_they_are_spoken(recognizer: Recognizer) -> None:
    """The number of words grows in the course of the utterance."""
    recognizer.start()
    counts = []
    for frame in pcm.frames(on_the_line(spoken("what is the weather in london"))):
        recognizer.listen(frame)
        counts.append(recognizer.words())
    assert counts[0] <= 1
    assert counts[len(counts) // 2] in (2, 3, 4)
    assert counts[-1] == 6
    recognizer.stop()


def test_starting_anew_forgets_what_was_heard(recognizer: Recognizer) -> None:
    """An utterance that was broken off leaves nothing behind."""
    recognizer.start()
    recognizer.listen(spoken("please read my messages"))
    assert heard(recognizer, spoken("where is my order")) == "where is my order"


def test_recognizers_are_used_again() -> None:
    """One that was given back is taken before a new one is made, and is ready for a new call."""
    recognizers = Recognizers(["where is my order"])
    first = recognizers.take()
    second = recognizers.take()
    assert second is not first
    first.start()
    recognizers.give_back(first)
    assert recognizers.take() is first
    assert heard(first, spoken("where is my order")) == "where is my order"
