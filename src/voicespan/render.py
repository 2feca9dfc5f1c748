"""A turn in the terminal: what the user waited for, as one sentence, a strip of the silence, and the waterfall."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from voicespan import names as n
from voicespan.local.stages import ACCENT, BAD, COLOURS, MILESTONES, colour_of
from voicespan.local.turn import NS_PER_S, summarise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from voicespan.local.span import Event, Span
    from voicespan.local.turn import Turn

MAX_ROWS = 200
"""Rows of the waterfall; what comes after is counted."""

_NS_PER_MS = 1_000_000
_MIN_WIDTH = 40
_MIN_BARS = 16
_LENGTH_WIDTH = 10
_OUTCOME_STYLES = {"completed": "#2b8a3e", "no_reply": "#e67700"}
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
_INITIATED = {
    "greeting": "greeting",
    "say": "an announcement",
    "no_input": "after the user said nothing",
    "tool_result": "the result of a tool",
    "handoff": "hand-over",
}
_NO_REPLY = {
    "superseded": "the user spoke again before anything was heard",
    "user_left": "the user left before anything was heard",
    "no_speech": "nothing was said",
    "suppressed": "the agent chose not to answer",
}


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


_UNICODE = Glyphs()
_ASCII = Glyphs(
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


def render_turn(spans: Sequence[Span], console: Console) -> None:
    """Draw one trace on the console: of a stored trace, or of a `FinishedTurn` by `voicespan.local.span.spans_of`."""
    console.print(TurnView(spans))


def cause(turn: Turn) -> str:
    """Return one sentence that says how long the user waited, and for what."""
    if not turn.complete:
        return "The root span has not arrived: the turn is still open, or its process was killed."
    if turn.response_ns is None:
        return _without_response(turn)
    waited = f"The user waited {_seconds(turn.response_ns)}"
    if turn.unanswered:
        why = _NO_REPLY.get(turn.no_reply_reason or "", turn.error or turn.outcome or "no reply")
        waited += f" and heard nothing ({why})"
    return f"{waited}{_largest_share(turn)}.{_interruption(turn)}"


def _largest_share(turn: Turn) -> str:
    share_ns = turn.shares.get(turn.bottleneck or "")
    if not share_ns or not turn.response_ns:
        return ""
    part = f"; {_seconds(share_ns)} ({_percent(share_ns, turn.response_ns)}) of it"
    return f"{part} no stage explains" if turn.bottleneck == "unattributed" else f"{part} was {turn.bottleneck}"


def _interruption(turn: Turn) -> str:
    if turn.outcome != "interrupted" or turn.silenced_ns is None:
        return ""
    return f" Interrupted: silent after {_seconds(turn.silenced_ns)}."


@dataclass(frozen=True, slots=True)
class TurnView:
    """The drawing of a trace as a rich renderable; it takes the width that it is given."""

    spans: Sequence[Span]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        if not self.spans:
            yield Text("The trace has no spans.")
            return
        glyphs = _ASCII if options.ascii_only else _UNICODE
        coloured = console.color_system is not None and not console.no_color
        width = max(options.max_width, _MIN_WIDTH)
        turn = summarise(self.spans[0].trace_id, self.spans)
        yield from _head(turn, self.spans, width, glyphs)
        if turn is not None and turn.response_ns and turn.shares:
            yield Text()
            yield from _strip(turn, width, glyphs, coloured=coloured)
        yield Text()
        yield from _Waterfall(self.spans, width, glyphs).lines()


def _head(turn: Turn | None, spans: Sequence[Span], width: int, glyphs: Glyphs) -> Iterator[Text]:
    if turn is None:
        yield Text.assemble(("trace ", "bold"), spans[0].trace_id, ("  no turn", "dim"))
        return
    outcome = turn.outcome or ("outcome unknown" if turn.complete else "incomplete")
    who = [turn.session_id, None if turn.turn_index is None else f"turn {turn.turn_index}"]
    entries = [Text(printable(word), "bold") for word in who if word]
    entries.append(Text(printable(outcome), f"bold {_OUTCOME_STYLES.get(outcome, BAD)}"))
    (head,) = _flow(entries, Text(glyphs.dot, "dim"), sum(len(entry) + len(glyphs.dot) for entry in entries))
    sentence = printable(cause(turn))
    if len(head) + 2 + len(sentence) <= width:
        yield Text.assemble(head, "  ", sentence)
    else:
        yield head
        yield Text(sentence)
    circumstances = [Text(printable(words), "dim") for words in _circumstances(turn, glyphs)]
    yield from _flow(circumstances, Text(glyphs.dot, "dim"), width)


def _flow(entries: Iterable[Text], separator: Text, width: int) -> Iterator[Text]:
    """Put entries into lines, without breaking one."""
    line = Text()
    for entry in entries:
        if line.plain and len(line) + len(separator) + len(entry) > width:
            yield line
            line = Text()
        line = Text.assemble(line, separator, entry) if line.plain else entry.copy()
    yield line


def _circumstances(turn: Turn, glyphs: Glyphs) -> Iterator[str]:
    yield time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(turn.start_ns / NS_PER_S))
    if turn.measurement_point:
        margin = "" if turn.clock_error_ns is None else f" {glyphs.margin}{_milliseconds(turn.clock_error_ns)}"
        yield f"measured at the {turn.measurement_point}{margin}"
    for word in (turn.service, turn.transport, turn.model, turn.voice, turn.language, turn.worker):
        if word:
            yield word
    yield f"trace {turn.trace_id}"


def _without_response(turn: Turn) -> str:
    if turn.initiator == "agent":
        words = _INITIATED.get(turn.trigger or "", "")
        sentence = "The agent spoke by itself" + (f" ({words})" if words else "")
        if turn.first_audio_ns is not None:
            sentence += f", {_seconds(turn.first_audio_ns)} after the media was up"
        return f"{sentence}."
    if turn.no_reply_reason in _NO_REPLY:
        words = _NO_REPLY[turn.no_reply_reason]
        return f"{words[0].upper()}{words[1:]}."
    return f"It failed: {turn.error}." if turn.error else "The trace does not tell how long the user waited."


def mini_strip(turn: Turn, cells: int) -> Text:
    """Return the strip of the heard silence in a few cells and without words, for one line of a list."""
    ordered = [(stage, turn.shares[stage]) for stage in n.SHARE_STAGES if stage in turn.shares]
    strip = Text(no_wrap=True)
    for (stage, _), size in zip(ordered, _divide([share_ns for _, share_ns in ordered], cells), strict=True):
        strip.append(_UNICODE.stage * size, COLOURS[stage])
    return strip


class _Part(NamedTuple):
    """One stage in the strip."""

    stage: str
    share_ns: int
    cells: int


def _strip(turn: Turn, width: int, glyphs: Glyphs, *, coloured: bool) -> Iterator[Text]:
    assert turn.response_ns
    ordered = [(stage, turn.shares[stage]) for stage in n.SHARE_STAGES if stage in turn.shares]
    cells = _divide([share_ns for _, share_ns in ordered], width)
    parts = [_Part(stage, share_ns, size) for (stage, share_ns), size in zip(ordered, cells, strict=True)]
    begins = "message" if turn.response_from == "message" else "speech ends"
    ends = "gave up" if turn.unanswered else "heard"
    ends = f"{ends} after {_seconds(turn.response_ns)}"
    yield Text(begins + ends.rjust(width - len(begins)), "dim")
    yield _coloured_strip(parts) if coloured else _plain_strip(parts, glyphs)
    yield from _legend(parts, turn.response_ns, width, glyphs)


def _coloured_strip(parts: Iterable[_Part]) -> Text:
    strip = Text(no_wrap=True)
    for part in parts:
        ground = COLOURS[part.stage]
        ink = "#1c1d21" if part.stage in ("unattributed", "sentence") else "#ffffff"
        strip.append(_label(part, part.cells).center(part.cells), f"bold {ink} on {ground}")
    return strip


def _plain_strip(parts: Sequence[_Part], glyphs: Glyphs) -> Text:
    """Draw the strip as a ruler whose sections carry their names where these fit."""
    sections = [_label(part, part.cells - 1).center(part.cells - 1, glyphs.ruler) for part in parts]
    ruler = glyphs.ruler_begins + glyphs.ruler_divides.join(sections)
    return Text(ruler[: sum(part.cells for part in parts) - 1] + glyphs.ruler_ends, no_wrap=True)


def _label(part: _Part, room: int) -> str:
    labels = (f" {part.stage} {_milliseconds(part.share_ns)} ", f" {part.stage} ", part.stage)
    return next((label for label in labels if len(label) <= room), "")


def _legend(parts: Iterable[_Part], total_ns: int, width: int, glyphs: Glyphs) -> Iterator[Text]:
    entries = [
        Text.assemble(
            (glyphs.rest if part.stage == "unattributed" else glyphs.swatch, COLOURS[part.stage]),
            f" {part.stage} {_milliseconds(part.share_ns)}",
            (f" {_percent(part.share_ns, total_ns)}", "dim"),
        )
        for part in parts
    ]
    return _flow(entries, Text("   "), width)


def _divide(weights: Sequence[int], cells: int) -> list[int]:
    """Divide cells in proportion; whoever has a weight gets at least one cell, and all cells are given out."""
    total = sum(weights)
    if not total:
        return []
    sizes = [max(1, round(weight * cells / total)) for weight in weights]
    while sum(sizes) != cells:
        step = 1 if sum(sizes) < cells else -1
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[largest] += step
    return sizes


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


class _Waterfall:
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
        return _Row(label, span.start_ns, span.end_ns, glyph, style, _milliseconds(span.end_ns - span.start_ns))

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
                after = f"+{_milliseconds(event.time_ns - self.root.start_ns)}"
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
        label.truncate(self.label_width, overflow="crop" if self.glyphs is _ASCII else "ellipsis", pad=True)
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
    length = max(root.end_ns - root.start_ns, _NS_PER_MS)
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
    unit = _NS_PER_MS
    while True:
        for factor in (1, 2, 5):
            if unit * factor >= least:
                return unit * factor
        unit *= 10


def _tick(at_ns: int, step_ns: int) -> str:
    if at_ns == 0:
        return "0"
    return f"{at_ns / _NS_PER_MS:g} ms" if step_ns < NS_PER_S // 2 and at_ns < NS_PER_S else f"{at_ns / NS_PER_S:g} s"


def _cut(text: str, room: int, glyphs: Glyphs) -> str:
    return text if len(text) <= room else text[: max(room - len(glyphs.ellipsis), 0)] + glyphs.ellipsis


def printable(text: str) -> str:
    """Return the text without what a terminal would obey: names come from whoever sent the span."""
    return (
        text
        if text.isprintable()
        else "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    )


def _seconds(length_ns: int) -> str:
    return f"{length_ns / NS_PER_S:.2f} s"


def _milliseconds(length_ns: int) -> str:
    length_ms = length_ns / _NS_PER_MS
    return f"{length_ms:.2g} ms" if length_ms < 10 else f"{length_ms:,.0f} ms"  # noqa: PLR2004


def _percent(part_ns: int, whole_ns: int) -> str:
    percent = part_ns / whole_ns * 100
    return f"{percent:.0f} %" if percent >= 1 else "< 1 %"
