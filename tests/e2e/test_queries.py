"""Every query that is shipped is asked of the real programs after a load in which everything happened once."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.parse
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from tests.ports import free_port
from tests.stack import queries

from voicespan.stack import alerts, generate
from voicespan.stack.objectives import parse
from voicespan.stack.programs import TEMPO
from voicespan.version import __version__

from .answers import DEMO, LOAD, MACHINE, SEARCH, SILENT, Answers
from .calls import Sent, request
from .load import SERVICE, Metrics, Turns, around
from .stack import DEPLOY, Collector, Process, Prometheus, Store, get, until
from .test_logs import sent as log_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]

LOAD_S = 45
TURNS_PER_S = 8
DEMO_COMMAND = """
from voicespan.cli import main
from voicespan.demo import processes
processes.START_TIMEOUT_S = 120  # a busy machine may take its time
main()
"""

PRICES = {
    "currency": "EUR",
    "models": {model: {"input": 1, "output": 4} for model in ("small-chat", "large-chat", "stand-in")},
    "voices": {"sam": 15, "anna": 30, "en-us": 10},
}


class Tempo(Process):
    """Tempo with the file of deploy/, on ports of its own."""

    def __init__(self, folder: Path, program: str) -> None:
        self.otlp, http, internal = (free_port() for _ in range(3))
        config = (DEPLOY / "tempo/tempo.yaml").read_text()
        for default, port in ((14317, self.otlp), (3200, http), (9095, internal)):
            assert str(default) in config
            config = config.replace(str(default), str(port))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tempo.yaml").write_text(config)
        self.url = f"http://127.0.0.1:{http}"
        command = (program, f"-config.file={folder / 'tempo.yaml'}", "-config.expand-env=true")
        super().__init__(folder, command, {"VOICESPAN_TEMPO_DIR": str(folder)}, f"{self.url}/ready")

    def ask(self, path: str, **parameters: object) -> Any:
        """Ask Tempo's API."""
        return json.loads(get(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"))


@dataclass(frozen=True)
class Loaded:
    """The programs of deploy/ around one Collector, and the load that they get."""

    collector: Collector
    prometheus: Prometheus
    tempo: Tempo | None
    answers: Answers
    silent: Mapping[tuple[str, str], str]
    service: str


# What stands for the variables of dashboards: the service, and two versions of it.
CHOICES = {
    LOAD: {"service": SERVICE, "baseline": "1.4.2", "candidate": "1.5.0"},
    DEMO: {"service": "demo-agent", "baseline": __version__, "candidate": __version__},
}


@contextmanager
def programs(folder: Path, load: str) -> Iterator[Loaded]:
    """Collector, Prometheus with all rules, and Tempo where there is one."""
    found = TEMPO.find()
    with ExitStack() as stack:
        if found:
            tempo = Tempo(folder / "tempo", str(found))
            stack.callback(tempo.kill)  # it would take half a minute to write what nobody reads
            endpoint = f"127.0.0.1:{tempo.start().otlp}"
        else:  # something has to take what is sent
            endpoint = stack.enter_context(Store()).endpoint
        collector = Collector(folder / "gw-1", settings={"VOICESPAN_TEMPO_ENDPOINT": endpoint})
        prometheus = Prometheus(folder / "prometheus", [collector], "--enable-feature=created-timestamp-zero-ingestion")
        ask_at_once(prometheus, folder / "prometheus")
        stack.enter_context(collector)
        stack.enter_context(prometheus)
        service = CHOICES[load]["service"]
        values = {"__rate_interval": "30s", "__range": "1m", "before": "20s", **CHOICES[load]}
        values["__tags"] = f'service_name="{service}"'
        answers = Answers(prometheus, time.time(), values)
        yield Loaded(collector, prometheus, tempo if found else None, answers, SILENT[load], service)


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory, redis_port: int) -> Iterator[dict[str, Loaded]]:
    """Side by side: the reference agent's own load, and turns of all kinds with all that a service can send."""
    pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")
    folder = tmp_path_factory.mktemp("queries")
    with programs(folder / LOAD, LOAD) as scripted, programs(folder / DEMO, DEMO) as demo:
        gone = Metrics(f"http://127.0.0.1:{scripted.collector.http}", service="gone-agent")
        gone.step()
        gone.close()  # at once: a minute passes until it is found out
        endpoint = f"http://127.0.0.1:{demo.collector.http}"
        command = [sys.executable, "-c", DEMO_COMMAND, "demo", "--json", "--port", "0", "--otlp", endpoint]
        environ = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{redis_port}"}
        conversation = subprocess.Popen([*command, "--db", ":memory:"], env=environ, stdout=subprocess.DEVNULL)
        try:
            arrived = functools.partial(demo.collector.own_metric, "otelcol_receiver_accepted_spans")
            until(lambda: conversation.poll() is not None or arrived(), "the agent speaks", timeout_s=150)
            send(scripted.collector)
            assert conversation.wait(180) == 0
        finally:
            conversation.terminate()
            conversation.wait(30)
        for each in (scripted, demo):
            budget = functools.partial(each.prometheus.query, "voice:slo_budget_remaining:ratio")
            until(budget, "every rule was evaluated")
        yield {LOAD: scripted, DEMO: demo}


@pytest.fixture(params=[LOAD, DEMO])
def loaded(request: pytest.FixtureRequest, loads: dict[str, Loaded]) -> Loaded:
    """The programs after one of the loads."""
    return loads[request.param]


def ask_at_once(prometheus: Prometheus, folder: Path) -> None:
    """Evaluate the rules, with prices, every five seconds, fire alerts at once, and scrape Prometheus as well."""
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    (folder / "rules").mkdir()
    data = yaml.safe_load((DEPLOY / "slo.yaml").read_text()) | {"prices": PRICES}
    for name, text in generate.rule_files(parse(data, alerts.LIMITS)).items():
        often = re.sub(r"\binterval: \w+", "interval: 5s", text)
        (folder / "rules" / name).write_text(re.sub(r"\bfor: \w+", "for: 0s", often))
    config["rule_files"] = [str(folder / "rules/*.yml")]
    config["scrape_configs"].append(
        {"job_name": "prometheus", "static_configs": [{"targets": [prometheus.url.removeprefix("http://")]}]}
    )
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))


def send(collector: Collector) -> None:
    """Send turns of all kinds, all that is around them, and all metrics; the last third is another version."""
    endpoint = f"http://127.0.0.1:{collector.http}"
    services = [Metrics(endpoint), *(Metrics(endpoint, service="tts-worker", worker=f"tts-cosy@{n}") for n in (0, 1))]
    turns, rng, number = Turns(), random.Random(5), 0
    deadline = time.monotonic() + LOAD_S
    while time.monotonic() < deadline:
        version = "1.4.2" if time.monotonic() < deadline - LOAD_S / 3 else "1.5.0"
        made = [turns.any(number + each) for each in range(TURNS_PER_S)]
        number += TURNS_PER_S
        assert collector.send(request(made, service__version=version)) == 200
        others = Sent("around", b"", tuple(around(rng)))
        assert collector.send(request([others], service__version=version)) == 200
        assert collector.send(log_lines(LogRecord(body=AnyValue(string_value="hello"))), "logs") == 200
        for service in services:
            service.step()
        time.sleep(1)
    for service in services:
        service.close()


@pytest.mark.covers("A-V14", "E-X08", "B-S03")
def test_every_query_has_an_answer(loaded: Loaded) -> None:
    """Every query of a panel, rule, link and runbook gives data, and so does each part of it, except what is listed."""
    assert len(loaded.answers.things) > 700
    missing = [f"{thing.kind}: {thing.place}" for thing in loaded.answers.missing(loaded.silent)]
    assert missing == [], "\n".join(missing)


def test_every_exception_is_silent(loaded: Loaded) -> None:
    """What is listed with a reason is asked for, and has no answer."""
    stale = [": ".join(entry) for entry in loaded.answers.stale(loaded.silent)]
    assert stale == [], "\n".join(stale)


def test_no_answer_is_split_by_collectors(loaded: Loaded) -> None:
    """No panel and no record shows one line for each Collector."""
    for query in (*queries.of_panels(), *queries.of_rules()):
        if " / $" in query.where:
            continue  # the values that a variable offers are those of a label
        for series in loaded.answers.series(queries.substituted(query.expression, **loaded.answers.values)):
            assert "collector_instance_id" not in series["metric"], query.where


@pytest.mark.covers("C-W01", "C-W02")
def test_every_search_finds_turns(loaded: Loaded) -> None:
    """Every query of a panel or runbook to Tempo finds turns, or gives numbers over them, except what is listed."""
    if loaded.tempo is None:
        pytest.skip(f"no tempo: {TEMPO.source}")
    tempo, end_s = loaded.tempo, time.time() + 5
    values = {"service": loaded.service}
    wrong: list[str] = []
    for query in queries.of_traces():
        asked = {
            "q": queries.substituted(query.expression, **values),
            "start": int(loaded.answers.began_s),
            "end": int(end_s),
        }
        reasons = [
            reason
            for (kind, part), reason in loaded.silent.items()
            if kind == SEARCH and part in f"{query.where}: {asked['q']}"
        ]

        def found(asked: dict[str, Any] = asked) -> Any:
            if " | " in asked["q"]:
                return tempo.ask("/api/metrics/query_range", **asked, step="10s").get("series")
            return tempo.ask("/api/search", **asked).get("traces")

        try:
            answered = bool(until(found, query.where, timeout_s=1 if reasons or wrong else 30))
        except AssertionError:
            answered = False
        if answered == bool(reasons) and MACHINE not in reasons:
            wrong.append(f"{query.where}: {asked['q']}")
    assert wrong == [], "\n".join(wrong)


def test_tempo_keeps_to_its_folder(loaded: Loaded) -> None:
    """Tempo writes nothing outside of the folder that it was given: defaults are shared by all Tempos of a machine."""
    if loaded.tempo is None:
        pytest.skip(f"no tempo: {TEMPO.source}")
    assert "/var/" not in get(f"{loaded.tempo.url}/status/config")


@pytest.mark.covers("B-T07", "A-V13", "B-S07")
def test_dots_open_turns(loaded: Loaded) -> None:
    """The exemplars of every latency panel are traces that Tempo has."""
    if loaded.tempo is None:
        pytest.skip(f"no tempo: {TEMPO.source}")
    dots = loaded.prometheus.exemplars('traces_span_metrics_duration_seconds_bucket{span_name="voice.response"}')
    ids = {dot["labels"]["trace_id"] for _, dot in dots}
    assert len(ids) >= 5
    for trace_id in ids:
        assert loaded.tempo.ask(f"/api/v2/traces/{trace_id}")["trace"]["resourceSpans"]
