"""A part of a trace in the database: the spans that came of it together from one source, as one row.

A row for each span, found by its id in an index that has them in no order, limits how many can be stored in a second;
the spans of a turn mostly come together, and are asked for together.
"""

from __future__ import annotations

from heapq import nsmallest
from itertools import groupby
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from google.protobuf.message import Message

SPAN_ID_BYTES = 8

COUNT = f"ifnull(sum(length(span_ids)), 0) / {SPAN_ID_BYTES}"
"""How many spans some rows of the table `part` have, in SQL."""

_MAX_SPANS = 512  # of a part that is made of rows


def _spans_as_bytes() -> dict[str, type[Message]]:
    """Return ExportTraceServiceRequest and what it holds, with nothing but the spans, and these as bytes."""
    file = FileDescriptorProto(name="voicespan/spans.proto", package="voicespan", syntax="proto3")
    for name, field, number, inner in (
        ("Request", "resource_spans", 1, "ResourceSpans"),
        ("ResourceSpans", "scope_spans", 2, "ScopeSpans"),
        ("ScopeSpans", "spans", 2, None),
    ):
        made = file.message_type.add(name=name).field.add(name=field, number=number)
        made.label = FieldDescriptorProto.LABEL_REPEATED
        made.type = FieldDescriptorProto.TYPE_BYTES
        if inner is not None:
            made.type, made.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".voicespan.{inner}"
    pool = DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"voicespan.{name}") for name in ("Request", "ScopeSpans")}
    return {name: GetMessageClass(descriptor) for name, descriptor in found.items()}


_AS_BYTES: Any = _spans_as_bytes()


def span_bytes(body: bytes) -> list[bytes]:
    """Return the spans of a request as they were sent: to serialize them anew would take as long as all the rest."""
    request = _AS_BYTES["Request"].FromString(body)
    return [span for of_resource in request.resource_spans for scope in of_resource.scope_spans for span in scope.spans]


def pack(spans: Sequence[bytes]) -> bytes:
    """Return serialized spans as one: OTLP's ScopeSpans, without the scope."""
    packed: bytes = _AS_BYTES["ScopeSpans"](spans=spans).SerializeToString()
    return packed


def unpack(body: bytes) -> Sequence[OtlpSpan]:
    """Return the spans that were packed."""
    return ScopeSpans.FromString(body).spans


def first_spans(parts: Iterable[tuple[bytes, Any]], most: int, key: Callable[[OtlpSpan, Any], Any]) -> list[Any]:
    """Return so many of the packed spans, each beside what stood beside its part; the first ones by `key`.

    Never more than one part and what is returned is in memory.
    """

    def found() -> Iterator[tuple[Any, int, bytes, Any]]:
        number = 0
        for body, beside in parts:
            for span, sent in zip(unpack(body), _AS_BYTES["ScopeSpans"].FromString(body).spans, strict=True):
                yield key(span, beside), number, sent, beside
                number += 1

    return [(OtlpSpan.FromString(sent), beside) for _, _, sent, beside in nsmallest(most, found())]


def gather_spans(connection: sqlite3.Connection) -> None:
    """Make the parts of a store that had a row for each span. Each has the id of its first row: arrivals stay in order.

    Its spans are in the order in which they came.
    """
    rows = connection.execute("SELECT trace_id, source, id, received_s, span_id, body FROM span ORDER BY 1, 2, 3")
    for (trace_id, source), of_source in groupby(rows, key=lambda row: row[:2]):
        for _, some in groupby(enumerate(of_source), key=lambda each: each[0] // _MAX_SPANS):
            part = [row for _, row in some]
            connection.execute(
                "INSERT INTO part (id, trace_id, source, received_s, span_ids, body) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    part[0][2],
                    trace_id,
                    source,
                    part[0][3],
                    b"".join(row[4] for row in part),
                    pack([row[5] for row in part]),
                ],
            )
