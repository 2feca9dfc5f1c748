"""How many requests for a token the reference agent answers: 1,000 of them, 50 at a time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from voicespan.latency.report import percentile, regressions

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(600)

REQUESTS = 1_000
AT_ONCE = 50


@pytest.fixture(scope="module")
def load(agent: str, written: Callable[[str, Any], None]) -> dict[str, Any]:
    """What the load test gave, as in `throughput_benchmark.json`: the answers by status, and how long they took."""
    took_ms, answers, seconds = asyncio.run(_load(f"{agent}/token"))
    found = {
        "metrics": {
            "average_ms": statistics.fmean(took_ms),
            "median_ms": statistics.median(took_ms),
            "p95_ms": percentile(took_ms, 0.95),
            "p99_ms": percentile(took_ms, 0.99),
            "requests_per_second": len(took_ms) / seconds,
            "success_rate": sum(answers.values()) / REQUESTS,
        },
        "answers": dict(answers),
    }
    written("throughput_benchmark.json", found)
    print(found)
    return found


async def _load(url: str) -> tuple[list[float], Counter[int], float]:
    took_ms: list[float] = []
    answers: Counter[int] = Counter()
    left = iter(range(REQUESTS))

    async def ask(client: httpx.AsyncClient) -> None:
        for _ in left:
            began_s = time.monotonic()
            answer = await client.post(url)
            took_ms.append((time.monotonic() - began_s) * 1e3)
            answers[answer.status_code] += 1

    began_s = time.monotonic()
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=AT_ONCE)) as client:
        await asyncio.gather(*(ask(client) for _ in range(AT_ONCE)))
    return took_ms, answers, time.monotonic() - began_s


@pytest.mark.benchmark
def test_every_request_is_answered(load: dict[str, Any]) -> None:
    """Each request gets a token or, faster than they are made, is refused with 429; none fails."""
    assert set(load["answers"]) == {200, 429}
    assert sum(load["answers"].values()) == REQUESTS


@pytest.mark.regression
def test_answers_take_no_longer_than_before(load: dict[str, Any], baseline: Any) -> None:
    """No metric is worse than the baseline by more than its tolerance."""
    assert regressions(load["metrics"], baseline["throughput"]) == []
