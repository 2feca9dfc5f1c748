"""One session as a conversation: its turns in order, and when each side was heard in them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.local import view
from voicespan.local.query import TurnQuery
from voicespan.local.reader import interrupted
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from voicespan.local.reader import Reader
    from voicespan.local.span import Span
    from voicespan.local.turn import Turn

MAX_TURNS = 500
"""The turns that are given at once; the others are counted."""

_NAMES = (
    n.SPAN_TURN,
    n.SPAN_VAD,
    n.SPAN_VAD_ENDPOINT,
    n.SPAN_RESPONSE,
    n.SPAN_UNANSWERED,
    n.SPAN_PLAYBACK,
    n.SPAN_PLAYBACK_START,
    n.SPAN_PLAYBACK_GAP,
)


class UnknownSessionError(LookupError):
    """There is no turn of this session."""


def conversation(
    reader: Reader, session_id: str, *, content: bool = True, around: str | None = None, first: int | None = None
) -> dict[str, Any]:
    """Return one session: each turn with when user and agent were heard, and with `content` what they said.

    Of a long session these are the newest turns; or those around the turn of this trace; or those from the `first` on,
    counted from 0.

    Raises:
        UnknownSessionError: there is no turn of it.
        ValueError: the trace is no turn of it.

    """
    query = TurnQuery(session=session_id, ascending=True, limit=MAX_TURNS)
    matching = reader.count_of(query)
    if around is not None:
        first = _place(reader, query, around) - MAX_TURNS // 2
    last = max(matching - MAX_TURNS, 0)
    first = last if first is None else min(max(first, 0), last)
    rows = reader.turns(replace(query, offset=first))
    if not rows:
        raise UnknownSessionError(f"there is no turn of a session {session_id!r}")
    trace_ids = [row.trace_id for row in rows]
    spans = reader.spans_named(trace_ids, _NAMES)
    said = reader.content(trace_ids if content else [])
    return {
        "session_id": session_id,
        "service": rows[0].service,
        "turns": [
            view.turn(row, content=content) | _told(row, spans[row.trace_id], said.get(row.trace_id, {}))
            for row in rows
        ],
        "matching": matching,
        "first": first,
        "earlier": first,
        "later": matching - first - len(rows),
        "beyond": matching - len(rows),
    }


def _place(reader: Reader, query: TurnQuery, trace_id: str) -> int:
    """Return how many turns of the session come before this one."""
    turn = reader.turn(trace_id)
    if turn is None or turn.session_id != query.session:
        raise ValueError(f"trace {trace_id} is no turn of session {query.session!r}")
    return reader.count_of(replace(query, until_ns=turn.start_ns))


def _told(row: Turn, spans: Sequence[Span], content: dict[str, Any]) -> dict[str, Any]:
    by_name: dict[str, list[Span]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    root = by_name.get(n.SPAN_TURN, [None])[0]
    return {
        "user": [_seconds(*interval) for interval in _user(row, by_name)],
        "agent": [_seconds(*interval) for interval in _agent(by_name)],
        "gaps": [_seconds(gap.start_ns, gap.end_ns) for gap in by_name.get(n.SPAN_PLAYBACK_GAP, ())],
        "events": [{"name": event.name, "time_s": event.time_ns / NS_PER_S} for event in (root.events if root else ())],
        "interrupts": interrupted(root) if root else None,
        "content": content,
    }


def _user(row: Turn, spans: dict[str, list[Span]]) -> Iterator[tuple[int, int]]:
    """Yield the user's speech, from its onset to its real end, else to the turn decision."""
    if row.initiator == "agent" or row.input not in (None, "speech"):
        return
    silence = _first(spans, n.SPAN_RESPONSE, n.SPAN_UNANSWERED)
    endpoint, vad = _first(spans, n.SPAN_VAD_ENDPOINT), _first(spans, n.SPAN_VAD)
    ends = [span.start_ns for span in (endpoint, silence) if span is not None]
    start_ns = vad.start_ns if vad is not None else row.start_ns
    end_ns = ends[0] if ends else vad.end_ns if vad is not None else start_ns
    if end_ns > start_ns:
        yield start_ns, end_ns


def _agent(spans: dict[str, list[Span]]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of the reply, from the first to the last sample heard, without its gaps."""
    heard = {span.parent_id: span.end_ns for span in spans.get(n.SPAN_PLAYBACK_START, ())}
    gaps = [(gap.start_ns, gap.end_ns) for gap in spans.get(n.SPAN_PLAYBACK_GAP, ())]
    for playback in spans.get(n.SPAN_PLAYBACK, ()):
        start_ns = heard.get(playback.span_id, playback.start_ns)
        for gap_start_ns, gap_end_ns in [*gaps, (playback.end_ns, playback.end_ns)]:
            if start_ns < gap_start_ns <= playback.end_ns:
                yield start_ns, gap_start_ns
                start_ns = gap_end_ns


def _first(spans: dict[str, list[Span]], *names: str) -> Span | None:
    found: Iterable[Span] = (span for name in names for span in spans.get(name, ()))
    return next(iter(found), None)


def _seconds(start_ns: int, end_ns: int) -> list[float]:
    return [start_ns / NS_PER_S, end_ns / NS_PER_S]
