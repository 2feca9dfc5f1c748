"""The characters that terminal views are drawn with."""

from __future__ import annotations

from typing import NamedTuple


class Glyphs(NamedTuple):
    """The characters that a turn is drawn with."""

    stage: str = "▆"
    milestone: str = "━"
    root: str = "─"
    moment: str = "▏"
    edge: str = "┊"
    swatch: str = "■"
    rest: str = "░"
    event: str = "◆"
    error: str = "✗"
    branch: str = "├ "
    last: str = "└ "
    trunk: str = "│ "
    ruler: str = "─"
    ruler_begins: str = "├"
    ruler_divides: str = "┼"
    ruler_ends: str = "┤"
    before: str = "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"
    after: str = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
    ellipsis: str = "…"
    dot: str = " · "
    margin: str = "±"


UNICODE = Glyphs()
ASCII = Glyphs(
    stage="#",
    milestone="=",
    root="-",
    moment="|",
    edge=":",
    swatch="*",
    rest=".",
    event="o",
    error="x",
    branch="|-",
    last="`-",
    trunk="| ",
    ruler="-",
    ruler_begins="+",
    ruler_divides="+",
    ruler_ends="+",
    before="<",
    after=">",
    ellipsis="..",
    dot=", ",
    margin="+-",
)
