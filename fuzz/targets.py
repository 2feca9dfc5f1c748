"""What parses bytes that others wrote: each target takes any bytes, and may refuse them, but not fail.

`python fuzz/run.py` feeds them by coverage; tests/test_fuzz.py with hypothesis, for a moment.
"""

from __future__ import annotations

import gzip
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from voicespan import redaction as redaction_module
from voicespan.client import report
from voicespan.local import decode
from voicespan.local.form import MalformedRequestError
from voicespan.sdk.spool import Spool
from voicespan.sdk.transport import _seconds
from voicespan.stagemap import document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
_PLENTY = 1 << 30
_folder = tempfile.TemporaryDirectory(prefix="voicespan-fuzz-")


def otlp_protobuf(data: bytes) -> None:
    """A request for spans, as the viewer takes it."""
    with suppress(MalformedRequestError):
        decode.decode_protobuf(data)


def otlp_json(data: bytes) -> None:
    """The same in JSON."""
    with suppress(MalformedRequestError):
        decode.decode_json(data)


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


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "otlp_protobuf": (otlp_protobuf, (b"\n\x02\n\x00", b"\n\x10\x12\x0e\x12\x0c\n\x10" + b"\x01" * 16)),
    "otlp_json": (otlp_json, (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"llm"}]}]}]}',)),
    "client_report": (client_report, (b'{"session_id":"s","turns":[]}',)),
    "spool_file": (spool_file, (gzip.compress(b"\n\x02\n\x00"),)),
    "stage_map": (stage_map, tuple(path.read_bytes() for path in sorted(ROOT.glob("examples/stages/*.yaml")))),
    "retry_after": (retry_after, (b"30", b"Wed, 21 Oct 2015 07:28:00 GMT")),
    "redaction": (redaction, (b"mail bob@example.com or +49 170 1234567, key sk-aaaaaaaaaaaaaaaaaaaa",)),
}
"""By name: the target, and what it understands, to begin with."""
