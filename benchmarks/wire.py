"""What a turn weighs on the wire: bytes that a service sends for it over OTLP/HTTP, and for its metrics meanwhile.

    python benchmarks/wire.py [--calls 50] [--seconds 20]

A service of its own process holds so many calls at once, each with a turn every five seconds. A receiver
counts every byte of every request, heads included. Prints JSON, without compression and with gzip.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TURN_S = 5.0

SERVICE = """
import sys, threading, time, voicespan
voicespan.setup_tracing("voice-agent")
calls, seconds, turn_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])

def turn_of(session):
    turn = session.user_turn()
    time.sleep(0.05)
    turn.speech_ended(); turn.committed(); turn.transcript()
    with turn.llm(model="gpt-4o-mini", provider="openai") as llm:
        time.sleep(0.05)
        llm.token(); llm.sentence(); llm.usage(input_tokens=812, output_tokens=41)
    with turn.tts(voice="amy", model="tts-small", language="en-US") as tts:
        tts.worker("tts-cosy@0"); tts.text("Nine degrees and sunny.")
        time.sleep(0.05)
        tts.audio(1.0)
    turn.audio_sent(0.1)
    turn.audio_heard()
    turn.end()

def call(number):
    time.sleep(turn_s * number / calls)
    until = time.monotonic() + seconds
    with voicespan.session(id=f"call-{number:08d}-{number * 7919:08x}", transport="websocket") as session:
        while time.monotonic() < until:
            began = time.monotonic()
            turn_of(session)
            time.sleep(max(0.0, turn_s - (time.monotonic() - began)))

threads = [threading.Thread(target=call, args=[number]) for number in range(calls)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


class Count:
    """What has come."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bytes: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.spans = 0
        self.turns = 0


def receiver(count: Count) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = (
                len(self.raw_requestline) + sum(len(name) + len(value) + 4 for name, value in self.headers.items()) + 2
            )
            signal = self.path.rpartition("/")[2]
            with count.lock:
                count.bytes[signal] = count.bytes.get(signal, 0) + head + len(body)
                count.requests[signal] = count.requests.get(signal, 0) + 1
                if signal == "traces":
                    self._look(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _look(self, body: bytes) -> None:
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for of_scope in of_resource.scope_spans:
                    count.spans += len(of_scope.spans)
                    count.turns += sum(span.name == "voice.turn" for span in of_scope.spans)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def measured(calls: int, seconds: float, compression: str) -> dict[str, Any]:
    count = Count()
    with receiver(count) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))},
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        }
        command = [sys.executable, "-c", SERVICE, str(calls), str(seconds), str(TURN_S)]
        subprocess.run(command, env=environ, check=True, timeout=seconds + 120)
        server.shutdown()
    return {
        "turns": count.turns,
        "spans_per_turn": round(count.spans / count.turns, 2),
        "bytes_per_turn": round(count.bytes["traces"] / count.turns),
        "bytes_per_span": round(count.bytes["traces"] / count.spans),
        "spans_per_request": round(count.spans / count.requests["traces"], 1),
        "metric_bytes_per_export": round(count.bytes.get("metrics", 0) / max(count.requests.get("metrics", 0), 1)),
        "metric_exports": count.requests.get("metrics", 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    found = {kind: measured(arguments.calls, arguments.seconds, kind) for kind in ("none", "gzip")}
    print(json.dumps({"calls": arguments.calls, "turn_s": TURN_S, **found}, indent=2))


if __name__ == "__main__":
    main()
