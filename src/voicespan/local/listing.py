"""Turns as lists in the terminal: a table, and a line for each turn as it comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from voicespan.local.query import INCOMPLETE, SORT_COLUMNS
from voicespan.local.stages import BAD, COLOURS
from voicespan.local.strip import mini_strip
from voicespan.local.turn import NS_PER_S
from voicespan.local.words import NS_PER_MS, percent, printable, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from voicespan.local.turn import Turn

_STRIP_CELLS = 24
_MAX_COLUMN_WIDTH = 28
_TRACE_DIGITS = 12
_BOTTLENECK_WIDTH = 18
_UNLIMITED = 10_000
_COLOURS_ONLY = "where it went"


class _Column(NamedTuple):
    """A column of the list; `optional` ones are left out where the console is too narrow, the highest number first."""

    title: str
    cell: Callable[[Turn], str | Text]
    right: bool = False
    optional: int = 0


def turn_table(found: list[Turn], sort: str, console: Console) -> Table:
    """Return the table of these turns, with the latency that they are sorted by, as wide as the console allows."""
    coloured = console.color_system is not None and not console.no_color
    columns = [column for column in _columns(sort) if coloured or column.title != _COLOURS_ONLY]
    table = _table(found, columns)
    while Measurement.get(console, console.options.update(max_width=_UNLIMITED), table).maximum > console.width:
        least = max(columns, key=lambda column: column.optional)
        if not least.optional:
            break
        columns.remove(least)
        table = _table(found, columns)
    return table


def _table(found: list[Turn], columns: list[_Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        justify: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=True, max_width=_MAX_COLUMN_WIDTH)
    for turn in found:
        table.add_row(*(column.cell(turn) for column in columns))
    return table


def _columns(sort: str) -> Iterator[_Column]:
    yield _Column("time", lambda turn: Text(_clock(turn.start_ns), "dim"))
    yield _Column("session", lambda turn: Text(printable(turn.session_id or turn.service)))
    yield _Column("turn", lambda turn: str(turn.turn_index or ""), right=True)
    yield _Column("heard silence", _heard, right=True)
    if sort not in ("start", "response"):
        yield _Column(sort, lambda turn: _milliseconds(getattr(turn, SORT_COLUMNS[sort])), right=True)
    yield _Column(_COLOURS_ONLY, lambda turn: mini_strip(turn, _STRIP_CELLS), optional=3)
    yield _Column("mostly", _bottleneck, optional=1)
    yield _Column("outcome", lambda turn: Text(_outcome(turn), _outcome_style(turn)), optional=2)
    yield _Column("model", lambda turn: Text(printable(turn.model or ""), "dim"), optional=4)
    yield _Column("trace", lambda turn: Text(turn.trace_id[:_TRACE_DIGITS], "dim"))


def _heard(turn: Turn) -> Text:
    return Text(_milliseconds(turn.response_ns), f"bold {BAD}" if turn.unanswered else "bold")


def _bottleneck(turn: Turn) -> Text:
    share_ns = turn.shares.get(turn.bottleneck or "")
    if not share_ns or not turn.response_ns:
        return Text()
    return Text(f"{turn.bottleneck} {percent(share_ns, turn.response_ns)}", COLOURS[str(turn.bottleneck)])


def _outcome(turn: Turn) -> str:
    return printable(turn.outcome or "" if turn.complete else INCOMPLETE)


def _outcome_style(turn: Turn) -> str:
    return "" if turn.outcome == "completed" else BAD


def _clock(start_ns: int) -> str:
    start, today = time.localtime(start_ns / NS_PER_S), time.localtime()
    return time.strftime("%H:%M:%S" if start[:3] == today[:3] else "%Y-%m-%d %H:%M", start)


def _milliseconds(length_ns: int | None) -> str:
    return "" if length_ns is None else f"{length_ns / NS_PER_MS:,.0f} ms"


def turn_line(turn: Turn) -> Text:
    """Return one line that says who waited how long, for what, and what came of it."""
    bottleneck = _bottleneck(turn)
    bottleneck.pad_right(max(_BOTTLENECK_WIDTH - len(bottleneck), 0))
    waited = "" if turn.response_ns is None else seconds(turn.response_ns)
    who = f"{turn.session_id or turn.service or '-'} · {turn.turn_index or '-'}"
    return Text.assemble(
        (_clock(turn.start_ns), "dim"),
        f"  {printable(who):<24.24}",
        f" {waited:>8}  ",
        bottleneck,
        (f"{_outcome(turn):<12}", _outcome_style(turn)),
        (turn.trace_id[:_TRACE_DIGITS], "dim"),
    )
