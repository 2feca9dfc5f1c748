"""The targets of fuzz/ for a moment each: any bytes, and damaged ones of what they understand."""

from __future__ import annotations

import pytest
from fuzz.targets import TARGETS
from hypothesis import example, given, settings
from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """What is left of a valid text when some of it is replaced, repeated or cut off."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        data[at : at + length] = draw(st.binary(max_size=8)) * draw(st.integers(1, 3))
    return bytes(data)


@pytest.mark.parametrize("name", list(TARGETS))
def test_any_bytes_are_taken_or_refused(name: str) -> None:
    """No bytes make a parser of ours raise anything but its own refusal."""
    target, seeds = TARGETS[name]

    @settings(max_examples=40 if name in {"stage_map", "spool_file"} else 100, deadline=None)
    @example(b"")
    @given(st.one_of(st.binary(max_size=200), *(damaged(seed) for seed in seeds)))
    def check(data: bytes) -> None:
        target(data)

    for seed in seeds:
        target(seed)
    check()
