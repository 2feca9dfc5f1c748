"""deploy/kubernetes: every manifest is what Kubernetes and the operators read, and fits the rest of deploy/."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from tests.programs import built, program

from voicespan import names as n
from voicespan.stack import alerts, generate, promql, scrape
from voicespan.stack.programs import COLLECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = generate.CHECKOUT
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
ENTRIES = ("overlays/small", "overlays/production", "gpu", "autoscaling")
COMPONENTS = ("sampling", "secure")
GPU = "dcgm-exporter"

Resource = dict[str, Any]


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([built("kubernetes"), folder], capture_output=True, text=True, check=False, timeout=60)


@cache
def resources(entry: str) -> list[Resource]:
    """What a kustomization makes, decoded strictly."""
    done = check(KUBERNETES / entry)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout).values()
    return list(found)


def of_kind(entry: str, kind: str) -> dict[str, Resource]:
    return {each["metadata"]["name"]: each for each in resources(entry) if each["kind"] == kind}


def workloads(entry: str) -> Iterator[Resource]:
    for kind in ("StatefulSet", "Deployment", "DaemonSet"):
        yield from of_kind(entry, kind).values()


def container(workload: Resource) -> Resource:
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(only)


pytestmark = pytest.mark.timeout(1800)  # the first time, the program is built


@pytest.mark.covers("E-G02", "E-G03", "E-G04")
@pytest.mark.parametrize("entry", ENTRIES)
def test_everything_decodes_strictly(entry: str) -> None:
    """Each kustomization builds, and every resource has fields and kinds that its reader knows, each name once."""
    found = resources(entry)
    keys = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in found]
    assert len(set(keys)) == len(keys) > 1


def test_small_is_whole() -> None:
    """The small overlay has a Collector, Tempo, Prometheus with a disk, Alertmanager, Grafana, monitors and rules."""
    kinds = {
        (each["kind"], re.sub(r"-[a-z0-9]{10}$", "", each["metadata"]["name"])) for each in resources("overlays/small")
    }
    assert {
        ("StatefulSet", "gateway"), ("StatefulSet", "tempo"), ("Prometheus", "voicespan"), ("Deployment", "grafana"),
        ("Alertmanager", "voicespan"),
        ("PersistentVolumeClaim", "grafana"), ("ConfigMap", "dashboards"), ("ServiceMonitor", "spans"),
        ("ServiceMonitor", "collector"), ("PrometheusRule", "alerts"), ("Instrumentation", "voicespan"),
    } <= kinds  # fmt: skip
    prometheus = of_kind("overlays/small", "Prometheus")["voicespan"]["spec"]
    assert prometheus["storage"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"] == "50Gi"
    assert "exemplar-storage" in prometheus["enableFeatures"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("replicas: 1", "replica: 1", 'unknown field "replica"'),
        ("maxUnavailable: 1", "maxUnavailable: [1]", "PodDisruptionBudget gateway"),
        ("automountServiceAccountToken: false\n---", "automountServiceAccountToken: perhaps\n---", "ServiceAccount"),
        ("kind: PodDisruptionBudget", "kind: PodDisruption", "is not expected"),
        ("metadata: {name: otel-collector}\nspec", "metadata: {name: gateway}\nspec", "gateway"),
    ],
)
def test_what_nobody_would_read_is_found(tmp_path: Path, old: str, new: str, words: str) -> None:
    """A misspelt field, a value of another kind, an unknown kind or a name that is there twice fails the check."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    path = tmp_path / "deploy/kubernetes/base/collector.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    done = check(tmp_path / "deploy/kubernetes/base")
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_build(tmp_path: Path, component: str) -> None:
    """Every component goes on top of the small overlay, and its file is one that the Collector is started with."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    path = tmp_path / "deploy/kubernetes/overlays/small/kustomization.yaml"
    text = path.read_text()
    path.write_text(text.replace("[../../stores]", f"[../../stores, ../../components/{component}]"))
    done = check(path.parent)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout).values()
    (gateway,) = (each for each in found if each["metadata"]["name"] == "gateway" and each["kind"] == "StatefulSet")
    assert container(gateway)["args"][-1] == f"/etc/voicespan/config/{component}.yaml"


def test_definitions_of_the_operator_take_the_instrumentation() -> None:
    """The Instrumentation has only fields and values that the operator's own definition of it knows."""
    definition = yaml.safe_load(Path(built("kubernetes", "--definition")).read_text(encoding="utf-8"))
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1alpha1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    instrumentation = of_kind("overlays/small", "Instrumentation")["voicespan"]
    jsonschema.validate(instrumentation, schema)
    for path, value in ((("exporter", "endpoit"), "x"), (("sampler", "type"), "sometimes"), (("python", "env"), "x")):
        broken = json.loads(json.dumps(instrumentation))
        broken["spec"][path[0]][path[1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def strict(schema: Any) -> Any:
    """A schema of Kubernetes as one of JSON Schema that allows no other fields."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if not key.startswith("x-") and key != "default"}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return made


def test_configurations_are_the_files_of_deploy() -> None:
    """The Collector, Tempo and Grafana read the very files of deploy/: nothing is written down twice."""
    made = {
        re.sub(r"-[a-z0-9]{10}$", "", name): each["data"]
        for name, each in of_kind("overlays/small", "ConfigMap").items()
    }
    files = {
        path.name: path.read_text() for path in (DEPLOY / "otel-collector.yaml", *(DEPLOY / "collector").iterdir())
    }
    assert made["collector-config"] == {name: text for name, text in files.items() if name != "viewer.yaml"}
    assert made["dashboards"] == {path.name: path.read_text() for path in (DEPLOY / "grafana/dashboards").iterdir()}
    assert made["tempo-config"] == {"tempo.yaml": (DEPLOY / "tempo/tempo.yaml").read_text()}
    provisioning = DEPLOY / "grafana/provisioning"
    for kind in ("datasources", "dashboards"):
        assert made[f"grafana-{kind}"] == {"voicespan.yml": (provisioning / kind / "voicespan.yml").read_text()}
    for data in made.values():
        assert sum(len(text.encode()) for text in data.values()) < 1 << 20  # what Kubernetes stores at most


def test_rules_are_those_of_prometheus() -> None:
    """Each rule file is one PrometheusRule with the same groups."""
    made = {name: each["spec"]["groups"] for name, each in of_kind("overlays/production", "PrometheusRule").items()}
    paths = (DEPLOY / "prometheus/rules").iterdir()
    assert made == {path.stem: yaml.safe_load(path.read_text())["groups"] for path in paths}


def test_alerts_reach_who_is_to_be_told() -> None:
    """Prometheus sends to the Alertmanager and may reach it; that one reads the file of deploy/ and its keys."""
    told = of_kind("overlays/small", "Alertmanager")["voicespan"]
    (sent,) = of_kind("overlays/small", "Prometheus")["voicespan"]["spec"]["alerting"]["alertmanagers"]
    assert sent == {"name": "alertmanager-operated", "port": "web"}
    (rule,) = of_kind("overlays/small", "NetworkPolicy")["alertmanager"]["spec"]["ingress"]
    assert {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}} in rule["from"]
    config = of_kind("overlays/small", "Secret")[told["spec"]["configSecret"]]
    assert config["metadata"]["namespace"] == told["metadata"]["namespace"]
    text = base64.b64decode(config["data"]["alertmanager.yaml"]).decode()
    assert text == (DEPLOY / "alertmanager/alertmanager.yml").read_text()
    (mount,) = told["spec"]["volumeMounts"]
    named = re.findall(r"_file: (\S+)/[\w-]+$", text, flags=re.MULTILINE)
    assert set(named) == {mount["mountPath"]}


@pytest.mark.parametrize("entry", ["overlays/small", "overlays/production", "gpu"])
def test_pods_have_few_rights(entry: str) -> None:
    """No pod runs as root, writes to its image, has a capability or a key to the cluster; each has limits and probes.

    NVIDIA's exporter needs more than that, and has a namespace of its own.
    """
    for workload in workloads(entry):
        pod, only = workload["spec"]["template"]["spec"], container(workload)
        rights = only["securityContext"]
        assert pod["automountServiceAccountToken"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"]["drop"] == ["ALL"]
        assert only["resources"]["limits"]["memory"]
        assert only["resources"]["requests"]["cpu"]
        assert only["readinessProbe"]
        assert only["livenessProbe"]
        if workload["metadata"]["name"] == GPU:
            assert workload["metadata"]["namespace"] == "voicespan-gpu"
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "add" not in rights["capabilities"]
        assert workload["metadata"]["namespace"] == "voicespan"


@pytest.mark.parametrize("entry", ["overlays/small", "overlays/production", "gpu"])
def test_services_policies_and_monitors_find_their_pods(entry: str) -> None:
    """Whatever selects pods selects some, by labels and by names of ports that these have."""
    pods = [
        (each["spec"]["template"]["metadata"]["labels"], {port["name"] for port in container(each)["ports"]})
        for each in workloads(entry)
    ]

    def ports_of(selector: dict[str, str]) -> set[str]:
        found = [ports for labels, ports in pods if selector.items() <= labels.items()]
        return set().union(*found)

    services = of_kind(entry, "Service")
    for service in services.values():
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports_of(service["spec"]["selector"])
    for workload in of_kind(entry, "StatefulSet").values():
        selector = services[workload["spec"]["serviceName"]]["spec"]["selector"]
        assert selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    for budget in of_kind(entry, "PodDisruptionBudget").values():
        assert ports_of(budget["spec"]["selector"]["matchLabels"])
    for policy in of_kind(entry, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"].get("matchLabels", {})
        if selector != {"app.kubernetes.io/name": "prometheus"}:  # whose pods are the operator's
            asked = {port["port"] for rule in policy["spec"].get("ingress", ()) for port in rule["ports"]}
            assert {port for port in asked if isinstance(port, str)} <= ports_of(selector)
    for monitor in of_kind(entry, "ServiceMonitor").values():
        selector = monitor["spec"]["selector"]
        chosen = [service for service in services.values() if selects(selector, service["metadata"].get("labels", {}))]
        offered = {port["name"] for service in chosen for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= offered


def selects(selector: Resource, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))


def test_monitors_are_the_jobs_of_the_rules() -> None:
    """The jobs have the names that rules ask for, and labels of the services stay theirs."""
    monitors = of_kind("overlays/small", "ServiceMonitor")
    jobs = {name: each["spec"]["endpoints"][0]["relabelings"][0]["replacement"] for name, each in monitors.items()}
    assert jobs == {"collector": alerts.COLLECTOR_JOB, "spans": scrape.SPAN_METRICS_JOB}
    assert monitors["spans"]["spec"]["endpoints"][0]["honorLabels"] is True


def test_gateways_are_those_of_the_front() -> None:
    """The front's lanes are the stable names of the gateways, one for each, and gateways push their metrics."""
    sets = of_kind("overlays/production", "StatefulSet")
    environ = {each["name"]: each.get("value") for each in container(sets["front"])["env"]}
    gateway = sets["gateway"]["spec"]
    names = [f"gateway-{number}.{gateway['serviceName']}:4317" for number in range(gateway["replicas"])]
    assert [environ[f"VOICESPAN_GATEWAY_{number + 1}"] for number in range(len(names))] == names
    front = yaml.safe_load((DEPLOY / "collector/front.yaml").read_text())
    assert len([name for name in front["exporters"] if name.startswith("otlp_grpc/")]) == len(names)
    assert container(sets["gateway"])["args"][-1] == "/etc/voicespan/config/remote-write.yaml"
    assert "spans" not in of_kind("overlays/production", "ServiceMonitor")
    for each in ("front", "gateway"):
        (claim,) = sets[each]["spec"]["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "queue"


@pytest.mark.parametrize(("entry", "name"), [("small", "gateway"), ("production", "gateway"), ("production", "front")])
def test_the_collector_takes_its_arguments(tmp_path: Path, entry: str, name: str) -> None:
    """The Collector finds no fault with the files, in this order, and the variables that a pod starts it with."""
    collector = program(COLLECTOR)
    made = next(each for key, each in of_kind(f"overlays/{entry}", "ConfigMap").items() if key.startswith("collector-"))
    for file, text in made["data"].items():
        (tmp_path / file).write_text(text)
    only = container(of_kind(f"overlays/{entry}", "StatefulSet")[name])
    (config,) = (each for each in only["volumeMounts"] if each["name"] == "config")
    arguments = [str(each).replace(config["mountPath"], str(tmp_path)) for each in only["args"]]
    environ = {each["name"]: each.get("value", "gateway-0") for each in only["env"]}
    texts = "".join(made["data"].values())
    assert {key for key in environ if key.startswith("VOICESPAN_") and f"env:{key}" not in texts} == set()
    environ["VOICESPAN_QUEUE_DIR"] = str(tmp_path / "queue")
    done = subprocess.run(
        [collector, "validate", *arguments], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.covers("E-X04")
def test_scaling_asks_for_metrics_that_there_are() -> None:
    """Services grow by calls and by what waits for them, by names that our metrics have in Prometheus."""
    asked = {
        metric["external"]["metric"]["name"]
        for each in of_kind("autoscaling", "HorizontalPodAutoscaler").values()
        for metric in each["spec"]["metrics"]
    }
    assert asked == {
        promql.series(n.METRIC_VOICE_SESSION_ACTIVE), promql.series(n.METRIC_VOICE_INFERENCE_QUEUE_LENGTH)
    }  # fmt: skip


def test_images_are_those_of_compose() -> None:
    """Where a program is a container in compose.yaml as well, it is the same version."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    tags = {
        each["image"].rpartition(":")[0].rpartition("/")[2]: each["image"].rpartition(":")[2]
        for each in compose.values()
    }
    images = [container(each)["image"] for entry in ENTRIES[:2] for each in workloads(entry)]
    images += [of_kind("overlays/small", kind)["voicespan"]["spec"]["image"] for kind in ("Prometheus", "Alertmanager")]
    found = {image.rpartition(":")[0].rpartition("/")[2]: image.rpartition(":")[2] for image in images}
    assert found == {name: tags[name] for name in found}


def test_values_say_that_they_are_unchecked() -> None:
    """Values for charts of others are marked as what no test has read, and are YAML at least."""
    paths = sorted((KUBERNETES / "values").glob("*.yaml"))
    assert len(paths) == 4
    for path in paths:
        assert path.read_text().startswith("# Unchecked: see README.md.")
        assert yaml.safe_load(path.read_text())
        assert f"`{path.name}`" in (KUBERNETES / "values/README.md").read_text()
