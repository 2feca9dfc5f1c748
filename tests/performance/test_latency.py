"""How long callers of the reference agent wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from voicespan.latency.report import regressions

if TYPE_CHECKING:
    from voicespan.latency.report import Report

pytestmark = pytest.mark.timeout(3_600)


@pytest.mark.benchmark
def test_every_caller_is_answered(latency: Report) -> None:
    """No call fails; how long they waited is in the report."""
    assert latency.metrics()["success_rate"] == 1, latency.text()


@pytest.mark.regression
def test_callers_wait_no_longer_than_before(latency: Report, baseline: Any) -> None:
    """No metric is worse than the baseline by more than its tolerance."""
    assert regressions(latency.metrics(), baseline) == []
