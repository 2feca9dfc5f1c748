"""What parses bytes that others wrote: each target takes any bytes, and may refuse them, but not fail.

`make fuzz` feeds them by coverage; tests/test_fuzz.py with hypothesis, for a moment.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.local.otlp import log, log_request, metrics_request, request, turn

from voicespan import redaction as redaction_module
from voicespan.client import report
from voicespan.local import decode, transfer
from voicespan.local.api import Api, as_json
from voicespan.local.form import JSON, PROTOBUF, MalformedRequestError, to_plain
from voicespan.local.intake import Intake
from voicespan.local.live import Live
from voicespan.local.store import Store
from voicespan.sdk.spool import Spool
from voicespan.sdk.transport import _seconds
from voicespan.stagemap import document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

ROOT = Path(__file__).parents[1]
_PLENTY = 1 << 30
_folder = tempfile.TemporaryDirectory(prefix="voicespan-fuzz-")


@functools.cache
def _viewer() -> tuple[Intake, Api]:
    store = Store()
    return Intake(store, content=True), Api(store.reader, Live(store), content=True)


def otlp_spans(data: bytes) -> None:
    """A request for spans in protobuf: a viewer that takes one has it, and can show it."""
    intake, api = _viewer()
    try:
        sent = decode.decode_protobuf(data).spans
        intake.take("traces", PROTOBUF, data).result()
    except MalformedRequestError:
        return
    for trace_id in {span.trace_id for span in sent}:
        shown = json.loads(bytes(as_json(api._turn(trace_id.hex(), near=True)).body))
        taken = {span.span_id.hex() for span in sent if span.trace_id == trace_id}
        assert taken <= {span["span_id"] for span in shown["spans"]} or shown["spans_beyond"]


def otlp_logs(data: bytes) -> None:
    """A request for log records in protobuf."""
    with suppress(MalformedRequestError):
        _viewer()[0].take("logs", PROTOBUF, data).result()


def otlp_metrics(data: bytes) -> None:
    """A request for metrics in protobuf."""
    with suppress(MalformedRequestError):
        _viewer()[0].take("metrics", PROTOBUF, data).result()


def otlp_json(data: bytes) -> None:
    """Each of them in JSON."""
    for signal in ("traces", "logs", "metrics"):
        with suppress(MalformedRequestError):
            _viewer()[0].take(signal, JSON, data).result()


def imported_file(data: bytes) -> None:
    """A file of OTLP in JSON that `voicespan import` reads."""
    with suppress(MalformedRequestError):
        transfer.take_bytes(io.BytesIO(data), _viewer()[0], transfer.Imported())


def client_report(data: bytes) -> None:
    """What a browser reports."""
    with suppress(report.MalformedReportError):
        report.read(data)


def spool_file(data: bytes) -> None:
    """A file of the spool: whole, or left out and counted; what stands behind it is sent in any case."""
    folder = Path(_folder.name) / "spool"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / f"{1:020}-1-0-7.otlp.gz").write_bytes(data)
    (folder / f"{2:020}-1-0-1.otlp.gz").write_bytes(gzip.compress(b"behind"))
    spool = Spool(folder, _PLENTY)
    with spool.replaying() as bodies:
        found = [kept.body for kept in bodies]
    assert found[-1] == b"behind"
    assert len(found) == 1 + (spool.counts.get("damaged") == 0)


def stage_map(data: bytes) -> None:
    """The file that VOICESPAN_STAGES names."""
    path = Path(_folder.name) / "voicespan.yaml"
    path.write_bytes(data)
    with suppress(document.StageMapError):
        document.read(path)


def retry_after(data: bytes) -> None:
    """A field of a back end's answer."""
    assert _seconds(data.decode("latin-1")) >= 0


def redaction(data: bytes) -> None:
    """Any text: one that is long enough to be searched in pieces is redacted as it would be as a whole."""
    text = data.decode("utf-8", "replace") * 20
    with _pieces_of(1 << 30):
        whole = redaction_module._redacted(text)
    with _pieces_of(1024):
        assert redaction_module._redacted(text) == whole


@contextmanager
def _pieces_of(size: int) -> Iterator[None]:
    before, redaction_module._PIECE = redaction_module._PIECE, size
    try:
        yield
    finally:
        redaction_module._PIECE = before


_TURN = turn()
_SPANS = request(*_TURN.spans)
_LOGS = log_request(log(_TURN, "words", {"a": [1, {"b": 2.5}]}, severity_number=9, span_id=b"s" * 8))
_REPORT = f"""{{
    "version": 1, "client": "{"a" * 32}", "number": 1, "sent_ms": 2000.5, "dropped": 0,
    "clocks": [{{"server": "s", "exchanges": [[1.5, 2.5, 2.5, 3.5]]}}],
    "turns": [{{
        "turn": 1, "traceparent": "00-{"b" * 32}-{"c" * 16}-01",
        "marks": {{"speech_end": 1000.5, "playback_start": 1500}}, "durations_ms": {{"playback_start": 500}},
        "barge_in": [{{"phase": "total", "start_ms": 1600, "end_ms": 1700}}]
    }}],
    "counters": {{"audio_sent_chunks": 1, "errors": {{"network": 1}}}},
    "latencies": {{"e2e": {{"count": 1, "min_ms": 5, "mean_ms": 5, "p95_ms": 5, "max_ms": 5}}}},
    "network": {{"jitter_ms": 1, "loss": 0.5}}, "stability": {{"jitter_ms": 1, "longest_gap_ms": 1}}
}}"""


def _json(message: Message) -> bytes:
    return json.dumps(to_plain(message)).encode()


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "otlp_spans": (otlp_spans, (b"\n\x02\n\x00", _SPANS.SerializeToString())),
    "otlp_logs": (otlp_logs, (_LOGS.SerializeToString(),)),
    "otlp_metrics": (otlp_metrics, (metrics_request().SerializeToString(),)),
    "otlp_json": (otlp_json, tuple(_json(each) for each in (_SPANS, _LOGS, metrics_request()))),
    "imported_file": (imported_file, (_json(_SPANS) + _json(_LOGS),)),
    "client_report": (client_report, (_REPORT.encode(),)),
    "spool_file": (spool_file, (gzip.compress(b"\n\x02\n\x00"),)),
    "stage_map": (stage_map, tuple(path.read_bytes() for path in sorted(ROOT.glob("examples/stages/*.yaml")))),
    "retry_after": (retry_after, (b"30", b"Wed, 21 Oct 2015 07:28:00 GMT")),
    "redaction": (redaction, (b"mail bob@example.com or +49 170 1234567, key sk-aaaaaaaaaaaaaaaaaaaa",)),
}
"""By name: the target, and what it understands, to begin with."""
