"""Collector and Prometheus as real processes with the files of deploy/, and a stand-in for the store of traces."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
import psutil
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from tests.ports import free_port
from tests.programs import program

from voicespan.stack import programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from .calls import Sent

DEPLOY = Path(__file__).parents[2] / "deploy"
READY_S = 60.0
STOP_S = 30.0


def until(condition: Callable[[], Any], what: str, timeout_s: float = READY_S) -> Any:
    """Wait for a condition and return what it gave; what is not there yet may raise an OSError."""
    deadline = time.monotonic() + timeout_s
    while True:
        last: object = None
        try:
            last = condition()
        except OSError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s:.0f} s: {what}") from error
        if last:
            return last
        assert time.monotonic() <= deadline, f"not within {timeout_s:.0f} s: {what} (last: {last!r})"
        time.sleep(0.05)


def get(url: str, **headers: str) -> str:
    """What a page says."""
    asked = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return str(answer.read().decode())


class Process:
    """A program that runs with its own folder, ports and log, and can be ended in both ways and started again."""

    def __init__(self, folder: Path, command: Sequence[str], environ: Mapping[str, str], health: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "log"
        self._command = list(command)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
        self._environ = {**kept, **environ}
        self._health = health
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> Self:
        """Start it without waiting for it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environ, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def start(self) -> Self:
        """Start it and wait until it says that it is ready."""
        self.begin()
        until(self._ready, f"{self._command[0]} is ready; its log: {self.log}")
        return self

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"{self._command[0]} ended at once:\n{self.said()[-2000:]}"
        return bool(get(self._health) is not None)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process, "it was not started"
        return self._process

    def said(self) -> str:
        """All that it has written."""
        return self.log.read_text(errors="replace")

    def wait(self) -> int:
        """Wait until it has ended by itself, and return its status."""
        return self.process.wait(READY_S)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(STOP_S)

    def kill(self) -> None:
        """Take it away, as a machine that fails would."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_S)

    def memory_mib(self) -> float:
        """Resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *args: object) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Collector(Process):
    """The Collector of collector/ with files of deploy/, on ports of its own."""

    def __init__(
        self,
        folder: Path,
        *files: str,
        settings: Mapping[str, str] | None = None,
        changes: Mapping[str, str] | None = None,
    ) -> None:
        """Take `files` of deploy/; `changes` are further keys, as `a::b: value`, for what a test cannot wait for."""
        self.grpc, self.http, self.metrics, self.own, self.health = (free_port() for _ in range(5))
        self.environ = {
            "VOICESPAN_OTLP_GRPC_ENDPOINT": f"127.0.0.1:{self.grpc}",
            "VOICESPAN_OTLP_HTTP_ENDPOINT": f"127.0.0.1:{self.http}",
            "VOICESPAN_METRICS_ENDPOINT": f"127.0.0.1:{self.metrics}",
            "VOICESPAN_SELF_METRICS_PORT": str(self.own),
            "VOICESPAN_HEALTH_ENDPOINT": f"127.0.0.1:{self.health}",
            "VOICESPAN_QUEUE_DIR": str(folder / "queue"),
            "VOICESPAN_COLLECTOR_ID": folder.name,
            **(settings or {}),
        }
        self.files = files or ("otel-collector.yaml",)
        config = [option for file in self.files for option in ("--config", str(DEPLOY / file))]
        config += [option for key, value in (changes or {}).items() for option in ("--config", f"yaml:{key}: {value}")]
        self.program = program(programs.COLLECTOR)
        self.config = config
        super().__init__(folder, [self.program, *config], self.environ, f"http://127.0.0.1:{self.health}/")

    def validate(self) -> subprocess.CompletedProcess[str]:
        """Let the Collector look at its configuration."""
        command = [self.program, "validate", *self.config]
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False)

    def send(self, body: bytes, signal: str = "traces", **headers: str) -> int:
        """Send an OTLP request over HTTP and return the status of the answer."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/v1/{signal}",
            data=body,
            headers={"Content-Type": "application/x-protobuf", **headers},
        )
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def own_metric(self, name: str) -> float:
        """The sum of all series of one of its own metrics, whose name may end in `_total` or not; 0 without any."""
        lines = get(f"http://127.0.0.1:{self.own}/metrics").splitlines()
        found = [line for line in lines if line.split("{")[0].removesuffix("_total") == name]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@dataclass
class Store(TraceServiceServicer):
    """Stands where Tempo would: takes OTLP over gRPC and keeps the spans. It can go and come back on the same port."""

    port: int = field(default_factory=free_port)
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    _server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def traces(self) -> dict[bytes, list[Span]]:
        """The spans by trace id."""
        found: dict[bytes, list[Span]] = {}
        for span in list(self.spans):
            found.setdefault(span.trace_id, []).append(span)
        return found

    def lacks(self, sent: Iterable[Sent]) -> list[Sent]:
        """Those of the turns of which not each span has arrived, each once."""
        found = self.traces
        return [
            turn
            for turn in sent
            if sorted(span.span_id for span in found.get(turn.trace_id, ()))
            != sorted(span.span_id for span in turn.spans)
        ]

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
        self.bodies.append(request.SerializeToString())
        self.spans.extend(
            span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
        )
        return ExportTraceServiceResponse()

    def up(self) -> Self:
        """Begin to answer."""
        limit = ("grpc.max_receive_message_length", 64 * 2**20)
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0), limit])
        add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        assert self._server.add_insecure_port(self.endpoint) == self.port
        self._server.start()
        return self

    def down(self) -> None:
        """Refuse connections from now on."""
        if self._server:
            self._server.stop(grace=None).wait()
            self._server = None

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(self, *args: object) -> None:
        self.down()


class Prometheus(Process):
    """Prometheus with the configuration of deploy/, pointed at these Collectors."""

    def __init__(self, folder: Path, collectors: Sequence[Collector] = (), *flags: str) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["rule_files"] = [str(DEPLOY / "prometheus" / file) for file in config.get("rule_files", ())]
        for elsewhere in ("alerting", "scrape_config_files"):
            config.pop(elsewhere, None)
        targets = {
            "otel-collector-span-metrics": [f"127.0.0.1:{collector.metrics}" for collector in collectors],
            "otel-collector": [f"127.0.0.1:{collector.own}" for collector in collectors],
        }
        config["scrape_configs"] = [
            {**job, "static_configs": [{"targets": targets[job["job_name"]]}]}
            for job in config["scrape_configs"]
            if job["job_name"] in targets
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = (
            program(programs.PROMETHEUS),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
            *flags,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(folder, command, {}, f"{self.url}/-/ready")

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that the query gives now."""
        found = self._api("query", query=promql)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def value(self, promql: str) -> float:
        """The only value that the query gives; 0 when there is none."""
        found = self.query(promql)
        assert len(found) <= 1, found
        return found[0][1] if found else 0.0

    def exemplars(self, promql: str) -> list[tuple[dict[str, str], dict[str, Any]]]:
        """Labels of the series, and exemplar, for each exemplar of the last hour."""
        now = time.time()
        found = self._api("query_exemplars", query=promql, start=now - 3600, end=now + 60)
        return [(series["seriesLabels"], exemplar) for series in found for exemplar in series["exemplars"]]

    def _api(self, name: str, **parameters: object) -> Any:
        return json.loads(get(f"{self.url}/api/v1/{name}?{urllib.parse.urlencode(parameters)}"))["data"]
