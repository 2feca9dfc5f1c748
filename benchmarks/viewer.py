"""How long each question of the viewer's page takes over many turns, asked over HTTP; printed as JSON.

Medians of the whole answer, as the page gets it. The bar is for 20,000 turns; 200,000 show that it stays usable.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import resource
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from ingest import request

from voicespan.local.decode import decode_protobuf
from voicespan.local.reader import TurnQuery
from voicespan.local.server import Receiver
from voicespan.local.store import _INSERT_TURNS, Store, _row

BAR_MS = 100
ROUNDS = 15
PANELS = {
    "figures": "/api/figures?objective_ms=600",
    "silence": "/api/silence",
    "dots": "/api/dots?of=response",
    "dots_of_a_stage": "/api/dots?of=llm",
    "slow_turns": "/api/turns?sort=response&limit=50",
    "slow_turns_by_stage": "/api/turns?sort=tts&limit=50",
    "filtered": "/api/figures?outcome=completed&stage=llm&over_ms=300",
    "choices": "/api/choices",
    "turn": "/api/turns/last",
}


def fill(store: Store, turns: int) -> None:
    """Put one whole turn into the store, and the rows of many others that differ from it in every length."""
    store.add(decode_protobuf(request(1, 0)).spans)
    (model,) = store.reader.turns(TurnQuery())
    draw = random.Random(1)
    lengths = [name for name in model._fields if name.endswith("_ns") and name not in ("start_ns", "duration_ns")]
    rows = []
    for index in range(1, turns):
        factor = draw.lognormvariate(-0.3, 0.4)
        shares = {stage: round(share * factor) for stage, share in model.shares.items()}
        values = {name: round(value * factor) for name in lengths if (value := getattr(model, name)) is not None}
        rows.append(
            _row(
                model._replace(
                    **values,
                    trace_id=f"{draw.getrandbits(128):032x}",
                    start_ns=model.start_ns - index * 5_000_000_000,
                    session_id=f"call-{index // 20}",
                    turn_index=index % 20 + 1,
                    model=draw.choice(("small-chat", "large-chat")),
                    outcome=draw.choices(("completed", "interrupted", "error"), (94, 5, 1))[0],
                    shares=shares,
                )
            )
        )
    store._connection.execute("BEGIN")
    store._insert(_INSERT_TURNS, rows)
    store._connection.execute("COMMIT")


def panels(turns: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, Receiver(port=0, database=Path(folder) / "x.db") as receiver:
        fill(receiver.store, turns)
        connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=60)
        found = {}
        for name, address in PANELS.items():
            times = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                connection.request("GET", address)
                answer = connection.getresponse()
                answer.read()
                times.append(time.perf_counter() - started)
                assert answer.status == 200
            found[f"{name}_ms"] = round(statistics.median(times) * 1e3, 1)
        connection.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="*", default=[20_000, 200_000])
    result = {
        "benchmark": "viewer",
        "bar_ms_at_20000_turns": BAR_MS,
        "machine": {
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
        **{f"turns_{turns}": panels(turns) for turns in parser.parse_args().turns},
        "peak_resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
