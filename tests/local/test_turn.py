from __future__ import annotations

import random
from typing import TYPE_CHECKING

import httpx
import pytest

from voicespan.local.decode import decode_protobuf
from voicespan.local.form import PROTOBUF
from voicespan.local.server import Receiver
from voicespan.local.span import spans_of
from voicespan.local.store import Store
from voicespan.local.turn import Turn, summarise

from .otlp import SHARES, Trace, request, turn

if TYPE_CHECKING:
    from voicespan.testing import VoiceRecorder

MS = 1_000_000


def summary(trace: Trace) -> Turn | None:
    """The row of a trace that arrives in one request, its spans in any order."""
    spans = list(trace.spans)
    random.shuffle(spans)
    return summarise(trace.hex, decode_protobuf(request(*spans).SerializeToString()).spans)


def test_plain_turn_is_summed_up() -> None:
    """The row of a turn has who, what came of it, how long the user waited, and for what."""
    trace = turn(7, session="call-9")
    row = summary(trace)
    assert row is not None
    assert (row.trace_id, row.service, row.session_id, row.turn_index) == (trace.hex, "voice-agent", "call-9", 7)
    assert (row.complete, row.outcome, row.initiator, row.input) == (True, "completed", "user", "speech")
    assert (row.start_ns, row.duration_ns) == (trace.onset_ns, 6000 * MS)
    assert (row.response_ns, row.unanswered, row.response_from) == (1000 * MS, False, "speech_end")
    assert row.bottleneck == "llm"
    assert row.shares == {stage: round(share * 1000) * MS for stage, share in SHARES.items()}
    assert sum(row.shares.values()) == row.response_ns
    latencies = (row.endpoint_ns, row.asr_ns, row.llm_ttft_ns, row.sentence_ns, row.tts_first_audio_ns)
    assert latencies == (300 * MS, 320 * MS, 410 * MS, 490 * MS, 150 * MS)
    assert row.playback_start_ns == 37 * MS
    assert (row.model, row.voice, row.language, row.worker) == ("small-chat", "sam", "en-US", "tts-0")
    assert (row.transport, row.measurement_point, row.clock_error_ns) == ("websocket", "client", 4 * MS)
    assert row.attributes["voice.turn.index"] == 7


def test_latency_of_several_requests_is_the_longest_waited_for() -> None:
    """Of several first tokens the row has the longest on the critical path, not a discarded or later one."""
    trace = turn()
    root = trace.spans[0][2].span_id
    for start, length, critical in ((2320, 900, False), (2400, 700, True), (4000, 800, False)):
        trace.add("llm.ttft", start, start + length, root, voice__critical_path=critical)
    row = summary(trace)
    assert row is not None
    assert row.llm_ttft_ns == 700 * MS


def test_tools_count_whatever_their_name() -> None:
    """The name of a tool is part of its span's name."""
    trace = turn()
    trace.add("execute_tool get_weather", 2400, 2650, trace.spans[0][2].span_id)
    row = summary(trace)
    assert row is not None
    assert row.tool_ns == 250 * MS


def test_unanswered_turn_has_its_wait() -> None:
    """The wait of a user who gave up counts as heard silence, and is marked."""
    trace = Trace()
    root = trace.add("voice.turn", 0, 9000, voice__turn__outcome="no_reply", voice__turn__no_reply__reason="user_left")
    trace.add("voice.unanswered", 1000, 9000, root, voice__response__share__llm=8.0)
    row = summary(trace)
    assert row is not None
    assert (row.response_ns, row.unanswered, row.no_reply_reason) == (8000 * MS, True, "user_left")
    assert row.shares == {"llm": 8000 * MS}


def test_interruption_has_the_time_until_silence() -> None:
    """The row of an interrupted turn has the phase `total`, from the user's onset until the audio was silent."""
    trace = turn(outcome="interrupted")
    root = trace.spans[0][2].span_id
    trace.add("barge_in", 4100, 4180, root, voice__barge_in__phase="playback_stop")
    trace.add("barge_in", 3900, 4180, root, voice__barge_in__phase="total")
    row = summary(trace)
    assert row is not None
    assert row.silenced_ns == 280 * MS


def test_turn_of_the_agent_has_no_silence() -> None:
    """A greeting has neither response nor shares, but model and voice of its stages."""
    trace = Trace()
    root = trace.add("voice.turn", 0, 2000, voice__turn__initiator="agent", voice__turn__trigger="greeting")
    trace.add("tts", 0, 900, root, voice__tts__voice__name="sam")
    trace.spans[0][2].attributes.add(key="voice.session.first_audio").value.double_value = 0.42
    row = summary(trace)
    assert row is not None
    assert (row.response_ns, row.shares, row.trigger, row.voice) == (None, {}, "greeting", "sam")
    assert row.first_audio_ns == 420 * MS


@pytest.mark.parametrize("names", [("tts.inference", "Synthesize"), ("voice.response", "playback", "llm")])
def test_trace_without_its_root_is_incomplete(names: tuple[str, ...]) -> None:
    """What voicespan made of a trace is a turn, though not a complete one, before its root arrives."""
    trace = turn()
    trace.spans = [item for item in trace.spans if item[2].name in names]
    row = summary(trace)
    assert row is not None
    assert (row.complete, row.outcome) == (False, None)


def test_trace_with_another_root_is_no_turn() -> None:
    """A plain HTTP trace, also one with a span of voicespan in it, is no turn."""
    trace = Trace()
    root = trace.add("POST /token", 0, 50, scope="opentelemetry.instrumentation.fastapi")
    trace.add("token.mint", 1, 40, root)
    assert summary(trace) is None


def test_spans_of_other_instrumentations_alone_are_no_turn() -> None:
    """A part of a trace that voicespan did not make is no incomplete turn."""
    trace = Trace()
    trace.add("GET", 0, 50, b"12345678", scope="opentelemetry.instrumentation.redis")
    assert summary(trace) is None


def test_attributes_of_unexpected_types_are_left_out() -> None:
    """A sender that writes numbers as text gets a row without them instead of a failure."""
    trace = Trace()
    trace.add("voice.turn", 0, 10, voice__turn__index="one", session__id=5, voice__session__first_audio=True)
    row = summary(trace)
    assert row is not None
    assert (row.turn_index, row.session_id, row.first_audio_ns) == (None, None, None)


def test_finished_turn_has_the_same_row(voice: VoiceRecorder) -> None:
    """A turn that this process finished is summed up from the same shape as a stored one."""
    with voice.session("call-3") as session:
        spoken = session.user_turn()
        voice.clock.advance(ms=900)
        spoken.speech_ended()
        voice.clock.advance(ms=400)
        spoken.committed()
        spoken.transcript()
        with spoken.llm(model="m") as llm:
            voice.clock.advance(ms=300)
            llm.token()
            voice.clock.advance(ms=100)
            llm.sentence()
        with spoken.tts(voice="sam") as tts:
            voice.clock.advance(ms=200)
            tts.audio()
            spoken.audio_sent(0.5)
        voice.clock.advance(ms=500)
        spoken.end()
    finished = voice.turns[0]
    row = summarise(f"{finished.trace_id:032x}", spans_of(finished, service="bot"))
    assert row is not None
    assert (row.session_id, row.outcome, row.service) == ("call-3", finished.outcome, "bot")
    assert {stage: share_ns / 1e9 for stage, share_ns in row.shares.items()} == pytest.approx(
        {stage: share for stage, share in finished.shares.items() if share}
    )
    assert row.response_ns == 1000 * MS


def foreign(trace: Trace, scope: str = "acme.voice") -> Trace:
    """The same turn as another instrumentation would send it, that uses our names."""
    return Trace(
        trace.trace_id,
        trace.onset_ns,
        [(service, scope if of == "voicespan" else of, span) for service, of, span in trace.spans],
    )


def with_services(trace: Trace) -> Trace:
    """The same without the spans of the worker, which has no root and no name of a turn in its scope."""
    return Trace(trace.trace_id, trace.onset_ns, [item for item in trace.spans if item[2].name != "tts.inference"])


def test_turn_of_any_sender_with_our_names() -> None:
    """A turn that no voicespan made has the same row, the same stages and the same conversation as one that it made."""
    ours, theirs = with_services(turn(session="ours")), with_services(turn(session="theirs"))
    with Receiver(port=0) as receiver, httpx.Client(base_url=receiver.endpoint) as client:
        for trace in (ours, foreign(theirs)):
            body = request(*trace.spans).SerializeToString()
            client.post("/v1/traces", content=body, headers={"Content-Type": PROTOBUF})
        get = client.get
        rows = [get(f"/api/turns/{trace.hex}").json() for trace in (ours, theirs)]
        stages = [[(span["name"], span["stage"]) for span in row["spans"]] for row in rows]
        assert stages[0] == stages[1]
        turns = [row["turn"] for row in rows]
        same = set(turns[0]) - {"trace_id", "session_id", "start_s", "attributes", "cause"}
        assert {key: turns[1][key] for key in same} == {key: turns[0][key] for key in same}
        assert turns[1]["llm_ttft_s"] == pytest.approx(0.41)
        told = [get("/api/session", params={"id": name}).json()["turns"][0] for name in ("ours", "theirs")]
        heard = [
            [moment - of["start_s"] for side in ("user", "agent") for interval in of[side] for moment in interval]
            for of in told
        ]
        assert heard[1] == pytest.approx(heard[0], abs=1e-6)
        assert len(heard[0]) == 4


@pytest.mark.parametrize("order", [1, -1])
def test_turn_of_any_sender_in_pieces(order: int) -> None:
    """It may come span by span, in any order."""
    whole, pieces = foreign(with_services(turn())), Store()
    for item in whole.spans[::order]:
        pieces.add(decode_protobuf(request(item).SerializeToString()).spans)
    row = pieces.reader.turn(whole.hex)
    pieces.close()
    assert row is not None
    assert (row.complete, row.llm_ttft_ns, row.tts_first_audio_ns) == (True, 410_000_000, 150_000_000)


def test_spans_with_names_like_ours_make_no_turn() -> None:
    """`llm` and `tts` of another instrumentation alone are no turn, and change none that is there."""
    trace, other = turn(), Trace()
    start = other.add("llm", 0, 10, b"p" * 8, scope="acme.llm")
    other.add("tts", 0, 10, start, scope="acme.llm")
    added = foreign(Trace(trace.trace_id, trace.onset_ns), "acme.llm")
    added.add("llm.ttft", 0, 9000, trace.spans[0][2].span_id, scope="acme.llm")
    with Store() as store:
        for some in (other, trace, added):
            store.add(decode_protobuf(request(*some.spans).SerializeToString()).spans)
        assert store.reader.turn(other.hex) is None
        row = store.reader.turn(trace.hex)
        assert row is not None
        assert row.llm_ttft_ns == 410_000_000


def test_turn_without_root_of_any_sender() -> None:
    """The silence alone tells that it is a turn, which is not complete."""
    trace = foreign(turn())
    trace.spans = [item for item in trace.spans if item[2].name in ("voice.response", "llm.ttft")]
    with Store() as store:
        store.add(decode_protobuf(request(*trace.spans).SerializeToString()).spans)
        row = store.reader.turn(trace.hex)
    assert row is not None
    assert (row.complete, row.response_ns, row.llm_ttft_ns) == (False, 1_000_000_000, 410_000_000)
