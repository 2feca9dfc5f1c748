"""What the realtime protocol leaves to its users: how turns are decided, formats, corners, and the other client."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import TYPE_CHECKING, Any

import pytest
from openai import OpenAI

import voicespan

from .world import Answer, Call, microphone, names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .conftest import Turns

pytestmark = pytest.mark.alone

SEMANTIC: Any = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}
MANUAL: Any = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


def serving(session: Any, on_event: Callable[[Any, Any, Call], Awaitable[None]] | None = None) -> Any:
    """Return a service that plays what it gets."""

    async def service(call: Call) -> None:
        async with call.client().realtime.connect(model="gpt-realtime") as connection:
            await connection.session.update(session=session)
            task = asyncio.create_task(microphone(connection, call.line))
            async for event in connection:
                if event.type in ("response.output_audio.delta", "response.audio.delta"):
                    call.line.play(event.item_id, base64.b64decode(event.delta))
                if on_event is not None:
                    await on_event(connection, event, call)
            task.cancel()

    return service


async def test_a_detector_that_says_nothing_of_its_wait(turns: Turns) -> None:
    """Semantic detection has no known real end of speech: the silence counts from its decision, and says so."""
    async with Call(Answer(0.6)).held(serving(SEMANTIC)) as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    call.assert_at(turn.root.start_ns, "speech")
    call.assert_span(turn["voice.response"], "committed", "heard")
    assert turn["voice.response"].attributes["voice.response.from"] == "decision"
    call.assert_span(turn["realtime.first_audio"], "request", "first audio")


async def test_an_answer_that_is_asked_for_at_once(turns: Turns) -> None:
    """Who asks for the answer when the user falls silent, before the commit is read, asks for that utterance's."""
    detection = {"type": "server_vad", "silence_duration_ms": 300, "create_response": False}

    async def service(connection: Any, event: Any, call: Call) -> None:
        if event.type == "input_audio_buffer.speech_stopped":
            call.journal.note("asked")
            await connection.response.create()

    session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
    async with Call(Answer(0.5)).held(serving(session, service)) as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    assert (turn.outcome, turn.root.attributes["voice.turn.initiator"]) == ("completed", "user")
    call.assert_span(turn["vad.endpoint"], "silence", "asked")
    call.assert_span(turn["voice.response"], "silence", "heard")


async def test_push_to_talk(turns: Turns) -> None:
    """Without a detector a turn is from the first sample of the utterance to the client's commit."""

    async def service(call: Call) -> None:
        async with call.client().realtime.connect(model="gpt-realtime") as connection:
            await connection.session.update(session=MANUAL)
            call.line.muted = True
            task = asyncio.create_task(microphone(connection, call.line))
            pressing = asyncio.create_task(press(connection, call))
            async for event in connection:
                if event.type == "response.output_audio.delta":
                    call.line.play(event.item_id, base64.b64decode(event.delta))
            task.cancel()
            pressing.cancel()

    async def press(connection: Any, call: Call) -> None:
        for answers in (1, 2):
            await asyncio.sleep(0.6)
            call.line.muted = False
            call.line.speak(0.8)
            await call.journal.wait("silence", answers)
            call.line.muted = True
            call.journal.note("released")
            await connection.input_audio_buffer.commit()
            await connection.response.create()
            await call.journal.wait("played out", answers)

    async with Call(Answer(0.5), Answer(0.5)).held(service) as call:
        for index, turn in enumerate(await turns.wait(2)):
            call.assert_span(turn["vad"], ("speech", index), ("released", index))
            call.assert_span(turn["voice.response"], ("released", index), ("heard", index))
            assert turn.outcome == "completed"


async def test_an_interruption_without_a_detector(turns: Turns) -> None:
    """Who cuts the agent off and commits afterwards has interrupted it, when the client fell silent."""

    async def service(call: Call) -> None:
        async with call.client().realtime.connect(model="gpt-realtime") as connection:
            await connection.session.update(session=MANUAL)
            await connection.conversation.item.create(
                item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "tell me all"}]}
            )
            await connection.response.create()
            call.line.muted = True
            task = asyncio.create_task(microphone(connection, call.line))
            pressing = asyncio.create_task(press(connection, call))
            async for event in connection:
                if event.type == "response.output_audio.delta" and not call.journal.notes["quiet"]:
                    call.line.play(event.item_id, base64.b64decode(event.delta))
            task.cancel()
            pressing.cancel()

    async def press(connection: Any, call: Call) -> None:
        await call.journal.wait("heard")
        await asyncio.sleep(0.5)
        call.line.muted = False
        call.line.speak(0.6)
        await asyncio.sleep(0.1)
        cut = call.line.stop()
        assert cut is not None
        await connection.conversation.item.truncate(item_id=cut[0], content_index=0, audio_end_ms=cut[1])
        await connection.response.cancel()
        await call.journal.wait("silence")
        await connection.input_audio_buffer.commit()
        await connection.response.create()

    async with Call(Answer(3.0), Answer(0.5)).held(service) as call:
        first, second = await turns.wait(2)
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    assert first.root.attributes["voice.turn.input"] == "text"
    call.assert_span(first["playback"], "heard", "quiet")
    call.assert_at(second.root.start_ns, "speech")


async def test_a_transcript_that_comes_late(turns: Turns) -> None:
    """A transcript behind the end of the answer breaks nothing, and is nobody's."""
    session = {
        "type": "realtime",
        "audio": {"input": {"turn_detection": {"type": "server_vad"}, "transcription": {"model": "whisper-1"}}},
    }
    async with Call(Answer(0.3), Answer(0.3), transcript_s=1.5).held(serving(session)) as call:
        await call.ask()
        await call.journal.wait("transcript")
        await asyncio.sleep(0.2)
        await call.ask()
        first, second = await turns.wait(2)
    assert (first.outcome, second.outcome) == ("completed", "completed")
    assert "asr" not in names(first)


async def test_a_response_beside_the_conversation(turns: Turns) -> None:
    """A response out of band belongs to no turn; the next one is told from it."""

    async def service(connection: Any, event: Any, _: Call) -> None:
        if event.type == "input_audio_buffer.speech_started":
            await connection.response.create(response={"conversation": "none", "output_modalities": ["text"]})

    async with Call(Answer(says="a question", wait_s=0.05), Answer(0.5)).held(serving(SEMANTIC, service)) as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    assert len(turn.all("realtime")) == 1
    call.assert_span(turn["realtime.first_audio"], ("request", 1), ("first audio", 1))


async def test_text_in_place_of_speech(turns: Turns) -> None:
    """A session whose model writes has the stage `llm`; what speaks is told by the service."""
    session = {**SEMANTIC, "output_modalities": ["text"]}

    async def service(_connection: Any, event: Any, _call: Call) -> None:
        if event.type == "response.output_text.delta":
            turn = voicespan.current_turn()
            assert turn is not None
            turn.audio_sent(0.1)

    async with Call(Answer(says="it is nine degrees")).held(serving(session, service)) as call:
        await call.speak()
        (turn,) = await turns.wait(1)
    call.assert_span(turn["llm.ttft"], "request", "first audio")
    assert turn["llm"].attributes["voice.llm.token.count"] == 4
    assert "realtime" not in names(turn)


async def test_a_request_that_is_refused(turns: Turns) -> None:
    """An error that answers a request by its id fails the turn that the request was for."""

    async def service(connection: Any, event: Any, call: Call) -> None:
        if event.type == "response.output_audio.delta" and not call.journal.notes["refused"]:
            call.journal.note("refused")
            await connection.send({"type": "response.create", "event_id": "mine"})

    async with Call(Answer(0.6)).held(serving(SEMANTIC, service)) as call:
        await call.ask()
        first, second = await turns.wait(2)
    assert first.outcome == "completed"
    assert second.root.attributes["voice.turn.initiator"] == "agent"
    assert second.root.attributes["error.type"] == "conversation_already_has_active_response"


async def test_names_and_formats_of_the_beta(turns: Turns) -> None:
    """G.711 is eight times shorter for its length, and the beta's names of events and settings are known."""
    session = {
        **SEMANTIC,
        "output_audio_format": "g711_ulaw",
        "audio": {**SEMANTIC["audio"], "output": {"format": None}},
    }
    async with Call(Answer(0.5), beta=True).held(serving(session)) as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    assert turn["realtime"].attributes["voice.audio.duration_s"] == pytest.approx(3.0)


async def test_a_connection_inside_a_call(turns: Turns) -> None:
    """A connection that is opened within a known call is a part of it: its turns are the call's."""

    async def service(call: Call) -> None:
        with voicespan.session("call-7", transport="websocket"):
            await serving(SEMANTIC)(call)

    async with Call(Answer(0.5)).held(service) as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    assert turn.root.attributes["session.id"] == "call-7"
    assert turn.root.attributes["voice.transport"] == "websocket"
    assert turn.outcome == "completed"


async def test_a_caller_who_hangs_up(turns: Turns) -> None:
    """Who hangs up in the silence was not answered; nothing of the connection is current afterwards."""
    call = Call(Answer(wait_s=5))
    async with call.held(serving(SEMANTIC)):
        await call.speak()
        await call.journal.wait("request")
        await asyncio.sleep(0.3)
    (turn,) = await turns.wait(1)
    assert (turn.outcome, turn.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "user_left")
    assert turn["realtime"].attributes["voice.stage.cancelled"] is True
    assert voicespan.current_session() is None


async def test_the_plain_client(turns: Turns) -> None:
    """The client without asyncio, which is read in one thread and written to in another, gives the same turns."""
    ready, left = threading.Event(), threading.Event()

    def read(url: str, loop: asyncio.AbstractEventLoop, call: Call, connections: list[Any]) -> None:
        client = OpenAI(api_key="none", websocket_base_url=url)
        with client.realtime.connect(model="gpt-realtime") as connection:
            connection.session.update(session=SEMANTIC)
            connections.append(connection)
            ready.set()
            for event in connection:
                if event.type == "response.output_audio.delta":
                    loop.call_soon_threadsafe(call.line.play, event.item_id, base64.b64decode(event.delta))
                elif event.type == "response.done":
                    break
            left.wait(10)

    async def service(call: Call) -> None:
        connections: list[Any] = []
        reading = asyncio.create_task(
            asyncio.to_thread(read, call.server.url, asyncio.get_running_loop(), call, connections)
        )
        await asyncio.to_thread(ready.wait, 10)
        try:
            async for frame in call.line.microphone():
                connections[0].input_audio_buffer.append(audio=base64.b64encode(frame).decode())
        finally:
            left.set()
            await reading

    async with Call(Answer(0.5)).held(service) as call:
        await call.ask()
        (turn,) = await turns.wait(1)
    call.assert_at(turn.root.start_ns, "speech")
    call.assert_span(turn["voice.response"], "committed", "heard")
    call.assert_span(turn["realtime"], "request", "response done")
    assert turn.outcome == "completed"
