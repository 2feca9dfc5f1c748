"""`voicespan doctor` against a real Collector and a real Prometheus, with the files of deploy/."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .stack import Collector, Prometheus, Store, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

OFTEN = {"connectors::span_metrics::metrics_flush_interval": "3s"}


def configured(prometheus: Prometheus, **changes: Any) -> Prometheus:
    """Let it scrape more often than the Collector flushes, so that nobody waits long for an exemplar."""
    file = prometheus.folder / "prometheus.yml"
    config = yaml.safe_load(file.read_text())
    config["global"]["scrape_interval"] = "1s"
    file.write_text(yaml.safe_dump(config | changes))
    return prometheus


def doctor(collector: Collector, prometheus: Prometheus, wait_s: int) -> tuple[int, dict[str, dict[str, Any]]]:
    # Prometheus takes seconds to find its targets; by then the exemplar of the first flush would be gone.
    until(functools.partial(prometheus.query, 'up{job="otel-collector-span-metrics"}'), "the first scrape")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
    environ |= {
        "OTEL_PYTHON_DISTRO": "voicespan",
        "OTEL_PYTHON_CONFIGURATOR": "voicespan",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*",
        "OTEL_SERVICE_NAME": "svc",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.http}",
    }
    command = [sys.executable, "-m", "voicespan", "doctor", "--json", "--prometheus", prometheus.url]
    done = subprocess.run([*command, "--wait", str(wait_s)], env=environ, capture_output=True, text=True, check=False)
    worst = sorted(json.loads(done.stdout)["checks"], key=lambda check: ("ok", "warn", "fail").index(check["verdict"]))
    return done.returncode, {check["name"]: check for check in worst}


@pytest.mark.covers("B-S07")
def test_the_turn_is_followed_to_its_exemplar(tmp_path: Path) -> None:
    """The test turn is found as a series and as a dot that leads to it; only the Alertmanager is missing."""
    with Store() as store:
        environ = {"VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        with (
            Collector(tmp_path / "gw", settings=environ, changes=OFTEN) as collector,
            configured(Prometheus(tmp_path / "prometheus", [collector])) as prometheus,
        ):
            code, found = doctor(collector, prometheus, 60)
    assert code == 0, [check for check in found.values() if check["verdict"] == "fail"]
    for name in ("traces", "metrics", "logs", "clock", "start", "test turn", "targets", "series", "exemplars", "rules"):
        assert found[name]["verdict"] == "ok", found[name]
    assert found["alertmanager"]["verdict"] == "warn"
    assert found["test turn"]["message"].split()[2] in {each.hex() for each in store.traces}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """A Collector that gives no metrics of spans, and a Prometheus without exemplars and rules, are each a failure."""
    changes = {**OFTEN, "service::pipelines::metrics/spans::exporters": "[debug/nowhere]"}
    with Store() as store:
        environ = {"VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        collector = Collector(tmp_path / "gw", settings=environ, changes=changes)
        bare = configured(Prometheus(tmp_path / "prometheus", [collector]), rule_files=[])
        bare._command.remove("--enable-feature=exemplar-storage")
        with collector, bare as prometheus:
            code, found = doctor(collector, prometheus, 3)
    assert code == 1
    assert found["test turn"]["verdict"] == "ok"
    assert found["series"]["verdict"] == found["exemplars"]["verdict"] == found["rules"]["verdict"] == "fail"
    assert "span_metrics" in found["series"]["remedy"]
    assert "--enable-feature=exemplar-storage" in found["exemplars"]["remedy"]
    assert "rule_files" in found["rules"]["remedy"]
