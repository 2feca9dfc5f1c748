"""Less usual calls: other detectors, tools that take long, agents within tools, audio that is not synthesized."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

from livekit import rtc
from livekit.agents import Agent, AgentSession, AgentTask, CloseReason, RunContext, StopResponse, function_tool, stt
from livekit.agents.voice import io

from voicespan.integrations.livekit import conversation, reply

from .conftest import calling
from .test_turns import AGAIN, NINE, events, names, near, times, truly
from .world import RATE, SPEECH, Answer, Call, Model, Recognizer, Voice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from voicespan.testing import VoiceRecorder

    from .conftest import Turns

pytestmark = pytest.mark.alone


async def test_a_tool_outlives_its_turn(turns: Turns) -> None:
    """A tool that reports and goes on does not hold its turn; what it says later is a turn of the agent."""

    class Slow(Agent):
        @function_tool
        async def book(self, context: RunContext[None]) -> str:
            """Book a table."""
            await context.update("I am booking it.")
            await asyncio.sleep(3.0)
            call.truth.note("result")
            return "booked"

    answers = Answer(call=("book", {})), Answer("I am at it."), Answer("It is booked.")
    async with calling(*answers, agent=Slow(instructions="be brief"), turn_handling=AGAIN) as (call, _):
        await call.caller.speak(0.5, "book a table")
        await turns.wait(3, timeout_s=20)
    truth = call.truth
    first, late, said = turns.found
    late, said = (late, said) if late.late else (said, late)
    assert first.outcome == "completed"
    assert not first.all("execute_tool book")
    assert times(late, "execute_tool book") == truly(truth, "first token", "result")
    assert late.trace_id == first.trace_id
    assert said.root.attributes["voice.turn.trigger"] == "tool_result"
    links = {link.attributes["voice.link.type"]: link.context for link in said.root.links}
    assert links["tool"].span_id == late["execute_tool book"].span_id
    assert times(said, "playback") == truly(truth, ("heard", 1), ("played out", 1))


async def test_an_agent_within_a_tool(turns: Turns) -> None:
    """A conversation inside a tool is turns of its own, and none of them waits for the tool's end."""

    class Ask(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="ask for the name")

        async def on_enter(self) -> None:
            _ = self.session.say("What is your name?")

        @function_tool
        async def told(self, context: RunContext[None], name: str) -> None:
            """Take the name."""
            self.complete(name)

    class Desk(Agent):
        @function_tool
        async def register(self, context: RunContext[None]) -> str:
            """Register the caller."""
            return await Ask()

    answers = Answer(call=("register", {})), Answer(call=("told", {"name": "Ada"})), Answer("Welcome."), NINE
    async with calling(*answers, agent=Desk(instructions="be brief")) as (call, _):
        await call.caller.speak(0.5, "register me please")
        await turns.wait(1)
        await call.caller.speak(0.5, "I am Ada")
        await asyncio.sleep(2.5)
        await call.caller.speak(0.5, "how cold is it")
        await asyncio.sleep(4)
    whole = sorted((turn for turn in turns.found if not turn.late), key=lambda turn: turn.root.start_ns)
    assert [turn.outcome for turn in whole] == ["completed"] * 3
    truth = call.truth
    for index, turn in enumerate(whole):
        assert times(turn, "voice.response") == truly(truth, ("silence", index), ("heard", index)), index


async def test_the_recognizer_decides(turns: Turns) -> None:
    """Without a detector the recognizer's own onset, end and decision count."""

    class Deciding(Recognizer):
        """Also says when speech starts and ends."""

        def stream(self, **options: Any) -> stt.RecognizeStream:
            made = super().stream(**options)
            make_final = made._final  # type: ignore[attr-defined]

            def final(words: str) -> None:
                make_final(words)
                end_s = self.truth.at("silence", -1) / 1e9
                call.truth.note("decided")
                made._event_ch.send_nowait(stt.SpeechEvent(stt.SpeechEventType.END_OF_SPEECH, speech_end_time=end_s))

            made._final = final  # type: ignore[attr-defined]
            start_s = asyncio.get_running_loop().call_later
            self.announce: Callable[[], object] = lambda: start_s(
                0.1,
                lambda: made._event_ch.send_nowait(
                    stt.SpeechEvent(
                        stt.SpeechEventType.START_OF_SPEECH, speech_start_time=self.truth.at("speech", -1) / 1e9
                    )
                ),
            )
            return made

    call = Call()
    ears = Deciding(call.truth, call.caller)
    session: AgentSession[None] = AgentSession(
        stt=ears, vad=None, llm=Model(call.truth, NINE), tts=Voice(call.truth), aec_warmup_duration=None,
        turn_handling={"turn_detection": "stt", "endpointing": {"min_delay": 0.0}},
    )  # fmt: skip
    session.input.audio, session.output.audio = call.caller, call.line
    await session.start(Agent(instructions="be brief"))
    ears.announce()
    await call.caller.speak(0.6, "how cold is it")
    (turn,) = await turns.wait(1)
    await session.aclose()
    await call.close()
    truth = call.truth
    assert turn.outcome == "completed"
    assert times(turn, "vad") == truly(truth, "speech", "decided")
    assert times(turn, "asr") == truly(truth, "speech", "final")
    assert times(turn, "voice.response") == truly(truth, "silence", "heard")


async def test_audio_that_is_played(turns: Turns) -> None:
    """A recording that the service plays is a turn with playback and without synthesis."""

    async def recording() -> AsyncIterator[rtc.AudioFrame]:
        for _ in range(10):
            yield rtc.AudioFrame(SPEECH * 5, RATE, 1, RATE // 20)

    async with calling(NINE) as (call, session):
        _ = session.say("Hello.", audio=recording())
        (turn,) = await turns.wait(1)
    assert turn.outcome == "completed"
    assert times(turn, "playback") == truly(call.truth, "heard", "played out")
    assert turn["playback"].attributes["voice.playback.sent_s"] == pytest.approx(0.5)
    assert not names(turn) & {"tts", "llm"}


async def test_the_caller_leaves(turns: Turns) -> None:
    """A caller who hangs up in the silence was not answered, and the silence ends when he leaves."""
    async with calling(Answer("Never said.", ttft_s=5)) as (call, session):
        await call.caller.speak(0.5, "how cold is it")
        await asyncio.sleep(1.5)
        call.truth.note("left")
        await session._aclose_impl(reason=CloseReason.PARTICIPANT_DISCONNECTED)
        (turn,) = await turns.wait(1)
    assert (turn.outcome, turn.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "user_left")
    assert times(turn, "voice.unanswered") == truly(call.truth, "silence", "left")


async def test_speech_goes_on(turns: Turns) -> None:
    """A pause within an utterance is no end of it: one turn of two segments, whose answer counts from the last end."""
    async with calling(NINE, detector={"hangover_s": 0.1}) as (call, _):
        await call.caller.speak(0.5, "how cold")
        await asyncio.sleep(0.25)
        await call.caller.speak(0.5, "is it")
        (turn,) = await turns.wait(1)
    assert turn.root.attributes["voice.speech.segments"] == 2
    assert "voice.speech_resumed" in events(turn)
    assert times(turn, "vad") == (*truly(call.truth, "speech"), near(call.truth.at("silence", 1) + 450_000_000))
    assert times(turn, "voice.response") == truly(call.truth, ("silence", 1), "heard")


async def test_generation_is_stopped(turns: Turns) -> None:
    """When the user stops an agent that is still being written, the end of the writing is a phase of the reaction."""
    endless = Answer(" ".join(["It is nine."] * 40), token_s=0.1)
    async with calling(endless, NINE, voice={"seconds": 0.5}) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        await call.truth.happened("heard")
        await asyncio.sleep(0.5)
        await call.caller.speak(0.9, "stop")
        first, second = await turns.wait(2)
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    phases = {span.attributes["voice.barge_in.phase"]: span for span in first.all("barge_in")}
    assert set(phases) == {"total", "playback_stop", "server_cancel"}
    # It writes on until there are words.
    assert near(call.truth.at("final", 1)) == phases["server_cancel"].end_ns
    assert first["llm"].attributes["voice.stage.cancelled"] is True


async def test_words_instead_of_an_answer(turns: Turns) -> None:
    """A service that says something and asks for no answer has answered."""

    class Firm(Agent):
        async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
            _ = self.session.say("We are closed.")
            raise StopResponse

    async with calling(NINE, agent=Firm(instructions="")) as (call, _):
        await call.caller.speak(0.5, "hello")
        (turn,) = await turns.wait(1)
    assert turn.outcome == "completed"
    assert times(turn, "voice.response") == truly(call.truth, "silence", "heard")


async def test_an_output_around_another(turns: Turns) -> None:
    """When an output is put around the one that was listened to, as for a recording, audio is still counted once."""

    class Tap(io.AudioOutput):
        def __init__(self, inner: io.AudioOutput) -> None:
            capabilities = io.AudioOutputCapabilities(pause=True)
            super().__init__(label="tap", capabilities=capabilities, next_in_chain=inner, sample_rate=RATE)

        async def capture_frame(self, frame: rtc.AudioFrame) -> None:
            await super().capture_frame(frame)
            assert self.next_in_chain is not None
            await self.next_in_chain.capture_frame(frame)

        def flush(self) -> None:
            super().flush()
            assert self.next_in_chain is not None
            self.next_in_chain.flush()

        def clear_buffer(self) -> None:
            assert self.next_in_chain is not None
            self.next_in_chain.clear_buffer()

    async with calling(NINE) as (call, session):
        session.output.audio = Tap(call.line)
        await call.caller.speak(0.5, "how cold is it")
        (turn,) = await turns.wait(1)
    assert turn["playback"].attributes["voice.playback.sent_s"] == pytest.approx(0.6)
    assert times(turn, "playback") == truly(call.truth, "heard", "played out")


async def test_a_loop_that_is_kept_from_its_work(turns: Turns) -> None:
    """When the detector hears late because the loop was busy, the end of speech is still where it was."""
    async with calling(NINE, turn_handling=AGAIN) as (call, _):
        asyncio.get_running_loop().call_later(0.5 + 0.24, time.sleep, 0.15)
        await call.caller.speak(0.5, "how cold is it")
        (turn,) = await turns.wait(1)
    assert times(turn, "vad.endpoint")[0] == near(call.truth.at("silence"))


async def test_an_agent_that_only_writes(turns: Turns) -> None:
    """Nobody waits for sound where there is none: a session in text makes no turns, and they come back with sound."""
    async with calling(NINE, NINE, turn_handling=AGAIN) as (call, session):
        session.output.set_audio_enabled(False)
        await call.caller.speak(0.5, "how cold is it")
        await asyncio.sleep(2.5)
        session.output.set_audio_enabled(True)
        await call.caller.speak(0.5, "say that aloud")
        (turn,) = await turns.wait(1)
    assert turn.outcome == "completed"
    assert turn.root.attributes["voice.turn.index"] == 1
    assert len(turns.found) == 1


async def test_a_start_that_is_cancelled(turns: Turns) -> None:
    """The session of an `AgentSession` whose start is cancelled is over."""

    class Slow(Agent):
        async def on_enter(self) -> None:
            await asyncio.sleep(60)

    class Never(AgentSession[None]):
        async def _update_activity(self, *_: Any, **__: Any) -> None:
            await asyncio.sleep(60)

    session = Never(llm=Model(Call().truth))
    starting = asyncio.create_task(session.start(Slow(instructions="be brief")))
    await asyncio.sleep(0.1)
    talk = conversation._conversations[session]
    starting.cancel()
    await asyncio.wait({starting})
    assert talk.session.end_reason is not None
    assert turns.found == []


async def test_work_that_was_prepared_and_never_done(voice: VoiceRecorder) -> None:
    """What a speech has begun and not ended is over with the speech; the source of its text is closed."""
    turn = voice.session().agent_turn()
    made = reply.Reply(turn)
    made.generates("words-1", None)
    synthesis = made.synthesizes("voice-1", None, None)
    closed = []

    async def source() -> AsyncIterator[str]:
        try:
            yield "It "
            yield "is"
        finally:
            closed.append(True)

    text = synthesis.text(source())
    assert await anext(text) == "It "
    await text.aclose()  # type: ignore[attr-defined]
    assert closed == [True]
    made.end()
    assert [(stage.open, stage.cancelled) for stage in turn.record.stages] == [(False, True)] * 2
