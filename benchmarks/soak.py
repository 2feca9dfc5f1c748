"""Turns without end through a whole service: is memory flat, and does every turn arrive?

    python benchmarks/soak.py [--turns 20000] [--seconds 600] [--viewer]

A service under voicespan makes turns as fast as its queue takes them, plain ones, interrupted ones and failed ones,
with tools, fillers and words that never come again; a receiver takes them over OTLP/HTTP and notes each trace. With
--viewer the receiver is a real viewer with its database. Memory is looked at twenty times; `growth_mb` is what it grew
by between a quarter of the turns and the end. Prints JSON; ends with 1 when a turn is missing or twice, or memory grew
by more than 5 MB. 200,000 turns take three minutes, and are run by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from voicespan.load.command import SERVICE
from voicespan.run import environment

MOST_MB = 5.0
LOOKS = 20

SCRIPT = """
import gc, json, sys, time
from pathlib import Path
import voicespan
from opentelemetry import trace
from voicespan import emit
from voicespan.sdk.export import BatchProcessor

turns, until_s = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
(batcher,) = [each.batcher for each in trace.get_tracer_provider()._active_span_processor._span_processors
              if isinstance(each, BatchProcessor)]
recorder = emit.recorder()

def memory_mb():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def one(session, number):
    turn = session.user_turn()
    turn.set("app.request.id", f"request-{number}")
    turn.speech_ended(); turn.committed(); turn.transcript()
    with turn.llm(model="m-1") as llm:
        llm.token(); llm.sentence()
    if number % 7 == 0:
        with turn.tool("weather"):
            pass
    if number % 11 == 0:
        turn.failed(ConnectionError(f"refused {number}"))
    with turn.tts(voice="sam", filler=number % 13 == 0) as tts:
        tts.text(f"This is answer {number}."); tts.audio(0.02)
        turn.audio_sent(0.02)
    if number % 5 == 0:
        turn.interrupted(); turn.audio_stopped()
    turn.end()

seen, made, began_s = [], 0, time.monotonic()
while made < turns and time.monotonic() < until_s:
    with voicespan.session(id=f"soak-{made}") as session:
        for _ in range(10):
            one(session, made)
            made += 1
    while batcher.unsent > 1000 or len(recorder._closed) > 20:
        time.sleep(0.001)
    if made * LOOKS // turns > len(seen):
        seen.append(round(memory_mb(), 1))
seconds = time.monotonic() - began_s
recorder.drain()
trace.get_tracer_provider().force_flush(30_000)
print(json.dumps({"turns": made, "seconds": round(seconds, 1), "memory_mb": seen, "counts": batcher.counts.snapshot()}))
"""


class Notes(BaseHTTPRequestHandler):
    """Notes the trace of each `voice.turn`."""

    protocol_version = "HTTP/1.1"
    turns: list[bytes] = []  # noqa: RUF012 - shared by all connections of the one server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in each.scope_spans:
                    self.turns.extend(span.trace_id for span in scope.spans if span.name == "voice.turn")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def through_notes(turns: int, seconds: float) -> tuple[dict[str, object], int, int]:
    """Return what the service said, how many turns arrived, and how many of them are different."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Notes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said = serve(f"http://127.0.0.1:{server.server_address[1]}", turns, seconds)
    server.shutdown()
    return said, len(Notes.turns), len(set(Notes.turns))


def through_viewer(turns: int, seconds: float) -> tuple[dict[str, object], int, int]:
    """The same with a viewer, which stores each turn once; it says how many it has."""
    from voicespan.local.query import TurnQuery
    from voicespan.local.server import Receiver

    with tempfile.TemporaryDirectory() as folder, Receiver(port=0, database=Path(folder) / "soak.db") as receiver:
        said = serve(receiver.endpoint, turns, seconds)
        stored, deadline = 0, time.monotonic() + 60
        while time.monotonic() < deadline and stored < said["turns"]:  # type: ignore[operator]
            stored = len(receiver.store.reader.turns(TurnQuery(service=SERVICE, limit=turns + 1)))
            time.sleep(0.1)
    return said, stored, stored


def serve(url: str, turns: int, seconds: float) -> dict[str, object]:
    """Run the service to its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
    environ = environment(clean | {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}, SERVICE, url)
    command = [sys.executable, "-c", f"LOOKS = {LOOKS}\n{SCRIPT}", str(turns), str(seconds)]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, timeout=seconds + 120)
    said: dict[str, object] = json.loads(done.stdout)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600, help="no more turns are made after so long")
    parser.add_argument("--viewer", action="store_true")
    given = parser.parse_args()
    said, arrived, different = (through_viewer if given.viewer else through_notes)(given.turns, given.seconds)
    memory = said["memory_mb"]
    assert isinstance(memory, list)
    growth_mb = round(memory[-1] - memory[len(memory) // 4], 1) if memory else 0.0
    found = {
        **said,
        "arrived": arrived,
        "twice": arrived - different,
        "lost": said["turns"] - different,
        "growth_mb": growth_mb,
    }  # type: ignore[operator]
    print(json.dumps(found, indent=2))
    sys.exit(found["lost"] != 0 or found["twice"] != 0 or growth_mb > MOST_MB)


if __name__ == "__main__":
    main()
