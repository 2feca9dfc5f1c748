"""Log records as OTLP brings them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from voicespan.local.form import JSON, PROTOBUF, MalformedRequestError, to_plain
from voicespan.local.log import MAX_LOG_BYTES, Log, Logs, decode_logs

from .otlp import START_NS, Trace, log, log_request


def decoded(*records: Any) -> Logs:
    return decode_logs(PROTOBUF, log_request(*records).SerializeToString())


def test_every_field_arrives() -> None:
    """A record keeps its trace, span, time, severity, text, attributes, service and instrumentation."""
    trace = Trace()
    record = log(trace, "slow", {"code.function.name": "reply", "n": 3}, span_id=b"s" * 8, severity_number=17)
    (found,) = decoded(record).logs
    assert (found.trace_id, found.span_id, found.time_ns) == (trace.trace_id, b"s" * 8, trace.onset_ns)
    assert (found.severity, found.body) == (17, "slow")
    assert found.attributes == {"code.function.name": "reply", "n": 3}
    assert (found.source.service, found.source.scope) == ("voice-agent", "logging")


def test_json_says_the_same_as_protobuf() -> None:
    """The two forms of one request give the same records."""
    message = log_request(log(Trace(), {"a": [1, None]}, {"b": 0.5}, span_id=b"s" * 8, severity_number=9))
    from_json = decode_logs(JSON, json.dumps(to_plain(message)).encode())
    assert from_json.logs == decode_logs(PROTOBUF, message.SerializeToString()).logs


@pytest.mark.parametrize(
    ("body", "text"),
    [("words", "words"), ("", ""), (3, "3"), (True, "true"), (["a", 1.5], '["a",1.5]'), ({"ä": None}, '{"ä":null}')],
)
def test_body_becomes_text(body: object, text: str) -> None:
    """A body of words stays as it is; any other value is written as JSON, none as nothing."""
    assert decoded(log(Trace(), body)).logs[0].body == text


@pytest.mark.parametrize(
    ("fields", "severity", "level"),
    [
        ({"severity_number": 10}, 10, "INFO"),
        ({"severity_text": "WARNING"}, 13, "WARN"),
        ({"severity_text": " critical "}, 21, "FATAL"),
        ({"severity_number": 24, "severity_text": "INFO"}, 24, "FATAL"),
        ({"severity_number": 25, "severity_text": "error"}, 17, "ERROR"),
        ({"severity_number": -1}, 0, ""),
        ({"severity_text": "loud"}, 0, ""),
        ({}, 0, ""),
    ],
)
def test_severity_is_a_number_of_otlp(fields: dict[str, Any], severity: int, level: str) -> None:
    """The number counts, else the first of the level that the text names, else none."""
    (found,) = decoded(log(Trace(), "x", **fields)).logs
    assert found.severity == severity
    assert Log(trace_id="", span_id=None, time_ns=1, severity=found.severity, body="").level == level


def test_time_is_that_of_the_observation_where_there_is_no_other() -> None:
    """Without a time of its own a record has that of its observation, else that of its arrival."""
    observed, none = (log(Trace(), "x", time_unix_nano=0, observed_time_unix_nano=ns) for ns in (START_NS, 0))
    first, second = decoded(observed, none).logs
    assert first.time_ns == START_NS
    assert abs(second.time_ns - time.time_ns()) < 60_000_000_000


def test_name_of_an_event_is_an_attribute() -> None:
    """The name of an event is kept where older senders write it themselves; theirs wins."""
    own, older = decoded(log(Trace(), event_name="a"), log(Trace(), "", {"event.name": "b"}, event_name="c")).logs
    assert (own.attributes, older.attributes) == ({"event.name": "a"}, {"event.name": "b"})


@pytest.mark.parametrize("trace_id", [b"", bytes(16), b"x" * 15, b"x" * 17])
def test_record_of_no_trace_is_counted(trace_id: bytes) -> None:
    """A missing or impossible trace id means that the record belongs to no trace, as OTLP says."""
    found = decoded(log(None, "x", trace_id=trace_id), log(Trace(), "y"))
    assert ([record.body for record in found.logs], found.without_trace, found.rejected) == (["y"], 1, 0)
    assert decoded(log(None, "x", trace_id=trace_id)).without_trace == 1


@pytest.mark.parametrize("span_id", [b"", bytes(8), b"x" * 7, b"x" * 16])
def test_record_of_no_span_stays_with_its_trace(span_id: bytes) -> None:
    """A missing or impossible span id means that the record belongs to the trace alone."""
    assert decoded(log(Trace(), "x", span_id=span_id)).logs[0].span_id is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"time_unix_nano": 2**63}, "2262"),
        ({"observed_time_unix_nano": 2**64 - 1}, "2262"),
        ({"severity_text": "x" * MAX_LOG_BYTES}, "larger"),
    ],
)
def test_unusable_record_is_left_out(fields: dict[str, Any], reason: str) -> None:
    """A record of an impossible time or size is counted with the first reason; alone it makes a malformed request."""
    bad = log(Trace(), "x", **fields)
    found = decoded(bad, log(Trace(), "good"))
    assert ([record.body for record in found.logs], found.rejected) == (["good"], 1)
    assert reason in found.reason
    with pytest.raises(MalformedRequestError, match=reason):
        decoded(bad)
