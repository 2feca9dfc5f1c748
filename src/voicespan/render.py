"""A turn in the terminal: what the user waited for, as one sentence, a strip of the silence, and the waterfall."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from voicespan.local.glyphs import ASCII, UNICODE
from voicespan.local.stages import BAD
from voicespan.local.strip import flow, silence_strip
from voicespan.local.turn import NS_PER_S, summarise
from voicespan.local.waterfall import Waterfall
from voicespan.local.words import cause, milliseconds, printable, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from voicespan.local.glyphs import Glyphs
    from voicespan.local.score import Score
    from voicespan.local.span import Span
    from voicespan.local.turn import Turn

_MIN_WIDTH = 40
_OUTCOME_STYLES = {"completed": "#2b8a3e", "no_reply": "#e67700"}


def render_turn(spans: Sequence[Span], console: Console, scores: Sequence[Score] = ()) -> None:
    """Draw one trace on the console: of a stored trace, or of a `FinishedTurn` by `voicespan.local.span.spans_of`."""
    console.print(TurnView(spans, scores))


@dataclass(frozen=True, slots=True)
class TurnView:
    """The drawing of a trace as a rich renderable; it takes the width that it is given."""

    spans: Sequence[Span]
    scores: Sequence[Score] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        if not self.spans:
            yield Text("The trace has no spans.")
            return
        glyphs = ASCII if options.ascii_only else UNICODE
        coloured = console.color_system is not None and not console.no_color
        width = max(options.max_width, _MIN_WIDTH)
        turn = summarise(self.spans[0].trace_id, self.spans)
        yield from _head(turn, self.spans, width, glyphs)
        if self.scores:
            words = [Text(printable(verdict(score))) for score in self.scores]
            yield from flow([Text("scored", "dim"), *words], Text(glyphs.dot, "dim"), width)
        if turn is not None and turn.response_ns and turn.shares:
            yield Text()
            yield from silence_strip(turn, width, glyphs, coloured=coloured)
        yield Text()
        yield from Waterfall(self.spans, width, glyphs).lines()


def _head(turn: Turn | None, spans: Sequence[Span], width: int, glyphs: Glyphs) -> Iterator[Text]:
    if turn is None:
        yield Text.assemble(("trace ", "bold"), spans[0].trace_id, ("  no turn", "dim"))
        return
    outcome = turn.outcome or ("outcome unknown" if turn.complete else "incomplete")
    who = [turn.session_id, None if turn.turn_index is None else f"turn {turn.turn_index}"]
    entries = [Text(printable(word), "bold") for word in who if word]
    entries.append(Text(printable(outcome), f"bold {_OUTCOME_STYLES.get(outcome, BAD)}"))
    (head,) = flow(entries, Text(glyphs.dot, "dim"), sum(len(entry) + len(glyphs.dot) for entry in entries))
    sentence = printable(cause(turn))
    if len(head) + 2 + len(sentence) <= width:
        yield Text.assemble(head, "  ", sentence)
    else:
        yield head
        yield Text(sentence)
    circumstances = [Text(printable(words), "dim") for words in _circumstances(turn, glyphs)]
    yield from flow(circumstances, Text(glyphs.dot, "dim"), width)


def _circumstances(turn: Turn, glyphs: Glyphs) -> Iterator[str]:
    yield time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(turn.start_ns / NS_PER_S))
    if turn.measurement_point:
        margin = "" if turn.clock_error_ns is None else f" {glyphs.margin}{milliseconds(turn.clock_error_ns)}"
        yield f"measured at the {turn.measurement_point}{margin}"
    for word in (turn.service, turn.transport, turn.model, turn.voice, turn.language, turn.worker):
        if word:
            yield word
    yield f"trace {turn.trace_id}"
