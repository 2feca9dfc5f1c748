"""Every query that is shipped is asked of the real programs after a load in which everything happened once."""

from __future__ import annotations

import json
import random
import re
import time
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.stack import queries

from voicespan.stack import alerts, generate
from voicespan.stack.objectives import parse
from voicespan.stack.programs import TEMPO

from .calls import Sent, request
from .load import SERVICE, Metrics, Turns, around
from .stack import DEPLOY, Collector, Process, Prometheus, Store, free_port, get, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("queries")]

LOAD_S = 60
TURNS_PER_S = 8

# What is empty for a reason, by a part of the query or of the place at which it stands.
WITHOUT_SAMPLING = "without the sampling overlay nothing is decided on"
NOT_BROKEN = "the pipeline was well all the time"
NOBODY_GONE = "nobody went away"
NO_LOGS = "no logs were sent"
EMPTY = {
    "voicespan-telemetry / Decisions": WITHOUT_SAMPLING,
    'sampling_trace_dropped_too_early(_total)?"}[5m])': WITHOUT_SAMPLING,
    "TracesDroppedTooEarly": WITHOUT_SAMPLING,
    "signal=log_records": NO_LOGS,
    "_log_records": NO_LOGS,
    "TelemetrySendFailed": NOT_BROKEN,
    "CollectorQueueFull": NOT_BROKEN,
    "runbook telemetry-send-failed": NOT_BROKEN,
    "MetricsOverflow": NOT_BROKEN,
    "SpanMetricsMissing": NOT_BROKEN,
    "TelemetryPipelineDown": NOBODY_GONE,
    "WorkerUnavailable": NOBODY_GONE,
    "ServiceDown": NOBODY_GONE,
    "CollectorDown": NOBODY_GONE,
    "LatencyAnomaly": "it takes an hour to know what is usual",
    "voicespan-operations / Active alerts": "alerts wait for minutes before they fire",
}

PRICES = {
    "currency": "EUR",
    "models": {model: {"input": 1, "output": 4} for model in ("small-chat", "large-chat")},
    "voices": {"sam": 15, "anna": 30},
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
    """The programs after the load."""

    prometheus: Prometheus
    tempo: Tempo | None
    began_s: float

    def over_time(self, promql: str) -> list[dict[str, Any]]:
        """The series that a query gives at any time since the beginning, as a panel asks."""
        parameters = {"query": promql, "start": self.began_s, "end": time.time(), "step": 5}
        answer = get(f"{self.prometheus.url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}")
        return list(json.loads(answer)["data"]["result"])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """The programs of deploy/ after a minute of everything that a service can send."""
    folder = tmp_path_factory.mktemp("queries")
    found = TEMPO.find()
    tempo = Tempo(folder / "tempo", str(found)) if found else None
    store = Store()  # where there is no Tempo, something has to take what is sent
    settings = {"VOICESPAN_TEMPO_ENDPOINT": f"127.0.0.1:{tempo.otlp}" if tempo else store.endpoint}
    collector = Collector(folder / "gw-1", settings=settings)
    prometheus = Prometheus(folder / "prometheus", [collector], "--enable-feature=created-timestamp-zero-ingestion")
    ask_at_once(prometheus, folder / "prometheus")
    if tempo:
        tempo.start()
    else:
        store.up()
    try:
        with collector, prometheus:
            began_s = time.time()
            send(collector)
            until(lambda: prometheus.query("voice:slo_budget_remaining:ratio"), "every rule was evaluated")
            yield Loaded(prometheus, tempo, began_s)
    finally:
        if tempo:
            tempo.kill()  # it would take half a minute to write what nobody reads
        store.down()


def ask_at_once(prometheus: Prometheus, folder: Path) -> None:
    """Let the rules, with prices, be evaluated every five seconds, and Prometheus be scraped as well."""
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    (folder / "rules").mkdir()
    data = yaml.safe_load((DEPLOY / "slo.yaml").read_text()) | {"prices": PRICES}
    for name, text in generate.rule_files(parse(data, alerts.LIMITS)).items():
        (folder / "rules" / name).write_text(re.sub(r"interval: \d+s", "interval: 5s", text))
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
        for service in services:
            service.step()
        time.sleep(1)
    for service in services:
        service.close()


def relaxed(expression: str) -> str:
    """Return an alert's expression with limits that everything exceeds: it must have something to compare."""
    return re.sub(r"(>=?) [\d.]+(?=[\s)]|$)", r">= -1e9", expression)


def reason_for(query: queries.Query) -> str | None:
    """Why a query has no answer, if it may have none."""
    return next((reason for part, reason in EMPTY.items() if part in f"{query.where}: {query.expression}"), None)


@pytest.mark.covers("A-V14", "E-X08", "B-S03")
def test_every_query_has_an_answer(loaded: Loaded) -> None:
    """Every query of a panel, rule, link and runbook gives data, except those that are listed with their reason."""
    silent = {}
    for query in queries.asked():
        expression = relaxed(query.expression) if query.alert else query.expression
        series = loaded.over_time(queries.substituted(expression, __rate_interval="30s", __range="1m", before="20s"))
        until = time.monotonic() + 30
        while not series and reason_for(query) is None and time.monotonic() < until:
            time.sleep(2)  # a rate needs two scrapes, and a busy machine has had one
            series = loaded.over_time(
                queries.substituted(expression, __rate_interval="30s", __range="1m", before="20s")
            )
        if not series and reason_for(query) is None:
            silent[query.where] = expression
        # Who has an answer after all is no exception.
        assert not (series and reason_for(query) == WITHOUT_SAMPLING), query
    assert silent == {}


def test_exceptions_are_queries() -> None:
    """Every exception is of a query that there is."""
    places = [f"{query.where}: {query.expression}" for query in queries.asked()]
    assert [part for part in EMPTY if not any(part in where for where in places)] == []


def test_no_answer_is_split_by_collectors(loaded: Loaded) -> None:
    """No panel and no record shows one line for each Collector."""
    for query in (*queries.of_panels(), *queries.of_rules()):
        if " / $" in query.where:
            continue  # the values that a variable offers are those of a label
        for series in loaded.over_time(queries.substituted(query.expression, __rate_interval="30s", __range="1m")):
            assert "collector_instance_id" not in series["metric"], query.where


@pytest.mark.covers("C-W01", "C-W02")
def test_every_search_finds_turns(loaded: Loaded) -> None:
    """Every query of a panel or runbook to Tempo finds turns, or gives numbers over them."""
    if loaded.tempo is None:
        pytest.skip(f"no tempo: {TEMPO.source}")
    tempo, end_s = loaded.tempo, time.time() + 5
    silent: list[tuple[str, str]] = []
    for query in queries.of_traces():
        asked = {
            "q": queries.substituted(query.expression, service=SERVICE),
            "start": int(loaded.began_s),
            "end": int(end_s),
        }

        def found(asked: dict[str, Any] = asked) -> Any:
            if " | " in asked["q"]:
                return tempo.ask("/api/metrics/query_range", **asked, step="10s").get("series")
            return tempo.ask("/api/search", **asked).get("traces")

        try:
            until(found, query.where, timeout_s=30 if not silent else 2)
        except AssertionError:
            silent.append((query.where, str(asked["q"])))
    assert silent == []


def test_tempo_keeps_to_its_folder(loaded: Loaded) -> None:
    """Tempo writes nothing outside of the folder that it was given: defaults are shared by all Tempos of a machine."""
    if loaded.tempo is None:
        pytest.skip(f"no tempo: {TEMPO.source}")
    assert "/var/" not in get(f"{loaded.tempo.url}/status/config")


@pytest.mark.covers("B-T07", "A-V13")
def test_dots_open_turns(loaded: Loaded) -> None:
    """The exemplars of every latency panel are traces that Tempo has."""
    if loaded.tempo is None:
        pytest.skip(f"no tempo: {TEMPO.source}")
    dots = loaded.prometheus.exemplars('traces_span_metrics_duration_seconds_bucket{span_name="voice.response"}')
    ids = {dot["labels"]["trace_id"] for _, dot in dots}
    assert len(ids) > 10
    for trace_id in ids:
        assert loaded.tempo.ask(f"/api/v2/traces/{trace_id}")["trace"]["resourceSpans"]
