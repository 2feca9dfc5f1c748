"""Who is told of an alert, and which alerts are silent because another one says it better."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.ports import free_port
from tests.programs import missing, program

from voicespan.stack import alerts, generate, notify, slo
from voicespan.stack.programs import ALERTMANAGER
from voicespan.stack.rules import Alert

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from voicespan.stack.objectives import Objectives

CONFIG = generate.CHECKOUT / "deploy/alertmanager/alertmanager.yml"
SERVICE = {"job": "voice-agent", "deployment_environment_name": "production"}


def amtool(*arguments: str) -> str:
    """Run amtool, which must succeed."""
    found = shutil.which("amtool")
    if found is None:
        missing("no amtool: install prometheus-alertmanager")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.covers("A-N01", "A-N02", "C-N01", "C-N02", "C-N05", "C-N06", "C-N07", "E-N01", "E-X03", "C-E06")
def test_the_configuration_is_one() -> None:
    """amtool accepts it; Slack, PagerDuty, mail and webhook are there, with secrets in files."""
    assert "SUCCESS" in amtool("check-config", str(CONFIG))
    config = yaml.safe_load(CONFIG.read_text())
    assert config["global"]["resolve_timeout"] == "5m"
    root = config["route"]
    assert root["group_by"] == ["alertname", "severity"]
    assert (root["group_wait"], root["group_interval"], root["repeat_interval"]) == ("10s", "10s", "1h")
    receivers = {receiver["name"]: receiver for receiver in config["receivers"]}
    assert receivers["default"]["webhook_configs"][0]["url"] == "http://localhost:5001/alerts"
    assert receivers["slack"]["slack_configs"][0]["title"] == "{{ .CommonAnnotations.summary }}"
    assert {"service_key_file"} == set(receivers["pagerduty"]["pagerduty_configs"][0])
    assert "api_url_file" in receivers["slack"]["slack_configs"][0]
    assert "auth_password_file" in receivers["email"]["email_configs"][0]


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ({"severity": "critical"}, "pagerduty,slack"),
        ({"severity": "warning"}, "slack"),
        ({"severity": "info"}, "default"),
        ({}, "default"),
        ({"severity": "none", "alertname": "Watchdog"}, "watchdog"),
    ],
)
@pytest.mark.covers("C-N03", "C-N04", "C-Q13")
def test_routes(labels: dict[str, str], receivers: str) -> None:
    """Critical goes to the pager and to the chat, warning to the chat, all else to the webhook."""
    given = [f"{name}={value}" for name, value in labels.items()]
    assert amtool("config", "routes", "test", f"--config.file={CONFIG}", *given).strip() == receivers


def test_every_alert_is_routed_to_people(objectives: Objectives) -> None:
    """Every alert of the rules but the watchdog reaches the chat."""
    groups = (alerts.service(objectives), alerts.pipeline(objectives), *slo.groups(objectives))
    found = [rule for group in groups for rule in group.rules if isinstance(rule, Alert)]
    severities = {alert.severity for alert in found if alert.name != "Watchdog"}
    assert severities == {"critical", "warning"}


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Alertmanager with the configuration; gives its address."""
    address = f"127.0.0.1:{free_port()}"
    folder: Path = tmp_path_factory.mktemp("alertmanager")
    options = (f"--config.file={CONFIG}", f"--storage.path={folder}", f"--web.listen-address={address}")
    command = [program(ALERTMANAGER), *options, "--cluster.listen-address="]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                ask(address, "status")
                break
            except OSError:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def ask(address: str, path: str, body: Any = None) -> Any:
    """Ask Alertmanager's API."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{address}/api/v2/{path}", data, {"Content-Type": "application/json"} if data else {}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


CASES: dict[str, tuple[list[dict[str, str]], list[str]]] = {
    "the stronger form": (
        [
            {"alertname": "SttLatencyCritical", "severity": "critical", "family": "stt-latency"},
            {"alertname": "SttLatencyWarning", "severity": "warning", "family": "stt-latency"},
            {"alertname": "LlmTtftWarning", "severity": "warning", "family": "llm-ttft"},
        ],
        ["SttLatencyWarning"],
    ),
    "another service": (
        [
            {"alertname": "SttLatencyCritical", "severity": "critical", "family": "stt-latency"},
            {"alertname": "SttLatencyWarning", "severity": "warning", "family": "stt-latency", "job": "other"},
        ],
        [],
    ),
    "another objective": (
        [
            {"alertname": "ErrorBudgetBurn", "severity": "critical", "family": "error-budget-burn", "slo": "jitter"},
            {"alertname": "Burn", "severity": "warning", "family": "error-budget-burn", "slo": "heard-silence"},
        ],
        [],
    ),
    "gone is not slow": (
        [
            {"alertname": "ServiceDown", "severity": "critical"},
            {"alertname": "HighEndToEndLatency", "severity": "warning", "symptom": "latency"},
            {"alertname": "TtsErrors", "severity": "warning"},
        ],
        ["HighEndToEndLatency"],
    ),
    "a worker that is gone": (
        [
            {"alertname": "WorkerUnavailable", "severity": "critical", "symptom": "absence", "job": "tts-worker"},
            {"alertname": "HighFirstAudioLatency", "severity": "warning", "symptom": "latency"},
        ],
        ["HighFirstAudioLatency"],
    ),
    "a worker elsewhere": (
        [
            {
                "alertname": "WorkerUnavailable",
                "severity": "critical",
                "symptom": "absence",
                "job": "tts-worker",
                "deployment_environment_name": "staging",
            },
            {"alertname": "HighFirstAudioLatency", "severity": "warning", "symptom": "latency"},
        ],
        [],
    ),
    "the service and its worker": (
        [
            {"alertname": "ServiceDown", "severity": "critical", "symptom": "absence"},
            {"alertname": "WorkerUnavailable", "severity": "critical", "symptom": "absence"},
        ],
        ["WorkerUnavailable"],
    ),
    "no telemetry": (
        [
            {"alertname": "TelemetryPipelineDown", "severity": "critical"},
            {"alertname": "ServiceDown", "severity": "critical", "symptom": "absence"},
            {"alertname": "HighMemory", "severity": "warning"},
        ],
        ["ServiceDown"],
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.covers("C-N08")
def test_inhibition(name: str, alertmanager: str) -> None:
    """What another alert says better is silent, for the same service only."""
    given, silent = CASES[name]
    case = name.replace(" ", "-")
    labelled = [SERVICE | {"deployment_environment_name": case} | labels for labels in given]
    ask(alertmanager, "alerts", [{"labels": labels} for labels in labelled])
    deadline = time.monotonic() + 20
    inhibited: list[str] = []
    while inhibited != silent and time.monotonic() < deadline:
        time.sleep(0.1)  # one that comes before what silences it is looked at again
        found = ask(alertmanager, f"alerts?filter=deployment_environment_name%3D%22{case}%22")
        inhibited = [each["labels"]["alertname"] for each in found if each["status"]["inhibitedBy"]]
    over = [{"labels": labels, "endsAt": "2026-01-01T00:00:00Z"} for labels in labelled]
    ask(alertmanager, "alerts", over)  # the lack of telemetry would silence other cases as well
    assert inhibited == silent


def test_inhibitions_name_what_there_is(objectives: Objectives) -> None:
    """The alerts and labels of the inhibitions exist."""
    groups = (alerts.service(objectives), alerts.pipeline(objectives), *slo.groups(objectives))
    found = [rule for group in groups for rule in group.rules if isinstance(rule, Alert)]
    text = json.dumps(notify.alertmanager()["inhibit_rules"])
    names = {alert.name for alert in found}
    for name in ("WorkerUnavailable", "ServiceDown", "TelemetryPipelineDown"):
        assert name in text
        assert name in names
    symptoms = {alert.labels[alerts.SYMPTOM] for alert in found if alerts.SYMPTOM in alert.labels}
    assert symptoms == {"latency", "absence"}
    late = {alert.name for alert in found if alert.labels.get(alerts.SYMPTOM) == "latency"}
    assert {"HighEndToEndLatency", "HighFirstAudioLatency", "LlmTtftCritical", "TtsSlowResponses"} <= late
