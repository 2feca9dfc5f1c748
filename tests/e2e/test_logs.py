"""Logs that services send or write into files come to Loki, without what must not be in them."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from voicespan.redaction import redact

from .calls import pairs
from .stack import Collector, Store, until
from .test_chain import HARMLESS, SEEDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

FILES = ("otel-collector.yaml", "collector/logs.yaml")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Loki:
    """Stands where Loki would: takes OTLP logs over HTTP and keeps them."""

    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self.endpoint = f"http://127.0.0.1:{server.server_port}/otlp"
        self.requests: list[ExportLogsServiceRequest] = []

    @property
    def records(self) -> list[tuple[dict[str, str], LogRecord]]:
        """Each record with the attributes of its resource."""
        return [
            ({pair.key: pair.value.string_value for pair in each.resource.attributes}, record)
            for request in self.requests
            for each in request.resource_logs
            for scope in each.scope_logs
            for record in scope.log_records
        ]

    @property
    def text(self) -> str:
        """All that has come, as text."""
        return "".join(map(str, self.requests))


@contextmanager
def loki() -> Iterator[Loki]:
    """A Loki that answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            assert self.path == "/otlp/v1/logs"
            found.requests.append(ExportLogsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Loki(server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def sent(*records: LogRecord) -> bytes:
    """A request with these records."""
    made = ExportLogsServiceRequest()
    resource = made.resource_logs.add()
    resource.resource.attributes.extend(pairs({"service.name": "voice-agent", "host.ip": SEEDS[0]}))
    resource.scope_logs.add().log_records.extend(records)
    return made.SerializeToString()


def test_logs_are_accepted_without_a_store(tmp_path: Path) -> None:
    """With the default file a sender of logs is not refused; they are counted, and go nowhere."""
    with Store() as store:
        settings = {"VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        with Collector(tmp_path / "gw-1", settings=settings) as collector:
            assert collector.send(sent(LogRecord(body=AnyValue(string_value="hello"))), "logs") == 200
            until(lambda: collector.own_metric("otelcol_receiver_accepted_log_records") == 1, "it is counted")
            assert "hello" not in collector.said()


def test_what_is_sent_is_redacted(tmp_path: Path) -> None:
    """No seeded personal data or key is in what Loki gets: not in bodies of any type, attributes or the resource."""
    bodies = [AnyValue(string_value=f"the caller is {seed}, and that is all") for seed in SEEDS]
    listed = [AnyValue(string_value=seed) for seed in SEEDS]
    bodies.append(AnyValue(array_value=ArrayValue(values=listed)))
    pairs_of = [KeyValue(key=f"field{number}", value=value) for number, value in enumerate(listed)]
    bodies.append(AnyValue(kvlist_value=KeyValueList(values=[*pairs_of, *pairs({"transcript": "my name is bob"})])))
    records = [LogRecord(body=body) for body in bodies]
    spoken = {"user.transcript": "my name is bob", **{f"x{number}": seed for number, seed in enumerate(SEEDS)}}
    records.append(LogRecord(body=AnyValue(string_value="harmless"), attributes=pairs(spoken)))
    kept = [LogRecord(body=AnyValue(string_value=f"see {text}")) for text in HARMLESS]
    with loki() as store, Collector(tmp_path / "gw-1", *FILES, settings=of(store, tmp_path)) as collector:
        assert collector.send(sent(*records, *kept), "logs") == 200
        until(lambda: len(store.records) == len(records) + len(kept), "every record is there")
    assert [seed for seed in (*SEEDS, "my name is bob") if seed in store.text] == []
    found = [record.body.string_value for _, record in store.records]
    assert [redact(f"the caller is {seed}, and that is all") for seed in SEEDS] == found[: len(SEEDS)]
    assert [f"see {text}" for text in HARMLESS] == found[-len(HARMLESS) :]
    assert "voicespan.body" not in store.text


def of(store: Loki, folder: Path) -> dict[str, str]:
    """The settings of a Collector that sends to this Loki and reads the files of a folder."""
    return {"VOICESPAN_LOKI_ENDPOINT": store.endpoint, "VOICESPAN_LOG_FILES": str(folder / "logs/*.log")}


@pytest.mark.covers("C-G07")
def test_files_are_read_once_and_redacted(tmp_path: Path) -> None:
    """Lines of voicespan's form become records of their turn; other lines are kept; a restart reads on where it was."""
    line = {
        "timestamp": "2026-11-20T15:00:00.123456Z", "level": "ERROR", "logger": "app", "message": f"call {SEEDS[0]}",
        "trace_id": TRACE, "span_id": SPAN, "service": "voice-agent", "environment": "test", "transcript": "bob here",
    }  # fmt: skip
    others = [{"message": "no more than this"}, {"trace_id": "short", "timestamp": "yesterday", "number": 3}]
    (tmp_path / "logs").mkdir()
    file = tmp_path / "logs/agent.log"
    lines = [*(json.dumps(each) for each in (line, *others)), f"plain text about {SEEDS[4]}", '{"broken": ']
    file.write_text("".join(f"{each}\n" for each in lines))
    with loki() as store, Collector(tmp_path / "gw-1", *FILES, settings=of(store, tmp_path)) as collector:
        until(lambda: len(store.records) == len(lines), "every line is there")
        resource, record = store.records[0]
        assert resource == {"service.name": "voice-agent", "deployment.environment.name": "test"}
        assert record.body.string_value == redact(line["message"])
        assert (record.trace_id.hex(), record.span_id.hex()) == (TRACE, SPAN)
        assert (record.severity_text, record.time_unix_nano) == ("ERROR", 1795186800_123456000)
        collector.stop()
        with file.open("a") as more:
            more.write("one more line\n")
        collector.start()
        until(lambda: "one more line" in store.text, "the new line is there")
        assert len(store.records) == len(lines) + 1
        assert collector.own_metric("otelcol_receiver_refused_log_records") == 0
    assert [said for said in (SEEDS[0], SEEDS[4], "bob here") if said in store.text] == []
    assert [each for each in collector.said().splitlines() if "\terror\t" in each] == []
