"""Turns as a table: CSV with a row for each turn, every time and length in seconds."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.local import view

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from voicespan.local.reader import Reader
    from voicespan.local.turn import Turn

_LEFT_OUT = ("attributes", "shares")  # of any service, and a dictionary


def table(reader: Reader, trace_ids: Sequence[bytes]) -> Iterator[str]:
    """Yield the head of the table, then a line for each trace that is a turn; what is not known is empty.

    The attributes of the root span are not in it: what was said may be among them.
    """
    head: list[str] = []
    for trace_id in trace_ids:
        turn = reader.turn(trace_id.hex())
        if turn is None:
            continue
        cells = _cells(turn)
        if not head:
            head = list(cells)
            yield _line(head)
        yield _line(list(cells.values()))


def _cells(turn: Turn) -> dict[str, object]:
    cells = {name: value for name, value in view.turn(turn, content=False).items() if name not in _LEFT_OUT}
    shares = view.turn(turn, content=False)["shares"]
    return cells | {f"share_{stage}_s": shares.get(stage) for stage in n.SHARE_STAGES}


def _line(cells: Sequence[object]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(cells)
    return file.getvalue()
