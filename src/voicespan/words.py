"""How many words are to be spoken: without tags for emotions, and however the text is cut into pieces."""

from __future__ import annotations

import re

_TAG = re.compile(r"\([^()]{0,200}\)")
"""`(happy)` is a stage direction, and not spoken."""
_MOST_KEPT = 256


def count_words(text: str) -> int:
    """Return the words of a text: what stands between white space and has a letter or digit, tags left out."""
    return _words(_without_tags(text))


def _without_tags(text: str) -> str:
    """Take tags out, also one within another."""
    while (less := _TAG.sub("", text)) != text:
        text = less
    return text


def _words(text: str) -> int:
    return sum(any(letter.isalnum() for letter in word) for word in text.split())


class WordCount:
    """The words of a text that comes in pieces; of the text only an unfinished word or tag is kept, until the next."""

    __slots__ = ("_rest", "_whole")

    def __init__(self) -> None:
        self._rest = ""
        self._whole = 0

    def add(self, piece: str) -> None:
        """Take the next piece."""
        text = _without_tags(self._rest + piece)
        done = text.partition("(")[0]  # behind it a tag may come to its end
        if done and not done[-1].isspace():  # its last word may go on
            done = done[: len(done) - len(done.split()[-1])]
        if len(text) - len(done) > _MOST_KEPT:
            done = text
        self._whole += _words(done)
        self._rest = text[len(done) :]

    @property
    def total(self) -> int:
        """The words so far; a tag that was never closed is text."""
        return self._whole + _words(self._rest)
