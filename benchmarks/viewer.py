"""How long each question of the viewer's page takes over many turns, asked over HTTP, and how much memory; as JSON.

Before each question a turn is stored, as on a page that looks at a live service: nothing is answered from memory of the
last time. Medians of the whole answer, as the page gets it. The bar is for 20,000 turns; 200,000 show that it stays
usable. On a busy machine read `cpu_ms`: what the viewer itself needed. The memory is that of a viewer in a process of
its own, which took 20,000 turns over HTTP and was asked everything; the bar is for what it holds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ingest import request
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from voicespan.local.decode import decode_protobuf
from voicespan.local.query import TurnQuery
from voicespan.local.run import Run, keep_run
from voicespan.local.server import Receiver

if TYPE_CHECKING:
    from voicespan.local.store import Store
    from voicespan.local.turn import Turn

BAR_MS = 100
BAR_MIB = 150
ROUNDS = 15
TURNS_OF_A_SESSION = 20
SPANS_OF_A_TURN = 13
PANELS = {
    "figures": "/api/figures?objective_ms=600",
    "figures_of_some": "/api/figures?outcome=completed&stage=llm&over_ms=300",
    "figures_since": "/api/figures?since_s=1",
    "silence": "/api/silence",
    "silence_since": "/api/silence?since_s=1",
    "figures_of_a_session": "/api/figures?session=call-7",
    "dots": "/api/dots?of=response",
    "dots_of_a_stage": "/api/dots?of=llm",
    "slow_turns": "/api/turns?sort=response&limit=50",
    "slow_turns_by_stage": "/api/turns?sort=tts&limit=50",
    "choices": "/api/choices",
    "sessions": "/api/sessions?limit=50",
    "session": "/api/session?id=spoken",
    "runs": "/api/runs",
    "compare": "/api/compare?run={run}&against=run:{before}",
    "traces": "/api/traces?limit=50",
    "turn": "/api/turns/last",
}


def fill(store: Store, turns: int) -> Turn:
    """Store one session whole, the rows of many other turns that differ in every length, and other traces.

    Return a turn of that session.
    """
    store.add(decode_protobuf(spoken()).spans)
    model = store.reader.turns(TurnQuery())[0]
    draw = random.Random(1)
    with store._writing("runs"):
        runs = [
            keep_run(store._connection, Run("voice-agent", f"run {number}", None, None, None), model.start_ns)
            for number in range(4)
        ]
    lengths = [name for name in model._fields if name.endswith("_ns") and name not in ("start_ns", "duration_ns")]
    rows = []
    for index in range(1, turns):
        factor = draw.lognormvariate(-0.3, 0.4)
        values = {name: round(value * factor) for name in lengths if (value := getattr(model, name)) is not None}
        rows.append(
            model._replace(
                **values,
                trace_id=f"{draw.getrandbits(128):032x}",
                start_ns=model.start_ns - index * 5_000_000_000,
                session_id=f"call-{index // TURNS_OF_A_SESSION}",
                turn_index=index % TURNS_OF_A_SESSION + 1,
                model=draw.choice(("small-chat", "large-chat")),
                outcome=draw.choices(("completed", "interrupted", "error"), (94, 5, 1))[0],
                run=draw.choice(runs),
                shares={stage: round(share * factor) for stage, share in model.shares.items()},
            )
        )
    with store._writing("turns"):
        store._put(rows)
    for _ in range(turns // 5_000):
        store.add(decode_protobuf(others(500)).spans)
    return model


def spoken() -> bytes:
    """A request with one whole session."""
    message = ExportTraceServiceRequest.FromString(request(TURNS_OF_A_SESSION * SPANS_OF_A_TURN, 0))
    for span in message.resource_spans[0].scope_spans[0].spans:
        for attribute in span.attributes:
            if attribute.key == "session.id":
                attribute.value.string_value = "spoken"
    return message.SerializeToString()


def others(traces: int) -> bytes:
    """A request with traces that are no turns, of two spans each."""
    message = ExportTraceServiceRequest()
    of_resource = message.resource_spans.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "web"
    spans = of_resource.scope_spans.add().spans
    for index in range(traces):
        start_ns, trace_id, root = time.time_ns() - index * 1_000_000_000, os.urandom(16), os.urandom(8)
        for span_id, parent in ((root, b""), (os.urandom(8), root)):
            spans.add(trace_id=trace_id, span_id=span_id, parent_span_id=parent, name="POST /token")
            spans[-1].start_time_unix_nano, spans[-1].end_time_unix_nano = start_ns, start_ns + 40_000_000
    return message.SerializeToString()


def panels(turns: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder, Receiver(port=0, database=Path(folder) / "x.db") as receiver:
        store = receiver.store
        model = fill(store, turns)
        connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=60)
        wanted = addresses(connection)
        found = {}
        for name, address in wanted.items():
            walls, cpus = [], []
            for number in range(ROUNDS):
                later = model._replace(trace_id=f"{number:032x}", start_ns=model.start_ns + number)
                with store._writing("turns"):
                    store._put([later])
                cpu, started = time.process_time(), time.perf_counter()
                get(connection, address)
                walls.append(time.perf_counter() - started)
                cpus.append(time.process_time() - cpu)
            found[name] = {"ms": milliseconds(walls), "cpu_ms": milliseconds(cpus)}
        connection.close()
    return found


def addresses(connection: http.client.HTTPConnection) -> dict[str, str]:
    """The questions, with the runs that there are."""
    runs = [run["id"] for run in json.loads(get(connection, "/api/runs"))["runs"]]
    return {name: address.format(run=runs[0], before=runs[-1]) for name, address in PANELS.items()}


def get(connection: http.client.HTTPConnection, address: str) -> bytes:
    connection.request("GET", address)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, (address, answer.status, body[:200])
    return body


def milliseconds(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1e3, 1)


def memory(turns: int) -> dict[str, float]:
    """MiB of a viewer at its start, after it took these turns, and after it was asked everything."""
    of_a_request = 50
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "output").open("w+") as output:
        command = [Path(sys.executable).parent / "voicespan", "ui", "--no-browser", "--port", "0"]
        with subprocess.Popen([*command, "--db", f"{folder}/x.db"], stdout=output) as viewer:
            connection = http.client.HTTPConnection("127.0.0.1", port_said_in(Path(output.name)), timeout=60)
            sizes = {"start_mib": resident(viewer.pid)}
            started = time.perf_counter()
            post(connection, spoken())
            for first in range(0, turns, of_a_request):
                post(connection, request(of_a_request * SPANS_OF_A_TURN, first))
            sizes["ingest_s"] = round(time.perf_counter() - started, 1)
            sizes["after_ingest_mib"] = resident(viewer.pid)
            for address in addresses(connection).values():
                get(connection, address)
            sizes["after_questions_mib"] = resident(viewer.pid)
            sizes["peak_mib"] = resident(viewer.pid, "VmHWM")
            connection.close()
            viewer.terminate()
    return sizes


def port_said_in(output: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", output.read_text())
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise RuntimeError(f"the viewer did not start: {output.read_text()}")


def post(connection: http.client.HTTPConnection, body: bytes) -> None:
    connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status


def resident(process: int, what: str = "VmRSS") -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--no-memory", action="store_true")
    options = parser.parse_args()
    result = {
        "benchmark": "viewer",
        "bar_ms_at_20000_turns": BAR_MS,
        "bar_mib_with_20000_turns": BAR_MIB,
        "machine": {
            "processors": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
        **{f"turns_{turns}": panels(turns) for turns in options.turns},
        "memory_20000_turns": None if options.no_memory else memory(20_000),
        "load_at_the_end": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
