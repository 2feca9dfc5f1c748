"""The output and input of a real room, whose server is not there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

from livekit import rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.ipc.mock_room import create_mock_room
from livekit.agents.testing import fake_job_context
from livekit.agents.voice.room_io import _output

from .test_turns import NINE, names, near, times, truly
from .world import RATE, Call, Detector, Model, Recognizer, Voice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Turns

pytestmark = pytest.mark.alone


@pytest.fixture
async def output() -> AsyncIterator[Any]:
    """The output that the framework makes for a room, with its native source of audio and nobody behind it."""
    made = _output._ParticipantAudioOutput(
        create_mock_room(), sample_rate=RATE, num_channels=1, track_publish_options=rtc.TrackPublishOptions()
    )
    made._subscribed_fut.set_result(None)
    made._forwarding_task = asyncio.create_task(made._forward_audio())
    yield made
    await made.aclose()


async def test_barge_in_at_the_room(turns: Turns, output: Any) -> None:
    """At the real output of a room the reply begins when its first frame is played, and the user can stop it."""
    call = Call()
    room = create_mock_room()
    room.name = "room-7"
    with fake_job_context(room=room, job_id="job-7"):
        session: AgentSession[None] = AgentSession(
            stt=Recognizer(call.truth, call.caller), vad=Detector(), llm=Model(call.truth, NINE),
            tts=Voice(call.truth, seconds=3.0), aec_warmup_duration=None,
            turn_handling={"endpointing": {"min_delay": 0.45}, "turn_detection": "vad"},
        )  # fmt: skip
        session.input.audio, session.output.audio = call.caller, output
        output.on("playback_started", lambda _: call.truth.note("started"))
        output.on("playback_finished", lambda _: call.truth.note("finished"))
        await session.start(Agent(instructions="be brief"))
    await call.caller.speak(0.5, "how cold is it")
    await call.truth.happened("started")
    await asyncio.sleep(0.5)
    await call.caller.speak(0.9, "stop")
    first, second = await turns.wait(2)
    await session.aclose()
    await call.close()
    truth = call.truth
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    assert times(first, "voice.response") == truly(truth, "silence", "started")
    assert first.root.attributes.items() >= {"session.id": "job-7", "voice.room.id": "room-7"}.items()
    total = next(span for span in first.all("barge_in") if span.attributes["voice.barge_in.phase"] == "total")
    # It holds the audio back after half a second of speech, and drops it once there are words.
    assert (total.start_ns, total.end_ns) == (near(truth.at("speech", 1)), near(truth.at("speech", 1) + 510_000_000))
    assert times(second, "playback") == truly(truth, ("started", 1), ("finished", 1))
    assert "playback.gap" not in names(second)


async def test_greeting_in_a_room(turns: Turns) -> None:
    """Through the whole chain of a room's outputs the greeting is counted once, and it is measured from the link."""

    class Polite(Agent):
        async def on_enter(self) -> None:
            _ = self.session.say("Good morning.")

    call = Call()
    room = create_mock_room()
    room.name = "room-8"
    with fake_job_context(room=room, job_id="job-8"):
        session: AgentSession[None] = AgentSession(
            stt=Recognizer(call.truth, call.caller), vad=Detector(), llm=Model(call.truth, NINE),
            tts=Voice(call.truth, seconds=0.6), aec_warmup_duration=None,
        )  # fmt: skip
        await session.start(Polite(instructions=""), room=room)
    (turn,) = await turns.wait(1)
    await session.aclose()
    await call.close()
    assert turn.outcome == "completed"
    assert turn["playback"].attributes["voice.playback.sent_s"] == pytest.approx(0.6)
    assert turn.root.attributes.items() >= {
        "voice.turn.trigger": "greeting", "voice.transport": "livekit", "voice.room.id": "room-8",
    }.items()  # fmt: skip
    assert 0 < turn.root.attributes["voice.session.first_audio"] < 5  # type: ignore[operator]
