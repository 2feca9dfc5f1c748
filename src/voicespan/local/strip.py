"""The strip of the heard silence: what the user waited for, each stage in proportion."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from voicespan import names as n
from voicespan.local.glyphs import UNICODE
from voicespan.local.stages import COLOURS
from voicespan.local.words import milliseconds, percent, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from voicespan.local.glyphs import Glyphs
    from voicespan.local.turn import Turn


class _Part(NamedTuple):
    """One stage in the strip."""

    stage: str
    share_ns: int
    cells: int


def silence_strip(turn: Turn, width: int, glyphs: Glyphs, *, coloured: bool) -> Iterator[Text]:
    """Draw the strip with its ends and its legend; without colours, as a ruler with names."""
    total_ns = sum(turn.shares.values())
    parts = _parts(turn, width)
    begins = "message" if turn.response_from == "message" else "speech ends"
    ends = f"{'gave up' if turn.unanswered else 'heard'} after {seconds(turn.response_ns or total_ns)}"
    yield Text(begins + ends.rjust(width - len(begins)), "dim")
    yield _coloured_strip(parts) if coloured else _plain_strip(parts, glyphs)
    yield from _legend(parts, total_ns, width, glyphs)


def mini_strip(turn: Turn, cells: int) -> Text:
    """Return the strip of the heard silence in a few cells and without words, for one line of a list."""
    strip = Text(no_wrap=True)
    for part in _parts(turn, cells):
        strip.append(UNICODE.stage * part.cells, COLOURS[part.stage])
    return strip


def _parts(turn: Turn, width: int) -> list[_Part]:
    """Return the stages that have a share, in causal order."""
    shares = [(stage, turn.shares[stage]) for stage in n.SHARE_STAGES if turn.shares.get(stage)]
    sizes = _divide([share_ns for _, share_ns in shares], width)
    return [_Part(stage, share_ns, size) for (stage, share_ns), size in zip(shares, sizes, strict=True)]


def _divide(weights: Sequence[int], cells: int) -> list[int]:
    """Divide cells in proportion and give all of them out; a small part gets one, unless it is next to nothing."""
    total = sum(weights)
    sizes = [max(round(weight * cells / total), int(4 * weight * cells >= total)) for weight in weights]
    while sizes and sum(sizes) != cells:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[largest] += 1 if sum(sizes) < cells else -1
    return sizes


def _coloured_strip(parts: Iterable[_Part]) -> Text:
    strip = Text(no_wrap=True)
    for part in parts:
        ground = COLOURS[part.stage]
        ink = "#1c1d21" if part.stage in ("unattributed", "sentence") else "#ffffff"
        strip.append(_label(part, part.cells).center(part.cells), f"bold {ink} on {ground}")
    return strip


def _plain_strip(parts: Sequence[_Part], glyphs: Glyphs) -> Text:
    """Draw the strip as a ruler whose sections carry their names where these fit."""
    drawn = [part for part in parts if part.cells]
    sections = [_label(part, part.cells - 1).center(part.cells - 1, glyphs.ruler) for part in drawn]
    ruler = glyphs.ruler_begins + glyphs.ruler_divides.join(sections)
    return Text(ruler[: sum(part.cells for part in drawn) - 1] + glyphs.ruler_ends, no_wrap=True)


def _label(part: _Part, room: int) -> str:
    labels = (f" {part.stage} {milliseconds(part.share_ns)} ", f" {part.stage} ", part.stage)
    return next((label for label in labels if len(label) <= room), "")


def _legend(parts: Iterable[_Part], total_ns: int, width: int, glyphs: Glyphs) -> Iterator[Text]:
    entries = [
        Text.assemble(
            (glyphs.rest if part.stage == "unattributed" else glyphs.swatch, COLOURS[part.stage]),
            f" {part.stage} {milliseconds(part.share_ns)}",
            (f" {percent(part.share_ns, total_ns)}", "dim"),
        )
        for part in parts
    ]
    return flow(entries, Text("   "), width)


def flow(entries: Iterable[Text], separator: Text, width: int) -> Iterator[Text]:
    """Put entries into lines, without breaking one."""
    line = Text()
    for entry in entries:
        if line.plain and len(line) + len(separator) + len(entry) > width:
            yield line
            line = Text()
        line = Text.assemble(line, separator, entry) if line.plain else entry.copy()
    yield line
