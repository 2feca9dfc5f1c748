"""Files of OTLP JSON, read piece by piece."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicespan.local import pieces as module
from voicespan.local.form import MalformedRequestError
from voicespan.local.pieces import pieces


class Trickle(io.StringIO):
    """A file that gives a few characters at a time, as a pipe may."""

    def read(self, size: int | None = -1, /) -> str:
        return super().read(min(size or 3, 3))


def found(text: str) -> list[tuple[str, Any]]:
    return [(piece.kind, piece.data) for piece in pieces(io.StringIO(text))]


def test_items_of_each_list_are_given_in_order() -> None:
    """Every item of a list at the top of the file is a piece; other values are passed over."""
    text = '{"resourceSpans": [{"a": 1}, {"b": [2]}], "version": 3, "resourceLogs":[], "x": {"y": [1]}, "z": ["c"]}'
    assert found(text) == [("resourceSpans", {"a": 1}), ("resourceSpans", {"b": [2]}), ("z", "c")]


def test_several_objects_may_follow_each_other() -> None:
    """The Collector's file exporter writes one object a line."""
    assert found('{"a":[1]}\n{"a":[2]}{}\n\n') == [("a", 1), ("a", 2)]
    assert found("") == found(" \n") == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), max_size=3), st.sampled_from([None, 2]))
def test_pieces_are_those_of_the_whole_text(documents: list[dict[str, Any]], indent: int | None) -> None:
    """However the text is written, and however little comes at a time, the pieces are those of parsing it whole."""
    text = "\n".join(json.dumps(document, indent=indent) for document in documents)
    expected = [
        (key, item)
        for document in documents
        for key, value in document.items()
        if isinstance(value, list)
        for item in value
    ]
    assert found(text) == expected
    assert [(piece.kind, piece.data) for piece in pieces(Trickle(text))] == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "'{' is missing"),
        ("3", "'{' is missing"),
        ('{"a"', "':' is missing"),
        ('{"a": [1', "',' is missing"),
        ('{"a": [1] "b"', "',' is missing"),
        ("{3: []}", "a key is no string"),
        ('{"a": [tru]}', "not JSON"),
        ('{"a": [NaN]}', "NaN is not JSON"),
        ('{"a": [' + "9" * 5000 + "]}", "not JSON"),
        ('{"a": [{"b": "c}]}', "not JSON"),
        ('{"a": [' + "[" * 100_000, "nested too deeply"),
        ('{"a": [1,]}', "not JSON"),
    ],
)
def test_what_is_no_such_file_is_refused(text: str, reason: str) -> None:
    """Text that is no JSON object, or cut off, ends with the reason; nothing else is raised."""
    with pytest.raises(MalformedRequestError, match=reason):
        found(text)


def test_bytes_that_are_no_text_are_refused() -> None:
    """A file that is not UTF-8 is no JSON."""
    with pytest.raises(MalformedRequestError, match="UTF-8"):
        list(pieces(io.TextIOWrapper(io.BytesIO(b'{"a": ["\xff"]}'), encoding="utf-8")))


def test_what_comes_before_a_fault_is_given() -> None:
    """The pieces before a place that is wrong have been given already."""
    reading = pieces(io.StringIO('{"a": [1, 2, x]}'))
    assert [next(reading).data, next(reading).data] == [1, 2]
    with pytest.raises(MalformedRequestError):
        next(reading)


def test_a_large_file_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one piece is in memory; one that is too large is refused before it is read whole."""
    text = '{"a": [' + ",".join(['"' + "x" * 10_000 + '"'] * 2_000) + "]}"
    file = io.StringIO(text)
    tracemalloc.start()
    try:
        assert sum(1 for _ in pieces(file)) == 2_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(module, "MAX_PIECE_CHARACTERS", 1 << 20)
    large = io.StringIO('{"a": ["' + "x" * (20 << 20) + '"]}')
    with pytest.raises(MalformedRequestError, match="larger"):
        list(pieces(large))
    assert large.tell() < 4 << 20
