"""What we write of a turn is what the SDK's encoder makes of its spans; so it is after every scenario of the model."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext as Identity

from voicespan import diagnostics
from voicespan.content_names import MESSAGES, is_content
from voicespan.finished import Event, FinishedSpan, FinishedTurn, Link, SpanContext
from voicespan.sdk import wire
from voicespan.sdk.wire import Frame, Unfit, varint

from .parity import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRETS = [
    "bob@example.com", "call sip:bob@example.com now", "+49 170 1234567", "card 4111 1111 1111 1111", "078-05-1120",
    "Bearer abcdefghijk", "/voicepacks/acme/bob/ref/1.wav",
]  # fmt: skip
TEXTS: st.SearchStrategy[str] = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["", "websocket", "llm", "ü", "🎙️", "x" * 127, "x" * 128, "x" * 300, *SECRETS]),
)
KEYS: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(
        ["session.id", "gen_ai.conversation.id", "voice.component", "gen_ai.request.model", "a", "k" * 200]
    ),
    st.text(min_size=1, max_size=5),
).filter(lambda key: not is_content(key))
INTEGERS = st.one_of(
    st.sampled_from([0, 1, -1, 127, 128, 16_383, 16_384, 2**31, 2**62, 2**63 - 1, -(2**63)]),
    st.integers(-(2**63), 2**63 - 1),
)
VALUES = st.one_of(
    TEXTS, st.booleans(), INTEGERS, st.floats(allow_nan=False), st.sampled_from([0.0, -0.0, inf, 1e-300])
)
ATTRIBUTES = st.dictionaries(KEYS, VALUES, max_size=5)
TIMES = st.integers(0, 2**64 - 1)
SPAN_IDS = st.integers(1, 2**64 - 1)
TRACE_IDS = st.integers(1, 2**128 - 1)
NAMES: st.SearchStrategy[str] = TEXTS.filter(lambda name: name not in MESSAGES)
EVENTS = st.builds(Event, NAMES, TIMES, ATTRIBUTES)
LINKS = st.builds(Link, st.builds(SpanContext, TRACE_IDS, SPAN_IDS), ATTRIBUTES)
SPANS = st.builds(
    FinishedSpan,
    name=NAMES,
    span_id=SPAN_IDS,
    parent_id=st.one_of(st.none(), SPAN_IDS),
    start_ns=TIMES,
    end_ns=TIMES,
    kind=st.sampled_from(["internal", "client", "server"]),
    error=st.one_of(st.none(), TEXTS),
    attributes=ATTRIBUTES,
    events=st.lists(EVENTS, max_size=2).map(tuple),
    links=st.lists(LINKS, max_size=2).map(tuple),
)
TURNS = st.builds(
    FinishedTurn, TRACE_IDS, st.just("call-7"), st.lists(SPANS, min_size=1, max_size=2).map(tuple), st.just(True)
)


@pytest.fixture(scope="module")
def both() -> Pair:
    """Both ways, remembering from example to example."""
    return Pair()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing has been said or counted."""
    diagnostics.forget()
    yield
    diagnostics.forget()


def a_turn(**of_span: Any) -> FinishedTurn:
    given: dict[str, Any] = {"name": "llm", "span_id": 2, "parent_id": 1, "start_ns": 3, "end_ns": 4, **of_span}
    return FinishedTurn(5, "call-7", (FinishedSpan(**given),))


@settings(max_examples=100, deadline=None)
@given(turn=TURNS)
def test_any_turn_is_written_as_the_sdk_encodes_it(both: Pair, turn: FinishedTurn) -> None:
    """Whatever stands in a turn's spans, both ways give the same message."""
    assert both.written(turn) == both.encoded(turn)


LIMITS: list[dict[str, int]] = [
    {"max_attributes": 2, "max_events": 1, "max_links": 1},
    {"max_attribute_length": 3},
    {"max_span_attribute_length": 0},
    {"max_span_attributes": 0, "max_event_attributes": 0, "max_link_attributes": 0},
    {"max_attributes": SpanLimits.UNSET, "max_events": SpanLimits.UNSET, "max_links": SpanLimits.UNSET},
]


@pytest.fixture(scope="module")
def limited() -> list[Pair]:
    """Both ways under each of the limits."""
    return [Pair(SpanLimits(**limits)) for limits in LIMITS]


@settings(max_examples=60, deadline=None)
@given(turn=TURNS, which=st.sampled_from(range(len(LIMITS))))
def test_what_limits_would_change_is_not_written(limited: list[Pair], turn: FinishedTurn, which: int) -> None:
    """Under any limits a turn is either written as the SDK encodes it, or left to the SDK."""
    pair = limited[which]
    try:
        written = pair.written(turn)
    except Unfit:
        return
    assert written == pair.encoded(turn)


@pytest.mark.parametrize(
    ("limits", "of_span"),
    [
        ({"max_span_attributes": 1}, {"attributes": {"a": 1, "b": 2}}),
        ({"max_attributes": 1}, {"attributes": {"a": 1, "b": 2}}),
        ({"max_attribute_length": 3}, {"attributes": {"a": "long"}}),
        ({"max_span_attribute_length": 3}, {"attributes": {"a": "long"}}),
        ({"max_events": 1}, {"events": (Event("a", 1), Event("b", 2))}),
        ({"max_event_attributes": 1}, {"events": (Event("a", 1, {"a": 1, "b": 2}),)}),
        ({"max_attribute_length": 3}, {"events": (Event("a", 1, {"a": "long"}),)}),
        ({"max_links": 1}, {"links": (Link(SpanContext(1, 2)), Link(SpanContext(3, 4)))}),
        ({"max_link_attributes": 1}, {"links": (Link(SpanContext(1, 2), {"a": 1, "b": 2}),)}),
    ],
)
def test_each_limit_is_seen(limits: dict[str, int], of_span: dict[str, Any]) -> None:
    """A turn over any one limit is left to the SDK, and one that is just within it is written."""
    with pytest.raises(Unfit):
        Pair(SpanLimits(**limits)).written(a_turn(**of_span))
    within = Pair(SpanLimits(**{name: limit + 1 for name, limit in limits.items()}))
    assert within.written(a_turn(**of_span)) == within.encoded(a_turn(**of_span))


class Word(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "attributes",
    [
        {"a": ("x", "y")}, {"a": None}, {"a": b"x"}, {"a": {"b": 1}}, {"a": 2**63}, {"a": Word("x")}, {"a": object()},
        {"": 1}, {1: "x"}, {"gen_ai.input.messages": "hello"}, {"gen_ai.prompt": 1.5}, {"transcript": True},
        {"of bob@example.com": 1},
    ],
)  # fmt: skip
def test_what_is_unusual_is_left_to_the_sdk(attributes: dict[Any, Any]) -> None:
    """Values of other types, names that are none, and what was said: the SDK and our filter know what to do."""
    with pytest.raises(Unfit):
        Pair().written(a_turn(attributes=attributes))
    with pytest.raises(Unfit):
        Pair().written(a_turn(events=(Event("a", 1, attributes),)))


def test_what_was_said_is_written_where_it_may_leave() -> None:
    """With VOICESPAN_CONTENT and a target on this machine both ways carry it; an event that is a message too."""
    turn = a_turn(attributes={"transcript": "hi bob@example.com"}, events=(Event("gen_ai.choice", 1, {"a": "b"}),))
    pair = Pair(content=True)
    assert pair.written(turn) == pair.encoded(turn)
    with pytest.raises(Unfit):
        Pair().written(a_turn(events=(Event("gen_ai.choice", 1, {"a": "b"}),)))


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_written_anywhere(secret: str) -> None:
    """Name, attributes, events, links and status message are redacted; so is a session id, with a digest."""
    own = {"a": secret, "session.id": secret}
    turn = a_turn(
        name=secret,
        error=secret,
        attributes=own,
        events=(Event(secret, 1, own),),
        links=(Link(SpanContext(1, 2), own),),
    )
    pair = Pair()
    assert secret.encode() not in pair.written_bytes(turn)
    assert pair.written(turn) == pair.encoded(turn)


def test_equal_values_of_other_types_are_not_confused() -> None:
    """`1`, `1.0` and `True` are equal to a dictionary and different to OTLP."""
    pair = Pair()
    for value in (1, True, 1.0, "1", 0, False, 0.0, "0"):
        turn = a_turn(attributes={"a": value})
        assert pair.written(turn) == pair.encoded(turn)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values without end do not fill the memory, and what comes after the bound is still right."""
    monkeypatch.setattr(wire, "_REMEMBERED", 20)
    pair = Pair()
    for number in range(100):
        turn = a_turn(name=f"n{number}", attributes={"a": f"v{number}", "b": number, f"c{number}": 1.5})
        assert pair.written(turn) == pair.encoded(turn)
    writer = pair._writer
    known: list[dict[Any, bytes]] = [
        writer._names,
        writer._events,
        writer._errors,
        writer._doubles,
        writer._strings,
        *writer._values.values(),
    ]
    assert all(len(remembered) <= 20 for remembered in known)
    pair.written(a_turn(attributes={"a": "x" * 100_000}))
    assert max(len(value) for remembered in known for value in remembered.values()) < 1000


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 16_383, 16_384, 2**21 - 1, 2**21, 2**63, 2**64 - 1])
def test_varints(number: int) -> None:
    """Seven bits a byte, the lowest first, all but the last marked."""
    value = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(varint(number)))
    assert value == number
    assert all(byte & 0x80 for byte in varint(number)[:-1])
    assert not varint(number)[-1] & 0x80


@pytest.mark.parametrize("schema", ["", "https://opentelemetry.io/schemas/1.37.0"])
@pytest.mark.parametrize("scope_schema", [None, "https://opentelemetry.io/schemas/1.30.0"])
def test_frame_is_that_of_the_sdk(schema: str, scope_schema: str | None) -> None:
    """Resource (redacted), scope and their schema URLs are encoded as the SDK does, around no span or many."""
    resource = Resource({"service.name": "bot"}, schema)
    scope = InstrumentationScope("voicespan", "1", scope_schema, {"a": 1})
    span = ReadableSpan(
        "a", Identity(1, 2, is_remote=False), resource=resource, instrumentation_scope=scope, start_time=1, end_time=2
    )
    wanted = encode_spans([span, span])
    one = wanted.resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    got = Frame(resource, scope).around([wire.field(b"\x12", one)] * 2)
    assert ExportTraceServiceRequest.FromString(got) == wanted
    assert got == wanted.SerializeToString()
