"""A file of OTLP JSON, piece by piece: it may be larger than the memory."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from voicespan.local.form import MalformedRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PIECE_CHARACTERS = 64 << 20
_CHUNK_CHARACTERS = 1 << 18
_BLANKS = " \t\r\n"
_AFTER = frozenset(",:]}" + _BLANKS)


class Piece(NamedTuple):
    """One item of `resourceSpans`, `resourceLogs` or another list at the top of a file."""

    kind: str
    data: Any
    characters: int


def pieces(file: IO[str]) -> Iterator[Piece]:
    """Yield the items of all lists at the top of a file, which may have several JSON objects after each other.

    Raises:
        MalformedRequestError: it is no such file; what came before was yielded.

    """
    text = _Text(file)
    try:
        while text.next():
            yield from _document(text)
    except UnicodeDecodeError:
        raise MalformedRequestError("the file is not UTF-8") from None
    except RecursionError:
        raise MalformedRequestError("the JSON is nested too deeply") from None


def _document(text: _Text) -> Iterator[Piece]:
    for key in _members(text, "{", "}"):
        if text.next() != "[":
            text.value()  # not of OTLP, or of a later version of it
            continue
        for _ in _members(text, "[", "]"):
            before = text.read
            yield Piece(key, text.value(), text.read - before)


def _members(text: _Text, begin: str, end: str) -> Iterator[str]:
    """Yield before each value of an object or array, with its key in an object; the caller reads the value."""
    text.expect(begin)
    if text.next() == end:
        text.expect(end)
        return
    while True:
        key = ""
        if begin == "{":
            key = text.value()
            if not isinstance(key, str):
                raise MalformedRequestError("the file is not JSON: a key is no string")
            text.expect(":")
        yield key
        if text.next() == end:
            text.expect(end)
            return
        text.expect(",")


class _Text:
    """The text of a file, of which only what the next value needs is in memory."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._decoder = json.JSONDecoder(parse_constant=_no_constant)
        self._text = ""
        self._at = 0
        self._ended = False
        self.read = 0
        """How many characters of values were read."""

    def next(self) -> str:
        """Return the next character that is not blank; none at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANKS:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        """Read this character."""
        found = self.next()
        if found != character:
            raise MalformedRequestError(f"the file is not OTLP in JSON: {character!r} is missing before {found!r}")
        self._at += 1

    def value(self) -> Any:
        """Read a whole value."""
        self.next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                raise MalformedRequestError(f"the file is not JSON: {error.msg}") from None
            except ValueError as error:
                raise MalformedRequestError(f"the file is not JSON: {error}") from None
            if self._text[end : end + 1] not in _AFTER and self._more():
                continue  # a number may go on
            self.read += end - self._at
            self._at = end
            return value

    def _more(self) -> bool:
        """Read on, ever more at once: a large value is then looked at a few times only."""
        kept = self._text[self._at :]
        if self._ended:
            return False
        if len(kept) > MAX_PIECE_CHARACTERS:
            raise MalformedRequestError(f"a piece of the file is larger than {MAX_PIECE_CHARACTERS} characters")
        more = self._file.read(max(_CHUNK_CHARACTERS, len(kept)))
        self._ended = not more
        self._text, self._at = kept + more, 0
        return bool(more)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
