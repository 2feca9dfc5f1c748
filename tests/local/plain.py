"""A straightforward reading of raw spans, one turn after the other: what the answers of the viewer must be equal to."""

from __future__ import annotations

import random
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st

from voicespan.local.decode import decode_protobuf
from voicespan.local.query import SORT_COLUMNS, TurnQuery
from voicespan.local.store import Store

from .otlp import MS, START_NS, Trace, pairs, request, turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from voicespan.local.reader import Reader

OUTCOMES = ("completed", "interrupted", "error", "timeout", "no_reply")
RUNS = (
    {"service.instance.id": "first"},
    {"service.instance.id": "second", "service.version": "2.0"},
    {"service.instance.id": "third", "voicespan.run": "tuned"},
    {"service.instance.id": "fourth", "voicespan.run": "tuned"},
)
"""What the resources of the turns say of their run; two starts have one name."""

_LATENCIES = {
    "endpoint": "vad.endpoint",
    "asr": "asr.finalize",
    "llm": "llm.ttft",
    "sentence": "llm.first_sentence",
    "tool": "execute_tool",
    "tts": "tts.first_audio",
    "realtime": "realtime.first_audio",
    "network": "playback.start",
    "answer": "voice.answer",
}


@dataclass
class Plain:
    """One turn as its spans tell it; times in nanoseconds."""

    trace_id: str
    service: str
    run: str
    start_ns: int
    end_ns: int
    complete: bool
    unanswered: bool
    session_id: str | None
    outcome: str | None
    reason: str | None
    model: str | None
    voice: str | None
    worker: str | None
    lengths: dict[str, int]
    """By what a list can be sorted by."""
    shares: dict[str, int] = field(default_factory=dict)

    @property
    def answered_ns(self) -> int | None:
        """The heard silence, of an answered turn."""
        return None if self.unanswered else self.lengths.get("response")


def plain(trace: Trace, run: str) -> Plain:
    """Read the spans of a turn."""
    named: dict[str, list[Span]] = defaultdict(list)
    for _, scope, span in trace.spans:
        if scope == "voicespan":
            named["execute_tool" if span.name.startswith("execute_tool") else span.name].append(span)
    first = min((span for spans in named.values() for span in spans), key=lambda span: span.start_time_unix_nano)
    own = named["voice.turn"] or [first]
    root = said(own[0]) if named["voice.turn"] else {}
    waits = named["voice.response"] + named["voice.unanswered"]
    wait = said(waits[0]) if waits else {}
    spans = own if named["voice.turn"] else [span for _, _, span in trace.spans]
    start_ns, end_ns = min(s.start_time_unix_nano for s in spans), max(s.end_time_unix_nano for s in spans)
    lengths = {stage: told(named[name]) for stage, name in _LATENCIES.items() if named[name]}
    lengths |= {"start": start_ns, "duration": end_ns - start_ns}
    if waits:
        lengths["response"] = length(waits[0])
    barge_ins = {said(span)["voice.barge_in.phase"]: length(span) for span in named["barge_in"]}
    if barge_ins:
        lengths["silenced"] = barge_ins.get("total") or barge_ins["playback_stop"]
    of_stage = {"model": "llm", "voice": "tts", "worker": "tts"}
    keys = {"model": "gen_ai.request.model", "voice": "voice.tts.voice.name", "worker": "voice.worker.id"}
    labels = {
        name: wait.get(key) if waits else next((said(span).get(key) for span in named[of_stage[name]]), None)
        for name, key in keys.items()
    }
    shares = {
        key.rpartition(".")[2]: round(share * 1e9)
        for key, share in wait.items()
        if key.startswith("voice.response.share.")
    }
    lengths |= {stage: shares[stage] for stage in ("send", "unattributed") if stage in shares}
    return Plain(
        trace_id=trace.hex,
        service=next(service for service, _, span in trace.spans if span == own[0]),
        run=run,
        start_ns=start_ns,
        end_ns=end_ns,
        complete=bool(named["voice.turn"]),
        unanswered=bool(named["voice.unanswered"]),
        session_id=root.get("session.id"),
        outcome=root.get("voice.turn.outcome"),
        reason=root.get("voice.turn.no_reply.reason"),
        lengths=lengths,
        shares=shares,
        **labels,
    )


def said(span: Span) -> dict[str, Any]:
    """The attributes of a span."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in span.attributes}


def length(span: Span) -> int:
    """How long a span is."""
    return span.end_time_unix_nano - span.start_time_unix_nano


def told(spans: Sequence[Span]) -> int:
    """The length of the longest of these that the user waited for, else of the last one."""
    waited_for = [length(span) for span in spans if said(span).get("voice.critical_path")]
    if len(spans) > 1 and waited_for:
        return max(waited_for)
    return length(max(spans, key=lambda span: span.start_time_unix_nano))


def some_turns(count: int, seed: int) -> list[Trace]:
    """Turns of every kind: answered, unanswered for every reason, by the agent, incomplete; some of equal lengths."""
    draw = random.Random(seed)
    traces = []
    for index in range(count):
        shares = {"endpoint": 0.1 * draw.randint(1, 4), "llm": 0.05 * draw.randint(1, 30)}
        if draw.random() < 0.4:
            shares["tts"] = 0.05 * draw.randint(1, 20)
        shares |= {stage: 0.01 * draw.randint(1, 9) for stage in ("send", "unattributed") if draw.random() < 0.5}
        trace = turn(
            index,
            session=f"call-{draw.randint(1, 4)}",
            outcome=draw.choice(OUTCOMES),
            shares=shares,
            onset_ns=START_NS + index * 10_000 * MS,
        )
        trace.spans = [item for item in trace.spans if length(item[2]) >= 0]  # a short silence ends before its parts
        kind = draw.random()
        root, response = trace.spans[0][2], trace.last()
        if kind < 0.2:
            response.name = "voice.unanswered"
            reason = draw.choice(("user_left", "superseded", "no_speech", "suppressed"))
            root.attributes.extend(pairs({"voice.turn.no_reply.reason": reason}))
        elif kind < 0.3:
            trace.spans.pop()
        elif kind < 0.4:
            trace.spans.pop(0)
        for name in ("execute_tool a", "execute_tool b", "llm.ttft"):
            if draw.random() < 0.3:
                start_ms = draw.randint(2300, 2900)
                critical = draw.random() < 0.5
                trace.add(name, start_ms, start_ms + draw.randint(1, 900), root.span_id, voice__critical_path=critical)
        for phase in ("detection", "playback_stop", "total")[draw.randint(-3, 1) :] if draw.random() < 0.3 else ():
            start_ms = draw.randint(3000, 3100)
            trace.add("barge_in", start_ms, start_ms + draw.randint(1, 400), root.span_id, voice__barge_in__phase=phase)
        for key, value in (("gen_ai.request.model", "large-chat"), ("voice.worker.id", "tts-1")):
            if draw.random() < 0.5:
                for _, _, span in trace.spans:
                    for attribute in span.attributes:
                        if attribute.key == key:
                            attribute.value.string_value = value
        traces.append(trace)
    return traces


def matching(turns: Iterable[Plain], query: TurnQuery, runs: dict[int, str]) -> list[Plain]:
    """The turns that a query selects, one condition after the other; `runs` names the runs."""
    found = list(turns)
    for name, column in (
        ("session", "session_id"),
        *((each, each) for each in ("service", "model", "voice", "worker")),
    ):
        wanted = getattr(query, name)
        if wanted is not None:
            found = [each for each in found if getattr(each, column) == wanted]
    if query.run is not None:
        found = [each for each in found if each.run == runs.get(query.run)]
    if query.outcome == "incomplete":
        found = [each for each in found if not each.complete]
    elif query.outcome == "failed":
        found = [each for each in found if each.outcome in ("error", "timeout")]
    elif query.outcome == "unanswered":
        found = [each for each in found if each.unanswered]
    elif query.outcome is not None:
        found = [each for each in found if each.outcome == query.outcome]
    if query.search:
        text = query.search.lower()
        found = [each for each in found if text in (each.session_id or "").lower() or each.trace_id.startswith(text)]
    if query.over_ns is not None:
        found = [each for each in found if query.stage in each.lengths and each.lengths[query.stage] > query.over_ns]
    if query.slower_than_ns is not None:
        waited = [each for each in found if "response" in each.lengths]
        found = [each for each in waited if each.lengths["response"] > query.slower_than_ns]
    if query.since_ns is not None:
        found = [each for each in found if each.start_ns >= query.since_ns]
    return found if query.until_ns is None else [each for each in found if each.start_ns < query.until_ns]


def within(turns: Iterable[Plain], objective_ms: int) -> tuple[int, int]:
    """How many turns met the objective, and how many count for it: also those that nobody answered in time."""
    turns = list(turns)
    answered = [each.answered_ns for each in turns if each.answered_ns is not None]
    gave_up = [
        each
        for each in turns
        if each.unanswered
        and each.reason not in ("no_speech", "suppressed")
        and each.lengths["response"] >= objective_ms * MS
    ]
    return len([value for value in answered if value <= objective_ms * MS]), len(answered) + len(gave_up)


def ranked(values: Sequence[int], percent: int) -> float | None:
    """The smallest value that at least this share of the values do not exceed, by counting, in seconds."""
    for candidate in sorted(values):
        if 100 * sum(value <= candidate for value in values) >= percent * len(values):
            return candidate / 1_000_000_000
    return None


class Stored(NamedTuple):
    """A store with turns of every kind, and the same turns as their raw spans tell them, in order of time."""

    store: Store
    turns: list[Plain]
    runs: dict[int, str]
    """The name, or the instance, of each run."""

    def __repr__(self) -> str:
        return f"<{len(self.turns)} turns>"

    @property
    def reader(self) -> Reader:
        """What answers questions."""
        return self.store.reader

    def matching(self, query: TurnQuery) -> list[Plain]:
        """The turns that a query selects."""
        return matching(self.turns, query, self.runs)


@contextmanager
def some_runs(count: int, seed: int) -> Iterator[Stored]:
    """Store turns of several runs; the spans of each come in two pieces, the later ones first."""
    draw = random.Random(seed)
    turns = []
    with Store() as store:
        for trace in some_turns(count, seed):
            resource = draw.choice(RUNS)
            cut = draw.randint(0, len(trace.spans))
            for part in (trace.spans[cut:], trace.spans[:cut]):
                store.add(decode_protobuf(request(*part, resource=resource).SerializeToString()).spans)
            turns.append(plain(trace, resource.get("voicespan.run", resource["service.instance.id"])))
        runs = store.reader.ask("SELECT id, ifnull(name, instance) FROM run WHERE service = 'voice-agent'", [])
        yield Stored(store, turns, dict(runs))


_FILTERS: dict[str, st.SearchStrategy[Any]] = {
    "session": st.sampled_from(["call-1", "call-2", "nobody"]),
    "outcome": st.sampled_from([*OUTCOMES, "incomplete", "unanswered", "failed"]),
    "service": st.sampled_from(["voice-agent", "tts-worker"]),
    "model": st.sampled_from(["small-chat", "large-chat"]),
    "voice": st.sampled_from(["sam", "nobody"]),
    "worker": st.sampled_from(["tts-0", "tts-1"]),
    "run": st.integers(-1, 8),
    "search": st.sampled_from(["CALL", "l-3", "a", "7f"]),
    "over_ns": st.sampled_from([-2, -1, 0]) | st.integers(1, 2_000 * MS),
    "slower_than_ns": st.sampled_from([-2, -1, 0]) | st.integers(1, 2_000 * MS),
    "since_ns": st.integers(START_NS, START_NS + 1_500_000 * MS),
    "until_ns": st.integers(START_NS, START_NS + 1_500_000 * MS),
}


@st.composite
def _queries(draw: st.DrawFn) -> TurnQuery:
    filters = draw(st.lists(st.sampled_from(list(_FILTERS)), max_size=3, unique=True))
    return TurnQuery(
        **{name: draw(_FILTERS[name]) for name in filters},
        stage=draw(st.sampled_from(list(SORT_COLUMNS))),
        sort=draw(st.sampled_from(list(SORT_COLUMNS))),
        ascending=draw(st.booleans()),
        limit=draw(st.integers(1, 200)),
    )


QUERIES = _queries()
"""Queries with a few filters each, so that most select something."""
