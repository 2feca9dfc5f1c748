"""What a turn in progress waits for: turns are marked by the public interface, and read as a viewer reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from voicespan.local.open_turn import OpenTurn
from voicespan.local.waiting import lost, waiting
from voicespan.progress import MAX_STAGES, progress
from voicespan.testing import EPOCH_NS, START_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan import Session, Turn
    from voicespan.testing import VoiceRecorder

EPOCH_S = EPOCH_NS // 10**9


def told(turn: Turn) -> OpenTurn:
    """The turn as it comes out of the request's JSON."""
    return OpenTurn.read(json.loads(json.dumps(progress(turn.record))))


def says(voice: VoiceRecorder, turn: Turn) -> str:
    """The sentence now."""
    now_s = EPOCH_S + (voice.clock.now_ns - START_NS) / 1e9
    return waiting(told(turn), now_s).sentence(now_s)


def committed(voice: VoiceRecorder, session: Session) -> Turn:
    """A turn whose user has spoken for a second, decided 0.2 s later."""
    turn = session.user_turn()
    voice.clock.advance(s=1)
    turn.speech_ended(at=voice.clock.now_ns)
    voice.clock.advance(s=0.2)
    turn.committed()
    return turn


def test_before_the_decision(voice: VoiceRecorder) -> None:
    """Before the commit a turn hears the user, then waits for the decision since the real end of speech."""
    with voice.session() as session:
        turn = session.user_turn()
        voice.clock.advance(s=2)
        assert says(voice, turn) == "Hears the user speak, 2.0 s so far."
        turn.speech_ended(at=voice.clock.now_ns)
        voice.clock.advance(s=0.7)
        assert says(voice, turn) == "Waits for the turn decision, for 0.7 s."
        turn.committed()
        voice.clock.advance(s=3)
        assert says(voice, turn) == "Waits for a stage to begin, for 3.0 s."


def hangs_in_asr(turn: Turn) -> None:
    turn.asr(model="vosk")


def hangs_in_llm(turn: Turn) -> None:
    turn.llm(model="gpt-x")


def hangs_behind_speculation(turn: Turn) -> None:
    turn.llm(model="gpt-x")
    turn.llm(model="guess").discarded()


def hangs_in_tool(turn: Turn) -> None:
    with turn.llm(model="gpt-x") as llm:
        llm.token()
    turn.tool("send_mail", background=True)
    turn.tool("get_weather")


def hangs_after_token(turn: Turn) -> None:
    turn.llm(model="gpt-x").token()


def hangs_in_tts(turn: Turn) -> None:
    llm = turn.llm(model="gpt-x")
    llm.token()
    llm.sentence()
    turn.tts(voice="amy", text="Yes.")


def hangs_before_text(turn: Turn) -> None:
    turn.llm(model="gpt-x")
    turn.tts(voice="amy")


def hangs_without_text(turn: Turn) -> None:
    turn.tts(model="cosy")


def hangs_before_sending(turn: Turn) -> None:
    turn.tts(voice="amy", text="Yes.").audio(0.02)


def hangs_after_synthesis(turn: Turn) -> None:
    with turn.tts(voice="amy", text="Yes.") as tts:
        tts.audio(0.02)


def hangs_in_realtime(turn: Turn) -> None:
    turn.realtime(model="gpt-realtime")


def hangs_after_failure(turn: Turn) -> None:
    with turn.llm(model="gpt-x") as llm:
        llm.fail("RateLimitError")


def hangs_between(turn: Turn) -> None:
    with turn.llm(model="gpt-x") as llm:
        llm.token()


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        (hangs_in_asr, "Waits for the transcript of vosk, for 4.0 s."),
        (hangs_in_llm, "Waits for the first token of gpt-x, for 4.0 s."),
        (hangs_behind_speculation, "Waits for the first token of gpt-x, for 4.0 s."),
        (hangs_in_tool, "Waits for the tool get_weather, for 4.0 s."),
        (hangs_after_token, "Waits for a whole sentence of gpt-x, for 4.0 s."),
        (hangs_in_tts, "Waits for the first sound of tts amy, for 4.0 s."),
        (hangs_before_text, "Waits for the first token of gpt-x, for 4.0 s."),
        (hangs_without_text, "Waits for the first sound of tts cosy, for 4.0 s."),
        (hangs_before_sending, "Waits for audio to leave the server, for 4.0 s."),
        (hangs_after_synthesis, "Waits for audio to leave the server, for 4.0 s."),
        (hangs_in_realtime, "Waits for the first sound of realtime gpt-realtime, for 4.0 s."),
        (hangs_after_failure, "Waits for another attempt: llm gpt-x failed (RateLimitError), for 4.0 s."),
        (hangs_between, "Waits for the next stage: nothing runs since llm gpt-x ended, for 4.0 s."),
    ],
)
def test_a_hung_stage_is_named(voice: VoiceRecorder, mark: Callable[[Turn], None], sentence: str) -> None:
    """Before anything is heard, the sentence names the stage that holds the reply up, and for how long."""
    with voice.session() as session:
        turn = committed(voice, session)
        mark(turn)
        voice.clock.advance(s=4)
        assert says(voice, turn) == sentence


def test_while_it_plays(voice: VoiceRecorder) -> None:
    """While audio plays the turn says for how long; then what it still waits for, or that it is played out."""
    with voice.session() as session:
        turn = committed(voice, session)
        tts = turn.tts(voice="amy", text="Yes.")
        tts.audio(2.0)
        turn.audio_sent(2.0)
        voice.clock.advance(s=0.1)
        turn.audio_heard()
        voice.clock.advance(s=1.5)
        assert says(voice, turn) == "Plays, 1.5 s so far."
        voice.clock.advance(s=0.55)
        assert says(voice, turn) == "Plays, 2.0 s so far."  # no gap yet that anybody would hear
        voice.clock.advance(s=0.95)
        assert says(voice, turn) == "Waits for more sound of tts amy, for 1.0 s."
        tts.end()
        assert says(voice, turn) == "Is played out, for 1.0 s."


def test_behind_a_filler(voice: VoiceRecorder) -> None:
    """A filler that plays does not hide what the answer waits for."""
    with voice.session() as session:
        turn = committed(voice, session)
        turn.tool("get_weather")
        with turn.tts(voice="amy", text="One moment.", filler=True) as tts:
            tts.audio(1.0)
            turn.audio_sent(1.0)
        voice.clock.advance(s=0.4)
        assert says(voice, turn) == "Plays a filler and waits for the tool get_weather, 0.4 s so far."
        voice.clock.advance(s=1.6)
        assert says(voice, turn) == "Waits for the tool get_weather, for 2.0 s."


def test_while_the_user_speaks_over_it(voice: VoiceRecorder) -> None:
    """A reply that is held back or stopped by the user's speech says so."""
    with voice.session() as session:
        turn = committed(voice, session)
        with turn.tts(voice="amy", text="Yes.") as tts:
            tts.audio(5.0)
            turn.audio_sent(5.0)
        voice.clock.advance(s=1)
        turn.audio_paused()
        voice.clock.advance(s=0.3)
        assert says(voice, turn) == "Holds its reply back, because the user speaks, for 0.3 s."
        turn.audio_resumed()
        session.user_turn()
        turn.audio_cleared()
        voice.clock.advance(s=0.6)
        assert says(voice, turn) == "Is interrupted; waits for what the user says, for 0.6 s."


def test_the_agents_own_turn(voice: VoiceRecorder) -> None:
    """A turn that the agent begins waits for no decision."""
    with voice.session() as session:
        turn = session.agent_turn(trigger="greeting")
        turn.tts(voice="amy", text="Hello.")
        voice.clock.advance(s=1)
        assert says(voice, turn) == "Waits for the first sound of tts amy, for 1.0 s."


def test_lost(voice: VoiceRecorder) -> None:
    """Of a process that fell silent the last state is told, with the time for which it had lasted then."""
    with voice.session() as session:
        turn = committed(voice, session)
        turn.llm(model="gpt-x")
        words = lost(told(turn), EPOCH_S + 3.2, 12.4)
    assert words == (
        "Its process fell silent 12 s ago: killed, or stopped. The last it told: waits for the first token of gpt-x, "
        "for 2.0 s."
    )


def test_progress_says_nothing_that_was_said(voice: VoiceRecorder) -> None:
    """What is told of an open turn has its ids, marks and stages, of many stages the last, and no text of the turn."""
    with voice.session("call-1", attributes={"note": "my secret"}) as session:
        turn = committed(voice, session)
        for number in range(MAX_STAGES + 5):
            turn.tool(f"tool-{number}").end()
        turn.tts(voice="amy", text="my secret").set("prompt", "my secret")
        plain = progress(turn.record)
    assert plain["stages"][-2]["label"] == f"tool-{MAX_STAGES + 4}"
    assert len(plain["stages"]) == MAX_STAGES
    assert (plain["session_id"], plain["turn_index"], plain["initiator"], plain["input"]) == (
        "call-1",
        1,
        "user",
        "speech",
    )
    assert plain["start_s"] == EPOCH_S
    assert plain["marks"] == [{"name": "speech_end", "at_s": EPOCH_S + 1}, {"name": "committed", "at_s": EPOCH_S + 1.2}]
    assert "my secret" not in json.dumps(plain)


BAD: list[Any] = [
    None, [], "turn", {}, {"trace_id": "AB" * 16, "start_s": 1}, {"trace_id": 7, "start_s": 1},
    {"trace_id": "ab" * 16}, {"trace_id": "ab" * 16, "start_s": "now"}, {"trace_id": "ab" * 16, "start_s": 10**400},
    {"trace_id": "ab" * 16, "start_s": float("nan")}, {"trace_id": "ab" * 16, "start_s": True},
    {"trace_id": "ab" * 16, "start_s": 1, "marks": {}}, {"trace_id": "ab" * 16, "start_s": 1, "marks": [{"name": "x"}]},
    {"trace_id": "ab" * 16, "start_s": 1, "stages": [3]}, {"trace_id": "ab" * 16, "start_s": 1, "session_id": []},
]  # fmt: skip


@pytest.mark.parametrize("told", BAD)
def test_what_is_no_turn_is_refused(told: object) -> None:
    """What no service of ours would tell is a ValueError, whatever its types."""
    with pytest.raises(ValueError, match=r"no |should be"):
        OpenTurn.read(told)


def test_texts_of_a_turn_are_bounded() -> None:
    """Long texts are cut, and half a character, which JSON lets through, can be shown all the same."""
    turn = OpenTurn.read(
        {"trace_id": "ab" * 16, "start_s": 1, "session_id": "\ud800" + "x" * 500, "turn_index": 1 << 70}
    )
    assert turn.session_id is not None
    assert len(turn.session_id.encode()) == 200
    assert turn.turn_index is None
