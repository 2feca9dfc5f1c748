"""The services of the stack on one machine: their command lines, ports, and how to see that they are up."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from voicespan.stack import programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

VIEWER_PORT = 4319
TEMPO_OTLP_PORT = 14317


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One process of the stack."""

    name: str
    command: tuple[str, ...]
    health: str
    """Answers 200 once the service is ready."""
    ports: tuple[int, ...]
    """What it listens on, on 127.0.0.1."""
    page: str
    """What a person opens, or points a service at."""
    check: tuple[str, ...] = ()
    """A command that says what is wrong with its configuration, by a status that is not 0."""
    environ: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    """Folders that must be there."""
    secrets: tuple[Path, ...] = ()
    """Files with a password, which is made up when there is none."""


class MissingProgramError(Exception):
    """A program that the stack cannot do without is not on this machine; the message says where to get it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started, in this order, and what is left out and why."""

    services: tuple[Service, ...]
    left_out: tuple[str, ...]


def plan(deploy: Path, state: Path) -> Plan:
    """Return the services whose programs are here; they read the files of `deploy` and write below `state`.

    Raises:
        MissingProgramError: there is no Collector or no Prometheus.

    """
    found: list[Service] = []
    left_out: list[str] = []
    tempo = _optional(programs.TEMPO, left_out, "traces are kept by the viewer alone")
    viewer = find_spec("starlette") is not None and find_spec("uvicorn") is not None
    # Without Tempo its place is taken by the viewer, where that speaks gRPC: else the Collector's queue on disk would
    # fill for nobody.
    stands_in = tempo is None and viewer and find_spec("grpc") is not None
    if viewer:
        found.append(_viewer(state, grpc_port=TEMPO_OTLP_PORT if stands_in else 0))
    else:
        left_out.append("viewer: pip install 'voicespan[ui]'")
    if tempo is not None:
        found.append(_tempo(tempo, deploy, state))
    copied = viewer and not stands_in
    found.append(_collector(_required(programs.COLLECTOR), deploy, state, viewer=copied))
    found.append(_prometheus(_required(programs.PROMETHEUS), deploy, state))
    optional: tuple[tuple[programs.Program, str, Callable[[Path, Path, Path], Service]], ...] = (
        (programs.ALERTMANAGER, "alerts are seen in Prometheus only", _alertmanager),
        (programs.GRAFANA, "no dashboards", _grafana),
    )
    for program, without, service in optional:
        path = _optional(program, left_out, without)
        if path is not None:
            found.append(service(path, deploy, state))
    return Plan(tuple(found), tuple(left_out))


def _required(program: programs.Program) -> Path:
    path = program.find()
    if path is None:
        raise MissingProgramError(f"no program {program.names[0]!r} here: {program.source}")
    return path


def _optional(program: programs.Program, left_out: list[str], without: str) -> Path | None:
    path = program.find()
    if path is None:
        left_out.append(f"{program.names[0]}: not found, so {without} ({program.source})")
    return path


def _viewer(state: Path, *, grpc_port: int) -> Service:
    ports = (VIEWER_PORT, grpc_port) if grpc_port else (VIEWER_PORT,)
    return Service(
        name="viewer",
        command=(
            *(sys.executable, "-m", "voicespan", "ui", "--no-browser"),
            *("--port", str(VIEWER_PORT), "--grpc-port", str(grpc_port)),
            *("--db", str(state / "viewer" / "voicespan.db")),
        ),
        health=f"http://127.0.0.1:{VIEWER_PORT}/health",
        ports=ports,
        page=f"http://127.0.0.1:{VIEWER_PORT}/",
        folders=(state / "viewer",),
    )


def _collector(program: Path, deploy: Path, state: Path, *, viewer: bool) -> Service:
    queue = state / "collector"
    files = ["otel-collector.yaml", *(["collector/viewer.yaml"] if viewer else [])]
    config = tuple(word for file in files for word in ("--config", str(deploy / file)))
    return Service(
        name="collector",
        command=(str(program), *config),
        check=(str(program), "validate", *config),
        environ={"VOICESPAN_QUEUE_DIR": str(queue), "VOICESPAN_COLLECTOR_ID": "stack"},
        health="http://127.0.0.1:13133/",
        ports=(4317, 4318, 8888, 8889, 13133),
        page="http://127.0.0.1:4318 (OTLP over HTTP; gRPC on 4317)",
        folders=(queue,),
    )


def _prometheus(program: Path, deploy: Path, state: Path) -> Service:
    config = deploy / "prometheus" / "prometheus.yml"
    promtool = programs.PROMTOOL.find()
    return Service(
        name="prometheus",
        command=(
            str(program),
            f"--config.file={config}",
            f"--storage.tsdb.path={state / 'prometheus'}",
            "--web.listen-address=127.0.0.1:9090",
            "--storage.tsdb.retention.time=30d",
            # The second one lets a rate see the first flush of a new histogram.
            "--enable-feature=exemplar-storage,created-timestamp-zero-ingestion",
        ),
        check=() if promtool is None else (str(promtool), "check", "config", str(config)),
        health="http://127.0.0.1:9090/-/ready",
        ports=(9090,),
        page="http://127.0.0.1:9090/",
        folders=(state / "prometheus",),
    )


def _tempo(program: Path, deploy: Path, state: Path) -> Service:
    return Service(
        name="tempo",
        command=(str(program), f"-config.file={deploy / 'tempo' / 'tempo.yaml'}", "-config.expand-env=true"),
        environ={"VOICESPAN_TEMPO_DIR": str(state / "tempo")},
        health="http://127.0.0.1:3200/ready",
        ports=(3200, 9095, TEMPO_OTLP_PORT),
        page="http://127.0.0.1:3200/",
        folders=(state / "tempo",),
    )


def _alertmanager(program: Path, deploy: Path, state: Path) -> Service:
    return Service(
        name="alertmanager",
        command=(
            str(program),
            f"--config.file={deploy / 'alertmanager' / 'alertmanager.yml'}",
            f"--storage.path={state / 'alertmanager'}",
            "--web.listen-address=127.0.0.1:9093",
            "--cluster.listen-address=",
        ),
        health="http://127.0.0.1:9093/-/ready",
        ports=(9093,),
        page="http://127.0.0.1:9093/",
        folders=(state / "alertmanager",),
    )


def _grafana(program: Path, deploy: Path, state: Path) -> Service:
    password = state / "grafana" / "password"
    home = next((path for path in _homes(program) if (path / "conf" / "defaults.ini").exists()), None)
    return Service(
        name="grafana",
        command=(
            str(program),
            *(("server",) if program.name == "grafana" else ()),
            *(("--homepath", str(home)) if home else ()),
        ),
        environ={
            "GF_SERVER_HTTP_ADDR": "127.0.0.1",
            # A package keeps these in /var, where only its own user may write.
            "GF_PATHS_DATA": str(state / "grafana"),
            "GF_PATHS_LOGS": str(state / "grafana" / "logs"),
            "GF_PATHS_PLUGINS": str(state / "grafana" / "plugins"),
            "GF_LOG_MODE": "console",
            "GF_SECURITY_ADMIN_PASSWORD": f"$__file{{{password}}}",
            "GF_PATHS_PROVISIONING": str(deploy / "grafana" / "provisioning"),
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "VOICESPAN_DASHBOARDS_DIR": str(deploy / "grafana" / "dashboards"),
            "VOICESPAN_PROMETHEUS_URL": "http://127.0.0.1:9090",
            "VOICESPAN_TEMPO_URL": "http://127.0.0.1:3200",
            "VOICESPAN_ALERTMANAGER_URL": "http://127.0.0.1:9093",
        },
        health="http://127.0.0.1:3000/api/health",
        ports=(3000,),
        page=f"http://127.0.0.1:3000/ (user admin, password in {password})",
        folders=(state / "grafana",),
        secrets=(password,),
    )


def _homes(program: Path) -> Iterator[Path]:
    """Yield where Grafana may keep its own files: beside the program, or where its package puts them."""
    from pathlib import Path

    yield from program.resolve().parents[:3]
    yield Path("/usr/share/grafana")
