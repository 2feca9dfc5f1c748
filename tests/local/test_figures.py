from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicespan.local import figures
from voicespan.local.decode import decode_protobuf
from voicespan.local.reader import SORT_COLUMNS, TurnQuery
from voicespan.local.server import Receiver
from voicespan.local.store import Store

from .otlp import START_NS, Trace, pairs, request, turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from voicespan.local.turn import Turn

MS = 1_000_000
OUTCOMES = ("completed", "interrupted", "error", "timeout", "no_reply")


def some_turns(count: int, seed: int) -> list[Trace]:
    """Turns of every kind: answered, unanswered for every reason, by the agent, incomplete; some of equal lengths."""
    draw = random.Random(seed)
    traces = []
    for index in range(count):
        shares = {"endpoint": 0.1 * draw.randint(1, 4), "llm": 0.05 * draw.randint(1, 30)}
        if draw.random() < 0.4:
            shares["tts"] = 0.05 * draw.randint(1, 20)
        trace = turn(
            index,
            session=f"call-{draw.randint(1, 4)}",
            outcome=draw.choice(OUTCOMES),
            shares=shares,
            onset_ns=START_NS + index * 10_000 * MS,
        )
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
        if draw.random() < 0.5:
            for _, _, span in trace.spans:
                for attribute in span.attributes:
                    if attribute.key == "gen_ai.request.model":
                        attribute.value.string_value = "large-chat"
        traces.append(trace)
    return traces


@pytest.fixture(scope="module")
def stored() -> Iterator[tuple[Store, list[Turn]]]:
    """A store with 150 different turns, and all of its rows."""
    with Store() as store:
        for trace in some_turns(150, seed=3):
            store.add(decode_protobuf(request(*trace.spans).SerializeToString()).spans)
        yield store, store.reader.turns(TurnQuery(limit=1000))


def matching(rows: Sequence[Turn], query: TurnQuery) -> list[Turn]:
    """The rows that a query selects, one condition after the other."""
    found = list(rows)
    for field in ("session", "service", "model", "voice", "worker"):
        wanted = getattr(query, field)
        if wanted is not None:
            column = {"session": "session_id"}.get(field, field)
            found = [row for row in found if getattr(row, column) == wanted]
    if query.outcome == "incomplete":
        found = [row for row in found if not row.complete]
    elif query.outcome == "unanswered":
        found = [row for row in found if row.unanswered]
    elif query.outcome is not None:
        found = [row for row in found if row.outcome == query.outcome]
    if query.search:
        text = query.search.lower()
        found = [row for row in found if text in (row.session_id or "").lower() or row.trace_id.startswith(text)]
    if query.over_ns is not None:
        found = [row for row in found if (getattr(row, SORT_COLUMNS[query.stage]) or -1) > query.over_ns]
    if query.slower_than_ns is not None:
        found = [row for row in found if (row.response_ns or -1) > query.slower_than_ns]
    if query.since_ns is not None:
        found = [row for row in found if row.start_ns >= query.since_ns]
    return found if query.until_ns is None else [row for row in found if row.start_ns < query.until_ns]


def ranked(values: Sequence[int], percent: int) -> float | None:
    """The smallest value that at least this share of the values do not exceed, by counting."""
    for candidate in sorted(values):
        if 100 * sum(value <= candidate for value in values) >= percent * len(values):
            return candidate / 1e9
    return None


optional = st.none
QUERIES = st.builds(
    TurnQuery,
    session=optional() | st.sampled_from(["call-1", "call-2", "nobody"]),
    outcome=optional() | st.sampled_from([*OUTCOMES, "incomplete", "unanswered"]),
    model=optional() | st.sampled_from(["small-chat", "large-chat"]),
    search=optional() | st.sampled_from(["CALL", "l-3", "a", "7f"]),
    stage=st.sampled_from(list(SORT_COLUMNS)),
    over_ns=optional() | st.integers(0, 2_000 * MS),
    slower_than_ns=optional() | st.integers(0, 2_000 * MS),
    since_ns=optional() | st.integers(START_NS, START_NS + 1_500_000 * MS),
    until_ns=optional() | st.integers(START_NS, START_NS + 1_500_000 * MS),
    sort=st.sampled_from(list(SORT_COLUMNS)),
    ascending=st.booleans(),
    limit=st.integers(1, 200),
)


@given(values=st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_percentile_is_the_nearest_rank(values: list[int]) -> None:
    """A percentile is the smallest value that enough of the values do not exceed."""
    found = figures.percentiles(values)
    assert found == {f"p{percent}_s": ranked(values, percent) for percent in (50, 95, 99)}


@settings(deadline=None, max_examples=60)
@given(query=QUERIES)
def test_filters_select_what_they_say(query: TurnQuery, stored: tuple[Store, list[Turn]]) -> None:
    """The list holds exactly the turns that match, in the order that is asked for, those without the latency last."""
    store, rows = stored
    expected = matching(rows, query)
    found = store.reader.turns(query)
    assert store.reader.count_of(query) == len(expected)
    assert len(found) == min(query.limit, len(expected))
    assert {row.trace_id for row in found} <= {row.trace_id for row in expected}
    column = SORT_COLUMNS[query.sort]
    known = sorted(
        (getattr(row, column) for row in expected if getattr(row, column) is not None), reverse=not query.ascending
    )
    values = [getattr(row, column) for row in found]
    assert values == [*known, *[None] * (len(expected) - len(known))][: query.limit]


@settings(deadline=None, max_examples=60)
@given(query=QUERIES, objective_ms=st.integers(1, 3000))
def test_figures_are_those_of_the_rows(query: TurnQuery, objective_ms: int, stored: tuple[Store, list[Turn]]) -> None:
    """Counts, percentiles and the part within the objective equal a plain computation over the rows."""
    store, all_rows = stored
    rows = matching(all_rows, query)
    found = figures.figures(store.reader, query, objective_ms * MS)
    answered = [row.response_ns for row in rows if row.response_ns is not None and not row.unanswered]
    assert found["turns"] == len(rows)
    assert found["sessions"] == len({row.session_id for row in rows if row.session_id})
    assert found["unanswered"] == len([row for row in rows if row.unanswered])
    assert found["interrupted"] == len([row for row in rows if row.outcome == "interrupted"])
    assert found["errors"] == len([row for row in rows if row.outcome in ("error", "timeout")])
    assert found["incomplete"] == len([row for row in rows if not row.complete])
    assert [found[f"p{percent}_s"] for percent in (50, 95, 99)] == [ranked(answered, p) for p in (50, 95, 99)]
    for stage, said in found["stages"].items():
        column = SORT_COLUMNS[stage]
        values = answered if stage == "response" else [getattr(row, column) for row in rows]
        values = [value for value in values if value is not None]
        assert said == {"turns": len(values), **{f"p{p}_s": ranked(values, p) for p in (50, 95, 99)}}
    good = len([value for value in answered if value <= objective_ms * MS])
    gave_up = [
        row
        for row in rows
        if row.unanswered
        and row.no_reply_reason not in ("no_speech", "suppressed")
        and (row.response_ns or 0) >= objective_ms * MS
    ]
    counted = len(answered) + len(gave_up)
    assert found["within_objective"] == (good / counted if counted else None)


@settings(deadline=None, max_examples=40)
@given(query=QUERIES)
def test_silence_is_shared_out_whole(query: TurnQuery, stored: tuple[Store, list[Turn]]) -> None:
    """The mean shares of the stages are those of the rows and add up to the mean heard silence."""
    store, all_rows = stored
    rows = [row for row in matching(all_rows, query) if row.response_ns is not None and not row.unanswered]
    found = figures.silence(store.reader, query)
    assert found["turns"] == len(rows)
    if not rows:
        assert (found["mean_s"], found["stages"]) == (None, {})
        return
    for stage, said in found["stages"].items():
        shares = [row.shares.get(stage, 0) for row in rows]
        assert said["mean_s"] == pytest.approx(sum(shares) / len(rows) / 1e9)
        assert said["median_s"] == ranked(shares, 50)
    assert math.fsum(said["mean_s"] for said in found["stages"].values()) == pytest.approx(found["mean_s"])
    assert math.fsum(said["part"] for said in found["stages"].values()) == pytest.approx(1)


@settings(deadline=None, max_examples=40)
@given(query=QUERIES, of=st.sampled_from(figures.LATENCIES), newest=st.integers(1, 200))
def test_every_turn_is_a_dot(query: TurnQuery, of: str, newest: int, stored: tuple[Store, list[Turn]]) -> None:
    """The chart has a dot for each turn that has the latency, in order of time, and counts what it leaves out."""
    store, all_rows = stored
    rows = sorted(matching(all_rows, query), key=lambda row: row.start_ns)
    found = figures.dots(store.reader, query, of, newest)
    drawn = [row for row in rows[-newest:] if getattr(row, SORT_COLUMNS[of]) is not None]
    assert found["trace_id"] == [row.trace_id for row in drawn]
    assert found["value_s"] == [getattr(row, SORT_COLUMNS[of]) / 1e9 for row in drawn]
    assert found["turns"] == len(rows)
    assert found["beyond"] == max(len(rows) - newest, 0)
    assert found["without"] == len(rows[-newest:]) - len(drawn)
    for row, mark in zip(drawn, found["mark"], strict=True):
        failed = row.outcome in ("error", "timeout")
        assert found["marks"][mark] == (
            "error" if failed else "unanswered" if row.unanswered
            else "interrupted" if row.outcome == "interrupted" else ""
        )  # fmt: skip
    counted = [row for row in drawn if not (row.unanswered and of == "response")]
    lines: dict[str, Any] = found["lines"]
    if counted:
        last = [getattr(row, SORT_COLUMNS[of]) for row in counted[-lines["window"] :]]
        assert [lines[f"p{p}_s"][-1] for p in (50, 95, 99)] == [ranked(last, p) for p in (50, 95, 99)]
        assert lines["time_s"][-1] == counted[-1].start_ns / 1e9


def test_choices_are_what_occurs(stored: tuple[Store, list[Turn]]) -> None:
    """Each filter offers the values that there are, with the number of their turns, the most frequent first."""
    store, rows = stored
    found = figures.choices(store.reader, TurnQuery())
    assert {each["value"] for each in found["model"]} == {row.model for row in rows if row.model}
    for each in found["outcome"]:
        assert each["turns"] == len([row for row in rows if row.outcome == each["value"]])
    counts = [each["turns"] for each in found["outcome"]]
    assert counts == sorted(counts, reverse=True)


def test_neighbours_are_of_the_same_session(stored: tuple[Store, list[Turn]]) -> None:
    """The turns before and after are the nearest ones of the session; the first has none before it."""
    store, rows = stored
    session = sorted((row for row in rows if row.session_id == "call-1"), key=lambda row: row.start_ns)
    first, second, third = session[:3]
    assert store.reader.neighbours(second) == {"previous": first.trace_id, "next": third.trace_id}
    assert store.reader.neighbours(first)["previous"] is None


@pytest.mark.parametrize(
    "address",
    [
        "figures?objective_ms=soon", "figures?nothing=1", "dots?of=start", "dots?stage=none", "silence?limit=0",
        "turns?order=up", "choices?since_s=nan", "turns?over_ms=1e300", "dots?since_s=1e15", "figures?objective_ms=inf",
    ],
)  # fmt: skip
def test_impossible_questions_are_refused(address: str) -> None:
    """A wrong parameter is answered with 400 and the reason."""
    with Receiver(port=0) as receiver:
        answer = httpx.get(f"{receiver.endpoint}/api/{address}")
    assert answer.status_code == 400
    assert answer.json()["error"]
