"""With sampling.yaml the store has fewer turns, and every one that somebody will look for; the metrics have all."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from voicespan import names as n
from voicespan.settings import VARIABLES

from .calls import Calls, Sent, request
from .stack import DEPLOY, Collector, Store, get, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

FAST = 1500
LIMITS = {limit.on: limit.value for limit in n.THRESHOLDS if "kept by sampling" in limit.purpose}
"""Spans by the length above which their turn is kept."""


FILES = ("otel-collector.yaml", "collector/sampling.yaml")


def with_span(turn: Sent, name: str, seconds: float) -> Sent:
    """The turn with such a span, in place of its last one."""
    span = turn.spans[-1]
    span.name = name
    span.end_time_unix_nano = span.start_time_unix_nano + round(seconds * 1e9)
    return Sent(f"{name} of {seconds} s", turn.trace_id, turn.spans)


@dataclass(frozen=True)
class Sampled:
    """What was sent, sorted by whether it must be kept, and what was stored of it."""

    collector: Collector
    store: Store
    wanted: list[Sent]
    fast: list[Sent]
    dots: str
    """The page of metrics while it had exemplars: they are there for one flush."""

    @property
    def sent(self) -> list[Sent]:
        return [*self.fast, *self.wanted]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sampled]:
    """One in a hundred of the ordinary turns is kept; each turn comes in three parts, its root in the second."""
    calls = Calls()
    fast = [calls.plain(580) for _ in range(FAST)]
    fast += [with_span(calls.plain(), name, limit) for name, limit in LIMITS.items()]
    wanted = [make() for make in (calls.failed, calls.interrupted, calls.abandoned, calls.timed_out) for _ in range(15)]
    wanted += [calls.plain(620) for _ in range(15)]
    wanted += [with_span(calls.plain(), name, limit + 0.001) for name, limit in LIMITS.items()]
    folder = tmp_path_factory.mktemp("sampling") / "gw-1"
    changes = {"connectors::span_metrics::metrics_flush_interval": "1s"}
    with Store() as store:
        settings = {"VOICESPAN_BASELINE_PERCENT": "1", "VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        with Collector(folder, *FILES, settings=settings, changes=changes) as gateway:
            turns = [*fast, *wanted]
            for third in (1, 0, 2):
                parts = [Sent(turn.kind, turn.trace_id, turn.spans[third::3]) for turn in turns]
                for place in range(0, len(parts), 20):
                    assert gateway.send(request(parts[place : place + 20])) == 200
            dots = until(lambda: with_dots(gateway), "a flush with exemplars")
            until(lambda: not store.lacks(wanted), "every turn that must be kept is stored, whole and once")
            decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
            until(lambda: gateway.own_metric(decided) >= len(turns), "every turn is decided")
            yield Sampled(gateway, store, wanted, fast, dots)


def with_dots(gateway: Collector) -> str:
    """The page of metrics if it has an exemplar of a slow turn."""
    page = get(f"http://127.0.0.1:{gateway.metrics}/metrics", Accept="application/openmetrics-text")
    return page if re.search(r'span_name="voice.response".*le="0.8".* # ', page) else ""


@pytest.mark.covers("F-R10")
def test_what_matters_is_kept(sampled: Sampled) -> None:
    """Each failed, interrupted, unanswered or slow turn is stored with all its spans, whichever stage was slow."""
    kept = {turn.kind for turn in sampled.wanted}
    assert {"error", "interrupted", "no_reply", "timeout", "plain"} < kept
    assert sampled.store.lacks(sampled.wanted) == []


@pytest.mark.covers("B-S05")
def test_what_is_ordinary_is_thinned(sampled: Sampled) -> None:
    """Of the turns within every limit about one in a hundred is stored, and that one whole."""
    until(lambda: sampled.collector.own_metric("otelcol_exporter_queue_size") == 0, "the queue is empty")
    stored = sampled.store.traces
    kept = [turn for turn in sampled.fast if turn.trace_id in stored]
    assert 1 <= len(kept) < len(sampled.fast) / 10
    assert sampled.store.lacks(kept) == []


def test_the_metrics_have_every_turn(sampled: Sampled) -> None:
    """Metrics are made before the sampling: they count what is not stored."""

    def counted() -> float:
        page = get(f"http://127.0.0.1:{sampled.collector.metrics}/metrics")
        found = re.findall(r'^traces_span_metrics_calls_total\{.*span_name="voice.turn".*\} (\S+)', page, re.MULTILINE)
        return sum(map(float, found))

    until(lambda: counted() == len(sampled.sent), "every turn is counted")


def test_a_dot_above_the_limit_opens_its_turn(sampled: Sampled) -> None:
    """An exemplar of `voice.response` that is longer than what sampling keeps leads to a stored turn."""
    exemplar = re.compile(r'span_name="voice.response".* # \{.*trace_id="([0-9a-f]{32})".*\} (\S+)')
    slow = [
        bytes.fromhex(trace_id)
        for trace_id, seconds in exemplar.findall(sampled.dots)
        if float(seconds) > LIMITS[n.SPAN_RESPONSE]
    ]
    assert slow
    assert set(slow) <= set(sampled.store.traces)


TIMES_FASTER = 60
"""A turn of ten minutes is one of ten seconds here."""


def test_a_long_turn_that_fails_is_kept(tmp_path: Path) -> None:
    """A worker's span of the longest turn comes at its beginning, its failed root at its end: both are stored."""
    shipped = yaml.safe_load((DEPLOY / FILES[1]).read_text())["processors"]["tail_sampling"]["decision_wait"]
    wait_s = float(shipped.removesuffix("s")) / TIMES_FASTER
    longest_s = float(next(variable.default for variable in VARIABLES if variable.name == "VOICESPAN_TURN_MAX_S"))
    turn = Calls().failed()
    root = next(span for span in turn.spans if not span.parent_span_id)
    early = [span for span in turn.spans if span.name == n.SPAN_ASR]
    late = [span for span in turn.spans if span.name != n.SPAN_ASR]
    assert root in late
    assert root.status.code == Status.STATUS_CODE_ERROR
    changes = {"processors::tail_sampling::decision_wait": f"{wait_s:g}s"}
    with Store() as store:
        settings = {"VOICESPAN_BASELINE_PERCENT": "0", "VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        with Collector(tmp_path / "gw-1", *FILES, settings=settings, changes=changes) as gateway:
            assert gateway.send(request([Sent("early", turn.trace_id, tuple(early))])) == 200
            time.sleep(longest_s / TIMES_FASTER)
            assert gateway.send(request([Sent("late", turn.trace_id, tuple(late))])) == 200
            until(lambda: not store.lacks([turn]), "the whole turn is stored", timeout_s=15)


def test_a_stop_decides_what_is_open(tmp_path: Path) -> None:
    """Turns that wait for a decision when the Collector is asked to end are decided; the next start delivers them."""
    calls = Calls()
    turns = [calls.failed() for _ in range(20)]
    with Store() as store:
        settings = {"VOICESPAN_BASELINE_PERCENT": "0", "VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        with Collector(tmp_path / "gw-1", *FILES, settings=settings) as gateway:
            assert gateway.send(request([*turns, *(calls.plain() for _ in range(20))])) == 200
            gateway.stop()
            assert gateway.wait() == 0
            gateway.start()
            until(lambda: not store.lacks(turns), "the failed turns are stored", timeout_s=15)
        assert len(store.traces) == len(turns)
