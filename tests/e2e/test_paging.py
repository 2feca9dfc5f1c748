"""Every alert that pages has paged for real, and nothing that is meant pages: the rules of deploy/, but faster."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.ports import free_port
from tests.programs import program

from voicespan import names as n
from voicespan.stack import alerts, generate, rules
from voicespan.stack import promql as q
from voicespan.stack.notify import PAGER, WATCHDOG
from voicespan.stack.objectives import load
from voicespan.stack.programs import ALERTMANAGER

from .calls import Calls, Sent, request
from .stack import DEPLOY, Collector, Process, Prometheus, Store, until
from .test_sampling import with_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
TIMES_FASTER = 20
HEARTBEAT_S = 15 / TIMES_FASTER
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def faster(duration: str) -> str:
    """A duration as Prometheus, Alertmanager and the Collector write it, so much shorter."""
    number, unit = re.fullmatch(r"(\d+)([smhd])", duration).groups()  # type: ignore[union-attr]
    return f"{int(number) * _UNITS_MS[unit] // TIMES_FASTER}ms"


def rules_in_a_hurry() -> dict[str, dict[str, Any]]:
    """The rule files, with each interval, wait and window so much shorter."""
    objectives = load(DEPLOY / "slo.yaml", alerts.LIMITS)
    files = {name: yaml.safe_load(text) for name, text in generate.rule_files(objectives).items()}
    for group in (group for file in files.values() for group in file["groups"]):
        group["interval"] = faster(group["interval"])
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[(\w+)\]", lambda found: f"[{faster(found[1])}]", rule["expr"])
            if "for" in rule:
                rule["for"] = faster(rule["for"])
    return files


PAGING = {
    rule["alert"]
    for file in rules_in_a_hurry().values()
    for group in file["groups"]
    for rule in group["rules"]
    if rule.get("labels", {}).get("severity") == "critical" and "alert" in rule
}


@dataclass
class Sink:
    """Where messages come out, by the name of their receiver."""

    url: str
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def told(self, receiver: str) -> set[str]:
        """The names of the alerts that a receiver was told of."""
        return {
            alert["labels"]["alertname"]
            for name, message in list(self.messages)
            for alert in message["alerts"]
            if name == receiver and alert["status"] == "firing"
        }


@contextmanager
def sink() -> Iterator[Sink]:
    """A server that takes the messages of webhooks."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.messages.append((self.path.strip("/"), body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Sink(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def alertmanager(folder: Path, messages: Sink) -> tuple[Process, str]:
    """Alertmanager with the routes and inhibitions of deploy/; each receiver is a webhook. Returns its address, too."""
    config = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    for key in ("group_wait", "group_interval"):
        config["route"][key] = faster(config["route"][key])
    config["receivers"] = [
        {"name": each["name"], "webhook_configs": [{"url": f"{messages.url}/{each['name']}"}]}
        for each in config["receivers"]
    ]
    folder.mkdir()
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program(ALERTMANAGER),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    return Process(folder, command, {}, f"http://{address}/-/ready"), address


class Watched(Prometheus):
    """Prometheus with all rules, in a hurry, that tells an Alertmanager."""

    def __init__(self, folder: Path, collectors: Sequence[Collector], told: str) -> None:
        super().__init__(folder, collectors, f"--query.lookback-delta={faster('5m')}")
        config = yaml.safe_load((folder / "prometheus.yml").read_text())
        config["global"] = {key: faster(value) for key, value in config["global"].items()}
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [told]}]}]}
        config["rule_files"] = [str(folder / "rules/*.yml")]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "rules").mkdir()

    def watch(self) -> None:
        """Begin with the rules once all is scraped: it takes five seconds to find its targets, which is no outage."""
        until(lambda: self.value("sum(up)") == 4, "both ports of both gateways are scraped")
        for name, data in rules_in_a_hurry().items():
            (self.folder / "rules" / name).write_text(yaml.safe_dump(data))
        self.process.send_signal(signal.SIGHUP)


@dataclass
class Watch:
    """Two gateways, Prometheus and Alertmanager."""

    gateways: list[Collector]
    prometheus: Watched
    messages: Sink
    folder: Path
    _stack: ExitStack
    _begun: int = 0

    def heartbeat(self, gateway: int, environment: str, service: str, worker: str = "", gpu: str = "") -> Process:
        """A process that sends heartbeats by one of the gateways until it is stopped."""
        self._begun += 1
        given = {
            n.SERVICE_NAME: service,
            n.SERVICE_INSTANCE_ID: f"instance-{self._begun}",
            n.DEPLOYMENT_ENVIRONMENT_NAME: environment,
            **({n.VOICE_WORKER_ID: worker} if worker else {}),
            **({"gpu": gpu} if gpu else {}),
        }
        command = [
            *(sys.executable, "-m", "tests.e2e.heartbeat"),
            *(f"http://127.0.0.1:{self.gateways[gateway].http}", str(HEARTBEAT_S)),
            *(f"{name}={value}" for name, value in given.items()),
        ]
        folder = self.folder / f"process-{self._begun}"
        process = Process(folder, command, {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}, "").begin()
        self._stack.callback(process.kill)
        return process

    def wait_for_heartbeats(self, count: int) -> None:
        """Wait until this many services and workers are known to be there."""
        known = f"count({q.series(n.METRIC_VOICE_SERVICE_UP)} == 1)"
        until(lambda: self.prometheus.value(known) == count, f"{count} processes are known")
        time.sleep(3 * 30 / TIMES_FASTER)  # three evaluations

    def load(self, environment: str, turns: Callable[[], list[Sent]]) -> None:
        """Send such turns by the first gateway, twice in a second, until all is over."""
        over = threading.Event()

        def send() -> None:
            while not over.wait(0.5):
                try:
                    self.gateways[0].send(request(turns(), deployment__environment__name=environment))
                except OSError:
                    continue  # it is being restarted

        thread = threading.Thread(target=send)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(over.set)

    def paged(self) -> set[str]:
        """The alerts that somebody was woken for."""
        return self.messages.told(PAGER)

    def pages(self) -> list[dict[str, str]]:
        """The labels of what they were told."""
        told = [message for name, message in self.messages.messages if name == PAGER]
        return [alert["labels"] | {"at": alert["startsAt"]} for message in told for alert in message["alerts"]]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Everything runs, and the first message, that of the watchdog, has come through."""
    changes = {
        "connectors::span_metrics::metrics_flush_interval": faster("15s"),
        "exporters::prometheus::metric_expiration": faster("1m"),
    }
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        messages = stack.enter_context(sink())
        manager, address = alertmanager(tmp_path / "alertmanager", messages)
        stack.enter_context(manager)
        # The second gateway has a small queue, and nobody to send to.
        settings = (
            {"VOICESPAN_TEMPO_ENDPOINT": store.endpoint},
            {"VOICESPAN_TEMPO_ENDPOINT": f"127.0.0.1:{free_port()}", "VOICESPAN_QUEUE_SPANS": "500"},
        )
        gateways = [
            stack.enter_context(Collector(tmp_path / f"gw-{number}", settings=each, changes=changes))
            for number, each in enumerate(settings, 1)
        ]
        prometheus = stack.enter_context(Watched(tmp_path / "prometheus", gateways, address))
        prometheus.watch()
        until(lambda: "Watchdog" in messages.told(WATCHDOG), "the watchdog's message")
        yield Watch(gateways, prometheus, messages, tmp_path, stack)


@pytest.mark.covers("A-V15")
def test_every_alert_that_pages_has_paged(watch: Watch) -> None:
    """For each alert with which somebody is woken there is a fault at which they are, and it is the only reason."""
    calls = Calls()
    # Who is gone silences who is slow, so each fault has an environment of its own.
    watch.heartbeat(0, "gpu", "tts-worker", "tts@0", gpu="0.97")
    killed = [watch.heartbeat(0, "worker", "tts-worker", "tts@0"), watch.heartbeat(1, "service", "voice-agent")]
    watch.heartbeat(0, "worker", "tts-worker", "tts@1")
    watch.wait_for_heartbeats(4)
    assert watch.paged() <= {"GPUMemoryExhaustion"}
    for process in killed:
        process.kill()
    watch.load("stt", lambda: [with_span(calls.plain(), n.SPAN_ASR_FINALIZE, 3)] * 4)
    watch.load("llm", lambda: [with_span(calls.plain(), n.SPAN_LLM_TTFT, 5)] * 4)
    watch.load("errors", lambda: [calls.plain(), calls.failed()])
    watch.load("silence", lambda: [calls.plain(2_500) for _ in range(10)])
    full = Calls()
    deadline = time.monotonic() + 60
    wanted = PAGING - {"TelemetryPipelineDown"}
    while watch.paged() < wanted and time.monotonic() < deadline:
        watch.gateways[1].send(request([full.plain() for _ in range(20)]))
        time.sleep(0.5)
    assert watch.paged() == wanted, watch.pages()
    for gateway in watch.gateways:
        gateway.kill()
    until(lambda: watch.paged() == PAGING, "a Collector that is down pages", timeout_s=20)


def test_nothing_that_is_meant_pages(watch: Watch) -> None:
    """A deploy, a scale-down, a worker that is killed and replaced, and restarts of gateways wake nobody."""
    calls = Calls()
    watch.load("production", lambda: [calls.plain() for _ in range(3)])
    agent = watch.heartbeat(0, "production", "voice-agent")
    workers = [watch.heartbeat(number % 2, "production", "tts-worker", f"tts@{number}") for number in range(4)]
    watch.heartbeat(1, "production", "tts-worker", "tts@9")
    watch.wait_for_heartbeats(6)
    # A deploy: each process is asked to end, and another one takes its place.
    agent.stop()
    agent = watch.heartbeat(0, "production", "voice-agent")
    # A scale-down.
    workers[0].stop()
    # A worker that is killed, and replaced; the new one is taken away a little later.
    workers[1].kill()
    replaced = watch.heartbeat(0, "production", "tts-worker", "tts@1")
    watch.wait_for_heartbeats(5)
    replaced.stop()
    # Its last word is heard: a Collector that ends in the same moment would take it along.
    until(lambda: watch.prometheus.query(f"{rules.WORKER_UP}{{{q.is_(n.VOICE_WORKER_ID, 'tts@1')}}} == 0"), "goodbye")
    # Both gateways, one after the other, are away for a while.
    for gateway in watch.gateways:
        gateway.stop()
        time.sleep(120 / TIMES_FASTER)
        gateway.start()
        watch.wait_for_heartbeats(4)
    time.sleep(300 / TIMES_FASTER)  # who was to be missed would be by now
    assert watch.pages() == []
    assert watch.prometheus.value("sum(prometheus_rule_evaluation_failures_total)") == 0
    # It would have paged.
    workers[2].kill()
    until(lambda: watch.paged() == {"WorkerUnavailable"}, "a worker that is gone pages", timeout_s=30)
