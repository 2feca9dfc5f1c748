"""What was said, in telemetry that is received: which names hold it, and leaving it out before anything is stored.

Frameworks put transcripts, prompts and the arguments of tools on their spans, many of them by default. The viewer keeps
that only where it was started with `--content`.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from voicespan.content_names import BEGINNINGS, MESSAGES, WHOLE, verdicts

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from voicespan.local.span import Attributes, Value

EVENT_NAME = "event.name"
"""The attribute in which the name of a log record is kept that is an event."""

_GEN_AI = "gen_ai."


def may_have_content(request: bytes) -> bool:
    """Return False where no span of an ExportTraceServiceRequest in protobuf form can hold what was said.

    To look at every attribute of a request costs a sixth of what storing it costs; this costs a thirtieth.
    """
    return _KEYS.search(request) is not None or any(name in request for name in _MESSAGE_BYTES)


def strip_span(span: Span) -> int:
    """Take what was said out of a span and its events; return how many values that were."""
    left_out = _strip(span.attributes)
    for event in span.events:
        left_out += _strip(event.attributes, whole=event.name in MESSAGES)
    return left_out


def strip_log(record: LogRecord) -> int:
    """Take what was said out of a log record; return how many values that were.

    The text of an ordinary record stays: it is what the service writes into its log.
    """
    name = record.event_name or next((kv.value.string_value for kv in record.attributes if kv.key == EVENT_NAME), "")
    left_out = _strip(record.attributes, whole=name in MESSAGES) + _strip_maps(record.attributes)
    if name.startswith(_GEN_AI) and record.HasField("body"):
        record.ClearField("body")
        return left_out + 1
    if record.body.HasField("kvlist_value"):
        left_out += _strip_value(record.body)
    return left_out


def without_content(attributes: Attributes) -> dict[str, Value]:
    """Return attributes as the store gives them back, less what was said."""
    return {key: _plain_without(value) for key, value in attributes.items() if not verdicts[key]}


def stored_log_without(body: str, attributes: Attributes) -> tuple[str, dict[str, Value]]:
    """Return body and attributes of a log record as the store gives it back, less what was said."""
    name = str(attributes.get(EVENT_NAME) or "")
    kept = {key: value for key, value in attributes.items() if key == EVENT_NAME or name not in MESSAGES}
    if name.startswith(_GEN_AI):
        body = ""
    elif body.startswith("{"):  # a map was stored as JSON
        with suppress(ValueError, RecursionError):
            body = json.dumps(without_content(json.loads(body)), separators=(",", ":"), ensure_ascii=False)
    return body, without_content(kept)


def _plain_without(value: Value) -> Value:
    return without_content(value) if isinstance(value, dict) else value


def _strip(pairs: RepeatedCompositeFieldContainer[KeyValue], *, whole: bool = False) -> int:
    found = [i for i, pair in enumerate(pairs) if (whole and pair.key != EVENT_NAME) or verdicts[pair.key]]
    for index in reversed(found):
        del pairs[index]
    return len(found)


def _strip_maps(pairs: RepeatedCompositeFieldContainer[KeyValue]) -> int:
    return sum(_strip_value(pair.value) for pair in pairs if pair.value.HasField("kvlist_value"))


def _strip_value(value: AnyValue) -> int:
    pairs = value.kvlist_value.values
    return _strip(pairs) + _strip_maps(pairs)


def _any_of(words: frozenset[str]) -> str:
    """Return a regular expression for the beginning of any of these words; what several share is looked at once."""
    if "" in words:
        return ""
    heads = sorted({word[0] for word in words})
    found = [re.escape(head) + _any_of(frozenset(w[1:] for w in words if w[0] == head)) for head in heads]
    return found[0] if len(found) == 1 else f"(?:{'|'.join(found)})"


# The name of an attribute follows the byte 0A and its length. A name that only begins like one of these is found as
# well: the look at each attribute tells.
_NAMES = WHOLE | frozenset(BEGINNINGS)
_HEADS = "".join(sorted({name[0] for name in _NAMES}))
_KEYS = re.compile(f"\n[\x80-\xff]*.(?=[{_HEADS}]){_any_of(_NAMES)}".encode("latin-1"), re.DOTALL)
_MESSAGE_BYTES = (b".message", b"gen_ai.choice", b"gen_ai.content.")
