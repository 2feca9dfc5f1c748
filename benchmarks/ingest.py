"""How many spans a second the local receiver takes: decoding and storing alone, and over HTTP.

    python benchmarks/ingest.py [--spans 200000]

The client of the HTTP run is a process of its own, as a service would be. On a busy machine read `spans_per_cpu_s`: how
many spans one processor takes in one second of its time. `plain_rows_1000` is the least that a store in Python can do,
without HTTP, turns or a second writer: the bar was set on a machine where it took 54,000 to 74,000 spans a second, so
`of_plain_rows` is what tells on another one. Prints JSON.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import multiprocessing
import os
import platform
import resource
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from ratio import Ratio

from voicespan.local.decode import decode_protobuf
from voicespan.local.options import collect_seldom
from voicespan.local.part import COUNT
from voicespan.local.query import TurnQuery
from voicespan.local.server import Receiver
from voicespan.local.store import Store

CONTEXT = multiprocessing.get_context("spawn")
BAR_SPANS_PER_S = 50_000
ROUNDS = 7
S = 1_000_000_000
MS = 1_000_000
SHARES = {"endpoint": 0.3, "asr": 0.02, "llm": 0.41, "sentence": 0.08, "tts": 0.15, "send": 0.003, "network": 0.037}
SILENCE_S = sum(SHARES.values())


def spans_of_turn(index: int) -> list[tuple[str, str | None, int, int, dict[str, object]]]:
    """The thirteen spans of a plain turn as name, parent, start and end (ns after the onset), attributes."""
    model, voice = {"gen_ai.request.model": "small-chat"}, {"voice.tts.voice.name": "sam"}
    critical: dict[str, object] = {"voice.critical_path": True}
    silence = {
        "voice.response.from": "speech_end",
        "voice.measurement.point": "client",
        "voice.turn.initiator": "user",
        "voice.turn.outcome": "completed",
        "voice.turn.bottleneck": "llm",
        "voice.transport": "websocket",
        "voice.clock.offset_error_s": 0.004,
        "voice.language": "en-US",
        **model,
        **voice,
        **{f"voice.response.share.{stage}": share for stage, share in SHARES.items()},
    }
    root = {
        "session.id": f"call-{index // 20}",
        "gen_ai.conversation.id": f"call-{index // 20}",
        "gen_ai.operation.name": "invoke_agent",
        "voice.turn.index": index % 20 + 1,
        "voice.turn.initiator": "user",
        "voice.turn.input": "speech",
        "voice.turn.outcome": "completed",
        "voice.turn.bottleneck": "llm",
        "voice.speech.segments": 1,
        "voice.transport": "websocket",
    }
    llm = {
        "voice.component": "llm",
        **critical,
        **model,
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 812,
        "gen_ai.usage.output_tokens": 41,
        "voice.llm.token.rate": 71.5,
        "voice.llm.token.count": 41,
    }
    tts = {
        "voice.component": "tts",
        **critical,
        **voice,
        "voice.alias": "synthesize_request",
        "voice.text.length": 84,
        "voice.text.word_count.range": "11-25",
        "voice.audio.frame.count": 160,
        "voice.tts.real_time_factor": 0.21,
    }
    end = 2000 * MS
    heard = end + int(SILENCE_S * S)
    return [
        ("voice.turn", None, 0, heard + 3200 * MS, root),
        ("vad", "voice.turn", 0, end + 300 * MS, {"voice.component": "vad", **critical}),
        ("vad.endpoint", "vad", end, end + 300 * MS, critical),
        ("asr", "voice.turn", 60 * MS, end + 320 * MS, {"voice.component": "asr", "voice.language": "en-US"}),
        ("asr.finalize", "asr", end, end + 320 * MS, critical),
        ("llm", "voice.turn", end + 320 * MS, end + 1300 * MS, llm),
        ("llm.ttft", "llm", end + 320 * MS, end + 730 * MS, {**critical, **model}),
        ("llm.first_sentence", "llm", end + 320 * MS, end + 810 * MS, {**critical, **model}),
        ("tts", "voice.turn", end + 810 * MS, end + 2100 * MS, tts),
        ("tts.first_audio", "tts", end + 810 * MS, end + 960 * MS, {**critical, **voice}),
        ("playback", "voice.turn", end + 963 * MS, heard + 3200 * MS, {"voice.component": "playback"}),
        ("playback.start", "playback", end + 963 * MS, heard, critical),
        ("voice.response", "voice.turn", end, heard, silence),
    ]


def request(spans: int, first_turn: int) -> bytes:
    """An OTLP request with at least this many spans, of whole turns."""
    message = ExportTraceServiceRequest()
    of_resource = message.resource_spans.add()
    pair = of_resource.resource.attributes.add(key="service.name")
    pair.value.string_value = "voice-agent"
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = "voicespan"
    turn = first_turn
    while len(of_scope.spans) < spans:
        onset, trace_id = time.time_ns() - turn * 5 * S, os.urandom(16)
        ids = {}
        for name, parent, start, end, attributes in spans_of_turn(turn):
            ids[name] = os.urandom(8)
            span = of_scope.spans.add(trace_id=trace_id, span_id=ids[name], name=name, kind=1)
            span.parent_span_id = ids[parent] if parent else b""
            span.start_time_unix_nano, span.end_time_unix_nano = onset + start, onset + end
            for key, value in attributes.items():
                pair = span.attributes.add(key=key)
                kind = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}[type(value)]
                setattr(pair.value, kind, value)
        turn += 1
    return message.SerializeToString()


def requests(total_spans: int, batch: int) -> tuple[list[bytes], int]:
    bodies, turn, spans = [], 0, 0
    while spans < total_spans:
        bodies.append(request(batch, turn))
        made = -(-batch // 13)
        turn += made
        spans += made * 13
    return bodies, spans


def stored_alone(total_spans: int, batch: int) -> dict[str, float]:
    """Decode and store in one thread."""
    bodies, spans = requests(total_spans, batch)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "x.db") as store:
        cpu, started = time.thread_time(), time.perf_counter()
        decoding = 0.0
        for body in bodies:
            before = time.perf_counter()
            received = decode_protobuf(body).spans
            decoding += time.perf_counter() - before
            store.add(received)
        wall, cpu = time.perf_counter() - started, time.thread_time() - cpu
        size = store.path.stat().st_size
    return {
        "spans_per_s": round(spans / wall),
        "spans_per_cpu_s": round(spans / cpu),
        "decode_us_per_span": round(decoding / spans * 1e6, 2),
        "store_us_per_span": round((wall - decoding) / spans * 1e6, 2),
        "bytes_per_span": round(size / spans),
    }


def plain_rows(total_spans: int, batch: int) -> dict[str, float]:
    """Parse, and insert a row for each span with its attributes as JSON; two indexes, as most stores of spans have."""
    bodies, spans = requests(total_spans, batch)
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "x.db")
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
            "CREATE TABLE span (trace_id, span_id, parent_id, name, start_ns, end_ns, service, attributes)",
            "CREATE INDEX of_trace ON span (trace_id)",
            "CREATE INDEX of_name ON span (name, start_ns)",
        ):
            connection.execute(statement)
        cpu, started = time.thread_time(), time.perf_counter()
        for body in bodies:
            rows = [
                (
                    *(span.trace_id, span.span_id, span.parent_span_id, span.name),
                    *(span.start_time_unix_nano, span.end_time_unix_nano, "voice-agent"),
                    json.dumps({kv.key: getattr(kv.value, kv.value.WhichOneof("value")) for kv in span.attributes}),
                )
                for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
                for of_scope in of_resource.scope_spans
                for span in of_scope.spans
            ]
            with connection:
                connection.executemany("INSERT INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        wall, cpu = time.perf_counter() - started, time.thread_time() - cpu
        connection.close()
    return {"spans_per_s": round(spans / wall), "spans_per_cpu_s": round(spans / cpu)}


def _send(port: int, bodies: list[bytes], headers: dict[str, str], ready: threading.Barrier) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    ready.wait()
    for body in bodies:
        connection.request("POST", "/v1/traces", body, headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status


def over_http(total_spans: int, batch: int, *, connections: int = 2, compressed: bool = False) -> dict[str, float]:
    """Send prepared requests from another process over a few connections."""
    bodies, spans = requests(total_spans, batch)
    headers = {"Content-Type": "application/x-protobuf"}
    if compressed:
        bodies, headers["Content-Encoding"] = [gzip.compress(body, 1) for body in bodies], "gzip"
    with tempfile.TemporaryDirectory() as folder, Receiver(port=0, database=Path(folder) / "x.db") as receiver:
        ready = CONTEXT.Barrier(connections + 1)
        senders = [
            CONTEXT.Process(target=_send, args=(receiver.port, bodies[part::connections], headers, ready))
            for part in range(connections)
        ]
        for sender in senders:
            sender.start()
        ready.wait()
        cpu, started = time.process_time(), time.perf_counter()
        for sender in senders:
            sender.join()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        assert all(sender.exitcode == 0 for sender in senders)
        with sqlite3.connect(receiver.store.path) as connection:
            assert connection.execute(f"SELECT {COUNT} FROM part").fetchone()[0] == spans
        connection.close()
    return {"spans_per_s": round(spans / wall), "spans_per_cpu_s": round(spans / cpu)}


def beside_a_busy_thread(total_spans: int, batch: int) -> dict[str, float]:
    """Decode and store while another thread of the process never waits: the receiver inside a busy agent."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(100))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        return stored_alone(total_spans, batch)
    finally:
        stop.set()
        thread.join()


def questions(turns: int) -> dict[str, float]:
    """Milliseconds for each question over a store of this many turns."""
    bodies, _ = requests(turns * 13, 13 * 64)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "x.db") as store:
        for body in bodies:
            store.add(decode_protobuf(body).spans)
        reader = store.reader
        last = reader.find("last")
        asked = {
            "newest_50": lambda: reader.turns(TurnQuery(limit=50)),
            "slowest_50": lambda: reader.turns(TurnQuery(sort="response", limit=50)),
            "one_session": lambda: reader.turns(TurnQuery(session="call-7")),
            "one_turn": lambda: reader.spans(last),
            "all_turns": lambda: reader.turns(TurnQuery(limit=turns)),
        }
        times = {}
        for name, ask in asked.items():
            started = time.perf_counter()
            for _ in range(3):
                ask()
            times[f"{name}_ms"] = round((time.perf_counter() - started) / 3 * 1e3, 2)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=200_000)
    parser.add_argument("--brief", action="store_true", help="nothing but what the bar is about")
    arguments = parser.parse_args()
    spans, brief = arguments.spans, arguments.brief
    collect_seldom()  # as the process of a viewer does
    rounds = [(plain_rows(spans // 4, 1000), over_http(spans // 4, 1000)) for _ in range(ROUNDS)]  # paired
    plain, http_1000 = (max(of, key=lambda each: each["spans_per_s"]) for of in zip(*rounds, strict=True))
    of_plain_rows = Ratio.of([ours["spans_per_s"] for _, ours in rounds], [rows["spans_per_s"] for rows, _ in rounds])
    result = {
        "benchmark": "ingest",
        "ratios": {"of_plain_rows": of_plain_rows.plain()},
        "bar_spans_per_s": BAR_SPANS_PER_S,
        "machine": {
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
        "plain_rows_1000": plain,
        "http_1000": http_1000,
        "of_plain_rows": round(of_plain_rows.median, 2),
        **({} if brief else more(spans)),
    }
    print(json.dumps(result, indent=2))


def more(spans: int) -> dict[str, object]:
    """What is no bar: other sizes of requests, without HTTP, questions, memory."""
    return {
        "store_512": stored_alone(spans, 512),
        "store_64": stored_alone(spans // 2, 64),
        "store_512_beside_a_busy_thread": beside_a_busy_thread(spans // 8, 512),
        "http_512": over_http(spans, 512),
        "http_512_gzip": over_http(spans, 512, compressed=True),
        "http_8192": over_http(spans, 8192),
        "http_64": over_http(spans // 2, 64),
        "questions_20000_turns": questions(20_000),
        "peak_resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
