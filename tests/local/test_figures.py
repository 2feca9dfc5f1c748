from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicespan.local import figures
from voicespan.local.query import SORT_COLUMNS, TurnQuery

from .otlp import MS
from .plain import QUERIES, Stored, ranked, within

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
@given(query=QUERIES, of=st.sampled_from(list(figures.LATENCIES)), newest=st.integers(1, 200))
def test_every_turn_is_a_dot(query: TurnQuery, of: str, newest: int, stored: Stored) -> None:
    """The chart has a dot for each turn that has the latency, in order of time, and counts what it leaves out."""
    turns = stored.matching(query)
    turns.sort(key=lambda each: each.start_ns)
    found = json.loads(figures.dots(stored.reader, query, of, newest))
    drawn = [each for each in turns[-newest:] if of in each.lengths]
    assert found["trace_id"] == [each.trace_id for each in drawn]
    assert found["time_s"] == [each.start_ns / 1_000_000_000 for each in drawn]
    assert found["value_s"] == [each.lengths[of] / 1_000_000_000 for each in drawn]
    assert found["turns"] == len(turns)
    assert found["beyond"] == max(len(turns) - newest, 0)
    assert found["without"] == len(turns[-newest:]) - len(drawn)
    for each, mark in zip(drawn, found["mark"], strict=True):
        failed = each.outcome in ("error", "timeout")
        assert found["marks"][mark] == (
            "error" if failed else "unanswered" if each.unanswered
            else "interrupted" if each.outcome == "interrupted" else ""
        )  # fmt: skip
    counted = [each for each in drawn if not (each.unanswered and of == "response")]
    lines: dict[str, Any] = found["lines"]
    if counted:
        last = [each.lengths[of] for each in counted[-lines["window"] :]]
        assert [lines[f"p{p}_s"][-1] for p in (50, 95, 99)] == [ranked(last, p) for p in (50, 95, 99)]
        assert lines["time_s"][-1] == counted[-1].start_ns / 1_000_000_000


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
