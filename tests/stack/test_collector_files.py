"""The Collector's files agree: sources with their manifest, configuration with the names, itself, and its page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from voicespan import names
from voicespan.settings import VARIABLES

ROOT = Path(__file__).parents[2]
COLLECTOR = ROOT / "collector"
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted((DEPLOY / "collector").glob("*.yaml"))
FILES = [DEPLOY / "otel-collector.yaml", *OVERLAYS]


def read(path: Path) -> dict[str, Any]:
    """A file as plain data."""
    return dict(yaml.safe_load(path.read_text()))


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The default configuration."""
    return read(FILES[0])


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """What the Collector is built of."""
    return read(COLLECTOR / "manifest.yaml")


def modules(manifest: dict[str, Any]) -> dict[str, str]:
    """Go modules of the manifest with their versions."""
    parts = ("receivers", "processors", "connectors", "exporters", "extensions", "providers")
    return dict(entry["gomod"].split() for part in parts for entry in manifest[part])


def milliseconds(duration: str) -> float:
    """A duration as the Collector writes it."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}[unit]


# The sources


def test_the_sources_are_those_of_the_manifest(manifest: dict[str, Any]) -> None:
    """The generated sources import and pin what the manifest lists, in its versions: `scripts/collector --generate`."""
    wanted = modules(manifest)
    pinned = dict(re.findall(r"^\t(\S+) (v\S+)$", (COLLECTOR / "go.mod").read_text(), flags=re.MULTILINE))
    assert {name: pinned.get(name) for name in wanted} == wanted
    sources = (COLLECTOR / "components.go").read_text()
    stated = dict(re.findall(r'"(\S+) (v\S+)"', sources + (COLLECTOR / "main.go").read_text()))
    assert stated == wanted
    sums = (COLLECTOR / "go.sum").read_text()
    assert [name for name, version in wanted.items() if f"{name} {version} h1:" not in sums] == []
    assert f"module {manifest['dist']['module']}\n" in (COLLECTOR / "go.mod").read_text()


def test_all_components_are_of_one_version(manifest: dict[str, Any]) -> None:
    """Components of different versions do not fit together: one version for all, and the core's for the providers."""
    version = f"v{manifest['dist']['version']}"
    versions = {name: found for name, found in modules(manifest).items() if "/provider/" not in name}
    assert set(versions.values()) == {version}
    assert {found for name, found in modules(manifest).items() if name not in versions} == {"v1.65.0"}


def test_the_image_builds_the_same() -> None:
    """The image is built like the program, has no rights and no shell, and can be asked for its health."""
    lines = (COLLECTOR / "Dockerfile").read_text()
    scripts = (ROOT / "scripts/go-build").read_text() + (ROOT / "scripts/collector").read_text()
    for detail in ('-trimpath -ldflags="-s -w"', "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "build_tags"):
        assert detail in lines
        assert detail in scripts
    assert re.search(r"^FROM .*distroless.*:nonroot$", lines, flags=re.MULTILINE)
    assert "USER nonroot" in lines
    assert "HEALTHCHECK" in lines


# The configuration


@pytest.mark.covers("F-R08", "B-S06")
def test_labels_and_buckets_are_those_of_the_names(config: dict[str, Any]) -> None:
    """The labels of span-derived metrics and their buckets are the ones of the names module, in seconds."""
    metrics = config["connectors"]["span_metrics"]
    assert [each["name"] for each in metrics["dimensions"]] == list(names.DIMENSIONS)
    assert names.VOICE_TURN_NO_REPLY_REASON in names.DIMENSIONS
    assert metrics["histogram"]["unit"] == "s"
    buckets = [milliseconds(each) / 1000 for each in metrics["histogram"]["explicit"]["buckets"]]
    assert buckets == list(names.BOUNDARIES_S)


def test_what_changes_with_a_process_is_no_label(config: dict[str, Any]) -> None:
    """Series are told apart by service, version and environment; of the resource, only what makes `job` is left."""
    keys = config["connectors"]["span_metrics"]["resource_metrics_key_attributes"]
    assert set(keys) == {
        names.SERVICE_NAME, names.SERVICE_NAMESPACE, names.SERVICE_VERSION, names.DEPLOYMENT_ENVIRONMENT_NAME
    }  # fmt: skip
    (statement,) = config["processors"]["transform/span_metrics"]["metric_statements"]
    kept = set(re.findall(r'"([^"]+)"', statement))
    assert kept == {names.SERVICE_NAME, names.SERVICE_NAMESPACE}
    copied = {
        key for line in config["processors"]["transform/app_metrics"]["metric_statements"] for key in
        re.findall(r'"([^"]+)"', line)
    }  # fmt: skip
    assert copied == {names.DEPLOYMENT_ENVIRONMENT_NAME, names.SERVICE_VERSION, names.VOICE_WORKER_ID}


def test_no_scrape_misses_a_flush(config: dict[str, Any]) -> None:
    """Prometheus asks more often than the Collector flushes: an exemplar is there for one flush only."""
    prometheus = read(DEPLOY / "prometheus" / "prometheus.yml")
    scrape_ms = milliseconds(prometheus["global"]["scrape_interval"])
    flush_ms = milliseconds(config["connectors"]["span_metrics"]["metrics_flush_interval"])
    assert scrape_ms < flush_ms < milliseconds(config["exporters"]["prometheus"]["metric_expiration"])
    assert config["exporters"]["prometheus"]["enable_open_metrics"] is True


def test_the_sampling_keeps_what_the_names_say() -> None:
    """The thresholds above which a turn is kept are those of the names module."""
    sampling = read(DEPLOY / "collector/sampling.yaml")["processors"]["tail_sampling"]
    policies = {each["name"]: each for each in sampling["policies"]}
    conditions = " ".join(policies["slow"]["ottl_condition"]["span"])
    plain = re.sub(r"\$\{env:VOICESPAN_SLOW_RESPONSE_MS:-(\d+)\}", r"\1", conditions)
    found = {span: int(ns) / 1e9 for span, ns in re.findall(r'name == "([\w.]+)" and\s+\S+ - \S+ > (\d+)', plain)}
    wanted = {limit.on: limit.value for limit in names.THRESHOLDS if "kept by sampling" in limit.purpose}
    assert found == wanted
    assert {names.SPAN_UNANSWERED, names.SPAN_BARGE_IN} <= set(re.findall(r'name == "([\w.]+)"', plain))
    outcomes = policies["outcome"]["string_attribute"]
    every = next(each.values for each in names.ATTRIBUTES if each.name == names.VOICE_TURN_OUTCOME)
    assert outcomes["key"] == names.VOICE_TURN_OUTCOME
    assert set(outcomes["values"]) == set(every) - {"completed"}


def test_sampling_waits_longer_than_a_turn() -> None:
    """A turn is decided on with its root: even the longest one ends before its first span is decided on without it."""
    sampling = read(DEPLOY / "collector/sampling.yaml")["processors"]["tail_sampling"]
    longest_s = float(next(variable.default for variable in VARIABLES if variable.name == "VOICESPAN_TURN_MAX_S"))
    assert milliseconds(sampling["decision_wait"]) / 1000 >= longest_s + 60
    assert milliseconds(sampling["decision_wait_after_root_received"]) <= 10_000
    # 1,000 calls make 230 turns a second.
    assert sampling["num_traces"] >= 225 * milliseconds(sampling["decision_wait"]) / 1000


def test_who_is_gone_disappears(config: dict[str, Any]) -> None:
    """Series of span-derived metrics end hours after the last span: not never, and not in a quiet moment."""
    for key in ("metrics_expiration", "series_expiration"):
        assert 3 <= milliseconds(config["connectors"]["span_metrics"][key]) / 3_600_000 <= 24


def test_no_queue_gives_up(config: dict[str, Any]) -> None:
    """What waits on disk is tried until it is taken: no exporter with such a queue stops after a while."""
    queued = {}
    for path in FILES:
        for name, exporter in read(path).get("exporters", {}).items():
            if "storage" in exporter.get("sending_queue", {}):
                queued[path.name, name] = exporter["retry_on_failure"]
    assert {name for _, name in queued} == {"otlp_grpc/tempo", "otlp_grpc/1", "otlp_grpc/2", "otlp_http/loki"}
    assert {(retry["enabled"], retry["max_elapsed_time"]) for retry in queued.values()} == {(True, "0s")}


@pytest.mark.parametrize("path", [FILES[0], DEPLOY / "collector/front.yaml"], ids=lambda path: path.name)
def test_what_comes_from_outside_is_limited_first(path: Path) -> None:
    """Each pipeline that takes OTLP begins with the memory limiter, and no other has one: it would count twice."""
    pipelines = read(path)["service"]["pipelines"]
    first = {name: [*pipeline.get("processors", ()), None][0] for name, pipeline in pipelines.items()}
    assert {name: each == "memory_limiter" for name, each in first.items()} == {
        name: "otlp" in pipeline["receivers"] for name, pipeline in pipelines.items()
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_address_is_on_this_machine_until_somebody_says_otherwise(path: Path) -> None:
    """Nothing listens on, or sends to, another machine by default."""
    defaults = re.findall(r"\$\{env:\w+:-((?:[^{}]|\$\{[^{}]*\})*)\}", path.read_text())
    hosts = [host for each in defaults for host in re.findall(r"([\w.]+):\d{4,5}\b", each)]
    assert set(hosts) <= {"127.0.0.1"}
    assert "0.0.0.0" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_are_documented(path: Path) -> None:
    """Every variable that a file reads is in the table of docs/collector.md, with the default that it has here."""
    rows = re.findall(r"^\| `(VOICESPAN_\w+)` \| `([^|]*)` \|", (ROOT / "docs/collector.md").read_text(), re.MULTILINE)
    read_here = set(re.findall(r"\$\{env:(VOICESPAN_\w+):-((?:[^{}]|\$\{[^{}]*\})*)\}", path.read_text()))
    assert read_here <= set(rows)
    assert len(re.findall(r"\$\{env:", path.read_text())) >= len(read_here)


def test_no_setting_is_left_over() -> None:
    """The table of docs/collector.md has no variable that no file reads."""
    text = "".join(path.read_text() for path in FILES)
    rows = re.findall(r"^\| `(VOICESPAN_\w+)` \|", (ROOT / "docs/collector.md").read_text(), re.MULTILINE)
    assert rows
    assert [name for name in rows if f"env:{name}:-" not in text] == []


def test_overlays_change_only_what_they_are_about(config: dict[str, Any]) -> None:
    """A list is replaced and not merged: no overlay repeats one that it leaves as it is, so two can be combined."""
    touched: dict[tuple[str, str], list[str]] = {}
    for path in OVERLAYS:
        if path.name.startswith("front"):
            continue
        for name, pipeline in read(path)["service"].get("pipelines", {}).items():
            for key, value in pipeline.items():
                assert value != config["service"]["pipelines"].get(name, {}).get(key)
                touched.setdefault((name, key), []).append(path.name)
    assert {key: paths for key, paths in touched.items() if len(paths) > 1} == {}
