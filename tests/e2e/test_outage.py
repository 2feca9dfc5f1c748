"""What the Collector has accepted arrives, whatever goes away in between: the store, the Collector, or both."""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from .calls import Calls, Sent, request
from .stack import Collector, Store, get, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Measured

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

QUEUE = "otelcol_exporter_queue_size"
OUTAGE_S = float(os.environ.get("OUTAGE_S", "60"))
"""An exporter as it comes gives up after 300 s; that ours never does is also read in its file, without a wait."""


@contextmanager
def ended(collector: Collector) -> Iterator[Collector]:
    """Leave no Collector behind, whatever happens."""
    try:
        yield collector
    finally:
        collector.kill()


@contextmanager
def away() -> Iterator[Store]:
    """A store that is not up yet, and is taken down in the end."""
    store = Store()
    try:
        yield store
    finally:
        store.down()


def begin(folder: Path, store: Store) -> Collector:
    """A Collector that has never run before and flushes metrics every second."""
    flush = {"connectors::span_metrics::metrics_flush_interval": "1s"}
    return Collector(folder / "gw-1", settings={"VOICESPAN_TEMPO_ENDPOINT": store.endpoint}, changes=flush).start()


def send(collector: Collector, count: int) -> list[Sent]:
    """Send turns, five in a request as the SDK does; each request is accepted."""
    calls = Calls()
    turns = [calls.plain() for _ in range(count)]
    for part in range(0, count, 5):
        assert collector.send(request(turns[part : part + 5])) == 200
    return turns


def spans(turns: list[Sent]) -> int:
    return sum(len(turn.spans) for turn in turns)


@pytest.mark.failure(
    "The store behind the Collector is away", "The Collector keeps it on disk; everything arrives once"
)
def test_a_store_that_was_away_gets_everything(tmp_path: Path, measured: Measured) -> None:
    """What was sent while the store refused connections waits on disk, and arrives once when it is back."""
    with away() as store, ended(begin(tmp_path, store)) as collector:
        turns = send(collector, 300)
        until(lambda: collector.own_metric(QUEUE) == spans(turns), "all of it is in the queue")
        assert store.spans == []
        store.up()
        until(lambda: not store.lacks(turns), "every turn is stored once")
        assert collector.own_metric("otelcol_exporter_enqueue_failed_spans") == 0
        until(lambda: collector.own_metric(QUEUE) == 0, "the queue is empty")
        measured(lost=f"0 of {spans(turns):,} spans")


@pytest.mark.timeout(300 + OUTAGE_S)
def test_a_store_that_was_away_for_long_gets_everything(tmp_path: Path) -> None:
    """What waits longer than any back-off of the exporter is not given up, and all of it arrives."""
    with away() as store, ended(begin(tmp_path, store)) as collector:
        turns = send(collector, 100)
        until(lambda: collector.own_metric(QUEUE) == spans(turns), "all of it is in the queue")
        time.sleep(OUTAGE_S)
        turns += send(collector, 20)
        store.up()
        # gRPC itself waits for up to two minutes between two attempts to connect.
        until(lambda: not store.lacks(turns), "every turn is stored once", timeout_s=150)
        assert collector.own_metric("otelcol_exporter_send_failed_spans") == 0


def test_a_store_that_comes_and_goes_loses_nothing(tmp_path: Path) -> None:
    """Spans keep coming while the store is restarted twice; each of them is stored in the end."""
    with away() as store, ended(begin(tmp_path, store.up())) as collector:
        turns: list[Sent] = []
        for _ in range(2):
            turns += send(collector, 50)
            store.down()
            turns += send(collector, 50)
            store.up()
        # At least once: what was in flight when the store went may have been taken and sent again.
        wanted = {span.span_id for turn in turns for span in turn.spans}
        until(lambda: wanted <= {span.span_id for span in list(store.spans)}, "every span is stored")


HANDED_ON = "Every span of its queue is delivered once when it is back"


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("kill", marks=pytest.mark.failure("The Collector is killed with a full queue", HANDED_ON)),
        pytest.param("stop", marks=pytest.mark.failure("The Collector is stopped with a full queue", HANDED_ON)),
    ],
)
def test_a_collector_that_ends_keeps_its_queue(end: str, tmp_path: Path, measured: Measured) -> None:
    """Killed or stopped with a full queue and started again, it delivers every span that was in the queue, once."""
    with away() as store, ended(begin(tmp_path, store)) as collector:
        turns = send(collector, 200)
        until(lambda: collector.own_metric(QUEUE) == spans(turns), "all of it is in the queue")
        getattr(collector, end)()
        store.up()
        collector.start()
        until(lambda: not store.lacks(turns), "every turn is stored once")
        measured(lost=f"0 of {spans(turns):,} spans")


def test_a_collector_that_is_stopped_hands_over_first(tmp_path: Path) -> None:
    """SIGTERM right after the last answer: what was accepted is stored before it ends."""
    with away() as store, ended(begin(tmp_path, store.up())) as collector:
        turns = send(collector, 100)
        collector.stop()
        assert collector.wait() == 0
        collector.start()
        until(lambda: not store.lacks(turns), "every turn is stored once", timeout_s=10)


def test_a_restart_keeps_the_names_of_series(tmp_path: Path) -> None:
    """The labels of span-derived series are the same after a restart, so that a restart is a counter reset."""

    def series() -> set[str]:
        page = get(f"http://127.0.0.1:{collector.metrics}/metrics")
        return set(re.findall(r"^(traces_span_metrics_calls_total\{.*\}) ", page, flags=re.MULTILINE))

    with away() as store, ended(begin(tmp_path, store.up())) as collector:
        send(collector, 10)
        before = until(series, "the first flush")
        collector.stop()
        collector.start()
        send(collector, 10)
        assert until(series, "the first flush after the restart") == before
        assert all('collector_instance_id="gw-1"' in each for each in before)
