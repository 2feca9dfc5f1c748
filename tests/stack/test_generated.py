"""The files of deploy/ are those that their generator writes, and the programs that read them take them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner
from tests.programs import built

from voicespan import names as n
from voicespan.cli import main
from voicespan.stack import generate, rules, scrape, services
from voicespan.stack.programs import TEMPO, Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.stack.objectives import Objectives

DEPLOY = generate.CHECKOUT / "deploy"


def read(path: str) -> Any:
    """A YAML file of deploy/."""
    return yaml.safe_load((DEPLOY / path).read_text())


def test_files_are_as_generated(objectives: Objectives) -> None:
    """Every generated file is the one that is there, and none is left over from another day: `make deploy`."""
    files = generate.files(objectives)
    for path, text in files.items():
        assert (generate.CHECKOUT / path).read_text() == text, f"{path} is old: make deploy"
    folders = {(generate.CHECKOUT / path).parent for path in files} - {
        DEPLOY / "prometheus",
        DEPLOY / "kubernetes/base",
    }
    there = {str(path.relative_to(generate.CHECKOUT)) for folder in folders for path in folder.iterdir()}
    assert there == {path for path in files if (generate.CHECKOUT / path).parent in folders}


def test_make_deploy_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command behind `make deploy` writes the same files into an empty checkout."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(DEPLOY / "slo.yaml", tmp_path / "deploy")
    monkeypatch.setattr(generate, "CHECKOUT", tmp_path)
    generate.main()
    written = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(written) > 20
    for path, text in written.items():
        assert (DEPLOY.parent / path).read_text() == text


def test_the_command_writes_the_rules_of_deploy(tmp_path: Path) -> None:
    """What a user's `voicespan slo deploy/slo.yaml` writes are the rules of deploy/."""
    done = CliRunner().invoke(main, ["slo", str(DEPLOY / "slo.yaml"), "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for path in (DEPLOY / "prometheus/rules").iterdir():
        assert (tmp_path / path.name).read_text() == path.read_text()


# Prometheus


def test_rules_are_rules(promtool: Callable[..., str]) -> None:
    """promtool finds nothing to say about the rules."""
    said = promtool(
        "check", "rules", "--lint=all", "--lint-fatal", *sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    )
    assert "FAILED" not in said


@pytest.mark.covers("A-S03", "A-S04", "C-S10", "D-S04", "A-G02", "A-G03", "C-G01", "C-G02", "C-G03", "C-G04", "A-E05",
                    "A-E07", "C-E04", "C-E05", "D-E03", "E-E05")  # fmt: skip
@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-compose.yml"])
def test_prometheus_is_configured(name: str, promtool: Callable[..., str], tmp_path: Path) -> None:
    """It scrapes often enough, keeps the services' labels, has rules, room for exemplars, and the user's own jobs."""
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "prometheus")
    shutil.copy(DEPLOY / "prometheus/scrape.d/services.yml.example", tmp_path / "prometheus/scrape.d/services.yml")
    assert "SUCCESS: 4 rule files found" in promtool("check", "config", tmp_path / "prometheus" / name)
    config = read(f"prometheus/{name}")
    assert config["global"] == {"scrape_interval": "10s", "evaluation_interval": "15s"}
    assert config["storage"]["exemplars"]["max_exemplars"] >= 2_000_000
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs[scrape.SPAN_METRICS_JOB]["honor_labels"] is True
    assert config["alerting"]["alertmanagers"]
    own = {job["job_name"]: job for job in read("prometheus/scrape.d/services.yml.example")["scrape_configs"]}
    assert {"assistant-backend", "orchestrator", "tts-workers", "redis", "voice-agent"} == set(own)
    assert own["assistant-backend"]["scrape_interval"] == "10s"
    assert own["voice-agent"]["scrape_interval"] == "5s"


def test_both_configurations_differ_in_addresses_only() -> None:
    """In containers the same is scraped as on one machine."""
    texts = [(DEPLOY / "prometheus" / name).read_text() for name in ("prometheus.yml", "prometheus-compose.yml")]
    assert len({re.sub(r"[\w.-]+:\d{4}", "", text) for text in texts}) == 1


@pytest.mark.covers("A-S04", "B-S04")
def test_history_is_kept() -> None:
    """Prometheus keeps a month, in containers unless somebody says otherwise."""
    kept = "--storage.tsdb.retention.time="
    compose = read("compose.yaml")["services"]["prometheus"]["command"]
    assert f"{kept}${{PROMETHEUS_RETENTION:-30d}}" in compose
    assert f"{kept}30d" in services._prometheus(Path("prometheus"), DEPLOY, Path("state")).command


@pytest.mark.covers("A-S02", "C-S11", "D-S05")
def test_groups_are_evaluated_often() -> None:
    """Rule groups run every 30 s; only windows of days take longer."""
    for path in (DEPLOY / "prometheus/rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            assert group["interval"] == ("300s" if group["name"].endswith("-days") else f"{rules.INTERVAL_S}s")


# Compose and Traefik


REQUIRED = {"GRAFANA_PASSWORD": "x", "VOICE_DOMAIN": "voice.example.org", "ACME_EMAIL": "ops@example.org"}


def composed(folder: Path, *names: str, environ: dict[str, str] = REQUIRED) -> subprocess.CompletedProcess[str]:
    paths = [folder / name for name in names]
    return subprocess.run([built("compose"), *paths], env=environ, capture_output=True, text=True, check=False)


@pytest.mark.timeout(1800)  # the first time, the program is built
@pytest.mark.parametrize(
    "tops", [(), ("compose.secure.yaml",), ("traefik/compose.yaml",), ("compose.secure.yaml", "traefik/compose.yaml")]
)
def test_compose_reads_its_files(tops: tuple[str, ...]) -> None:
    """Compose's own module makes one project of each combination, in which everything that is named is there."""
    done = composed(DEPLOY, "compose.yaml", *tops)
    assert done.returncode == 0, done.stderr
    project = json.loads(done.stdout)
    services = {"otel-collector", "tempo", "prometheus", "alertmanager", "grafana"}
    assert set(project["services"]) == services | ({"traefik"} if "traefik/compose.yaml" in tops else set())
    mounts = [mount for service in project["services"].values() for mount in service.get("volumes", ())]
    assert {mount["source"] for mount in mounts if mount["type"] == "volume"} <= set(project["volumes"])
    secrets = DEPLOY / "secrets"
    bound = [Path(mount["source"]) for mount in mounts if mount["type"] == "bind"]
    assert [path for path in bound if not path.exists() and path.parent != secrets] == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("mem_limit: 2g", "memlimit: 2g", "memlimit"),
        ("interval: 10s", "interval: often", "duration"),
        ("alertmanager: {condition", "alert-manager: {condition", "alert-manager"),
        ("queue: {}", "queues: {}", "queue"),
        ("networks: [telemetry]", "networks: [telemetries]", "telemetries"),
    ],
)
def test_what_compose_would_refuse_is_found(tmp_path: Path, old: str, new: str, words: str) -> None:
    """A misspelt field, a value of another kind, and a service, volume or network that is not there fail the check."""
    text = (DEPLOY / "compose.yaml").read_text()
    assert old in text
    (tmp_path / "compose.yaml").write_text(text.replace(old, new))
    done = composed(tmp_path, "compose.yaml")
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.timeout(1800)
@pytest.mark.covers("D-G02", "E-G01")
def test_compose_has_agent_and_speech_api_beside_the_back_ends() -> None:
    """The agent is at 8000, its page at 3001, the speech API at 8010, Prometheus at 9090, Grafana at 3000; all of this
    machine only.
    """
    done = composed(DEPLOY, "compose.yaml", "compose.demo.yaml")
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    published = {
        int(port["published"]): (name, port["target"])
        for name, service in services.items() for port in service.get("ports", ())
    }  # fmt: skip
    wanted = {8000: ("voice-agent", 8000), 3001: ("voice-agent", 8000), 8010: ("speech-api", 8010)}
    wanted |= {9090: ("prometheus", 9090), 3000: ("grafana", 3000)}
    assert wanted.items() <= published.items()
    assert {port["host_ip"] for service in services.values() for port in service.get("ports", ())} == {"127.0.0.1"}
    for name in ("voice-agent", "speech-api"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
        assert "telemetry" in services[name]["networks"]
    # tests/e2e/test_containers.py starts what is in them.
    for name in ("speech-worker", "model", "viewer"):
        assert services[name]["network_mode"] == "service:voice-agent"


@pytest.mark.timeout(1800)
@pytest.mark.covers("A-G07")
@pytest.mark.parametrize("name", REQUIRED)
def test_compose_asks_for_what_it_must_know(name: str) -> None:
    """Without a password for Grafana, or behind Traefik without name and address, nothing starts."""
    given = {key: value for key, value in REQUIRED.items() if key != name}
    done = composed(DEPLOY, "compose.yaml", "traefik/compose.yaml", environ=given)
    assert done.returncode == 1
    assert f"required variable {name} is missing a value" in done.stderr


def test_compose_passes_the_collectors_settings_on() -> None:
    """Each setting of the Collector but its own addresses and files can be set in .env, with its own default."""
    services = read("compose.yaml")["services"]
    collector = services["otel-collector"]
    files = [DEPLOY / "otel-collector.yaml", *sorted((DEPLOY / "collector").glob("*.yaml"))]
    known = dict(
        found for file in files if not file.name.startswith("front")
        for found in re.findall(r"\$\{env:(VOICESPAN_\w+):-([^{}]*)\}", file.read_text())
    )  # fmt: skip
    own = {name for name in known if name.endswith(("_ENDPOINT", "_FILE", "_HOST", "_PORT", "_DIR", "_FILES"))}
    others = {"VOICESPAN_TEMPO_ENDPOINT", "VOICESPAN_LOKI_ENDPOINT", "VOICESPAN_REMOTE_WRITE_ENDPOINT"}
    passed = {
        name: found[1]
        for name, value in collector["environment"].items()
        if (found := re.fullmatch(rf"\$\{{{name}:-(.*)\}}", str(value)))
    }
    assert set(known) - own <= set(passed) | {"VOICESPAN_COLLECTOR_ID"}
    for name in set(passed) - others - {"VOICESPAN_VIEWER_ENDPOINT"}:
        assert passed[name] == known.get(name, passed[name]), name
    # It takes telemetry while the store of traces is still starting: that is what its queue is for.
    assert "depends_on" not in collector
    assert collector["command"] == "--config /etc/voicespan/otel-collector.yaml ${COLLECTOR_OVERLAYS:-}"


def test_compose_takes_telemetry_from_outside_only_with_a_token() -> None:
    """The overlay that opens the ports to other machines reads secure.yaml, whose three files it mounts."""
    collector = read("compose.secure.yaml")["services"]["otel-collector"]
    assert collector["command"].endswith("--config /etc/voicespan/collector/secure.yaml ${COLLECTOR_OVERLAYS:-}")
    mounted = {mount.split(":")[1] for mount in collector["volumes"]}
    named = re.findall(r"_FILE:-([^}]*)\}", (DEPLOY / "collector/secure.yaml").read_text())
    assert mounted == set(named)
    assert all(mount.startswith("./secrets/") and mount.endswith(":ro") for mount in collector["volumes"])
    readme = (DEPLOY / "secrets/README.md").read_text()
    assert all(f"`{mount.split(':')[0].removeprefix('./secrets/')}`" in readme for mount in collector["volumes"])


@pytest.mark.covers("A-G01", "A-G04", "A-G07", "A-Q02", "C-G05", "A-S04", "B-S04", "E-S07")
def test_compose_is_safe_by_default() -> None:
    """Every image has a version, every service a health check and a restart; ports are this machine's; no password."""
    text = (DEPLOY / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"otel-collector", "tempo", "prometheus", "alertmanager", "grafana"}
    for name, service in services.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        mounts = [mount for mount in service["volumes"] if mount.startswith(".")]
        assert all(mount.endswith(":ro") for mount in mounts), name
        for mount in mounts:
            assert (DEPLOY / mount.split(":")[0]).exists(), mount
    published = {port.split(":")[1] for service in services.values() for port in service.get("ports", ())}
    assert {"9090", "9093", "3000", "4317", "4318"} == published
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
    assert "GRAFANA_PASSWORD=\n" in (DEPLOY / ".env.example").read_text()
    assert "retention.time=${PROMETHEUS_RETENTION:-30d}" in text


def test_compose_knows_what_grafana_reads() -> None:
    """Each variable that the provisioning names is set."""
    folder = DEPLOY / "grafana/provisioning"
    named = {name for path in folder.rglob("*.*") for name in re.findall(r"\$(VOICESPAN_\w+)", path.read_text())}
    assert named == {name for name in read("compose.yaml")["services"]["grafana"]["environment"] if "VOICESPAN" in name}


def test_prometheus_sees_first_flushes_everywhere() -> None:
    """Wherever Prometheus is started it keeps exemplars, and takes a new histogram's first values for an increase."""
    started = [(DEPLOY / name).read_text() for name in ("compose.yaml", "traefik/compose.yaml")]
    started.append((generate.CHECKOUT / "src/voicespan/stack/services.py").read_text())
    for text in started:
        assert "--enable-feature=exemplar-storage,created-timestamp-zero-ingestion" in text


@pytest.mark.covers("A-G05", "A-G06", "A-Q01")
def test_traefik_hands_on_two_paths() -> None:
    """Grafana and Prometheus are reached over HTTPS below the name that is set, Prometheus with a password."""
    routes = read("traefik/routes.yml")["http"]
    for name in ("grafana", "prometheus"):
        router = routes["routers"][name]
        assert router["rule"] == f'Host(`{{{{ env "VOICE_DOMAIN" }}}}`) && PathPrefix(`/{name}`)'
        assert router["tls"] == {"certResolver": "letsencrypt"}
        assert router["entryPoints"] == ["websecure"]
        assert routes["services"][router["service"]]["loadBalancer"]["servers"]
    assert routes["routers"]["prometheus"]["middlewares"][0] == "auth"
    assert routes["middlewares"]["auth"]["basicAuth"]["usersFile"]
    overlay = read("traefik/compose.yaml")["services"]
    assert overlay["grafana"]["environment"]["GF_SERVER_ROOT_URL"] == "https://${VOICE_DOMAIN}/grafana"
    assert overlay["grafana"]["environment"]["GF_SERVER_SERVE_FROM_SUB_PATH"] == "true"
    assert "docker.sock" not in (DEPLOY / "traefik/compose.yaml").read_text()
    # A list of a further file takes the place of the first: nothing may get lost.
    first = set(read("compose.yaml")["services"]["prometheus"]["command"])
    changed = {flag for flag in first ^ set(overlay["prometheus"]["command"]) if "external-url" not in flag}
    assert changed == set()


# Grafana


@pytest.mark.covers("A-G08", "A-E06", "C-E09", "C-E10", "C-U03", "D-G03", "D-E02", "E-L01")
def test_grafana_leads_from_dots_to_turns_and_on() -> None:
    """An exemplar opens its trace in Tempo, a span its logs and its service's metrics, a log line its trace."""
    sources = {
        source["uid"]: source for source in read("grafana/provisioning/datasources/voicespan.yml")["datasources"]
    }
    (destination,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "trace_id"
    assert destination["datasourceUid"] in sources
    tempo = sources["tempo"]["jsonData"]
    assert tempo["tracesToMetrics"]["datasourceUid"] in sources
    assert all("$$__tags" in query["query"] for query in tempo["tracesToMetrics"]["queries"])
    # The way to logs is there with Loki only; Grafana keeps what it reads last, in the order of the files' names.
    assert "tracesToLogsV2" not in tempo
    loki, with_logs = read("grafana/provisioning/datasources/with-loki.yml.example")["datasources"]
    assert with_logs["uid"] == "tempo"
    assert with_logs["jsonData"] == tempo | {"tracesToLogsV2": with_logs["jsonData"]["tracesToLogsV2"]}
    assert with_logs["jsonData"]["tracesToLogsV2"]["datasourceUid"] == loki["uid"]
    folder = DEPLOY / "grafana/provisioning/datasources"
    assert max(path.name.removesuffix(".example") for path in folder.iterdir()) == "with-loki.yml"
    assert {field["datasourceUid"] for field in loki["jsonData"]["derivedFields"]} == {"tempo"}
    assert all(source["url"].startswith("$VOICESPAN_") for source in [*sources.values(), loki])
    (provider,) = read("grafana/provisioning/dashboards/voicespan.yml")["providers"]
    assert provider["options"]["path"] == "$VOICESPAN_DASHBOARDS_DIR"


def test_rates_span_two_flushes() -> None:
    """Grafana never takes a rate over less than the Collector's flush."""
    source = read("grafana/provisioning/datasources/voicespan.yml")["datasources"][0]
    collector = (DEPLOY / "otel-collector.yaml").read_text()
    assert f"metrics_flush_interval: {source['jsonData']['timeInterval']}" in collector


# Tempo


def program(wanted: Program) -> str:
    """Where a program is, or skip."""
    found = wanted.find()
    if found is None:
        pytest.skip(f"no {wanted.names[0]}: {wanted.source}")
    return str(found)


ROLES = (
    "distributor",
    "live-store",
    "block-builder",
    "backend-scheduler",
    "backend-worker",
    "querier",
    "query-frontend",
)


@pytest.mark.parametrize(("file", "target"), [("tempo", "all"), *(("microservices", role) for role in ROLES)])
def test_tempo_takes_its_configuration(file: str, target: str) -> None:
    """Tempo verifies the file of the single binary, and that of the microservices for each of their roles."""
    path = DEPLOY / f"tempo/{file}.yaml"
    command = [
        program(TEMPO),
        f"-config.file={path}",
        "-config.expand-env=true",
        "-config.verify=true",
        f"-target={target}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tempo_takes_what_the_collector_sends() -> None:
    """The Collector's default address is the one at which Tempo listens."""
    endpoint = read("tempo/tempo.yaml")["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    assert endpoint == "${VOICESPAN_TEMPO_HOST:-127.0.0.1}:14317"
    assert "VOICESPAN_TEMPO_ENDPOINT:-127.0.0.1:14317" in (DEPLOY / "otel-collector.yaml").read_text()


# Words


def test_names_are_not_retyped() -> None:
    """Queries are made of the names module: no generator has a span's or an attribute's name in quotes."""
    dotted = {span.name for span in n.SPANS if "." in span.name}
    dotted |= {attribute.name for attribute in n.ATTRIBUTES} | {metric.name for metric in n.METRICS}
    for path in (generate.CHECKOUT / "src/voicespan/stack").rglob("*.py"):
        quoted = set(re.findall(r"[\"']([\w.]+)[\"']", path.read_text()))
        labels = {name.replace(".", "_") for name in dotted if "." in name}
        assert not quoted & (dotted | labels), path.name
