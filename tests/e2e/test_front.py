"""Two gateways behind front.yaml: no turn is split or counted twice, and none is lost, whichever of them is away."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.ports import free_port

from voicespan import names as n

from .calls import Calls, Sent, request
from .stack import Collector, Prometheus, Store, until
from .test_chain import CALLS, DURATION, service_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

DOTS = f'{DURATION}_bucket{{span_name="voice.response"}}'
SERVICE = "voice_session_active"
GATEWAY = ("otel-collector.yaml", "collector/remote-write.yaml")


@dataclass
class Tiers:
    """A front, its two gateways, a store behind each, and what Prometheus knows, which both gateways write to."""

    front: Collector
    gateways: list[Collector]
    stores: list[Store]
    sent: list[Sent]
    series: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)
    """What queries gave when all of it had arrived: tests that take gateways away come in any order."""
    dots: list[dict[str, Any]] = field(default_factory=list)

    def lacks(self, turns: list[Sent]) -> list[Sent]:
        """Turns that are not whole in one of the stores, or are in both."""
        first, second = (store.traces for store in self.stores)
        whole = [turn for turn in turns if (turn.trace_id in first) != (turn.trace_id in second)]
        missing = [store.lacks(whole) for store in self.stores]
        return [turn for turn in turns if turn not in whole or (turn in missing[0] and turn in missing[1])]


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiers]:
    """Two processes send half of the spans of each turn, so that a half does not tell where the other one went."""
    folder = tmp_path_factory.mktemp("tiers")
    flush = {"connectors::span_metrics::metrics_flush_interval": "2s"}
    with (
        Store() as store_1,
        Store() as store_2,
        Prometheus(folder / "prometheus", [], "--web.enable-remote-write-receiver") as prometheus,
    ):
        stores = [store_1, store_2]
        settings = {"VOICESPAN_REMOTE_WRITE_ENDPOINT": f"{prometheus.url}/api/v1/write"}
        gateways = []
        for number, store in enumerate(stores, 1):
            settings["VOICESPAN_TEMPO_ENDPOINT"] = store.endpoint
            gateways.append(Collector(folder / f"gw-{number}", *GATEWAY, settings=settings, changes=flush))
        addresses = {
            f"VOICESPAN_{name}_{number}": f"127.0.0.1:{port}"
            for number, gateway in enumerate(gateways, 1)
            for name, port in (("GATEWAY", gateway.grpc), ("LANE", free_port()))
        }
        front = Collector(folder / "front", "collector/front.yaml", settings=addresses)
        calls = Calls()
        turns = [calls.plain(200 + 3 * number) for number in range(300)] + [calls.failed() for _ in range(10)]
        with gateways[0], gateways[1], front:
            everything = Tiers(front, gateways, stores, turns)
            assert front.send(service_metrics(), "metrics") == 200
            send_halves(front, turns, folder)
            until(lambda: not everything.lacks(turns), "every turn is whole in one store")
            spans = sum(len(turn.spans) for turn in turns)
            for metric in (CALLS, f"{DURATION}_count"):  # the gateways write them one after the other
                whole = functools.partial(prometheus.query, f"sum({metric}) == {spans}")
                until(whole, f"Prometheus has {metric} of every span")
            dots = until(lambda: prometheus.exemplars(DOTS), "exemplars")
            everything.dots = [exemplar for _, exemplar in dots]
            for query in (CALLS, f"{DURATION}_count", SERVICE):
                everything.series[query] = until(functools.partial(prometheus.query, query), query)
            yield everything


SENDER = """
import sys, urllib.request
from pathlib import Path
for file in sorted(Path(sys.argv[2]).iterdir()):
    asked = urllib.request.Request(sys.argv[1], file.read_bytes(), {"Content-Type": "application/x-protobuf"})
    assert urllib.request.urlopen(asked, timeout=10).status == 200
"""


def send_halves(front: Collector, turns: list[Sent], folder: Path) -> None:
    """Let two processes send at the same time: an orchestrator, and a worker that begins with the last turn."""
    senders = []
    for half, service in enumerate(("voice-agent", "tts-worker")):
        (folder / service).mkdir()
        ordered = turns if half == 0 else turns[::-1]
        parts = [Sent(turn.kind, turn.trace_id, turn.spans[half::2]) for turn in ordered]
        for place in range(0, len(parts), 10):
            (folder / service / f"{place:04}").write_bytes(request(parts[place : place + 10], service__name=service))
        command = [sys.executable, "-c", SENDER, f"http://127.0.0.1:{front.http}/v1/traces", str(folder / service)]
        senders.append(subprocess.Popen(command))
    assert [sender.wait(60) for sender in senders] == [0, 0]


def send(front: Collector, turns: list[Sent]) -> None:
    """Send each turn in three parts, each part in another request."""
    for third in range(3):
        parts = [Sent(turn.kind, turn.trace_id, turn.spans[third::3]) for turn in turns]
        for place in range(0, len(parts), 10):
            assert front.send(request(parts[place : place + 10])) == 200


def test_no_turn_is_split(tiers: Tiers) -> None:
    """Each turn is at one gateway only, and each gateway has its part of them."""
    first, second = (set(store.traces) for store in tiers.stores)
    assert first & second == set()
    assert min(len(first), len(second)) > len(tiers.sent) / 10


def test_no_span_is_counted_twice(tiers: Tiers) -> None:
    """Over both gateways together, calls and histogram agree with what was sent, for each span name."""
    wanted = Counter(span.name for turn in tiers.sent for span in turn.spans)
    for metric in (CALLS, f"{DURATION}_count"):
        counted: Counter[str] = Counter()
        for series, value in tiers.series[metric]:
            counted[series["span_name"]] += int(value)
        assert counted == wanted
    told_by = {(series["job"], series["collector_instance_id"]) for series, _ in tiers.series[CALLS]}
    assert told_by == {(job, gateway) for job in ("voice-agent", "tts-worker") for gateway in ("gw-1", "gw-2")}


def test_every_dot_of_both_gateways_opens_its_turn(tiers: Tiers) -> None:
    """Exemplars that were written remotely lead to stored turns, the slowest one among them."""
    found = {exemplar["labels"]["trace_id"] for exemplar in tiers.dots}
    assert found <= {trace_id.hex() for store in tiers.stores for trace_id in store.traces}
    answered = [turn for turn in tiers.sent if turn.kind == "plain"]
    assert max(answered, key=lambda turn: turn.duration_s(n.SPAN_RESPONSE)).hex in found


def test_metrics_of_a_process_come_by_one_gateway(tiers: Tiers) -> None:
    """A service's own metric is there once, with its labels."""
    ((series, value),) = tiers.series[SERVICE]
    assert value == 3
    assert (series["job"], series["instance"], series["voice_worker_id"]) == ("tts-worker", "i-1", "tts-cosy@0")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_gateway_that_is_away_stops_nobody_else(end: str, tiers: Tiers) -> None:
    """While one gateway is away the other goes on, and what the first would have got is kept: nothing comes twice."""
    calls = Calls()
    turns = [calls.plain() for _ in range(100)]
    getattr(tiers.gateways[0], end)()
    send(tiers.front, turns)
    rest = until(lambda: len(tiers.stores[1].lacks(turns)) < 90 and tiers.lacks(turns), "the other gateway goes on")
    assert rest
    tiers.gateways[0].start()
    until(lambda: not tiers.lacks(turns), "every turn is whole in one store")


def test_a_front_that_ends_keeps_what_its_gateways_did_not_take(tiers: Tiers) -> None:
    """With both gateways away, a front that is killed and started again delivers what it has accepted."""
    calls = Calls()
    turns = [calls.plain() for _ in range(50)]
    for gateway in tiers.gateways:
        gateway.stop()
    send(tiers.front, turns)
    waiting = sum(len(turn.spans) for turn in turns)
    until(lambda: tiers.front.own_metric("otelcol_exporter_queue_size") == waiting, "all of it is in the queues")
    tiers.front.kill()
    for program in (*tiers.gateways, tiers.front):
        program.start()
    until(lambda: not tiers.lacks(turns), "every turn is whole in one store")
