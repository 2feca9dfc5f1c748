from __future__ import annotations

import io
import struct
import wave
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings

from voicespan.cli import main
from voicespan.local.audio import peaks
from voicespan.local.conversation import MAX_TURNS, UnknownSessionError, conversation
from voicespan.local.query import TurnQuery
from voicespan.local.runs import runs
from voicespan.local.sessions import sessions
from voicespan.local.store import Store

from .otlp import MS, START_NS, Trace, log, pairs, turn
from .plain import QUERIES, Plain, Stored, ranked
from .rows import put_turns
from .test_store import logs, received

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.local.server import Receiver


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store."""
    with Store() as made:
        yield made


def listed(session: str, turns: list[Plain]) -> dict[str, Any]:
    """One line of the list, computed plainly."""
    waits = [each.lengths["response"] for each in turns if "response" in each.lengths]
    first = min(turns, key=lambda each: each.start_ns)
    return {
        "session_id": session,
        "service": first.service,
        "start_s": first.start_ns / 1_000_000_000,
        "end_s": max(each.end_ns for each in turns) / 1_000_000_000,
        "turns": len(turns),
        "unanswered": len([each for each in turns if each.unanswered]),
        "interrupted": len([each for each in turns if each.outcome == "interrupted"]),
        "errors": len([each for each in turns if each.outcome in ("error", "timeout")]),
        "incomplete": len([each for each in turns if not each.complete]),
        "p50_s": ranked([each.answered_ns for each in turns if each.answered_ns is not None], 50),
        "worst_s": max(waits) / 1_000_000_000 if waits else None,
    }


@settings(deadline=None, max_examples=60)
@given(query=QUERIES)
def test_sessions_are_those_of_the_spans(query: TurnQuery, stored: Stored) -> None:
    """Every session of the selected turns is listed, the newest first, with the figures of these turns."""
    turns = stored.matching(query)
    by_session: dict[str, list[Plain]] = defaultdict(list)
    for each in turns:
        if each.session_id is not None:
            by_session[each.session_id].append(each)
    expected = sorted((listed(*item) for item in by_session.items()), key=lambda line: line["start_s"], reverse=True)
    found = sessions(stored.reader, query)
    assert found["matching"] == len(expected)
    worst = [line.pop("worst_trace_id") for line in found["sessions"]]
    assert found["sessions"] == expected[: query.limit]
    lengths = {each.trace_id: each.lengths for each in turns}
    assert [
        lengths[trace_id]["response"] / 1_000_000_000 if trace_id else None for trace_id in worst
    ] == [line["worst_s"] for line in found["sessions"]]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(query=QUERIES)
def test_runs_are_those_of_the_spans(query: TurnQuery, stored: Stored) -> None:
    """Every run that has selected turns is listed, the newest first, with the figures of these turns."""
    by_run: dict[str, list[Plain]] = defaultdict(list)
    for each in stored.matching(query):
        if each.service == "voice-agent":
            by_run[each.run].append(each)
    found = [run for run in runs(stored.reader, query)["runs"] if run["service"] == "voice-agent"]
    assert {stored.runs[run["id"]] for run in found} == set(by_run)
    assert [run["started_s"] for run in found] == sorted((run["started_s"] for run in found), reverse=True)
    for run in found:
        name = stored.runs[run["id"]]
        turns = by_run[name]
        answered = [each.answered_ns for each in turns if each.answered_ns is not None]
        assert run["name"] == run["label"] == ("tuned" if name == "tuned" else None)
        assert run["version"] == ("2.0" if name == "second" else "1.2")
        assert run["started_s"] == min(each.start_ns for each in stored.turns if each.run == name) / 1_000_000_000
        assert run["last_s"] == max(each.start_ns for each in turns) / 1_000_000_000
        assert (run["turns"], run["answered"]) == (len(turns), len(answered))
        assert run["unanswered"] == len([each for each in turns if each.unanswered])
        assert [run["p50_s"], run["p95_s"]] == [ranked(answered, 50), ranked(answered, 95)]


def test_conversation_says_who_was_heard_when(store: Store) -> None:
    """The user is heard from the onset to the real end of speech, the agent from its first to its last sample."""
    trace = turn(3, session="call-9")
    root, playback = trace.spans[0][2], next(span for _, _, span in trace.spans if span.name == "playback")
    trace.add("playback.gap", 4000, 4400, playback.span_id)
    root.events.add(name="voice.user_overlap", time_unix_nano=trace.onset_ns + 3500 * MS)
    store.add(received(trace))
    store.add_content(trace.trace_id, "agent", "It is noon.", b"\0\0", 8000)
    found = conversation(store.reader, "call-9")
    assert (found["session_id"], found["service"], found["beyond"]) == ("call-9", "voice-agent", 0)
    (told,) = found["turns"]
    assert told["user"] == [after(trace, 0, 2000)]
    assert told["agent"] == [after(trace, 3000, 4000), after(trace, 4400, 6000)]
    assert told["gaps"] == [after(trace, 4000, 4400)]
    assert told["events"] == [{"name": "voice.user_overlap", "time_s": after(trace, 3500, 0)[0]}]
    assert told["interrupts"] is None
    assert told["content"] == {"agent": {"text": "It is noon.", "audio": True}}
    assert (told["trace_id"], told["turn_index"], told["response_s"]) == (trace.hex, 3, 1.0)
    assert told["cause"].startswith("The user waited 1.00 s")


def after(trace: Trace, start_ms: int, end_ms: int) -> list[float]:
    """Two moments of a trace in seconds of Unix time."""
    return [(trace.onset_ns + at_ms * MS) / 1_000_000_000 for at_ms in (start_ms, end_ms)]


@pytest.mark.parametrize(
    ("kept", "user", "agent"),
    [
        (("voice.turn", "vad", "vad.endpoint"), [(0, 2000)], []),
        (("voice.turn", "vad"), [(0, 2300)], []),
        (("voice.turn", "voice.response"), [(0, 2000)], []),
        (("voice.turn",), [], []),
        (("voice.turn", "playback"), [], [(2963, 6000)]),
        (("tts.inference", "playback", "playback.start", "vad"), [(0, 2300)], [(3000, 6000)]),
    ],
)
def test_conversation_takes_what_there_is(
    kept: tuple[str, ...], user: list[tuple[int, int]], agent: list[tuple[int, int]], store: Store
) -> None:
    """Without the real end of speech the turn decision ends it; of what no span tells, nothing is made up."""
    trace = turn()
    root = trace.spans[0][2]
    store.add(received(trace, only=lambda name: name in kept))
    if "voice.turn" not in kept:  # who has no root has no session: it gets one
        (row,) = store.reader.turns(TurnQuery())
        put_turns(store, [row._replace(session_id="call-1")])
    (told,) = conversation(store.reader, "call-1")["turns"]
    assert root.name == "voice.turn"
    assert told["user"] == [after(trace, *interval) for interval in user]
    assert told["agent"] == [after(trace, *interval) for interval in agent]


@pytest.mark.parametrize(
    "attributes", [{"voice.turn.initiator": "agent", "voice.turn.trigger": "greeting"}, {"voice.turn.input": "text"}]
)
def test_user_who_did_not_speak_is_not_heard(attributes: dict[str, str], store: Store) -> None:
    """In a greeting, and after a typed message, only the agent is heard."""
    trace = turn()
    root = trace.spans[0][2]
    kept = [pair for pair in root.attributes if pair.key not in attributes]
    del root.attributes[:]
    root.attributes.extend([*kept, *pairs(attributes)])
    store.add(received(trace))
    (told,) = conversation(store.reader, "call-1")["turns"]
    assert told["user"] == []
    assert told["agent"] == [after(trace, 3000, 6000)]


def interruption() -> tuple[Trace, Trace]:
    """A turn, and the one that interrupts it."""
    first = turn(1, outcome="interrupted", onset_ns=START_NS)
    second = turn(2, onset_ns=START_NS + 5000 * MS)
    links = second.spans[0][2].links
    for relation, other in (("previous", Trace()), ("interrupted", first)):
        link = links.add(trace_id=other.trace_id, span_id=b"12345678")
        link.attributes.extend(pairs({"voice.link.type": relation}))
    return first, second


def test_interruption_is_known_on_both_sides(receiver: Receiver) -> None:
    """The turn that interrupts names the other one, and the interrupted turn the one that did it."""
    first, second = interruption()
    far = turn(3, onset_ns=START_NS + 60_000 * MS)
    receiver.store.add(received(second, first, far))
    found = httpx.get(f"{receiver.endpoint}/api/session", params={"id": "call-1"}).json()
    assert [told["interrupts"] for told in found["turns"]] == [None, first.hex, None]
    by = [
        httpx.get(f"{receiver.endpoint}/api/turns/{each.hex}").json()["interrupted_by"] for each in (first, second, far)
    ]
    assert by == [second.hex, None, None]


def test_long_session_is_given_in_pages(receiver: Receiver) -> None:
    """A session of more turns than fit shows the newest ones, those around one, or from one on; the rest is counted."""
    store = receiver.store
    store.add(received(turn(1, session="long")))
    (row,) = store.reader.turns(TurnQuery())
    whole = MAX_TURNS + 200
    put_turns(
        store,
        (
            row._replace(trace_id=f"{number:032x}", start_ns=row.start_ns + number * 1_000_000_000)
            for number in range(1, whole)
        ),
    )

    def page(**parameters: Any) -> tuple[int, int, int, int]:
        found = httpx.get(f"{receiver.endpoint}/api/session", params={"id": "long", **parameters}).json()
        starts = [round(told["start_s"] - row.start_ns / 1e9) for told in found["turns"]]
        assert starts == list(range(found["first"], found["first"] + len(starts)))
        assert (found["matching"], found["earlier"]) == (whole, found["first"])
        assert found["earlier"] + len(starts) + found["later"] == whole == found["beyond"] + len(starts)
        return starts[0], starts[-1], found["earlier"], found["later"]

    assert page() == (200, whole - 1, 200, 0)
    assert page(first=0) == (0, MAX_TURNS - 1, 0, 200)
    assert page(first=150) == (150, 649, 150, 50)
    assert page(first=10**6) == page()
    assert page(around=f"{330:032x}") == (80, 579, 80, 120)
    assert page(around=f"{5:032x}") == page(first=-3) == page(first=0)
    assert page(around=f"{whole - 1:032x}") == page()
    store.add(received(other := turn(1, session="other")))
    for around in (other.hex, "f" * 32, "xyz"):
        answer = httpx.get(f"{receiver.endpoint}/api/session", params={"id": "long", "around": around})
        assert answer.status_code == 400
    with pytest.raises(UnknownSessionError, match="no turn of a session 'none'"):
        conversation(store.reader, "none")


def test_turn_has_its_log_its_run_and_what_was_said(receiver: Receiver) -> None:
    """The answer for one turn has its log records, in order and counted beyond 500, its run, and what was said."""
    trace, store = turn(), receiver.store
    store.add(received(trace))
    store.add_logs(logs(*(log(trace, f"line {number:03}", {"n": number}, severity_number=13) for number in range(503))))
    store.add_content(trace.trace_id, "user", "What time is it?", b"\1\2" * 4, 16_000)
    found = httpx.get(f"{receiver.endpoint}/api/turns/{trace.hex}").json()
    assert (len(found["logs"]), found["logs_beyond"]) == (500, 3)
    assert found["logs"][7] == {
        "time_s": trace.onset_ns / 1_000_000_000, "severity": 13, "level": "WARN", "body": "line 007",
        "attributes": {"n": 7}, "span_id": None, "service": "voice-agent",
    }  # fmt: skip
    assert found["content"] == {"user": {"text": "What time is it?", "audio": True}}
    assert found["content_kept"] is False
    assert found["run"] == found["turn"]["run"] == httpx.get(f"{receiver.endpoint}/api/runs").json()["runs"][0]["id"]


def test_audio_is_a_wav_file(receiver: Receiver) -> None:
    """What was said can be played: 16-bit mono PCM in a file; where there is none, the answer is 404."""
    trace, pcm = turn(), b"\1\0\2\0\3\0"
    receiver.store.add(received(trace))
    receiver.store.add_content(trace.trace_id, "user", None, pcm, 16_000)
    receiver.store.add_content(trace.trace_id, "agent", "text alone")
    answer = httpx.get(f"{receiver.endpoint}/api/turns/last/audio/user")
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["cache-control"] == "no-store"
    with wave.open(io.BytesIO(answer.content)) as audio:
        assert audio.getparams()[:4] == (1, 2, 16_000, 3)
        assert audio.readframes(3) == pcm
    assert struct.unpack("<IHH", answer.content[28:36]) == (32_000, 2, 16)  # bytes a second, and of a sample; its bits
    for nothing in ("last/audio/agent", "last/audio/nobody", f"{'0' * 32}/audio/user"):
        assert httpx.get(f"{receiver.endpoint}/api/turns/{nothing}").status_code == 404


def test_questions_are_answered_over_http(receiver: Receiver) -> None:
    """Each address gives what the function of its name does."""
    first, second = interruption()
    other = Trace()
    other.add("GET", 0, 1, scope="http")
    receiver.store.add(received(first, second, other))
    reader = receiver.store.reader

    def ask(address: str) -> Any:
        return httpx.get(f"{receiver.endpoint}/api/{address}").json()

    assert ask("sessions?limit=1") == sessions(reader, TurnQuery(limit=1))
    about_content = {"content_kept": False, "content_withheld": None}
    assert ask("session?id=call-1") == conversation(reader, "call-1") | about_content
    assert ask("runs?outcome=completed") == runs(reader, TurnQuery(outcome="completed"))
    assert ask("traces?limit=3")["traces"][0]["trace_id"] == other.hex
    run = ask("runs")["runs"][0]["id"]
    found = ask(f"compare?run={run}&outcome=completed&against=..&objective_ms=900")
    assert (found["now"]["turns"], found["before"]["turns"]) == (1, 1)
    assert ask(f"turns?run={run}")["matching"] == 2
    assert ask(f"turns?run={run + 1}")["matching"] == 0
    assert httpx.get(f"{receiver.endpoint}/api/session?id=none").status_code == 404


def test_audio_is_given_in_parts(receiver: Receiver) -> None:
    """A player that seeks asks for a part and gets it; the parts make the file, and what lies beyond is refused."""
    trace = turn()
    receiver.store.add(received(trace))
    receiver.store.add_content(trace.trace_id, "user", None, bytes(range(200)), 16_000)
    address = f"{receiver.endpoint}/api/turns/last/audio/user"
    whole = httpx.get(address)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    size = len(whole.content)

    def ask(wanted: str) -> tuple[int, str | None, bytes]:
        answer = httpx.get(address, headers={"Range": wanted})
        return answer.status_code, answer.headers.get("content-range"), answer.content

    assert ask("bytes=0-") == (206, f"bytes 0-{size - 1}/{size}", whole.content)
    assert ask("bytes=10-19") == (206, f"bytes 10-19/{size}", whole.content[10:20])
    assert ask(f"bytes=20-{size * 9}") == (206, f"bytes 20-{size - 1}/{size}", whole.content[20:])
    assert ask("bytes=-7") == (206, f"bytes {size - 7}-{size - 1}/{size}", whole.content[-7:])
    assert ask(f"bytes=-{size * 9}") == (206, f"bytes 0-{size - 1}/{size}", whole.content)
    for refused in (f"bytes={size}-", "bytes=-0", f"bytes={10**17}-"):
        assert ask(refused)[:2] == (416, f"bytes */{size}")
    for not_one in ("bytes=0-1,5-6", "bytes=-", "bytes=9-3", "lines=1-2", "bytes=1", ""):
        assert ask(not_one) == (200, None, whole.content)


def test_peaks_follow_the_audio(receiver: Receiver) -> None:
    """Each of 200 stretches has its loudest sample; a side without audio is not there."""
    trace = turn()
    receiver.store.add(received(trace))
    samples = [0] * 8000 + [-32_768] + [0] * 3999 + [16_384] * 4000
    receiver.store.add_content(trace.trace_id, "agent", "x", struct.pack(f"<{len(samples)}h", *samples), 16_000)
    receiver.store.add_content(trace.trace_id, "user", "only text")
    found = httpx.get(f"{receiver.endpoint}/api/turns/last/peaks").json()
    assert (found["trace_id"], list(found["sides"])) == (trace.hex, ["agent"])
    assert found["sides"]["agent"] == {"duration_s": 1.0, "peaks": [0.0] * 100 + [1.0] + [0.0] * 49 + [0.5] * 50}
    far = httpx.get(f"{receiver.endpoint}/api/turns/last/peaks", headers={"X-Forwarded-For": "192.0.2.1"}).json()
    assert (far["sides"], bool(far["content_withheld"])) == ({}, True)


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 0), (2, 1), (7, 3), (399, 199), (400, 200), (1001, 200)])
def test_short_audio_has_fewer_peaks(size: int, count: int) -> None:
    """Of fewer samples than peaks each is one; half a sample at the end is none."""
    assert len(peaks(b"\1" * size)) == count


def test_turns_of_a_list_say_how_many_log_lines_they_have(receiver: Receiver) -> None:
    """Each row has the number of its log lines, and of the warnings and worse among them."""
    first, second = turn(), turn()
    receiver.store.add(received(first, second))
    lines = [log(first, f"{number}", severity_number=number) for number in (0, 9, 12, 13, 17, 24)]
    receiver.store.add_logs(logs(*lines))
    rows = httpx.get(f"{receiver.endpoint}/api/turns").json()["turns"]
    found = {row["trace_id"]: (row["log_lines"], row["log_warnings"]) for row in rows}
    assert found == {first.hex: (6, 3), second.hex: (0, 0)}


def test_how_soon_the_agent_was_silent_is_a_latency(receiver: Receiver) -> None:
    """The time to silence after a barge-in has percentiles, a column to sort by, dots, and a row of the comparison."""
    traces = [turn(outcome="interrupted") for _ in range(30)]
    for number, trace in enumerate(traces):
        trace.add("barge_in", 3000, 3100 + 10 * number, trace.spans[0][2].span_id, voice__barge_in__phase="total")
    receiver.store.add(received(*traces, turn()))

    def ask(address: str) -> Any:
        return httpx.get(f"{receiver.endpoint}/api/{address}").json()

    silenced = ask("figures")["stages"]["silenced"]
    assert (silenced["turns"], silenced["p50_s"], silenced["p95_s"]) == (30, 0.24, 0.38)
    assert ask("turns?sort=silenced&limit=1")["turns"][0]["trace_id"] == traces[-1].hex
    assert ask("turns?stage=silenced&over_ms=300")["matching"] == 9
    assert len(ask("dots?of=silenced")["trace_id"]) == 30
    assert ask("compare?against=..")["latencies"]["silenced"]["p50"]["clear"] is False


def test_trace_of_log_records_alone_can_be_opened(receiver: Receiver) -> None:
    """A trace whose spans went elsewhere, or have not come yet, shows its log; others say whether they are whole."""
    alone, rootless, rooted = turn(), Trace(), Trace()
    receiver.store.add_logs(logs(log(alone, "only this")))
    rootless.add("child", 0, 5, b"p" * 8, scope="http")
    rooted.add("child", 0, 5, rooted.add("GET", 0, 9, scope="http"), scope="http")
    receiver.store.add(received(rootless, rooted))
    found = httpx.get(f"{receiver.endpoint}/api/turns/{alone.hex[:12]}").json()
    assert (found["trace_id"], found["turn"], found["spans"]) == (alone.hex, None, [])
    assert [line["body"] for line in found["logs"]] == ["only this"]
    listed = httpx.get(f"{receiver.endpoint}/api/traces?limit=9").json()["traces"]
    assert {each["trace_id"]: each["complete"] for each in listed} == {rootless.hex: False, rooted.hex: True}
    shown = CliRunner().invoke(main, ["show", alone.hex, "--db", str(receiver.store.path)])
    assert (shown.exit_code, "log records only" in shown.stderr) == (1, True)


def test_spans_of_a_trace_are_bounded(receiver: Receiver) -> None:
    """Of very many spans 2,000 are given, with all that make the turn, and the rest is counted."""
    trace = turn()
    own = [span.name for _, scope, span in trace.spans if scope == "voicespan"]
    for number in range(3_000):
        trace.add(f"query {number}", 0.1, 1, trace.spans[0][2].span_id, scope="db")
    receiver.store.add(received(trace))
    found = httpx.get(f"{receiver.endpoint}/api/turns/last").json()
    assert (len(found["spans"]), found["spans_beyond"]) == (2_000, len(trace.spans) - 2_000)
    assert sorted(span["name"] for span in found["spans"] if span["scope"] == "voicespan") == sorted(own)
    starts = [span["start_s"] for span in found["spans"]]
    assert starts == sorted(starts)
