from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicespan.local import difference
from voicespan.local.compare import compare, earlier
from voicespan.local.figures import LATENCIES
from voicespan.local.query import TurnQuery
from voicespan.local.store import Store

from .otlp import MS, START_NS, turn
from .plain import QUERIES, Plain, Stored, ranked, within
from .rows import put_turns
from .test_store import received

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNKNOWN = {"change_s": None, "low_s": None, "high_s": None, "clear": False}
START_S = START_NS // 1_000_000_000


def changed(found: difference.Difference | None) -> dict[str, Any] | None:
    """A difference of lengths as it leaves."""
    if found is None:
        return None
    return {f"{name}_s": value / 1_000_000_000 for name, value in found._asdict().items()} | {"clear": found.clear}


def latency(sides: Sequence[Sequence[int]]) -> dict[str, Any]:
    """One latency, computed plainly."""
    said = [{"turns": len(side), "p50_s": ranked(side, 50), "p95_s": ranked(side, 95)} for side in sides]
    now, before = map(sorted, sides)
    changes = {f"p{percent}": changed(difference.of_percentiles(now, before, percent)) for percent in (50, 95)}
    return {"now": said[0], "before": said[1], **changes}


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
    assert found["latencies"] == {stage: latency(both) for stage, both in lengths.items() if any(both)}

    stages = {stage for side in answered for each in side for stage in each.shares}
    assert set(found["shares"]) == stages
    for stage in stages:
        shares = [[each.shares.get(stage, 0) for each in side] for side in answered]
        means = [sum(side) / len(side) / 1_000_000_000 if side else None for side in shares]
        assert [found["shares"][stage][f"{name}_s"] for name in ("now", "before")] == means
        expected = changed(difference.of_means(*shares)) or {
            "change_s": None,
            "low_s": None,
            "high_s": None,
            "clear": False,
        }
        assert {key: found["shares"][stage][key] for key in expected} == expected

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
    for name, both in rates.items():
        assert [found["rates"][name][side] for side in ("now", "before")] == [p / n if n else None for p, n in both]
        interval = difference.of_rates(*both)
        assert [found["rates"][name][key] for key in ("change", "low", "high")] == list(interval or (None,) * 3)
        assert found["rates"][name]["clear"] == (interval is not None and interval.clear)


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
    assert not any(found["rates"][name]["clear"] for name in ("unanswered", "interrupted", "errors"))


@pytest.mark.parametrize("against", ["", "run", "run:", "run:x", "now", "1..x", "x..", "nan..", "inf..", "1"])
def test_what_is_nothing_to_compare_with_is_said(against: str) -> None:
    """Neither a run nor a time is an error of the caller, with the two forms in its words."""
    with pytest.raises(ValueError, match=r"run:ID.*SINCE\.\.UNTIL"):
        earlier(TurnQuery(), against)
