"""What was said is not kept unless it is wanted, wherever it stands in what is received."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from voicespan import content_names
from voicespan import names as n
from voicespan.content_names import MESSAGES, TABLE, is_content, verdicts
from voicespan.local.content import may_have_content, strip_log, strip_span
from voicespan.local.decode import decode_json, decode_protobuf
from voicespan.local.form import to_plain
from voicespan.local.log import decode_logs

from .otlp import Trace, log, log_request, pairs, request, turn

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

SECRET = "my card number is 4111"
NAMES = sorted(
    {name for each in TABLE for name in each.whole} | {begin + "x" for each in TABLE for begin in each.beginnings}
)
KEPT = {
    "gen_ai.request.model": "small-chat",
    "gen_ai.usage.input_tokens": 812,
    "gen_ai.prompt.name": "greeting",
    "gen_ai.tool.name": "weather",
    "gen_ai.completion_tokens": 3,
    "lk.response.ttft": 0.2,
    "input.mime_type": "text/plain",
    "voice.text.length": 3,
    "voice.turn.input": "speech",
    "textual": True,
    "my.text": "kept",
}


def one_span(**attributes: Any) -> ExportTraceServiceRequest:
    """A request with one span of a framework."""
    trace = Trace()
    trace.add("llm_request", 0, 100, scope="framework")
    trace.last().attributes.extend(pairs(attributes))
    return request(*trace.spans)


def test_nothing_of_the_table_is_kept() -> None:
    """Every name of every source is left out of a span, in both forms; what stands beside it stays."""
    message = one_span(**KEPT, **dict.fromkeys(NAMES, SECRET))
    from_protobuf = decode_protobuf(message.SerializeToString(), content=False)
    from_json = decode_json(json.dumps(to_plain(message)).encode(), content=False)
    for decoded in (from_protobuf, from_json):
        assert decoded.left_out == len(NAMES)
        assert decoded.spans[0].attributes == KEPT
        assert SECRET.encode() not in decoded.spans[0].body


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_found_alone(name: str) -> None:
    """A request with one such attribute is looked through, whatever its place in the span."""
    for attributes in ({name: SECRET}, {name: SECRET, **KEPT}, {**KEPT, name: ["a", SECRET]}):
        decoded = decode_protobuf(one_span(**attributes).SerializeToString(), content=False)
        assert (decoded.left_out, SECRET.encode() in decoded.spans[0].body) == (1, False)


@pytest.mark.parametrize("length", [0, 1, 90, 200, 20_000])
def test_names_of_every_length_are_found(length: int) -> None:
    """A name that begins like one of the table is found however it goes on."""
    name = "gen_ai.prompt.variable." + "x" * length
    decoded = decode_protobuf(one_span(**{name: SECRET}).SerializeToString(), content=False)
    assert decoded.left_out == 1


def test_content_is_kept_where_it_is_wanted() -> None:
    """With content every attribute stays."""
    decoded = decode_protobuf(one_span(**dict.fromkeys(NAMES, SECRET)).SerializeToString(), content=True)
    assert (decoded.left_out, set(decoded.spans[0].attributes)) == (0, set(NAMES))


def test_no_name_of_ours_is_content() -> None:
    """The attributes of the turn model are kept, and a plain turn needs no look at each of its attributes."""
    ours = [value for key, value in vars(n).items() if key.isupper() and isinstance(value, str)]
    said = {n.GEN_AI_EVALUATION_EXPLANATION}  # of a score: why, in words
    assert {name for name in ours if is_content(name)} == said
    assert not may_have_content(request(*turn().spans).SerializeToString())


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_message_event_keeps_its_time_only(name: str) -> None:
    """An event that is a message stays as a moment, without anything that it carried; other events stay whole."""
    trace = Trace()
    trace.add("chat", 0, 100, scope="framework")
    span = trace.last()
    span.events.add(name=name, time_unix_nano=5, attributes=pairs({"anything": SECRET, "role": "user"}))
    span.events.add(name="exception", attributes=pairs({"exception.message": "kept", "gen_ai.prompt": SECRET}))
    decoded = decode_protobuf(request(*trace.spans).SerializeToString(), content=False)
    assert decoded.left_out == 3
    events = Span.FromString(decoded.spans[0].body).events
    assert [(event.name, len(event.attributes)) for event in events] == [(name, 0), ("exception", 1)]
    assert events[1].attributes[0].value.string_value == "kept"
    del span.events[1]
    assert decode_protobuf(request(*trace.spans).SerializeToString(), content=False).left_out == 2


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(log(Trace(), SECRET, event_name="gen_ai.user.message"), id="event name"),
        pytest.param(log(Trace(), {"content": SECRET}, {"event.name": "gen_ai.choice"}), id="event name as attribute"),
        pytest.param(log(Trace(), {"messages": [SECRET]}, event_name="gen_ai.client.x"), id="other event of GenAI"),
        pytest.param(log(Trace(), "kept", {"gen_ai.input.messages": SECRET}), id="attribute"),
        pytest.param(log(Trace(), "kept", {"llm": {"output": SECRET, "model": "kept"}}), id="map in an attribute"),
        pytest.param(log(Trace(), {"a": {"transcript": SECRET}, "b": "kept"}), id="map in the body"),
        pytest.param(log(Trace(), "", {"x": SECRET}, event_name="gen_ai.tool.message"), id="message of other keys"),
    ],
)
def test_log_records_keep_no_content(record: LogRecord) -> None:
    """Bodies of GenAI events, attributes and maps lose what was said; the rest of the record stays."""
    kept = b"kept" in record.SerializeToString()
    decoded = decode_logs("application/x-protobuf", log_request(record).SerializeToString(), content=False)
    (found,) = decoded.logs
    assert decoded.left_out == 1
    assert SECRET not in found.body + json.dumps(dict(found.attributes))
    assert ("kept" in found.body + json.dumps(dict(found.attributes))) == kept


def test_a_line_of_a_log_stays() -> None:
    """What a service writes into its own log is not taken for what was said."""
    record = log(Trace(), "transcript: hello", {"code.function.name": "reply"})
    before = record.SerializeToString()
    assert strip_log(record) == 0
    assert record.SerializeToString() == before


def test_made_up_names_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names a sender makes up, what is remembered of them is bounded."""
    monkeypatch.setattr(content_names, "_MAX_KNOWN", 50)
    for index in range(200):
        strip_span(Span(attributes=pairs({f"name.{index}": 1})))
    assert len(verdicts) <= 50


NAME_PARTS = st.sampled_from(["gen_ai.", "prompt", "input", ".messages", "text", "lk.", "pii.", "x", "ä", "\n", "\x12"])
ANY_NAME = st.sampled_from(NAMES) | st.lists(NAME_PARTS, max_size=4).map("".join)
ANY_SPAN = st.builds(
    Span,
    attributes=st.lists(ANY_NAME, max_size=4).map(lambda keys: pairs(dict.fromkeys(keys, "said"))),
    events=st.lists(
        st.builds(
            Span.Event,
            name=st.sampled_from([*sorted(MESSAGES), "exception"]),
            attributes=st.lists(ANY_NAME, max_size=2).map(lambda keys: pairs(dict.fromkeys(keys, "said"))),
        ),
        max_size=2,
    ),
)


@settings(max_examples=300, deadline=None)
@given(ANY_SPAN)
def test_the_quick_look_overlooks_nothing(span: Span) -> None:
    """Whatever the span, what the look at each attribute would leave out is seen by the look at the bytes."""
    stripped = Span.FromString(span.SerializeToString())
    left_out = strip_span(stripped)
    if left_out:
        assert may_have_content(request(("a", "b", span)).SerializeToString())
    assert [pair.key for pair in stripped.attributes] == [p.key for p in span.attributes if not is_content(p.key)]
