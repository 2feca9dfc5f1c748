"""The waterfall of a trace: the tree of its spans as bars on a common time axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from voicespan import names as n
from voicespan.local.glyphs import ASCII
from voicespan.local.stages import ACCENT, BAD, MILESTONES, colour_of
from voicespan.local.turn import NS_PER_S
from voicespan.local.words import NS_PER_MS, milliseconds, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from voicespan.local.glyphs import Glyphs
    from voicespan.local.span import Event, Span

MAX_ROWS = 200
"""Rows of the waterfall; what comes after is counted."""

_MIN_BARS = 16
_LENGTH_WIDTH = 10
_MARKED_BY_SPANS = frozenset(
    {
        n.EVENT_SPEECH_START,
        n.EVENT_SPEECH_END,
        n.EVENT_FIRST_TRANSCRIPT,
        n.EVENT_RESPONSE_CREATED,
        n.EVENT_VAD_SPEECH_END,
    }
)
_EVENT_WORDS = {
    n.EVENT_SPEECH_RESUMED: "user spoke on",
    n.EVENT_USER_OVERLAP: "user spoke over it",
    n.EVENT_FALSE_INTERRUPTION: "false interruption",
    n.EVENT_HANDOFF: "hand-over",
}


@dataclass(slots=True)
class _Row:
    """One line of the waterfall: a span, an event, or the reason of a failure."""

    label: Text
    start_ns: int
    end_ns: int
    glyph: str
    style: str
    length: str
    note: str = ""


class Waterfall:
    """The tree of spans on a common time axis."""

    def __init__(self, spans: Sequence[Span], width: int, glyphs: Glyphs) -> None:
        self.glyphs = glyphs
        self.width = width
        self.total = len(spans)
        ordered = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))
        self.root = next((span for span in ordered if span.name == n.SPAN_TURN), ordered[0])
        self.start_ns, self.end_ns = _axis(self.root, ordered)
        self.silence = next((s for s in ordered if s.name in (n.SPAN_RESPONSE, n.SPAN_UNANSWERED)), None)
        self.children = _children(ordered)
        self.rows: list[_Row] = []
        self.drawn = 0
        for span in self.children[None]:
            self._add(span, "", "", None)
        self.label_width = min(max(len(row.label) for row in self.rows), max(width * 2 // 5, 16))
        self.bar_width = max(width - self.label_width - _LENGTH_WIDTH - 2, _MIN_BARS)

    def lines(self) -> Iterator[Text]:
        """Draw the axis and the rows."""
        yield self._ticks()
        for row in self.rows:
            yield self._line(row)
        if self.drawn < self.total:
            yield Text(f"{self.total - self.drawn} more spans", "dim")

    def _add(self, span: Span, guide: str, below: str, inherited: str | None) -> None:
        if len(self.rows) >= MAX_ROWS:
            return
        self.drawn += 1
        colour = colour_of(span.name) or inherited
        self.rows.append(self._span_row(span, guide, colour))
        children = sorted(self.children.get(span.span_id, ()), key=lambda child: (child.start_ns, child.end_ns))
        beside = below + (self.glyphs.trunk if children else "  ")
        self.rows.extend([*self._event_rows(span, beside), *self._error_rows(span, beside)])
        for position, child in enumerate(children):
            last = position == len(children) - 1
            branch = self.glyphs.last if last else self.glyphs.branch
            self._add(child, below + branch, below + ("  " if last else self.glyphs.trunk), colour)

    def _span_row(self, span: Span, guide: str, colour: str | None) -> _Row:
        failed = span.error is not None
        label = Text.assemble((guide, "dim"), (printable(_name(span)), _name_style(span)), no_wrap=True)
        for remark in self._remarks(span):
            label.append(f" {printable(remark)}", "dim")
        if span is self.root and span.name == n.SPAN_TURN:
            glyph, style = self.glyphs.root, "dim"
        else:
            glyph = self.glyphs.milestone if span.name in MILESTONES or colour is None else self.glyphs.stage
            style = colour or "dim"
        if failed and span is not self.root:
            style = f"bold {BAD}"
        return _Row(label, span.start_ns, span.end_ns, glyph, style, milliseconds(span.end_ns - span.start_ns))

    def _remarks(self, span: Span) -> Iterator[str]:
        if span.service != self.root.service and span.service:
            yield f"[{span.service}]"
        if span.attributes.get(n.VOICE_STAGE_CANCELLED):
            yield "cancelled"
        if span.attributes.get(n.VOICE_GENERATION_DISCARDED):
            yield "discarded"
        if span.attributes.get(n.VOICE_TTS_FILLER):
            yield "filler"
        if span.attributes.get(n.VOICE_PLAYBACK_ESTIMATED):
            yield "estimated"

    def _event_rows(self, span: Span, below: str) -> Iterator[_Row]:
        for event in span.events:
            if event.name not in _MARKED_BY_SPANS and event.name != n.EVENT_EXCEPTION:
                words = printable(_EVENT_WORDS.get(event.name, event.name))
                label = Text.assemble((below, "dim"), (f"{self.glyphs.event} {words}", ACCENT), no_wrap=True)
                after = f"+{milliseconds(event.time_ns - self.root.start_ns)}"
                yield _Row(label, event.time_ns, event.time_ns, self.glyphs.event, ACCENT, after)

    def _error_rows(self, span: Span, below: str) -> Iterator[_Row]:
        if span.error is None or span is self.root:
            return
        reason = printable(_reason(span))
        label = Text.assemble((below, "dim"), (f"{self.glyphs.error} ", f"bold {BAD}"), no_wrap=True)
        yield _Row(label, span.end_ns, span.end_ns, "", BAD, "", note=reason)

    def _line(self, row: _Row) -> Text:
        if row.note:
            room = self.width - len(row.label)
            return Text.assemble(row.label, (_cut(row.note, room, self.glyphs), row.style), no_wrap=True)
        label = row.label.copy()
        label.truncate(self.label_width, overflow="crop" if self.glyphs is ASCII else "ellipsis", pad=True)
        return Text.assemble(label, " ", self._bar(row), " ", (row.length.rjust(_LENGTH_WIDTH), "dim"), no_wrap=True)

    def _bar(self, row: _Row) -> Text:
        cells = [(" ", "")] * self.bar_width
        for edge in self._edges():
            cells[edge] = (self.glyphs.edge, ACCENT)
        first, last = self._cell(row.start_ns), self._cell(row.end_ns, closing=True)
        if row.start_ns > self.end_ns:
            cells[-1] = (self.glyphs.after, row.style)
        elif row.end_ns < self.start_ns:
            cells[0] = (self.glyphs.before, row.style)
        elif row.start_ns == row.end_ns:
            moment = row.glyph if row.glyph == self.glyphs.event else self.glyphs.moment
            cells[first] = (moment, row.style)
        else:
            for position in range(first, max(first, last) + 1):
                cells[position] = (row.glyph, row.style)
        bar = Text(no_wrap=True)
        for character, style in cells:
            bar.append(character, style)
        return bar

    def _edges(self) -> Iterator[int]:
        if self.silence is not None:
            yield self._cell(self.silence.start_ns)
            yield self._cell(self.silence.end_ns, closing=True)

    def _cell(self, at_ns: int, *, closing: bool = False) -> int:
        """Return the cell of a moment; `closing`: the last cell of what ends then."""
        position = (at_ns - self.start_ns) * self.bar_width
        length = max(self.end_ns - self.start_ns, 1)
        cell = -(-position // length) - 1 if closing else position // length
        return min(max(cell, 0), self.bar_width - 1)

    def _ticks(self) -> Text:
        cells = [" "] * (self.bar_width + _LENGTH_WIDTH)
        step_ns = _step(self.end_ns - self.start_ns, self.bar_width)
        for at_ns in range(0, self.end_ns - self.start_ns + 1, step_ns):
            label = _tick(at_ns, step_ns)
            position = self._cell(self.start_ns + at_ns)
            cells[position : position + len(label)] = label
        return Text(" " * (self.label_width + 1) + "".join(cells).rstrip(), "dim", no_wrap=True)


def _axis(root: Span, spans: Sequence[Span]) -> tuple[int, int]:
    """Return the interval that is drawn. A span of a machine whose clock is far off must not squeeze all others."""
    length = max(root.end_ns - root.start_ns, NS_PER_MS)
    earliest, latest = root.start_ns - length, root.end_ns + length
    near = [span for span in spans if span.end_ns >= earliest and span.start_ns <= latest]
    start = min(max(span.start_ns, earliest) for span in near)
    return start, max(min(span.end_ns, latest) for span in near)


def _children(ordered: Sequence[Span]) -> Mapping[str | None, list[Span]]:
    """Return spans by parent, under None those without one here; what only refers to itself comes there too."""
    known = {span.span_id for span in ordered}
    children: dict[str | None, list[Span]] = {None: []}
    for span in ordered:
        parent = span.parent_id if span.parent_id in known else None
        children.setdefault(parent, []).append(span)
    reached: set[str] = set()
    _reach(children, children[None], reached)
    for span in ordered:
        if span.span_id not in reached:  # a ring of parents: cut it where it begins
            siblings = children[span.parent_id]
            siblings.remove(span)
            children[None].append(span)
            _reach(children, [span], reached)
    return children


def _reach(children: Mapping[str | None, list[Span]], spans: Iterable[Span], reached: set[str]) -> None:
    waiting = list(spans)
    while waiting:
        span = waiting.pop()
        if span.span_id not in reached:
            reached.add(span.span_id)
            waiting.extend(children.get(span.span_id, ()))


def _name(span: Span) -> str:
    phase = span.attributes.get(n.VOICE_BARGE_IN_PHASE)
    return f"{span.name} {phase}" if span.name == n.SPAN_BARGE_IN and phase else span.name


def _name_style(span: Span) -> str:
    if span.error is not None or span.name in (n.SPAN_BARGE_IN, n.SPAN_PLAYBACK_GAP, n.SPAN_UNANSWERED):
        return f"bold {BAD}" if span.error is not None else BAD
    return "bold" if span.name in (n.SPAN_TURN, n.SPAN_RESPONSE) else ""


def _reason(span: Span) -> str:
    """Return what is known of a failure: its type, its message, from the attributes, the status or the exception."""
    exception = next((event for event in reversed(span.events) if event.name == n.EVENT_EXCEPTION), None)
    of_event: Event | None = exception
    kinds = [span.attributes.get(n.ERROR_TYPE), of_event and of_event.attributes.get(n.EXCEPTION_TYPE)]
    messages = [span.error, of_event and of_event.attributes.get(n.EXCEPTION_MESSAGE)]
    kind = next((str(value) for value in kinds if value), "")
    message = next((str(value) for value in messages if value), "")
    return ": ".join(word for word in (kind, message) if word) or "failed"


def _step(length_ns: int, cells: int) -> int:
    """Return a round distance between ticks that leaves room for their labels."""
    least = max(length_ns * 12 // max(cells, 1), 1)
    unit = NS_PER_MS
    while True:
        for factor in (1, 2, 5):
            if unit * factor >= least:
                return unit * factor
        unit *= 10


def _tick(at_ns: int, step_ns: int) -> str:
    if at_ns == 0:
        return "0"
    return f"{at_ns / NS_PER_MS:g} ms" if step_ns < NS_PER_S // 2 and at_ns < NS_PER_S else f"{at_ns / NS_PER_S:g} s"


def _cut(text: str, room: int, glyphs: Glyphs) -> str:
    return text if len(text) <= room else text[: max(room - len(glyphs.ellipsis), 0)] + glyphs.ellipsis
