"""Calls of an unmodified service over the client's realtime connection, against what really happened."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from voicespan.logs import JSONFormatter

from .world import Answer, Call, bot, names, phases

if TYPE_CHECKING:
    from .conftest import Turns

pytestmark = pytest.mark.alone

OPEN = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 400}}}}


@pytest.mark.covers("F-TR02", "F-TR15")
async def test_a_plain_answer(turns: Turns) -> None:
    """One utterance is one complete turn, on the clocks of the caller and not of the protocol."""
    async with Call(Answer(1.0)).held() as call:
        await call.ask()
        await call.journal.wait("played out")
        (turn,) = await turns.wait(1)
    call.assert_answered(turn)
    call.assert_span(turn["realtime"], "request", "response done")
    call.assert_span(turn["playback"], "heard", "played out")
    call.assert_span(turn["asr"], "committed", "transcript")
    call.assert_span(turn["asr.finalize"], "silence", "transcript")
    assert turn.outcome == "completed"
    assert turn.root.attributes["session.id"] == "sess_1"
    assert turn["realtime"].attributes.items() >= {
        "gen_ai.request.model": "gpt-realtime", "gen_ai.provider.name": "openai", "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 10, "voice.audio.duration_s": pytest.approx(1.0),
    }.items()  # fmt: skip
    assert turn["asr"].attributes["gen_ai.request.model"] == "gpt-4o-mini-transcribe"
    assert turn["playback"].attributes["voice.measurement.point"] == "server"
    assert turn["playback"].attributes["voice.playback.estimated"] is True
    assert not names(turn) & {"llm", "tts", "barge_in", "playback.gap", "voice.unanswered"}
    # The transcript is made beside the answer: the model did not wait for it.
    assert turn.shares["realtime"] == pytest.approx(0.3, abs=call.tolerance_ms / 1e3)
    assert "asr" not in turn.shares


@pytest.mark.covers("F-TR07", "B-T03")
async def test_a_tool(turns: Turns) -> None:
    """A function stands between two responses of one turn, from the model's word until its result is given back."""
    async with Call(Answer(call=("get_weather", {})), Answer(1.0)).held() as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    call.assert_at(turn["voice.response"].end_ns, "heard")
    call.assert_span(turn["execute_tool get_weather"], "call", "result")
    first, second = turn.all("realtime")
    call.assert_span(first, "request", "call")
    call.assert_span(second, ("request", 1), ("response done", 1))
    assert turn["realtime.first_audio"].parent_id == second.span_id
    assert turn["execute_tool get_weather"].attributes["gen_ai.tool.call.id"].startswith("call_")  # type: ignore[union-attr]
    assert turn.shares["tool"] == pytest.approx(0.25, abs=call.tolerance_ms / 1e3)
    assert turn.shares["realtime"] == pytest.approx(0.6, abs=2 * call.tolerance_ms / 1e3)
    assert turn.outcome == "completed"


@pytest.mark.covers("F-TR16")
async def test_a_barge_in(turns: Turns) -> None:
    """Speech over the agent interrupts its turn, from the real onset until the client has cut the item."""
    async with Call(Answer(3.0), Answer(0.6)).held() as call:
        await call.ask()
        await asyncio.sleep(0.5)
        await call.ask()
        first, second = await turns.wait(2)
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    total = phases(first)["total"]
    call.assert_span(total, ("speech", 1), "quiet")
    call.assert_span(first["playback"], "heard", "quiet")
    detected_ms = (call.journal.notes["speech started"][1] - call.journal.notes["speech"][1]) / 1e6
    assert total.attributes["voice.barge_in.detection_s"] == pytest.approx(
        detected_ms / 1e3, abs=call.tolerance_ms / 1e3
    )
    assert first["realtime"].attributes["voice.stage.cancelled"] is True
    call.assert_at(phases(first)["server_cancel"].end_ns, "response done")
    call.assert_answered(second, 1)
    links = {link.attributes["voice.link.type"]: link.context.trace_id for link in second.root.links}
    assert links == {"previous": first.trace_id, "interrupted": first.trace_id}


async def test_a_barge_in_behind_the_last_delta(turns: Turns) -> None:
    """The model is done long before the user has heard it: what is left is cut by the client alone."""
    async with Call(Answer(3.0, pace=50), Answer(0.6)).held() as call:
        await call.ask()
        await asyncio.sleep(0.8)
        await call.ask()
        first, second = await turns.wait(2)
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    call.assert_span(phases(first)["total"], ("speech", 1), "quiet")
    assert "voice.stage.cancelled" not in first["realtime"].attributes
    assert first["playback"].attributes["voice.playback.heard_s"] == pytest.approx(
        (call.journal.notes["quiet"][0] - call.journal.notes["heard"][0]) / 1e9, abs=call.tolerance_ms / 1e3
    )


async def test_a_false_interruption(turns: Turns) -> None:
    """A cough that the service does not answer is an event on the turn that plays on, and no turn of its own."""
    detection = {
        "type": "server_vad",
        "silence_duration_ms": 300,
        "create_response": False,
        "interrupt_response": False,
    }
    session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}

    async def service(call: Call) -> None:
        """Answer the first utterance only, and never stop."""
        from .world import microphone

        async with call.client().realtime.connect(model="gpt-realtime") as connection:
            await connection.session.update(session=session)  # type: ignore[arg-type]
            task = asyncio.create_task(microphone(connection, call.line))
            asked = False
            async for event in connection:
                if event.type == "response.output_audio.delta":
                    call.line.play(event.item_id, bytes(4800))
                elif event.type == "input_audio_buffer.committed" and not asked:
                    asked = True
                    await connection.response.create()
            task.cancel()

    async with Call(Answer(4.0)).held(service) as call:
        await call.ask()
        await asyncio.sleep(0.5)
        await call.speak(0.3)
        await call.journal.wait("played out")
        (turn,) = await turns.wait(1)
    assert turn.outcome == "completed"
    assert [event.name for event in turn.root.events if event.name.startswith("voice.")] == ["voice.user_overlap"]
    call.assert_span(turn["playback"], "heard", "played out")
    call.assert_span(turn["voice.response"], "silence", "heard")
    assert "barge_in" not in names(turn)
    assert len(turns.found) == 1


async def test_an_abort_before_the_first_audio(turns: Turns) -> None:
    """Speech after the decision and before any audio supersedes the turn, which reports no audio and no milestone."""
    async with Call(Answer(wait_s=5), Answer(0.6)).held() as call:
        await call.speak()
        await call.journal.wait("request")
        await asyncio.sleep(0.3)
        await call.ask()
        first, second = await turns.wait(2)
    assert (first.outcome, first.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "superseded")
    assert first["realtime"].attributes["voice.stage.cancelled"] is True
    assert not names(first) & {"realtime.first_audio", "playback", "voice.response", "barge_in"}
    call.assert_span(first["voice.unanswered"], "silence", ("speech", 1))
    assert second.outcome == "completed"
    call.assert_span(second["voice.response"], ("silence", 1), "heard")


async def test_two_calls_at_once(turns: Turns) -> None:
    """Two connections in one process keep their turns apart, each with its own times."""

    async def one(wait_s: float, call: Call) -> Call:
        async with call.held(session=OPEN):
            await asyncio.sleep(wait_s)
            await call.ask()
            await call.journal.wait("played out")
            await asyncio.sleep(0.3)
        return call

    first, second = Call(Answer(0.8)), Call(Answer(1.2))
    second.server.calls = 1
    await asyncio.gather(one(0, first), one(0.25, second))
    found = {turn.root.attributes["session.id"]: turn for turn in await turns.wait(2)}
    first.assert_answered(found["sess_1"])
    second.assert_answered(found["sess_2"])
    assert {turn.outcome for turn in found.values()} == {"completed"}


async def test_a_provider_error(turns: Turns) -> None:
    """A response that fails is its stage's error and the turn's, by the provider's code."""
    async with Call(Answer(error="rate_limit_exceeded")).held() as call:
        await call.speak()
        await call.journal.wait("response done")
        await asyncio.sleep(0.2)
    (turn,) = await turns.wait(1)
    assert turn.outcome == "error"
    assert turn.root.attributes["error.type"] == "rate_limit_exceeded"
    assert turn["realtime"].attributes["error.type"] == "rate_limit_exceeded"
    call.assert_span(turn["voice.unanswered"], "silence", "response done")


async def test_a_lost_connection(turns: Turns) -> None:
    """A connection that breaks while the model works fails the turn that waited for it."""
    call = Call(Answer(wait_s=5))
    with pytest.raises(Exception, match="1011"):
        async with call.held():
            await call.speak()
            await call.journal.wait("request")
            await asyncio.sleep(0.2)
            assert call.server.socket is not None
            await call.server.socket.close(1011, "broken")
            await asyncio.sleep(0.2)
    (turn,) = await turns.wait(1)
    assert turn.outcome == "error"
    assert turn["realtime"].attributes["error.type"] == "websockets.exceptions.ConnectionClosedError"


async def test_a_greeting(turns: Turns) -> None:
    """A response that nobody has spoken for is a turn of the agent, measured from when media flowed."""
    call = Call(Answer(0.8), Answer(0.8))

    async def service(call: Call) -> None:
        await bot.call(call.client(), call.line, OPEN)

    async with call.held(service):
        await call.journal.wait("played out")
        (turn,) = await turns.wait(1)
    assert (turn.outcome, turn.root.attributes["voice.turn.initiator"]) == ("completed", "agent")
    assert turn.root.attributes["voice.turn.trigger"] == "greeting"
    assert turn.root.attributes["session.id"] == "sess_1"  # which the server told only afterwards
    call.assert_at(turn["realtime.first_audio"].end_ns, "first audio")
    call.assert_span(turn["playback"], "heard", "played out")
    assert turn.root.attributes["voice.session.first_audio"] == pytest.approx(0.3, abs=0.15)
    assert not names(turn) & {"vad", "asr", "voice.response"}


async def test_log_lines_belong_to_the_turn(turns: Turns) -> None:
    """What the service logs while it handles an event carries the trace id of the turn."""
    lines: list[str] = []
    handler = logging.Handler()
    formatter = JSONFormatter()
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    bot.log.addHandler(handler)
    bot.log.setLevel(logging.INFO)
    try:
        async with Call(Answer(call=("get_weather", {})), Answer(0.5)).held() as call:
            await call.ask()
            (turn,) = await turns.wait(1)
    finally:
        bot.log.removeHandler(handler)
    (line,) = lines
    assert f"{turn.trace_id:032x}" in line
