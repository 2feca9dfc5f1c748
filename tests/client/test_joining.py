"""Marks of a client in the server's turn, on a fixed clock: the client's is five hours ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from voicespan import diagnostics
from voicespan import names as n
from voicespan.client.joining import MAX_WAITING, Joining
from voicespan.client.report import Report
from voicespan.testing import START_NS

if TYPE_CHECKING:
    from voicespan.sessions import Session
    from voicespan.testing import VoiceRecorder
    from voicespan.turn import Turn

AHEAD_MS = 5 * 3600 * 1000.0
SERVER = "this-machine"


class Known:
    """The turns that the process knows."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def open_turn(self, trace_id: int) -> Turn | None:
        """Return one of them."""
        return next((turn for turn in self.turns if turn.trace_id == trace_id and turn.open), None)


def report(voice: VoiceRecorder, traceparent: str, server: str = SERVER, **fields: Any) -> Report:
    """A report with one exchange of 4 ms, sent now; its times are ms since the recorder's start."""
    now_ms = (voice.clock.now_ns - START_NS) / 1e6
    on_server_ms = voice.clock.now_ns / 1e6 - 10
    exchange = [AHEAD_MS + now_ms - 12, on_server_ms, on_server_ms, AHEAD_MS + now_ms - 8]
    marks = {name: AHEAD_MS + at for name, at in fields.pop("marks", {}).items()}
    barge_in = [
        {"phase": phase, "start_ms": AHEAD_MS + start, "end_ms": AHEAD_MS + end}
        for phase, start, end in fields.pop("barge_in", [])
    ]
    turn = {"turn": 1, "traceparent": traceparent, "marks": marks, "barge_in": barge_in}
    clock = {"server": server, "exchanges": [exchange]}
    return Report.model_validate(
        {
            "version": 1,
            "client": "0" * 32,
            "number": 1,
            "sent_ms": AHEAD_MS + now_ms,
            "clocks": [clock],
            "turns": [turn],
        }
        | fields
    )


def replying(voice: VoiceRecorder, session: Any, seconds: float) -> Turn:
    """A turn: speech from 0 to 1000 ms, its reply sent at 1500 ms."""
    turn: Turn = session.user_turn()
    voice.clock.to(1000)
    turn.speech_ended(at=voice.clock.now_ns)
    turn.committed()
    voice.clock.to(1500)
    turn.audio_sent(seconds)
    return turn


def test_the_ear_of_a_client_five_hours_ahead(voice: VoiceRecorder) -> None:
    """Playback is where the client heard it, with the bound of the translation; its end is the last sample played."""
    known = Known()
    with voice.session() as session:
        turn = replying(voice, session, 2.0)
        known.turns.append(turn)
        joining = Joining(known, voice.clock.monotonic_ns, SERVER)
        voice.clock.to(1800)
        joining.take(report(voice, turn.traceparent, marks={"playback_start": 1600.0}))
        voice.clock.to(4300)
        # silent 200 ms before the last sample: speech ends in silence
        joining.take(report(voice, turn.traceparent, marks={"playback_end": 3400.0}))
    spans = {span.name: span for span in voice.turns[0].spans}
    response, playback = spans[n.SPAN_RESPONSE], spans[n.SPAN_PLAYBACK]
    assert response.end_ns - response.start_ns == 600_000_000
    assert response.attributes[n.VOICE_MEASUREMENT_POINT] == "client"
    assert response.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S] == pytest.approx(0.002 + 0.2 * 200e-6, abs=1e-4)
    assert playback.end_ns - response.end_ns == 2_000_000_000
    assert n.VOICE_PLAYBACK_ESTIMATED not in playback.attributes


def test_what_a_gateway_was_off_is_in_the_bound(voice: VoiceRecorder) -> None:
    """Marks that were translated once before are off by both translations: the span's bound is their sum."""
    known = Known()
    with voice.session() as session:
        turn = replying(voice, session, 2.0)
        known.turns.append(turn)
        voice.clock.to(1800)
        said = {"turn": 1, "traceparent": turn.traceparent, "marks": {"playback_start": AHEAD_MS + 1600}, "error_ms": 7}
        Joining(known, voice.clock.monotonic_ns, SERVER).take(report(voice, turn.traceparent, turns=[said]))
    response = next(span for span in voice.turns[0].spans if span.name == n.SPAN_RESPONSE)
    marked = next(event for event in voice.turns[0].spans[0].events if event.name == n.EVENT_CLIENT_MARK)
    assert response.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S] == pytest.approx(0.007 + 0.002, abs=1e-4)
    assert marked.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S] == pytest.approx(0.007 + 0.002, abs=1e-4)


def test_a_barge_in_that_the_client_has_seen(voice: VoiceRecorder) -> None:
    """The phases start at the client's detection; the interrupted turn was heard as long as the client says."""
    known = Known()
    with voice.session() as session:
        turn = replying(voice, session, 5.0)
        known.turns.append(turn)
        joining = Joining(known, voice.clock.monotonic_ns, SERVER)
        voice.clock.to(1600)
        joining.take(report(voice, turn.traceparent, marks={"playback_start": 1500.0}))
        voice.clock.to(3000)
        speech = session.user_turn(at=voice.clock.at(2400))
        phases = [("playback_stop", 2500.0, 2530.0), ("server_cancel", 2500.0, 2560.0), ("total", 2500.0, 2570.0)]
        joining.take(report(voice, turn.traceparent, marks={"playback_end": 2530.0}, barge_in=phases))
        speech.committed()
    spans = [span for span in voice.turns[0].spans if span.name == n.SPAN_BARGE_IN]
    lengths = {span.attributes[n.VOICE_BARGE_IN_PHASE]: (span.end_ns - span.start_ns) // 1_000_000 for span in spans}
    assert lengths == {"playback_stop": 30, "server_cancel": 60, "total": 130}
    assert voice.turns[0].outcome == "interrupted"
    playback = next(span for span in voice.turns[0].spans if span.name == n.SPAN_PLAYBACK)
    assert playback.attributes[n.VOICE_PLAYBACK_HEARD_S] == pytest.approx(1.03)


def interrupted(voice: VoiceRecorder, session: Session, *, reports: bool = True) -> Turn:
    """A turn that the user has interrupted, at 3000 ms; a client that reports has not told of it yet."""
    turn = replying(voice, session, 5.0)
    if reports:
        turn.audio_heard(at=voice.clock.at(1500))
    voice.clock.to(2600)
    speech = session.user_turn(at=voice.clock.at(2400))
    turn.audio_cleared()
    voice.clock.to(3000)
    speech.committed()
    return turn


def test_an_interrupted_turn_waits_for_its_client(voice: VoiceRecorder) -> None:
    """A client that was offline tells of the interruption after the next utterance was understood: it is in the turn.

    What comes in a second report right behind is in it, too. Of what both have seen the client's word counts.
    """
    known = Known()
    with voice.session() as session:
        turn = interrupted(voice, session)
        turn.barge_in("server_cancel")
        known.turns.append(turn)
        joining = Joining(known, voice.clock.monotonic_ns, SERVER)
        voice.clock.to(4000)
        session.close_if_due(turn, voice.clock.now_ns)
        joining.take(report(voice, turn.traceparent, marks={"playback_end": 2530.0}))
        session.close_if_due(turn, voice.clock.now_ns)
        voice.clock.to(4020)
        seen = [("playback_stop", 2500.0, 2530.0), ("server_cancel", 2500.0, 2531.0)]
        joining.take(report(voice, turn.traceparent, marks={"response_complete": 2540.0}, barge_in=seen))
        voice.clock.to(4600)
        session.close_if_due(turn, voice.clock.now_ns)
        assert not turn.open
    told = voice.turns[0]
    marks = {
        event.attributes[n.VOICE_CLIENT_MARK] for event in told.spans[0].events if event.name == n.EVENT_CLIENT_MARK
    }
    assert marks == {"playback_end", "response_complete"}
    assert told.outcome == "interrupted"
    phases = {span.attributes[n.VOICE_BARGE_IN_PHASE]: span for span in told.spans if span.name == n.SPAN_BARGE_IN}
    assert (phases["server_cancel"].end_ns - told.spans[0].start_ns) / 1_000_000 == 2531
    assert phases["server_cancel"].attributes[n.VOICE_MEASUREMENT_POINT] == "client"
    assert (told.spans[0].end_ns - told.spans[0].start_ns) / 1_000_000 == 2531


def test_an_interrupted_turn_waits_no_longer_than_two_seconds(voice: VoiceRecorder) -> None:
    """A client that never tells of the interruption keeps the turn open for so long, and no longer."""
    with voice.session() as session:
        turn = interrupted(voice, session)
        voice.clock.to(4990)
        session.close_if_due(turn, voice.clock.now_ns)
        assert turn.open
        voice.clock.to(5000)
        session.close_if_due(turn, voice.clock.now_ns)
        assert not turn.open
    assert voice.turns[0].outcome == "interrupted"


def test_a_turn_that_waits_for_its_client_is_not_what_is_worked_on(voice: VoiceRecorder) -> None:
    """When the next turn is over before the client has told of the one before, the session has no turn any more."""
    with voice.session() as session:
        turn = interrupted(voice, session)
        successor = session.turn
        assert successor is not None
        assert successor is not turn
        successor.suppressed()
        successor.end()
        session.close_if_due(successor, voice.clock.now_ns)
        assert (successor.open, turn.open) == (False, True)
        assert session.turn is session.replying is None
        assert session.user_turn().over is None


def test_an_interrupted_turn_waits_for_no_client_that_does_not_report(voice: VoiceRecorder) -> None:
    """Where no client reports, an interrupted turn is over as soon as the next utterance is committed."""
    with voice.session() as session:
        assert not interrupted(voice, session, reports=False).open
    assert voice.turns[0].outcome == "interrupted"


def test_who_has_seen_a_phase(voice: VoiceRecorder) -> None:
    """What the client has measured says so, and so does the total that follows from it; the worker's pause does not."""
    known = Known()
    with voice.session() as session:
        turn = replying(voice, session, 5.0)
        known.turns.append(turn)
        joining = Joining(known, voice.clock.monotonic_ns, SERVER)
        voice.clock.to(3000)
        speech = session.user_turn(at=voice.clock.at(2400))
        phases = [("playback_stop", 2500.0, 2530.0), ("server_cancel", 2500.0, 2560.0)]
        joining.take(report(voice, turn.traceparent, barge_in=phases))
        turn.barge_in("worker_pause")
        turn.audio_cleared()
        speech.committed()
    told = next(each for each in voice.turns if each.outcome == "interrupted")
    spans = [span for span in told.spans if span.name == n.SPAN_BARGE_IN]
    points = {span.attributes[n.VOICE_BARGE_IN_PHASE]: span.attributes[n.VOICE_MEASUREMENT_POINT] for span in spans}
    assert points == {
        "playback_stop": "client", "server_cancel": "client", "total": "client", "worker_pause": "server"
    }  # fmt: skip


def test_a_report_that_comes_after_the_reply_went_on(voice: VoiceRecorder) -> None:
    """A client that tells late of the silence that was a false interruption makes no interruption of it."""
    known = Known()
    with voice.session() as session:
        turn = replying(voice, session, 5.0)
        known.turns.append(turn)
        joining = Joining(known, voice.clock.monotonic_ns, SERVER)
        voice.clock.to(2500)
        speech = session.user_turn(at=voice.clock.at(2400))
        turn.interrupted()
        turn.audio_paused()
        voice.clock.to(3200)
        turn.audio_resumed()
        speech.dismissed()
        phases = [("playback_stop", 2500.0, 2530.0), ("server_cancel", 2500.0, 2531.0)]
        joining.take(report(voice, turn.traceparent, marks={"playback_end": 2530.0}, barge_in=phases))
        assert turn.record.barge_in is None
        assert turn.record.playback.stopped_ns is None
        voice.clock.to(9000)
        turn.end()
    assert voice.turns[0].outcome == "completed"


def test_an_unknown_turn_is_waited_for(voice: VoiceRecorder) -> None:
    """Marks of a turn that comes to be known are given to it; after a while they are dropped and counted."""
    known = Known()
    with voice.session() as session:
        turn = replying(voice, session, 2.0)
        joining = Joining(known, voice.clock.monotonic_ns, SERVER)
        voice.clock.to(1700)
        joining.take(report(voice, turn.traceparent, marks={"playback_start": 1600.0}))
        assert len(joining) == 1
        known.turns.append(turn)
        joining.retry()
        assert (len(joining), turn.record.playback.heard_ns) == (0, voice.clock.at(1600))
        other = f"00-{9:032x}-{9:016x}-01"
        joining.take(report(voice, other, marks={"playback_start": 1600.0}))
        voice.clock.advance(s=3.1)
        joining.retry()
        assert len(joining) == 0
    assert diagnostics.counters.get("client.unknown_turn") == 1


def test_what_waits_is_bounded(voice: VoiceRecorder) -> None:
    """However many unknown turns are reported, no more wait than there is room for."""
    joining = Joining(Known(), voice.clock.monotonic_ns, SERVER)
    voice.clock.to(1000)
    for number in range(1, MAX_WAITING + 20):
        joining.take(report(voice, f"00-{number:032x}-{number:016x}-01", marks={"speech_start": 10.0}))
    assert len(joining) == MAX_WAITING
    assert diagnostics.counters.get("client.waiting_full") == 19


@pytest.mark.parametrize("wrong", ["span", "machine", "future"])
def test_what_cannot_be_placed_changes_nothing(voice: VoiceRecorder, wrong: str) -> None:
    """A guessed span id, another machine's clock, or an answer from the future moves nothing in a turn."""
    known = Known()
    with voice.session() as session:
        turn = replying(voice, session, 2.0)
        known.turns.append(turn)
        joining = Joining(known, voice.clock.monotonic_ns, SERVER)
        voice.clock.to(1700)
        name = turn.traceparent if wrong != "span" else f"00-{turn.trace_id:032x}-{7:016x}-01"
        said = report(voice, name, server="other" if wrong == "machine" else SERVER, marks={"playback_start": 1600.0})
        if wrong == "future":
            voice.clock.now_ns -= 100_000_000
        joining.take(said)
        assert turn.record.playback.heard_ns is None
        assert not session.reports


def test_the_network_of_a_report(voice: VoiceRecorder) -> None:
    """Statistics that come with a turn's marks are its network's: half the round trip is the delay."""
    known = Known()
    with voice.session() as session:
        turn = replying(voice, session, 2.0)
        known.turns.append(turn)
        voice.clock.to(1700)
        network = {"jitter_ms": 10.0, "loss": 0.0, "round_trip_ms": 80.0}
        Joining(known, voice.clock.monotonic_ns, SERVER).take(
            report(voice, turn.traceparent, marks={"playback_start": 1600.0}, network=network)
        )
    playback = next(span for span in voice.turns[0].spans if span.name == n.SPAN_PLAYBACK)
    assert (playback.attributes[n.VOICE_AUDIO_JITTER_S], playback.attributes[n.VOICE_AUDIO_DELAY_S]) == (0.01, 0.04)
