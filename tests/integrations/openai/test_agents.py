"""Realtime sessions of the unmodified Agents SDK, which has a socket of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents import function_tool
from agents.realtime import (
    RealtimeAgent,
    RealtimeModelSendRawMessage,
    RealtimePlaybackTracker,
    RealtimeRunner,
    realtime_handoff,
)
from opentelemetry import trace

from .world import Answer, Call, names, phases

if TYPE_CHECKING:
    from .conftest import Turns

pytestmark = pytest.mark.alone

SETTINGS: dict[str, Any] = {
    "model_name": "gpt-realtime",
    "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 400}}},
}
CAREFUL = {"type": "server_vad", "silence_duration_ms": 400, "create_response": False, "interrupt_response": False}
"""The service decides what is answered, by the transcript."""


class Service:
    """A service as the SDK's users write them."""

    def __init__(
        self, agent: RealtimeAgent[Any], tracker: RealtimePlaybackTracker | None = None, *, careful: bool = False
    ) -> None:
        self.agent, self.tracker, self.careful = agent, tracker, careful
        self.failures: list[Any] = []

    async def __call__(self, call: Call) -> None:
        config: Any = {
            "api_key": "none", "url": call.server.url + "/realtime", "initial_model_settings": SETTINGS,
        }  # fmt: skip
        if self.tracker is not None:
            config["playback_tracker"] = self.tracker
        if self.careful:
            config["initial_model_settings"] = {**SETTINGS, "audio": {"input": {"turn_detection": CAREFUL}}}
        async with await RealtimeRunner(self.agent).run(model_config=config) as session:
            microphone = asyncio.create_task(self._listen(session, call))
            try:
                async for event in session:
                    if event.type == "audio":
                        call.line.play(event.item_id, event.audio.data)
                    elif event.type == "audio_interrupted":
                        call.line.stop()
                    elif event.type == "error":
                        self.failures.append(event.error)
                    elif self.careful and event.type == "raw_model_event" and event.data.type == "raw_server_event":
                        await self._decide(session, event.data.data, call)
            finally:
                microphone.cancel()

    async def _decide(self, session: Any, told: dict[str, Any], call: Call) -> None:
        """Answer what has words, and forget a sound that has none where it has stopped the agent."""
        message: Any = None
        if told["type"] != "conversation.item.input_audio_transcription.completed":
            return
        if told["transcript"]:
            message = {"type": "response.create"}
        elif call.journal.notes["quiet"]:
            message = {"type": "conversation.item.delete", "other_data": {"item_id": told["item_id"]}}
        if message is not None:
            await session.model.send_event(RealtimeModelSendRawMessage(message=message))

    async def _listen(self, session: Any, call: Call) -> None:
        played_ms = 0
        async for frame in call.line.microphone():
            await session.send_audio(frame)
            line = call.line
            if self.tracker is not None and line.item is not None and line.played_ms > played_ms:
                self.tracker.on_play_ms(line.item, 0, line.played_ms - played_ms)
                played_ms = line.played_ms


async def test_a_plain_answer(turns: Turns) -> None:
    """One utterance is one complete turn, by the same names and the same clock as over the client."""
    service = Service(RealtimeAgent(name="desk"))
    async with Call(Answer(1.0)).held(service) as call:
        await call.ask()
        await call.journal.wait("played out")
        (turn,) = await turns.wait(1)
    assert service.failures == []
    call.assert_answered(turn)
    call.assert_span(turn["realtime"], "request", "response done")
    call.assert_span(turn["playback"], "heard", "played out")
    assert turn.outcome == "completed"
    assert turn.root.attributes["session.id"] == "sess_1"
    assert turn["realtime"].attributes["gen_ai.usage.output_tokens"] == 10
    assert turn["playback"].attributes["voice.playback.estimated"] is True


async def test_a_tool(turns: Turns) -> None:
    """A function of an agent is a stage, current while it runs, between two responses of one turn."""
    current: list[int] = []

    @function_tool
    async def get_weather(place: str) -> str:
        """Look up the weather."""
        current.append(trace.get_current_span().get_span_context().span_id)
        await asyncio.sleep(0.3)
        return f"nine degrees in {place}"

    service = Service(RealtimeAgent(name="desk", tools=[get_weather]))
    async with Call(Answer(call=("get_weather", {"place": "Oslo"})), Answer(1.0)).held(service) as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    assert service.failures == []
    tool = turn["execute_tool get_weather"]
    call.assert_span(tool, "call", "result")
    assert current == [tool.span_id]
    first, second = turn.all("realtime")
    call.assert_span(first, "request", "response done")
    call.assert_span(second, ("request", 1), ("response done", 1))
    assert turn.shares["tool"] == pytest.approx(0.3, abs=call.tolerance_ms / 1e3)
    assert turn.outcome == "completed"


async def test_a_barge_in(turns: Turns) -> None:
    """Speech over the agent interrupts its turn, until the SDK has cut what was playing."""
    service = Service(RealtimeAgent(name="desk"))
    async with Call(Answer(3.0), Answer(0.6)).held(service) as call:
        await call.ask()
        await asyncio.sleep(0.5)
        await call.ask()
        first, second = await turns.wait(2)
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    call.assert_span(phases(first)["total"], ("speech", 1), "quiet")
    call.assert_span(first["playback"], "heard", "quiet")
    call.assert_answered(second, 1)


async def test_a_false_interruption(turns: Turns) -> None:
    """A cough always silences the SDK: it cuts the turn that it stops, from its onset, and is no turn of its own."""
    service = Service(RealtimeAgent(name="desk"), careful=True)
    async with Call(Answer(3.0), transcripts=["how cold is it", ""]).held(service) as call:
        await call.ask()
        await asyncio.sleep(0.5)
        await call.speak(0.3)
        await call.journal.wait("transcript", 2)
        await asyncio.sleep(0.2)
    assert service.failures == []
    (turn,) = await turns.wait(1)
    assert turn.outcome == "interrupted"
    call.assert_span(phases(turn)["total"], ("speech", 1), "quiet")
    call.assert_span(turn["playback"], "heard", "quiet")
    call.assert_span(turn["vad.endpoint"], "silence", "transcript")
    call.assert_span(turn["realtime"], "transcript", "response done")
    call.assert_span(turn["voice.response"], "silence", "heard")


async def test_a_cough_before_the_first_audio(turns: Turns) -> None:
    """A cough over a silent agent stops nothing: the answer that was being made is heard, and its turn is whole."""
    service = Service(RealtimeAgent(name="desk"), careful=True)
    async with Call(Answer(0.6, wait_s=1.4), transcripts=["how cold is it", ""]).held(service) as call:
        await call.speak()
        await call.journal.wait("request")
        await call.speak(0.3)
        await call.journal.wait("played out")
        await asyncio.sleep(0.2)
    assert service.failures == []
    (turn,) = await turns.wait(1)
    assert turn.outcome == "completed"
    assert "barge_in" not in names(turn)
    call.assert_span(turn["realtime"], "transcript", "response done")
    call.assert_span(turn["voice.response"], "silence", "heard")
    call.assert_span(turn["playback"], "heard", "played out")


async def test_a_hand_over(turns: Turns) -> None:
    """Another agent that takes over within a turn is an event, and the turn's later stages carry its name."""
    billing = RealtimeAgent(name="billing")
    desk = RealtimeAgent(name="desk", handoffs=[realtime_handoff(billing)])
    service = Service(desk)
    async with Call(Answer(call=("transfer_to_billing", {})), Answer(0.6)).held(service) as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    assert service.failures == []
    (event,) = [event for event in turn.root.events if event.name == "voice.handoff"]
    assert event.attributes["gen_ai.agent.name"] == "billing"
    first, second = turn.all("realtime")
    assert "gen_ai.agent.name" not in first.attributes
    assert second.attributes["gen_ai.agent.name"] == "billing"
    assert turn.outcome == "completed"


async def test_a_player_that_tells(turns: Turns) -> None:
    """A playback tracker is the client's own report: the first and the last sample were heard when it says so."""
    tracker = RealtimePlaybackTracker()
    async with Call(Answer(1.0)).held(Service(RealtimeAgent(name="desk"), tracker)) as call:
        await call.ask()
        await call.journal.wait("played out")
        (turn,) = await turns.wait(1)
    assert turn["playback"].attributes["voice.measurement.point"] == "client"
    assert "voice.playback.estimated" not in turn["playback"].attributes
    call.assert_span(turn["playback"], "heard", "played out")
    call.assert_span(turn["voice.response"], "silence", "heard")


async def test_a_provider_error(turns: Turns) -> None:
    """A response that fails is the turn's error; the connection goes on, and so does the next turn."""
    async with Call(Answer(error="server_error"), Answer(0.6)).held(Service(RealtimeAgent(name="desk"))) as call:
        await call.speak()
        await call.journal.wait("response done")
        await asyncio.sleep(0.2)
        await call.ask()
        first, second = await turns.wait(2)
    assert (first.outcome, first.root.attributes["error.type"]) == ("error", "server_error")
    assert second.outcome == "completed"
    assert not names(first) & {"realtime.first_audio", "playback"}


async def test_an_abort_before_the_first_audio(turns: Turns) -> None:
    """Speech before any audio supersedes the turn, which reports no audio and no interruption."""
    async with Call(Answer(wait_s=5), Answer(0.6)).held(Service(RealtimeAgent(name="desk"))) as call:
        await call.speak()
        await call.journal.wait("request")
        await asyncio.sleep(0.3)
        await call.ask()
        first, second = await turns.wait(2)
    assert (first.outcome, first.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "superseded")
    assert not names(first) & {"realtime.first_audio", "playback", "voice.response", "barge_in"}
    call.assert_span(first["voice.unanswered"], "silence", ("speech", 1))
    call.assert_span(second["voice.response"], ("silence", 1), "heard")
    assert second.outcome == "completed"


async def test_two_calls_at_once(turns: Turns) -> None:
    """Two sessions in one process keep their turns apart, each with its own times."""

    async def one(wait_s: float, call: Call) -> None:
        async with call.held(Service(RealtimeAgent(name="desk"))):
            await asyncio.sleep(wait_s)
            await call.ask()
            await call.journal.wait("played out")
            await asyncio.sleep(0.3)

    first, second = Call(Answer(0.8)), Call(Answer(1.2))
    second.server.calls = 1
    await asyncio.gather(one(0, first), one(0.25, second))
    found = {turn.root.attributes["session.id"]: turn for turn in await turns.wait(2)}
    first.assert_answered(found["sess_1"])
    second.assert_answered(found["sess_2"])
    assert {turn.outcome for turn in found.values()} == {"completed"}


async def test_a_typed_message(turns: Turns) -> None:
    """A message that is written has its turn from the moment when it was sent."""
    done = asyncio.Event()

    async def service(call: Call) -> None:
        config: Any = {"api_key": "none", "url": call.server.url, "initial_model_settings": SETTINGS}
        async with await RealtimeRunner(RealtimeAgent(name="desk")).run(model_config=config) as session:
            await asyncio.sleep(0.2)
            call.journal.note("typed")
            await session.send_message("How cold is it?")
            async for event in session:
                if event.type == "audio":
                    call.journal.note("audio")
            done.set()

    async with Call(Answer(0.6)).held(service) as call:
        (turn,) = await turns.wait(1)
    assert turn.root.attributes["voice.turn.input"] == "text"
    call.assert_span(turn["voice.response"], "typed", "audio")
    assert turn.outcome == "completed"
