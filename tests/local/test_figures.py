from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicespan.local import figures
from voicespan.local.decode import decode_protobuf
from voicespan.local.query import SORT_COLUMNS, TurnQuery

from .otlp import MS, request, turn
from .plain import QUERIES, Plain, Stored, ranked, within
from .rows import put_turns

if TYPE_CHECKING:
    from voicespan.local.server import Receiver


@given(values=st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_percentile_is_the_nearest_rank(values: list[int]) -> None:
    """A percentile is the smallest value that enough of the values do not exceed."""
    found = figures.summary(sorted(values))
    assert found == {"turns": len(values), **{f"p{percent}_s": ranked(values, percent) for percent in (50, 95, 99)}}


@settings(deadline=None, max_examples=60)
@given(query=QUERIES)
def test_filters_select_what_they_say(query: TurnQuery, stored: Stored) -> None:
    """The list holds exactly the turns that match, in the order that is asked for, those without the latency last."""
    expected = stored.matching(query)
    found = stored.reader.turns(query)
    assert stored.reader.count_of(query) == len(expected)
    assert len(found) == min(query.limit, len(expected))
    assert {row.trace_id for row in found} <= {each.trace_id for each in expected}
    known = sorted(each.lengths[query.sort] for each in expected if query.sort in each.lengths)
    ordered = known if query.ascending else known[::-1]
    values = [getattr(row, SORT_COLUMNS[query.sort]) for row in found]
    assert values == [*ordered, *[None] * (len(expected) - len(known))][: query.limit]


def test_bounds_are_exact(stored: Stored) -> None:
    """As long as a limit is not longer; who begins at a bound is within from there, and not until it."""
    for each in stored.turns[:8]:
        queries = [TurnQuery(stage=stage, over_ns=length, limit=1000) for stage, length in each.lengths.items()]
        queries += [TurnQuery(slower_than_ns=each.lengths.get("response"), limit=1000)]
        queries += [TurnQuery(since_ns=each.start_ns, limit=1000), TurnQuery(until_ns=each.start_ns, limit=1000)]
        for query in queries:
            expected = {other.trace_id for other in stored.matching(query)}
            assert {row.trace_id for row in stored.reader.turns(query)} == expected
            assert figures.figures(stored.reader, query)["turns"] == len(expected)


def test_rows_are_those_of_the_spans(stored: Stored) -> None:
    """Every latency, share and label of every turn is what its raw spans say, however they were cut into requests."""
    rows = {row.trace_id: row for row in stored.reader.turns(TurnQuery(limit=1000))}
    assert len(rows) == len(stored.turns)
    for each in stored.turns:
        row = rows[each.trace_id]
        assert {stage: getattr(row, column) for stage, column in SORT_COLUMNS.items()} == {
            stage: each.lengths.get(stage) for stage in SORT_COLUMNS
        }
        assert row.shares == each.shares
        assert (row.model, row.voice, row.worker) == (each.model, each.voice, each.worker)
        assert (row.service, row.session_id, row.outcome) == (each.service, each.session_id, each.outcome)
        assert (row.complete, row.unanswered, row.no_reply_reason) == (each.complete, each.unanswered, each.reason)
        assert row.service != "voice-agent" or stored.runs[row.run or 0] == each.run


@settings(deadline=None, max_examples=100)
@given(query=QUERIES, objective_ms=st.integers(1, 3000))
def test_figures_are_those_of_the_spans(query: TurnQuery, objective_ms: int, stored: Stored) -> None:
    """Counts, percentiles and the part within the objective equal a plain computation over the raw spans."""
    turns = stored.matching(query)
    found = figures.figures(stored.reader, query, objective_ms * MS)
    answered = [each.answered_ns for each in turns if each.answered_ns is not None]
    assert found["turns"] == len(turns)
    assert found["answered"] == len(answered)
    assert found["sessions"] == len({each.session_id for each in turns if each.session_id})
    assert found["unanswered"] == len([each for each in turns if each.unanswered])
    assert found["interrupted"] == len([each for each in turns if each.outcome == "interrupted"])
    assert found["errors"] == len([each for each in turns if each.outcome in ("error", "timeout")])
    assert found["incomplete"] == len([each for each in turns if not each.complete])
    assert [found[f"p{percent}_s"] for percent in (50, 95, 99)] == [ranked(answered, p) for p in (50, 95, 99)]
    stages = {stage: [each.lengths[stage] for each in turns if stage in each.lengths] for stage in figures.LATENCIES}
    stages["response"] = answered
    assert found["stages"] == {
        stage: {"turns": len(values), **{f"p{p}_s": ranked(values, p) for p in (50, 95, 99)}}
        for stage, values in stages.items()
        if values
    }
    good, counted = within(turns, objective_ms)
    assert found["within_objective"] == (good / counted if counted else None)


@settings(deadline=None, max_examples=60)
@given(query=QUERIES)
def test_silence_is_shared_out_whole(query: TurnQuery, stored: Stored) -> None:
    """The mean shares of the stages are those of the spans and add up to the mean heard silence."""
    turns = [each for each in stored.matching(query) if each.answered_ns is not None]
    found = figures.silence(stored.reader, query)
    assert found["turns"] == len(turns)
    if not turns:
        assert (found["mean_s"], found["stages"]) == (None, {})
        return
    assert set(found["stages"]) == {stage for each in turns for stage in each.shares}
    for stage, said in found["stages"].items():
        shares = [each.shares.get(stage, 0) for each in turns]
        assert said["mean_s"] == pytest.approx(sum(shares) / len(turns) / 1_000_000_000)
        assert said["median_s"] == ranked(shares, 50)
    assert math.fsum(said["mean_s"] for said in found["stages"].values()) == pytest.approx(found["mean_s"])
    assert math.fsum(said["part"] for said in found["stages"].values()) == pytest.approx(1)


@settings(deadline=None, max_examples=60)
@given(query=QUERIES, of=st.sampled_from(list(figures.LATENCIES)), most=st.integers(1, 200))
def test_every_turn_is_a_dot(query: TurnQuery, of: str, most: int, stored: Stored) -> None:
    """The chart has a dot for each turn that has the latency, in order of time; of too many, fast ones have none."""
    turns = stored.matching(query)
    turns.sort(key=lambda each: each.start_ns)
    known = {each.trace_id: each for each in turns if of in each.lengths}
    found = json.loads(figures.dots(stored.reader, query, of, most))
    drawn = [each for each in known.values() if each.trace_id in found["trace_id"]]
    assert found["trace_id"] == [each.trace_id for each in drawn]
    assert found["time_s"] == [each.start_ns / 1_000_000_000 for each in drawn]
    assert found["value_s"] == [each.lengths[of] / 1_000_000_000 for each in drawn]
    assert found["turns"] == len(turns)
    assert (found["thinned"], found["without"]) == (len(known) - len(drawn), len(turns) - len(known))
    assert len(drawn) == min(len(known), most)
    for each, mark in zip(drawn, found["mark"], strict=True):
        assert found["marks"][mark] == marked(each)
    left_out = [each for each in known.values() if each not in drawn]
    if len([each for each in known.values() if is_bad(each)]) + most // 2 <= most:
        assert not any(map(is_bad, left_out))
        slowest = sorted((each.lengths[of] for each in known.values()), reverse=True)
        assert all(each.lengths[of] <= slowest[min(len(known) // 20, most // 2)] for each in left_out)


def is_bad(each: Plain) -> bool:
    """Whether a turn failed, or nobody answered."""
    return marked(each) in ("error", "unanswered")


def marked(each: Plain) -> str:
    """What the dot of a turn is marked with."""
    if each.outcome in ("error", "timeout"):
        return "error"
    return "unanswered" if each.unanswered else "interrupted" if each.outcome == "interrupted" else ""


@settings(deadline=None, max_examples=60)
@given(query=QUERIES, of=st.sampled_from(list(figures.LATENCIES)), most=st.integers(1, 200))
def test_lines_are_over_all_turns(query: TurnQuery, of: str, most: int, stored: Stored) -> None:
    """Each point of the lines is of the turns before it, whether they have a dot or not; points are spread evenly."""
    turns = sorted(stored.matching(query), key=lambda each: each.start_ns)
    counted = [each for each in turns if of in each.lengths and not (each.unanswered and of == "response")]
    lines: dict[str, Any] = json.loads(figures.dots(stored.reader, query, of, most))["lines"]
    window = max(20, len(counted) // 20)
    assert lines["window"] == min(window, len(counted))
    places = {each.start_ns / 1_000_000_000: place for place, each in enumerate(counted)}
    ends = [places[time_s] + 1 for time_s in lines["time_s"]]
    steps = {after - before for before, after in itertools.pairwise(ends)}
    assert len(ends) == min(60, max(len(counted) - window, 0) + 1, len(counted))
    assert not ends or (ends[0], ends[-1]) == (min(window, len(counted)), len(counted))
    assert not steps or max(steps) - min(steps) <= 1
    for number, end in enumerate(ends):
        values = [each.lengths[of] for each in counted[max(end - window, 0) : end]]
        assert [lines[f"p{p}_s"][number] for p in (50, 95, 99)] == [ranked(values, p) for p in (50, 95, 99)]


@settings(deadline=None, max_examples=30)
@given(query=QUERIES)
def test_choices_are_what_occurs(query: TurnQuery, stored: Stored) -> None:
    """Each filter offers the values that there are, with the number of their turns, the most frequent first."""
    turns = stored.matching(query)
    for name, offered in figures.choices(stored.reader, query).items():
        counts = Counter(getattr(each, name) for each in turns if getattr(each, name) is not None)
        assert {each["value"]: each["turns"] for each in offered} == counts
        assert [each["turns"] for each in offered] == sorted(counts.values(), reverse=True)


def test_neighbours_are_of_the_same_session(stored: Stored) -> None:
    """The turns before and after are the nearest ones of the session; the first has none before it."""
    session = stored.reader.turns(TurnQuery(session="call-1", ascending=True, limit=3))
    first, second, third = session
    assert stored.reader.neighbours(second) == {"previous": first.trace_id, "next": third.trace_id}
    assert stored.reader.neighbours(first)["previous"] is None


@pytest.mark.parametrize(
    "address",
    [
        "figures?objective_ms=soon", "figures?nothing=1", "dots?of=start", "dots?stage=none", "silence?limit=0",
        "turns?order=up", "choices?since_s=nan", "turns?over_ms=1e300", "dots?since_s=1e15", "figures?objective_ms=inf",
        "sessions?limit=none", "runs?run=first", "traces?limit=20001", "traces?run=1", "session?name=x", "compare",
        "compare?against=run:", "compare?against=run:one", "compare?against=now", "compare?against=1..x",
        "compare?against=1e300..", "compare?against=nan..",
    ],
)  # fmt: skip
def test_impossible_questions_are_refused(address: str, receiver: Receiver) -> None:
    """A wrong parameter is answered with 400 and the reason."""
    answer = httpx.get(f"{receiver.endpoint}/api/{address}")
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_errors_are_the_turns_that_the_filter_finds(stored: Stored) -> None:
    """The count of errors leads to a list of as many turns, and to the same figures."""
    reader = stored.store.reader
    whole, failed = figures.figures(reader, TurnQuery()), TurnQuery(outcome="failed", limit=1000)
    assert whole["errors"] == len(reader.turns(failed)) == figures.figures(reader, failed)["turns"] > 0
    assert {turn.outcome for turn in reader.turns(failed)} == {"error", "timeout"}


def test_thinned_dots_are_spread_evenly(receiver: Receiver) -> None:
    """Of 5,000 turns with room for 500, slow, failed and unanswered ones have a dot, fast ones over all the time."""
    receiver.store.add(decode_protobuf(request(*turn().spans).SerializeToString()).spans)
    (model,) = receiver.store.reader.turns(TurnQuery())
    rows = [
        model._replace(
            trace_id=f"{index:032x}",
            start_ns=model.start_ns + index * 1_000_000_000,
            response_ns=(5_000 if index % 100 == 7 else 400 + index % 13) * MS,
            outcome="error" if index % 100 == 50 else "completed",
            unanswered=index % 100 == 80,
        )
        for index in range(5_000)
    ]
    put_turns(receiver.store, rows)
    found = json.loads(figures.dots(receiver.store.reader, TurnQuery(), most=500))
    shown = sorted(int(trace_id, 16) for trace_id in found["trace_id"] if int(trace_id, 16) < 5_000)
    assert set(shown) >= {index for index in range(5_000) if index % 100 in (7, 50, 80)}
    assert max(after - before for before, after in itertools.pairwise(shown)) < 40
    assert (len(found["trace_id"]), found["thinned"]) == (500, 4_501)
    assert len(found["lines"]["time_s"]) == 60
