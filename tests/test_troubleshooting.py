"""The page of troubleshooting has each way to a cause, step by step. Its queries are asked by test_queries.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"

WAYS = [
    pytest.param(
        '"No data" in Grafana',
        (
            "otelcol_receiver_accepted_spans", "voicespan doctor", "firewall", 'up{job="otel-collector-span-metrics"}',
            "data source", "http://localhost:8010/health", "http://localhost:8010/prometheus",
            "http://localhost:9090/api/v1/targets", "http://localhost:3000/api/health",
        ),
        marks=pytest.mark.covers("A-W01", "D-W01", "D-W02", "E-W01", "E-W04", "E-W05"),
        id="no data",
    ),
    pytest.param(
        "The client's metrics do not appear",
        ("console", "network tab", "/api/metrics", "CORS", "401", "413", "429"),
        marks=pytest.mark.covers("A-W02"),
        id="client",
    ),
    pytest.param(
        "Prometheus uses much memory",
        ("15d", "scrape_samples_post_metric_relabeling", "Retention", "longer scrape interval"),
        marks=pytest.mark.covers("A-W03"),
        id="memory of Prometheus",
    ),
    pytest.param(
        "High latency",
        (
            "histogram_quantile(0.95", "voice.response", "critical path", "voice_text_word_count_range",
            "Resource Utilization", "network",
        ),
        marks=pytest.mark.covers("D-W03", "E-W02"),
        id="latency",
    ),
    pytest.param(
        "Memory of a service grows",
        ("process_memory_usage_bytes", "voice_session_active", "runbooks/high-memory.md"),
        marks=pytest.mark.covers("E-W03"),
        id="memory of a service",
    ),
    pytest.param(
        "Many errors",
        ("error_type", "span:status = error", "runbooks/session-errors.md"),
        id="errors",
    ),
]  # fmt: skip


def section(page: str, title: str) -> str:
    """What stands under a heading of a page."""
    parts = re.split(r"^## (.*)$", (DOCS / page).read_text(), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert title in found, f"{page} has {list(found)}"
    return found[title]


@pytest.mark.parametrize(("title", "steps"), WAYS)
def test_a_way_to_a_cause(title: str, steps: tuple[str, ...]) -> None:
    """A section has each step that leads from what is seen to its cause, in the words and queries to look for it."""
    text = section("troubleshooting.md", title)
    assert [step for step in steps if step not in text] == []


@pytest.mark.covers("D-S06")
def test_ways_to_an_answer_that_is_quicker() -> None:
    """The page of the latency test says for each share of the silence what makes it shorter."""
    text = section("latency-test.md", "What makes an answer quicker")
    for share in ("endpoint", "llm_ttft", "tool", "tts_first_audio", "asr", "network", "unattributed"):
        assert f"`{share}`" in text
    for way in ("cache", "streaming recognition", "region", "warm worker", "CPU and memory"):
        assert way in text
