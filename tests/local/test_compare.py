from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicespan.local import difference
from voicespan.local.compare import compare, earlier
from voicespan.local.difference import Moments
from voicespan.local.figures import LATENCIES
from voicespan.local.query import TurnQuery
from voicespan.local.store import Store
from voicespan.local.turn import Turn

from .otlp import MS, START_NS, turn
from .plain import QUERIES, Plain, Stored, ranked, within
from .rows import put_turns
from .test_store import received

if TYPE_CHECKING:
    from collections.abc import Callable

START_S = START_NS // 1_000_000_000
PERCENTS = (50, 95, 99)
Key = tuple[str, ...]


def expected_of(intervals: dict[Key, Callable[[float], difference.Difference | None]]) -> dict[Key, dict[str, Any]]:
    """Each difference of a group in its own unit; `clear` by the steps of Holm's procedure."""
    told = {key: test(0.025) for key, test in intervals.items()}
    open_ = [key for key, found in told.items() if found is not None]
    clear: set[Key] = set()
    while news := [
        key for key in open_ if (found := intervals[key](0.025 / len(open_))) and found.low * found.high > 0
    ]:
        clear.update(news)
        open_ = [key for key in open_ if key not in news]
    nothing = dict.fromkeys(("change", "low", "high"))
    return {key: (found._asdict() if found else nothing) | {"clear": key in clear} for key, found in told.items()}


def in_seconds(expected: dict[str, Any]) -> dict[str, Any]:
    """The same, of lengths."""
    lengths = {f"{name}_s": value and value / 1_000_000_000 for name, value in expected.items() if name != "clear"}
    return lengths | {"clear": expected["clear"]}


@settings(deadline=None, max_examples=60)
@given(
    query=QUERIES,
    against=st.one_of(
        st.integers(0, 8).map(lambda run: f"run:{run}"),
        st.tuples(st.integers(0, 800), st.integers(700, 1500)).map(lambda at: f"{START_S + at[0]}..{START_S + at[1]}"),
        st.sampled_from(["..", f"..{START_S + 900.5}", f"{START_S + 300}.."]),
    ),
    objective_ms=st.integers(1, 3000),
)
def test_comparison_is_that_of_the_spans(query: TurnQuery, against: str, objective_ms: int, stored: Stored) -> None:
    """Counts, percentiles, mean shares and rates of both sides equal a plain computation over the raw spans."""
    before = replace(query, run=None, since_ns=None, until_ns=None)
    if against.startswith("run:"):
        before = replace(before, run=int(against[4:]))
    else:
        bounds = [round(float(end) * 1_000_000_000) if end else None for end in against.split("..")]
        before = replace(before, since_ns=bounds[0], until_ns=bounds[1])
    assert earlier(query, against) == before
    sides = stored.matching(query), stored.matching(before)
    answered = [[each for each in side if each.answered_ns is not None] for side in sides]
    found = compare(stored.reader, query, before, objective_ms * MS)

    for name, side, heard in zip(("now", "before"), sides, answered, strict=True):
        assert found[name] == {"turns": len(side), "answered": len(heard)}
    lengths = {
        stage: [[each.lengths[stage] for each in side if stage in each.lengths] for side in sides]
        for stage in LATENCIES
    }
    lengths["response"] = [[each.lengths["response"] for each in side] for side in answered]
    known = {stage: [sorted(side) for side in both] for stage, both in lengths.items() if any(both)}
    changes = expected_of(
        {
            (stage, f"p{percent}"): partial(difference.of_percentiles, both[0], both[1], percent)
            for stage, both in known.items()
            for percent in PERCENTS
        }
    )
    assert set(found["latencies"]) == set(known)
    for stage, both in known.items():
        latency = found["latencies"][stage]
        for name, values in zip(("now", "before"), both, strict=True):
            assert latency[name] == {"turns": len(values), **{f"p{p}_s": ranked(values, p) for p in PERCENTS}}
        for percent in PERCENTS:
            change = changes[stage, f"p{percent}"]
            assert latency[f"p{percent}"] == (None if change["change"] is None else in_seconds(change))

    stages = {stage for side in answered for each in side for stage in each.shares}
    assert set(found["shares"]) == stages
    shares = {stage: [[each.shares.get(stage, 0) for each in side] for side in answered] for stage in stages}
    changes = expected_of(
        {
            (stage,): partial(difference.of_means, Moments.of(both[0]), Moments.of(both[1]))
            for stage, both in shares.items()
        }
    )
    for stage, both in shares.items():
        means = [sum(side) / len(side) / 1_000_000_000 if side else None for side in both]
        assert found["shares"][stage] == {"now_s": means[0], "before_s": means[1], **in_seconds(changes[stage,])}

    tests: dict[str, Callable[[Plain], bool]] = {
        "unanswered": lambda each: each.unanswered,
        "interrupted": lambda each: each.outcome == "interrupted",
        "errors": lambda each: each.outcome in ("error", "timeout"),
    }
    rates = {
        name: [(len([each for each in side if test(each)]), len(side)) for side in sides]
        for name, test in tests.items()
    }
    rates["within_objective"] = [within(side, objective_ms) for side in sides]
    changes = expected_of({(name,): partial(difference.of_rates, both[0], both[1]) for name, both in rates.items()})
    for name, pairs in rates.items():
        parts = [part / whole if whole else None for part, whole in pairs]
        assert found["rates"][name] == {"now": parts[0], "before": parts[1], **changes[name,]}


def test_a_change_of_one_stage_is_named() -> None:
    """A run whose model got slower differs clearly in its silence and in the model's share, and in nothing else."""
    with Store() as store:
        store.add(received(turn()))
        (model,) = store.reader.turns(TurnQuery())
        rows = []
        for index in range(400):
            noise = index * 7919 % 200 * MS
            llm_ns = 300 * MS + noise + (150 * MS if index % 2 else 0)
            shares = {"endpoint": 200 * MS + noise // 4, "llm": llm_ns}
            rows.append(
                model._replace(
                    trace_id=f"{index:032x}",
                    run=7 + index % 2,
                    llm_ttft_ns=llm_ns,
                    shares=shares,
                    endpoint_ns=shares["endpoint"],
                    response_ns=sum(shares.values()),
                    start_ns=model.start_ns + index,
                )
            )
        put_turns(store, rows)
        found = compare(store.reader, TurnQuery(run=8), earlier(TurnQuery(run=8), "run:7"))
    clear = {stage for stage, share in found["shares"].items() if share["clear"]}
    assert clear == {"llm"}
    assert found["shares"]["llm"]["change_s"] == pytest.approx(0.15, abs=0.02)
    for percentile in ("p50", "p95"):
        for stage in ("response", "llm"):
            change = found["latencies"][stage][percentile]
            assert change["clear"]
            assert change["low_s"] <= 0.15 <= change["high_s"]
        assert not found["latencies"]["endpoint"][percentile]["clear"]
    assert found["latencies"]["response"]["p99"] is None  # of 200 turns, it is not known well enough
    assert not any(found["rates"][name]["clear"] for name in ("unanswered", "interrupted", "errors"))


def drawn(model: Turn, draw: random.Random, run: int, index: int) -> Turn:
    """A turn whose lengths and outcome are drawn anew, each for itself."""
    lengths = {
        name: round(value * draw.lognormvariate(0, 0.5))
        for name in Turn._fields
        if name.endswith("_ns")
        and name not in ("start_ns", "duration_ns")
        and (value := getattr(model, name)) is not None
    }
    return model._replace(
        **lengths,
        shares={stage: round(share * draw.lognormvariate(0, 0.5)) for stage, share in model.shares.items()},
        outcome=draw.choices(("completed", "interrupted", "error"), (80, 15, 5))[0],
        trace_id=f"{draw.getrandbits(128):032x}",
        run=run,
        start_ns=model.start_ns + index,
    )


def test_noise_is_no_news_in_a_whole_comparison() -> None:
    """Where nothing changed, hardly one comparison in twenty says so of any latency, any share or any rate."""
    draw, comparisons = random.Random(11), 60
    news = dict.fromkeys(("latencies", "shares", "rates"), 0)
    chance = 0
    with Store() as store:
        store.add(received(turn()))
        (model,) = store.reader.turns(TurnQuery())
        for number in range(comparisons):
            with store._writing("nothing"):
                store._connection.execute("DELETE FROM turn")
            put_turns(store, (drawn(model, draw, 2 * number + index % 2, index) for index in range(300)))
            query = TurnQuery(run=2 * number)
            found = compare(store.reader, query, earlier(query, f"run:{2 * number + 1}"))
            latencies = [each[name] for each in found["latencies"].values() for name in ("p50", "p95", "p99")]
            groups = {"latencies": latencies, **{name: list(found[name].values()) for name in ("shares", "rates")}}
            for name, group in groups.items():
                news[name] += any(change["clear"] for change in group if change is not None)
            chance += any(each["low_s"] * each["high_s"] > 0 for each in (*filter(None, latencies), *groups["shares"]))
    assert all(count <= 0.05 * comparisons + 5 for count in news.values()), news  # 5 %, and three standard deviations
    assert chance >= 0.3 * comparisons  # which is what each interval for itself would have said


@pytest.mark.parametrize("against", ["", "run", "run:", "run:x", "now", "1..x", "x..", "nan..", "inf..", "1"])
def test_what_is_nothing_to_compare_with_is_said(against: str) -> None:
    """Neither a run nor a time is an error of the caller, with the two forms in its words."""
    with pytest.raises(ValueError, match=r"run:ID.*SINCE\.\.UNTIL"):
        earlier(TurnQuery(), against)
