"""Export and import: traces, with their log records, as a file of OTLP JSON that other programs read as well.

| address | what it gives or takes |
|---|---|
| `GET /api/export` | one trace (`trace`), the turns of a query, or without parameters everything that there is |
| `POST /api/import` | such a file; what it has of what is there already changes nothing |

What was said goes along only with `content=true`, and is kept only by a viewer that keeps it.
"""

from __future__ import annotations

import io
import json
import re
import sqlite3
import tempfile
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from voicespan.content import MAX_AUDIO_BYTES, MAX_TEXT_BYTES
from voicespan.local import decode, log, view
from voicespan.local.access import WITHHELD, is_near
from voicespan.local.api import as_json
from voicespan.local.body import Limits, RefusedError, drain, parts
from voicespan.local.content import stored_log_without, strip_span
from voicespan.local.decode import TRACE_ID_BYTES
from voicespan.local.form import MalformedRequestError, from_plain, to_plain
from voicespan.local.part import unpack
from voicespan.local.pieces import pieces
from voicespan.local.reader import UnknownTurnError
from voicespan.local.schema import StoreError
from voicespan.local.turn import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from starlette.requests import Request

    from voicespan.content import Role
    from voicespan.local.intake import Intake
    from voicespan.local.query import TurnQuery
    from voicespan.local.reader import Reader
    from voicespan.local.span import Value

TRACES_OF_A_PIECE = 64
CONTENT_SCOPE = "voicespan.content"
"""The instrumentation scope of log records that hold what was said in a turn: the text, or the audio of one side."""

_ROLE, _SAMPLE_RATE, _AUDIO = "voicespan.content.role", "voicespan.content.sample_rate", "voicespan.content.audio"
_ROLES: dict[str, Role] = {"user": "user", "agent": "agent"}
_BATCH_CHARACTERS = 1 << 20
_NO_ROOM = 507
_IMPORT_LIMITS = Limits(sent_bytes=2 << 30, body_bytes=8 << 30, seconds=600.0)
_SPANS = (
    "SELECT source, resource, instrumentation, body FROM part JOIN source ON source.id = part.source"
    " WHERE trace_id IN ({}) ORDER BY source, part.id"
)
_LOGS = (
    "SELECT source, resource, instrumentation, trace_id, span_id, time_ns, severity, body, attributes"
    " FROM log JOIN source ON source.id = log.source WHERE trace_id IN ({}) ORDER BY source, time_ns, log.id"
)
_CONTENT = "SELECT trace_id, role, text, audio, sample_rate, received_s FROM content WHERE trace_id IN ({})"
_EVERYTHING = (
    "SELECT trace_id FROM (SELECT trace_id, start_ns FROM turn UNION ALL SELECT trace_id, start_ns FROM trace)"
    " ORDER BY start_ns"
)


# Export


def traces(reader: Reader, parameters: Mapping[str, str]) -> list[bytes]:
    """Return the ids of the trace, of the turns of a query, or of everything, in order of time.

    Raises:
        ValueError: a parameter is unknown, or its value impossible.
        UnknownTurnError: there is no such trace.

    """
    if "trace" in parameters:
        if len(parameters) > 1:
            raise ValueError("a trace is exported alone: leave out the other parameters")
        return [bytes.fromhex(reader.find(parameters["trace"]))]
    return of_query(reader, view.query(parameters) if parameters else None)


def of_query(reader: Reader, query: TurnQuery | None) -> list[bytes]:
    """Return the ids of the traces of all turns of a query, or without one of everything, in order of time."""
    if query is None:
        return [trace_id for (trace_id,) in reader.ask(_EVERYTHING, [])]
    where, values = query.where()
    statement = f"SELECT trace_id FROM turn{where} ORDER BY start_ns"  # noqa: S608 - no value stands in it
    return [trace_id for (trace_id,) in reader.ask(statement, values)]


def exported(reader: Reader, trace_ids: Sequence[bytes], *, content: bool) -> Iterator[str]:
    """Yield a file of OTLP JSON with these traces; without `content`, less what was said. It has a piece for some."""
    yield '{"resourceSpans":['
    yield from _list(_resource_spans(reader, some, content=content) for some in _some(trace_ids))
    yield '],"resourceLogs":['
    yield from _list(_resource_logs(reader, some, content=content) for some in _some(trace_ids))
    yield "]}\n"


def pieces_of(trace_ids: Sequence[bytes]) -> int:
    """Return how many texts `exported` yields for so many traces."""
    return 2 * -(-len(trace_ids) // TRACES_OF_A_PIECE) + 3


def _some(trace_ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(trace_ids), TRACES_OF_A_PIECE):
        yield trace_ids[start : start + TRACES_OF_A_PIECE]


def _list(parts_of_list: Iterator[list[dict[str, Any]]]) -> Iterator[str]:
    begun = False
    for items in parts_of_list:
        text = ",\n".join(json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in items)
        yield (",\n" if begun and text else "") + text
        begun = begun or bool(text)


def _ask(reader: Reader, statement: str, trace_ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
    return reader.ask(statement.format(",".join("?" * len(trace_ids))), trace_ids)


def _resource_spans(reader: Reader, trace_ids: Sequence[bytes], *, content: bool) -> list[dict[str, Any]]:
    found = []
    for (_, resource, scope), rows in groupby(_ask(reader, _SPANS, trace_ids), key=lambda row: row[:3]):
        spans = sorted((span for *_, body in rows for span in unpack(body)), key=attrgetter("start_time_unix_nano"))
        if not content:
            for span in spans:
                strip_span(span)
        found.append(_of_source(resource, scope, "scopeSpans", "spans", [to_plain(span) for span in spans]))
    return found


def _resource_logs(reader: Reader, trace_ids: Sequence[bytes], *, content: bool) -> list[dict[str, Any]]:
    found = []
    for (_, resource, scope), rows in groupby(_ask(reader, _LOGS, trace_ids), key=lambda row: row[:3]):
        records = [_record(*row[3:], content=content) for row in rows]
        found.append(_of_source(resource, scope, "scopeLogs", "logRecords", [to_plain(record) for record in records]))
    said = [_said(*row) for row in _ask(reader, _CONTENT, trace_ids)] if content else []
    if said:
        scope = InstrumentationScope(name=CONTENT_SCOPE).SerializeToString()
        found.append(_of_source(b"", scope, "scopeLogs", "logRecords", [to_plain(record) for record in said]))
    return found


def _of_source(resource: bytes, scope: bytes, of_scope: str, kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    inner = {"scope": to_plain(InstrumentationScope.FromString(scope)), kind: items}
    return {"resource": to_plain(Resource.FromString(resource)), of_scope: [inner]}


def _record(
    trace_id: bytes,
    span_id: bytes | None,
    time_ns: int,
    severity: int,
    body: str,
    attributes: str,
    *,
    content: bool,
) -> LogRecord:
    values: dict[str, Value] = json.loads(attributes)
    if not content:
        body, values = stored_log_without(body, values)
    return LogRecord(
        trace_id=trace_id,
        span_id=span_id or b"",
        time_unix_nano=time_ns,
        severity_number=severity,  # type: ignore[arg-type] # a plain number for the type checker
        body=AnyValue(string_value=body) if body else None,
        attributes=_pairs(values),
    )


def _said(
    trace_id: bytes, role: str, text: str | None, audio: bytes | None, sample_rate: int | None, received_s: int
) -> LogRecord:
    attributes: dict[str, Value] = {_ROLE: role}
    if sample_rate is not None:
        attributes[_SAMPLE_RATE] = sample_rate
    record = LogRecord(trace_id=trace_id, time_unix_nano=received_s * NS_PER_S, attributes=_pairs(attributes))
    if text is not None:
        record.body.string_value = text
    if audio is not None:
        record.attributes.add(key=_AUDIO).value.bytes_value = audio
    return record


def _pairs(attributes: Mapping[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in attributes.items()]


def _any_value(value: Value) -> AnyValue:
    made = AnyValue()
    if isinstance(value, bool):
        made.bool_value = value
    elif isinstance(value, int):
        made.int_value = value
    elif isinstance(value, float):
        made.double_value = value
    elif isinstance(value, str):
        made.string_value = value
    elif isinstance(value, list):
        made.array_value.values.extend(_any_value(item) for item in value)
    elif value is not None:
        made.kvlist_value.values.extend(_pairs(value))
    return made


# Import


@dataclass(slots=True)
class Imported:
    """What came with a file."""

    spans: int = 0
    logs: int = 0
    rejected: int = 0
    """Spans and log records that made no sense."""
    reason: str = ""
    """Why the first of those made none."""
    content: int = 0
    """Values that were not kept because they hold what was said."""


def take_file(file: IO[str], intake: Intake, imported: Imported) -> None:
    """Store what a file of OTLP JSON has, and count it. What comes before a failure is kept.

    Raises:
        MalformedRequestError: it is no such file, or holds what is no span or log record.
        StoreError: it cannot be stored.

    """
    take = {"resourceSpans": _take_spans, "resourceLogs": _take_logs}
    kind, waiting, characters = "", list[Any](), 0
    for piece in pieces(file):
        if waiting and (piece.kind != kind or characters + piece.characters > _BATCH_CHARACTERS):
            take[kind](waiting, intake, imported)
            waiting, characters = [], 0
        if piece.kind in take:
            kind = piece.kind
            waiting.append(piece.data)
            characters += piece.characters
    if waiting:
        take[kind](waiting, intake, imported)


def _take_spans(items: list[Any], intake: Intake, imported: Imported) -> None:
    message = from_plain(ExportTraceServiceRequest, {"resourceSpans": items})
    request = decode.checked(message, content=intake.content)
    intake.run(lambda: intake.keep_spans(request)).result()
    imported.spans += len(request.spans)
    _count(imported, request.rejected, request.reason, request.left_out)


def _take_logs(items: list[Any], intake: Intake, imported: Imported) -> None:
    message = from_plain(ExportLogsServiceRequest, {"resourceLogs": items})
    for record in _without_said(message):
        _take_said(record, intake, imported)
    request = log.checked(message, content=intake.content)
    intake.run(lambda: intake.keep_logs(request)).result()
    imported.logs += len(request.logs)
    _count(imported, request.rejected, request.reason, request.left_out)


def _without_said(message: ExportLogsServiceRequest) -> list[LogRecord]:
    """Take the records with what was said out of a request, and return them."""
    found: list[LogRecord] = []
    for of_resource in message.resource_logs:
        for of_scope in of_resource.scope_logs:
            if of_scope.scope.name == CONTENT_SCOPE:
                found.extend(of_scope.log_records)
                del of_scope.log_records[:]
    return found


def _take_said(record: LogRecord, intake: Intake, imported: Imported) -> None:
    if not intake.content:
        _count(imported, left_out=1)
        return
    values = {pair.key: pair.value for pair in record.attributes}
    role = _ROLES.get(values[_ROLE].string_value) if _ROLE in values else None
    text = record.body.string_value if record.HasField("body") else None
    audio = values[_AUDIO].bytes_value if _AUDIO in values else None
    sample_rate = values[_SAMPLE_RATE].int_value if _SAMPLE_RATE in values else None
    if (
        len(record.trace_id) != TRACE_ID_BYTES
        or role is None
        or len((text or "").encode()) > MAX_TEXT_BYTES
        or len(audio or b"") > MAX_AUDIO_BYTES
    ):
        _count(imported, 1, "what was said has no trace or side, or is too long")
        return
    store = intake.store
    intake.run(lambda: store.add_content(record.trace_id, role, text, audio, sample_rate)).result()


def _count(imported: Imported, rejected: int = 0, reason: str = "", left_out: int = 0) -> None:
    imported.rejected += rejected
    imported.reason = imported.reason or reason
    imported.content += left_out


# Over HTTP


class Transfer:
    """The endpoints."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake

    def routes(self) -> Iterator[Route]:
        """Yield the routes."""
        yield Route("/api/export", self.export)
        yield Route("/api/import", self.take, methods=["POST"])

    async def export(self, request: Request) -> Response:
        """Give the file; it is made while it is sent."""
        parameters = dict(request.query_params)
        reader = self.intake.store.reader
        if parameters.get("content") == "true" and not is_near(request):
            return as_json({"error": WITHHELD}, 403)
        try:
            content = self._with_content(parameters)
            trace_ids = await run_in_threadpool(traces, reader, parameters)
        except UnknownTurnError as error:
            return as_json({"error": str(error)}, 404)
        except ValueError as error:
            return as_json({"error": str(error)}, 400)
        except StoreError as error:
            return as_json({"error": str(error)}, 503)
        headers = {
            "Content-Disposition": f'attachment; filename="{file_name(parameters, trace_ids)}"',
            "Cache-Control": "no-store",
        }
        file = exported(reader, trace_ids, content=content)
        return StreamingResponse(file, media_type="application/json", headers=headers)

    def _with_content(self, parameters: dict[str, str]) -> bool:
        wanted = parameters.pop("content", "false")
        if wanted not in ("true", "false"):
            raise ValueError("content is true or false")
        if wanted == "true" and not self.intake.content:
            raise ValueError("this viewer gives nothing that is said: start it with --content")
        return wanted == "true"

    async def take(self, request: Request) -> Response:
        """Take a file. It waits on disk until it has come whole."""
        imported = Imported()
        try:
            with await run_in_threadpool(_temporary) as file:
                async for part in parts(request, _IMPORT_LIMITS):
                    await run_in_threadpool(_write, file, part)
                await run_in_threadpool(_take_whole, file, self.intake, imported)
        except RefusedError as refused:
            await drain(request, _IMPORT_LIMITS)
            return as_json({"error": str(refused)}, refused.status)
        except MalformedRequestError as malformed:
            return as_json({"error": str(malformed), **asdict(imported)}, 400)
        except StoreError as error:
            full = getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            return as_json({"error": str(error), **asdict(imported)}, _NO_ROOM if full else 503)
        except OSError as error:
            await drain(request, _IMPORT_LIMITS)
            return as_json({"error": f"cannot keep the file while it comes: {error}", **asdict(imported)}, _NO_ROOM)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        return as_json(asdict(imported))


def _temporary() -> io.FileIO:
    """Return a file without a name; unbuffered: what does not fit on the disk is known when it is written."""
    return tempfile.TemporaryFile(prefix="voicespan-", buffering=0)


def _write(file: io.FileIO, part: bytes) -> None:
    rest = memoryview(part)
    while rest:
        rest = rest[file.write(rest) :]


def _take_whole(file: io.FileIO, intake: Intake, imported: Imported) -> None:
    file.seek(0)
    with io.BufferedReader(file) as buffered:
        take_bytes(buffered, intake, imported)


def take_bytes(file: IO[bytes], intake: Intake, imported: Imported) -> None:
    """Do as `take_file` with a file that was opened as bytes."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    try:
        take_file(text, intake, imported)
    finally:
        text.detach()


def file_name(parameters: Mapping[str, str], trace_ids: Sequence[bytes]) -> str:
    """Return a name for the file of an export."""
    what = trace_ids[0].hex()[:12] if "trace" in parameters else parameters.get("session", "")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", what)[:60].strip("-.")
    return f"voicespan-{safe}.json" if safe else "voicespan.json"
