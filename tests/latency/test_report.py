"""The report of a latency test: its lines, its verdict, its statistics, and what counts as worse than before."""

from __future__ import annotations

import json

import pytest

from voicespan.latency.call import Outcome
from voicespan.latency.report import Report, percentile, regressions


def report(*latencies_ms: float, failed: int = 0, target_ms: float = 600) -> Report:
    outcomes = [Outcome(number, latency / 1e3) for number, latency in enumerate(latencies_ms)]
    outcomes += [Outcome(len(outcomes) + number, problem="no answer within 10 s") for number in range(failed)]
    return Report(outcomes, target_ms)


EXPECTED = """\
============================================================
LATENCY TEST RESULTS
============================================================
Total Calls: 5
Successful Calls: 4
Failed Calls: 1
Success Rate: 80.0%

LATENCY STATISTICS:
  Average Latency: 500.00 ms
  Median Latency:  475.00 ms
  95th Percentile: 627.50 ms
  99th Percentile: 645.50 ms
  Min Latency:     400.00 ms
  Max Latency:     650.00 ms
  Std Deviation:   108.01 ms

TARGET COMPLIANCE (<600ms):
  Calls Meeting Target: 3/5
  Compliance Rate: 60.0%

✅ SUCCESS: Average latency (500.00ms) is below 600ms target!
============================================================"""


@pytest.mark.covers("D-L01", "D-L02", "D-L03", "D-L04", "D-L05")
def test_the_report_line_by_line() -> None:
    """Counts, seven statistics, compliance and verdict stand in the lines that they belong in."""
    assert report(400, 500, 450, 650, failed=1).text() == EXPECTED


@pytest.mark.covers("D-L05", "D-Q01", "D-S01")
def test_the_verdict_is_by_the_average() -> None:
    """The average decides, also where most calls meet the target; exactly the target does not meet it."""
    slow = report(500, 500, 500, 1_000)
    assert not slow.passed
    assert "❌ FAILED: Average latency (625.00ms) is not below 600ms target!" in slow.text()
    assert "  Calls Meeting Target: 3/4\n" in slow.text()
    assert report(100, 100, 1_500).passed
    assert not report(600, 600).passed
    assert report(600, 0).met == 1


@pytest.mark.covers("D-Q02", "D-S03")
def test_a_call_that_failed_misses_the_target() -> None:
    """The compliance is of all calls, the statistics of the successful ones."""
    told = report(500, 580, failed=2).metrics()
    assert (told["success_rate"], told["compliance_rate"]) == (0.5, 0.5)
    assert (told["average_ms"], told["max_ms"]) == (540, 580)


def test_no_call_was_answered() -> None:
    """Without any latency the report says so, and is no success."""
    nobody = report(failed=3)
    assert not nobody.passed
    assert "  Average Latency: -\n" in nobody.text()
    assert "❌ FAILED: No call was answered!" in nobody.text()
    assert nobody.metrics() == {"success_rate": 0, "compliance_rate": 0}


def test_percentiles_lie_between_the_nearest_values() -> None:
    """A percentile is interpolated; of one value it is that value."""
    assert percentile([10.0], 0.95) == 10
    assert percentile([0.0, 100.0], 0.95) == pytest.approx(95)
    assert percentile([float(value) for value in range(101)], 0.99) == pytest.approx(99)


@pytest.mark.covers("A-S07")
def test_everything_to_publish_is_in_the_data() -> None:
    """The JSON has every call, the spread, and the interval of the average."""
    data = json.loads(json.dumps(report(400, 500, 450, 650, failed=1).data()))
    assert data["metrics"]["deviation_ms"] == pytest.approx(108.012, abs=0.001)
    assert data["metrics"]["average_error_ms"] == pytest.approx(1.96 * 108.012 / 2, abs=0.01)
    assert [each["latency_ms"] for each in data["outcomes"]] == [400, 500, 450, 650, None]
    assert data["outcomes"][4]["problem"] == "no answer within 10 s"
    assert (data["calls"], data["target_ms"], data["passed"]) == (5, 600, True)


@pytest.mark.covers("A-K10")
def test_what_is_worse_than_the_baseline() -> None:
    """Each metric has a tolerance: what is worse beyond it is a sentence, what is better or within it is not."""
    before = report(*[500.0] * 100).data()
    assert regressions(report(*[570.0] * 100).metrics(), before) == []
    assert regressions(report(*[300.0] * 100).metrics(), before) == []
    assert regressions(report(*[580.0] * 100).metrics(), before) == [
        "average_ms 580.00 ms was 500.00 ms, and may be 15% more",
        "median_ms 580.00 ms was 500.00 ms, and may be 15% more",
    ]
    assert regressions(report(*[500.0] * 94, *[640.0] * 6).metrics(), before) == [
        "p95_ms 640.00 ms was 500.00 ms, and may be 25% more",
        "compliance_rate 94.0% was 100.0%",
    ]
    assert regressions(report(*[500.0] * 97, failed=3).metrics(), before) == ["success_rate 97.0% was 100.0%"]
    tolerant = {**before, "tolerance": {"success_rate": 0.1}}
    assert regressions(report(*[500.0] * 97, failed=3).metrics(), tolerant) == []
    assert regressions(report(failed=3).metrics(), before)[0] == "average_ms - was 500.00 ms, and may be 15% more"
    with pytest.raises(ValueError, match="--save FILE"):
        regressions({}, {"other": 1})
