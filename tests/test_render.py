from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from voicespan import names as n
from voicespan.local.span import Event, Span, spans_of
from voicespan.local.stages import COLOURS, MILESTONES, colour_of
from voicespan.local.strip import mini_strip
from voicespan.local.turn import summarise
from voicespan.local.waterfall import MAX_ROWS
from voicespan.local.words import cause
from voicespan.render import render_turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voicespan.testing import VoiceRecorder

MS = 1_000_000
ONSET_NS = 1_800_000_000_000_000_000
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SHARES = {"endpoint": 0.42, "llm": 2.08, "tool": 0.24, "sentence": 0.18, "tts": 0.15, "send": 0.03, "network": 0.11}


class Spans(list[Span]):
    """Spans of one trace; times are milliseconds after its start."""

    def add(
        self,
        name: str,
        start: float,
        end: float,
        parent: str | None = None,
        *,
        service: str = "voice-agent",
        scope: str = "voicespan",
        error: str | None = None,
        events: Sequence[Event] = (),
        **attributes: Any,
    ) -> str:
        span_id = f"{len(self) + 1:016x}"
        times = (ONSET_NS + round(start * MS), ONSET_NS + round(end * MS))
        named = {key.replace("__", "."): value for key, value in attributes.items()}
        span = Span(
            TRACE_ID, span_id, parent, name, *times, service, scope, error=error, attributes=named, events=tuple(events)
        )
        self.append(span)
        return span_id


def root(spans: Spans, end: float, **attributes: Any) -> str:
    """The root of a turn of session call-7, number 14."""
    usual: dict[str, Any] = {"session__id": "call-7", "voice__turn__index": 14, "voice__turn__initiator": "user"}
    return spans.add("voice.turn", 0, end, **(usual | {"voice__turn__outcome": "completed"} | attributes))


def slow_turn() -> Spans:
    """A turn with a tool, whose second request to the model took most of the silence."""
    spans = Spans()
    overlap = Event(n.EVENT_USER_OVERLAP, ONSET_NS + 6300 * MS)
    start = Event(n.EVENT_SPEECH_START, ONSET_NS)
    turn = root(spans, 8100, voice__turn__bottleneck="llm")
    vad = spans.add("vad", 0, 2420, turn)
    spans.add("vad.endpoint", 2000, 2420, vad)
    spans.add("llm", 2420, 2620, turn)
    spans.add("execute_tool lookup_order", 2620, 2860, turn)
    llm = spans.add("llm", 2860, 5760, turn)
    spans.add("llm.first_sentence", 2860, 4920, llm)
    spans.add("llm.ttft", 2860, 4740, llm)
    tts = spans.add("tts", 4920, 7020, turn)
    served = spans.add("Synthesize", 4930, 7010, tts, service="tts-worker", scope="grpc")
    spans.add("tts.inference", 4935, 6900, served, service="tts-worker")
    playback = spans.add("playback", 5073, 8100, turn)
    spans.add("playback.start", 5073, 5210, playback)
    shares: dict[str, Any] = {f"voice.response.share.{stage}": share for stage, share in SHARES.items()}
    spans.add("voice.response", 2000, 5210, turn, **shares, voice__measurement__point="client")
    spans[0] = replace_events(spans[0], start, overlap)
    return spans


def replace_events(span: Span, *events: Event) -> Span:
    from dataclasses import replace

    return replace(span, events=events)


def drawn(spans: Sequence[Span], width: int = 100, *, encoding: str = "utf-8") -> list[str]:
    """The lines as they appear without colour."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    render_turn(spans, Console(file=file, width=width, color_system=None, force_terminal=False))
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def coloured(spans: Sequence[Span], width: int = 100) -> str:
    """What is written to a terminal with all colours."""
    file = io.StringIO()
    render_turn(spans, Console(file=file, width=width, color_system="truecolor", force_terminal=True, no_color=False))
    return file.getvalue()


def code(colour: str) -> str:
    """The part of a terminal's colour command that names a colour."""
    return ";".join(str(int(colour[position : position + 2], 16)) for position in (1, 3, 5))


def line_of(lines: Sequence[str], words: str) -> str:
    (found,) = [line for line in lines if words in line]
    return found


def bar(line: str) -> tuple[int, int]:
    """First and last column of the bar in a line of the waterfall."""
    cells = [position for position, letter in enumerate(line) if letter in "▆━"]
    return cells[0], cells[-1]


def test_head_names_the_turn_and_the_cause() -> None:
    """The first line has session, number, outcome, and one sentence that says what the user waited for."""
    head = drawn(slow_turn())[0]
    assert head == "call-7 · turn 14 · completed  The user waited 3.21 s: 2.08 s (65 %) for the model (llm)."


@pytest.mark.covers("B-T07", "B-P02")
def test_waterfall_has_every_span_on_one_time_axis() -> None:
    """Each span is a bar between its start and its end, below its parent, with its length in milliseconds."""
    lines = drawn(slow_turn())
    lengths = {"voice.turn": "8,100 ms", "vad.endpoint": "420 ms", "execute_tool lookup_order": "240 ms",
               "llm.ttft": "1,880 ms", "tts.inference": "1,965 ms", "playback.start": "137 ms"}  # fmt: skip
    for name, length in lengths.items():
        assert line_of(lines, f"{name} ").endswith(length)
    endpoint, ttft, response = (bar(line_of(lines, name)) for name in ("vad.endpoint", "llm.ttft", "voice.response"))
    start = bar(line_of(lines, "playback.start"))
    assert endpoint[0] == response[0]
    assert endpoint[0] < ttft[0] < start[0]
    assert start[1] == response[1]
    width = (ttft[1] - ttft[0] + 1) / (response[1] - response[0] + 1)
    assert width == pytest.approx(1880 / 3210, abs=0.1)


def test_tree_is_indented() -> None:
    """A milestone stands below its stage, in order of time; the worker's spans below the call, with their service."""
    lines = drawn(slow_turn())
    names = [line.split("  ")[0].strip("│├└ ") for line in lines]
    position = names.index("llm.ttft")
    assert names[position + 1] == "llm.first_sentence"
    assert line_of(lines, "llm.ttft").startswith("│ ├ ")
    assert line_of(lines, "Synthesize [tts-worker]").startswith("│ └ ")
    assert line_of(lines, "tts.inference [tts-worker]").startswith("│   └ ")


def test_silence_is_marked_on_every_row() -> None:
    """The edges of the heard silence run through the rows that do not cover them."""
    lines = drawn(slow_turn())
    first, last = bar(line_of(lines, "voice.response"))
    assert line_of(lines, "execute_tool")[first] == "┊"
    assert line_of(lines, "execute_tool")[last] == "┊"


def test_strip_shows_each_share() -> None:
    """The strip names what fits, its sections are in proportion, and the legend has every share with its percentage."""
    lines = drawn(slow_turn())
    strip = line_of(lines, "llm 2,080 ms ─")
    assert len(strip) == 100
    assert strip[0] + strip[-1] == "├┤"
    sections = [len(section) + 1 for section in strip[:-1].split("┼")]
    assert len(sections) == len(SHARES)
    assert sections[1] == pytest.approx(2080 / 3210 * 100, abs=2)
    legend = " ".join(line for line in lines if "■" in line)
    for words in ("endpoint 420 ms 13 %", "llm 2,080 ms 65 %", "send 30 ms < 1 %", "network 110 ms 3 %"):
        assert words in legend
    assert line_of(lines, "heard after 3.21 s").startswith("speech ends")


def test_rest_is_shown_as_unattributed() -> None:
    """What no stage explains has its own section and sign."""
    spans = Spans()
    turn = root(spans, 3000, voice__turn__bottleneck="unattributed")
    shares: dict[str, Any] = {"voice.response.share.llm": 0.4, "voice.response.share.unattributed": 0.6}
    spans.add("voice.response", 1000, 2000, turn, **shares)
    lines = drawn(spans)
    assert "░ unattributed 600 ms 60 %" in "\n".join(lines)
    assert "0.60 s (60 %) that no stage explains." in lines[0]


def test_same_stage_has_the_same_colour_everywhere() -> None:
    """Strip, legend and bars use one colour for each stage; no two stages share one."""
    text = coloured(slow_turn())
    for stage in SHARES:
        assert f"48;2;{code(COLOURS[stage])}m" in text, stage
        assert f"38;2;{code(COLOURS[stage])}m■" in text.replace("\x1b[", ""), stage
    for name, stage in (("llm.ttft", "llm"), ("llm.first_sentence", "sentence"), ("tts", "tts"), ("vad", "endpoint")):
        assert colour_of(name) == COLOURS[stage]
        glyph = "━" if name in MILESTONES else "▆"
        assert f"38;2;{code(COLOURS[stage])}m{glyph}" in text.replace("\x1b[", "")
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_every_stage_has_a_colour() -> None:
    """No share of the heard silence is without a colour."""
    assert set(COLOURS) == set(n.SHARE_STAGES)


def test_worker_takes_the_colour_of_its_stage() -> None:
    """Spans of another process that have no colour of their own look like the stage that called them."""
    text = coloured(slow_turn()).replace("\x1b[", "")
    (line,) = [line for line in text.splitlines() if "tts.inference" in line]
    assert f"38;2;{code(COLOURS['tts'])}m" in line


def test_no_escape_codes_without_a_terminal() -> None:
    """In a file there are no colours and no terminal commands."""
    assert "\x1b" not in "\n".join(drawn(slow_turn()))


def test_no_color_keeps_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR a terminal gets the strip with its names instead of colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    render_turn(slow_turn(), Console(file=file, width=100, force_terminal=True))
    assert "38;2" not in file.getvalue()
    assert "48;2" not in file.getvalue()
    assert "┼" in file.getvalue()


def test_plain_letters_where_nothing_else_can_be_shown() -> None:
    """A terminal without Unicode gets the same drawing in ASCII."""
    lines = drawn(slow_turn(), encoding="ascii")
    assert all(line.isascii() for line in lines)
    assert line_of(lines, "llm.ttft").startswith("| |-llm.ttft")
    assert "=====" in line_of(lines, "llm.ttft")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160, 300])
def test_lines_fit(width: int) -> None:
    """No line of strip or waterfall is wider than the terminal, and the strip fills it."""
    lines = drawn(slow_turn(), width)
    assert max(len(line) for line in lines) <= width
    assert len(line_of(lines, "┼")) == width


def test_failure_is_said_with_its_reason() -> None:
    """A failed span is followed by its type and message, in red; the message may stand in the exception only."""
    spans = Spans()
    turn = root(spans, 3000, voice__turn__outcome="error", error__type="worker_unavailable")
    raised = Event("exception", ONSET_NS, {"exception.type": "OSError", "exception.message": "refused"})
    spans.add("tts", 100, 900, turn, error="no worker", error__type="worker_unavailable")
    spans.add("llm", 100, 900, turn, error="", events=[raised])
    lines = drawn(spans)
    assert "✗ worker_unavailable: no worker" in line_of(lines, "no worker")
    assert "✗ OSError: refused" in line_of(lines, "refused")
    assert "The voice failed (worker_unavailable)." in lines[0]


def test_events_are_noted_at_their_time() -> None:
    """Overlap, false interruption and hand-over have a row of their own; what a span shows already has none."""
    lines = drawn(slow_turn())
    overlap = line_of(lines, "user spoke over it")
    assert overlap.endswith("+6,300 ms")
    assert overlap.rindex("◆") > bar(line_of(lines, "voice.response"))[1]
    assert "speech_start" not in "\n".join(lines)


def test_interruption_is_told() -> None:
    """The sentence says how long the agent went on speaking, and each phase has its row."""
    spans = Spans()
    turn = root(spans, 5000, voice__turn__outcome="interrupted", voice__turn__bottleneck="llm")
    spans.add("voice.response", 1000, 2000, turn, voice__response__share__llm=1.0)
    spans.add("barge_in", 4600, 5000, turn, voice__barge_in__phase="total")
    lines = drawn(spans, 160)
    assert "Then the user interrupted the reply; it was silent after 0.40 s." in lines[0]
    assert line_of(lines, "barge_in total").endswith("400 ms")


def test_failure_after_the_answer_began_is_told() -> None:
    """Who got an answer that broke off is told from who got a whole one."""
    spans = Spans()
    turn = root(spans, 3000, voice__turn__outcome="error", voice__turn__bottleneck="llm", error__type="TimeoutError")
    spans.add("voice.response", 1000, 2000, turn, voice__response__share__llm=1.0)
    assert "for the model (llm). Then the turn failed (TimeoutError) and cut the reply off." in drawn(spans, 160)[0]


def test_next_to_nothing_takes_no_room_in_the_strip() -> None:
    """A share that is far smaller than a cell stands in the legend only."""
    spans = Spans()
    turn = root(spans, 3000, voice__turn__bottleneck="llm")
    shares: dict[str, Any] = {"voice.response.share.asr": 0.00004, "voice.response.share.llm": 0.99996}
    spans.add("voice.response", 1000, 2000, turn, **shares)
    lines = drawn(spans)
    assert "┼" not in "\n".join(lines)
    assert line_of(lines, "■ asr 0 ms < 1 %")


def test_remarks_stand_beside_the_name() -> None:
    """Cancelled, discarded, estimated and filler are said in words."""
    spans = Spans()
    turn = root(spans, 3000)
    spans.add("llm", 0, 10, turn, voice__generation__discarded=True)
    spans.add("asr", 0, 10, turn, voice__stage__cancelled=True)
    spans.add("playback", 0, 10, turn, voice__playback__estimated=True)
    spans.add("tts", 0, 10, turn, voice__tts__filler=True)
    lines = drawn(spans)
    for words in ("llm discarded", "asr cancelled", "playback estimated", "tts filler"):
        assert line_of(lines, words)


CAUSES = [
    ({"voice__turn__outcome": "no_reply", "voice__turn__no_reply__reason": "suppressed"}, "chose not to answer"),
    ({"voice__turn__outcome": "error", "error__type": "timeout"}, "The turn failed (timeout)."),
    ({"voice__turn__initiator": "agent", "voice__turn__trigger": "greeting"}, "by itself (greeting)."),
    (
        {"voice__turn__initiator": "agent", "voice__session__first_audio": 0.42},
        "by itself, 0.42 s after the media was up.",
    ),
    ({}, "does not tell"),
]


@pytest.mark.parametrize(("attributes", "words"), CAUSES)
def test_turns_without_a_response_say_why(attributes: dict[str, Any], words: str) -> None:
    """Every kind of turn has its sentence."""
    spans = Spans()
    root(spans, 1000, **attributes)
    row = summarise(TRACE_ID, spans)
    assert row is not None
    assert words in cause(row)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"voice__turn__no_reply__reason": "user_left"}, "The user left after 8.00 s of silence"),
        (
            {"voice__turn__outcome": "error", "error__type": "ConnectionError"},
            "The user waited 8.00 s and heard nothing, because the turn failed (ConnectionError)",
        ),
        (
            {"voice__turn__outcome": "timeout"},
            "The user waited 8.00 s and heard nothing, because the turn timed out: 8.00 s (100 %) for the model (llm)",
        ),
    ],
)
def test_unanswered_turn_says_so(attributes: dict[str, Any], words: str) -> None:
    """Who waited in vain is told from who was answered."""
    spans = Spans()
    turn = root(spans, 9000, voice__turn__bottleneck="llm", **attributes)
    spans.add("voice.unanswered", 1000, 9000, turn, voice__response__share__llm=8.0)
    lines = drawn(spans, 160)
    assert words in lines[0]
    assert "gave up after 8.00 s" in "\n".join(lines)


def test_incomplete_turn_is_drawn_without_its_root() -> None:
    """The spans of a worker alone are drawn, and said to be incomplete."""
    spans = Spans()
    spans.add("tts.inference", 0, 800, "00000000000000aa", service="tts-worker")
    lines = drawn(spans)
    assert lines[0].startswith("incomplete  The root span has not arrived")
    assert line_of(lines, "tts.inference ").endswith("800 ms")


def test_trace_that_is_no_turn_is_drawn() -> None:
    """A plain HTTP trace has a waterfall, and no strip."""
    spans = Spans()
    get = spans.add("GET /", 0, 20, scope="http")
    spans.add("SELECT", 5, 9, get, scope="db")
    lines = drawn(spans)
    assert lines[0] == f"trace {TRACE_ID}  no turn"
    assert line_of(lines, "SELECT").endswith("4 ms")


def test_no_spans_is_no_failure() -> None:
    """An empty trace is said in words."""
    assert drawn([]) == ["The trace has no spans."]


def test_names_cannot_command_the_terminal() -> None:
    """Escape sequences in what a sender chose are replaced, and line breaks become spaces."""
    spans = Spans()
    turn = root(spans, 100, session__id="a\x1b[2Jb", voice__turn__outcome="\x1b]0;x\x07", service="s\nt")
    evil = Event("x\x1b[31m", ONSET_NS)
    spans.add("llm\x1b[2J\n", 0, 10, turn, error="\x1b[5mblink", service="w\x9b31m", events=[evil])
    text = "".join(drawn(spans))
    assert text.isprintable()
    assert "a\N{REPLACEMENT CHARACTER}[2Jb" in text
    assert "llm\N{REPLACEMENT CHARACTER}[2J " in text
    assert "s t" in text


def test_markup_in_names_is_text() -> None:
    """Square brackets are drawn as they are."""
    spans = Spans()
    root(spans, 100, session__id="[red]x[/red]")
    assert "[red]x[/red]" in drawn(spans)[0]


def test_ring_of_parents_is_drawn_once() -> None:
    """Spans that name each other as parents, or themselves, are each drawn once."""
    spans = Spans()
    root(spans, 100)
    spans.add("one", 1, 10, "0000000000000003")
    spans.add("two", 2, 10, "0000000000000002")
    spans.add("self", 3, 10, "0000000000000004")
    lines = drawn(spans)
    for name in ("one ", "two ", "self "):
        assert line_of(lines, name)


def test_clock_far_off_does_not_squeeze_the_turn() -> None:
    """A span of a machine whose clock is an hour ahead is shown at the edge; the others keep their scale."""
    spans = Spans()
    turn = root(spans, 1000)
    spans.add("llm", 0, 1000, turn)
    spans.add("ahead", 3_600_000, 3_600_100, turn)
    spans.add("behind", -3_600_000, -3_599_900, turn)
    lines = drawn(spans)
    first, last = bar(line_of(lines, "├ llm "))
    assert last - first > 60
    assert "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}" in line_of(lines, "ahead")
    assert "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}" in line_of(lines, "behind")


def test_long_traces_are_cut() -> None:
    """Beyond a bound the rest is counted; a very deep tree is no failure."""
    spans = Spans()
    parent = root(spans, 1000)
    for _ in range(MAX_ROWS):
        parent = spans.add("deep", 0, 10, parent)
    for _ in range(50):
        spans.add("wide", 0, 10, parent)
    lines = drawn(spans)
    assert len(lines) < MAX_ROWS + 10
    assert lines[-1] == f"{len(spans) - MAX_ROWS} more spans"


def test_mini_strip_fills_its_cells() -> None:
    """The strip of a list line has one colour per stage, in proportion, and nothing for a turn without a response."""
    row = summarise(TRACE_ID, slow_turn())
    assert row is not None
    strip = mini_strip(row, 24)
    assert len(strip) == 24
    shown = [stage for stage in n.SHARE_STAGES if SHARES.get(stage, 0) > 0.1]
    assert [str(span.style) for span in strip.spans if span.end > span.start] == [COLOURS[stage] for stage in shown]
    assert mini_strip(row._replace(shares={}), 24).plain == ""


def test_finished_turn_is_drawn_as_a_stored_one(voice: VoiceRecorder) -> None:
    """A turn that this process finished can be drawn without any store."""
    with voice.session("call-3") as session:
        spoken = session.user_turn()
        voice.clock.advance(ms=900)
        spoken.speech_ended()
        voice.clock.advance(ms=400)
        spoken.committed()
        spoken.transcript()
        with spoken.llm(model="m") as llm:
            voice.clock.advance(ms=600)
            llm.token()
            llm.sentence()
        with spoken.tts(voice="sam") as tts:
            tts.audio()
            spoken.audio_sent(0.5)
        voice.clock.advance(ms=500)
        spoken.end()
    lines = drawn(spans_of(voice.turns[0], service="bot"))
    assert lines[0] == "call-3 · turn 1 · completed  The user waited 1.00 s: 0.60 s (60 %) for the model m (llm)."
    assert line_of(lines, "llm.ttft").endswith("600 ms")
