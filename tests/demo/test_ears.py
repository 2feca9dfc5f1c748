"""Detector and recognizer together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voicespan.demo import ears, pcm, scenarios, truth
from voicespan.demo.ears import Ears, Heard
from voicespan.demo.recognizer import Recognizers

from .sounds import cough, on_the_line, spoken

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def recognizers() -> Recognizers:
    """Give recognizers with the grammar of the demo."""
    return Recognizers(scenarios.questions())


async def listen(recognizers: Recognizers, sound: bytes) -> list[Heard]:
    """Return what is heard."""
    with Ears(recognizers) as listener:
        return [heard for frame in pcm.frames(sound) for heard in await listener.listen(frame)]


async def test_a_question_is_heard_from_onset_to_text(recognizers: Recognizers) -> None:
    """The moments come in order: start, lasting, words, end, and the text at the end of the turn."""
    heard = await listen(recognizers, on_the_line(spoken("what is my account balance")))
    assert [type(each) for each in heard if not isinstance(each, ears.WordsHeard)] == [
        ears.SpeechStarted,
        ears.SpeechLasts,
        ears.SpeechEnded,
        ears.TurnEnded,
    ]
    counts = [each.count for each in heard if isinstance(each, ears.WordsHeard)]
    assert counts == sorted(counts)
    assert max(counts) >= 4
    assert heard[-1] == ears.TurnEnded("what is my account balance", lasted=True)


async def test_a_recognizer_that_fails_is_tried_again(recognizers: Recognizers) -> None:
    """Where the scenario wants it, an attempt fails before the one that gives the words."""
    heard = await listen(recognizers, on_the_line(spoken("i want to speak to a person")))
    failed, ended = heard[-2:]
    assert isinstance(failed, ears.RecognitionFailed)
    assert isinstance(failed.error, TimeoutError)
    assert ended == ears.TurnEnded("i want to speak to a person", lasted=True)


async def test_a_cough_is_heard_as_such(recognizers: Recognizers) -> None:
    """A cough has no text and does not last."""
    heard = await listen(recognizers, on_the_line(cough()))
    assert heard[-1] == ears.TurnEnded(None, lasted=False)
    assert not any(isinstance(each, ears.SpeechLasts | ears.WordsHeard) for each in heard)


async def test_agreement_has_one_word(recognizers: Recognizers) -> None:
    """A "right" is never taken for two words, which would interrupt the agent."""
    heard = await listen(recognizers, on_the_line(spoken("right")))
    assert max(each.count for each in heard if isinstance(each, ears.WordsHeard)) == 1
    assert heard[-1] == ears.TurnEnded("right", lasted=True)


async def test_one_call_after_another(recognizers: Recognizers) -> None:
    """The next call has the same recognizer and hears as well."""
    for _ in range(2):
        heard = await listen(recognizers, on_the_line(spoken("where is my order")))
        assert heard[-1] == ears.TurnEnded("where is my order", lasted=True)


async def test_a_pause_joins_the_parts(recognizers: Recognizers) -> None:
    """What is said on both sides of a short pause is one utterance with one end of turn."""
    sound = on_the_line(spoken("okay"), pcm.silence(0.3), spoken("right"))
    heard = await listen(recognizers, sound)
    assert sum(isinstance(each, ears.TurnEnded) for each in heard) == 1
    assert sum(isinstance(each, ears.SpeechStarted) for each in heard) == 2


async def test_the_decision_is_noted(recognizers: Recognizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo compares with its spans is noted when the decision is made."""
    monkeypatch.setenv(truth.VARIABLE, str(tmp_path / "truth.jsonl"))
    await listen(recognizers, on_the_line(spoken("where is my order")))
    decided, written = truth.read(tmp_path / "truth.jsonl")
    assert (decided.event, written.event) == ("turn_ended", "transcript")
    assert decided.scenario == written.scenario == "where is my order"
    assert decided.at_ns <= written.at_ns
