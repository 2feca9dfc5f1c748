"""Words are counted without tags, and the same however the text is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicespan import names as n
from voicespan.finish import character_range, word_range
from voicespan.words import WordCount, count_words

if TYPE_CHECKING:
    from voicespan.testing import VoiceRecorder


@pytest.mark.covers("E-S01", "E-S03", "E-U03")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello world!", 2),
        ("(happy) Hello (sad) world", 2),
        ("Hello ( very  happy ) world", 2),
        ("Wait - what ... ?!", 2),
        ("", 0),
        ("(happy)", 0),
        ("... !? -", 0),
        ("Grüße, naïve façade – 3 Äpfel\u3000mehr", 6),
        ("你好 世界", 2),
        ("a (b (c) d) e", 2),
        ("an (open tag", 3),
    ],
)
def test_words_by_hand(text: str, words: int) -> None:
    """Tags in brackets are no words, punctuation alone is none, and any script counts."""
    assert count_words(text) == words


@given(st.lists(st.text("ab .()\n", max_size=12), max_size=8))
def test_pieces_count_as_the_whole(pieces: list[str]) -> None:
    """However a text is cut, also within a word or a tag, it has the same number of words."""
    counted = WordCount()
    for piece in pieces:
        counted.add(piece)
    assert counted.total == count_words("".join(pieces))


def test_little_of_the_text_is_kept() -> None:
    """A tag that never ends, or a word without end, is not kept for ever."""
    counted = WordCount()
    for _ in range(1000):
        counted.add("(open and on ")
    assert len(counted._rest) <= 256


@pytest.mark.covers("E-S02", "E-Q01")
def test_ranges_have_their_edges() -> None:
    """Each range begins where the one before ends: 200 words are in 101-200, 201 above, none are `0`."""
    assert [word_range(words) for words in (0, 1, 10, 11, 25, 26, 50, 51, 100, 101, 200, 201, 9999)] == [
        "0", "1-10", "1-10", "11-25", "11-25", "26-50", "26-50", "51-100", "51-100", "101-200", "101-200", "200+",
        "200+",
    ]  # fmt: skip
    edges = (0, 1, 50, 51, 150, 151, 300, 301, 600, 601, 1200, 1201)
    assert [character_range(length) for length in edges] == [
        "0", "1-50", "1-50", "51-150", "51-150", "151-300", "151-300", "301-600", "301-600", "601-1200", "601-1200",
        "1200+",
    ]  # fmt: skip


def test_a_stage_counts_tokens_as_words(voice: VoiceRecorder) -> None:
    """Text that a model streams in pieces of words has the range of its words, tags left out."""
    with voice.session() as session:
        turn = session.agent_turn()
        with turn.tts() as tts:
            for piece in ("(hap", "py) Hel", "lo", " wor", "ld, how are you to", "day? All is well."):
                tts.text(piece)
            tts.audio(1.0)
        turn.audio_sent(1.0)
    (turn_,) = voice.turns
    assert turn_[n.SPAN_TTS].attributes[n.VOICE_TEXT_WORD_COUNT_RANGE] == "1-10"  # nine words, in six pieces
    assert turn_[n.SPAN_TTS].attributes[n.VOICE_TEXT_LENGTH] == 52
