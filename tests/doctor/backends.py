"""Programs of the back end as their APIs answer: Prometheus, Tempo, Grafana, a service. A test breaks one answer."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from voicespan.stack.files import deploy


@dataclass
class Answering:
    """Answers each path with a status and a body; `ahead_s` is how far its clock is before ours."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    ahead_s: float = 0.0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        return self.answers.get(path, (404, "not found"))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        program = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                program.asked.append((parts.path, {name.lower(): value for name, value in self.headers.items()}))
                status, body = program.answer(parts.path, parse_qs(parts.query))
                written = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response_only(status)
                self.send_header("Date", formatdate(time.time() + program.ahead_s, usegmt=True))
                self.send_header("Content-Length", str(len(written)))
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler


TRACE = "0af7651916cd43dd8448eb211c80319c"


def every_rule() -> list[dict[str, Any]]:
    """The rules of deploy/, as Prometheus lists them."""
    import yaml

    files = (deploy() / "prometheus" / "rules").glob("*.yml")
    rules = [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
    return [{"name": rule.get("alert") or rule["record"], "health": "ok"} for rule in rules]


@dataclass
class ScriptedPrometheus(Answering):
    """A Prometheus in which everything is as it should be. What a test takes away is missing."""

    turns: float = 1
    exemplars: tuple[str, ...] = (TRACE,)
    features: str = "exemplar-storage"
    down: tuple[str, ...] = ()
    alertmanagers: tuple[str, ...] = ("http://127.0.0.1:9093/api/v2/alerts",)
    rules: list[dict[str, Any]] = field(default_factory=every_rule)
    dropped: float = 0
    refused: float = 0

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        return (200, {"status": "success", "data": data}) if (data := self._data(path, query)) else (404, "")

    def _data(self, path: str, query: dict[str, list[str]]) -> Any:
        match path.removeprefix("/api/v1/"):
            case "query":
                return self._result(query["query"][0])
            case "targets":
                jobs = ("otel-collector-span-metrics", "otel-collector", "prometheus")
                return {"activeTargets": [self._target(job) for job in jobs]}
            case "status/flags":
                return {"enable-feature": self.features}
            case "query_exemplars":
                return [{"exemplars": [{"labels": {"trace_id": each}} for each in self.exemplars]}]
            case "rules":
                return {"groups": [{"rules": self.rules}]}
            case "alertmanagers":
                return {"activeAlertmanagers": [{"url": url} for url in self.alertmanagers]}
        return None

    def _target(self, job: str) -> dict[str, Any]:
        health = "down" if job in self.down else "up"
        return {
            "labels": {"job": job},
            "scrapeUrl": "http://127.0.0.1:8889/metrics",
            "health": health,
            "lastError": "connection refused" if health == "down" else "",
        }

    def _result(self, promql: str) -> dict[str, Any]:
        value = self.turns if "voicespan-doctor" in promql else 0.0
        value = self.dropped if "otel_sdk_processor_span_processed" in promql else value
        value = self.refused if "receiver_refused" in promql else value
        return {"result": [{"metric": {}, "value": [time.time(), str(value)]}] if value else []}
