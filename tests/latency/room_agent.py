"""A LiveKit agent whose providers cost nothing, as a worker: `python room_agent.py start`.

It writes into the file AGENT_TRUTH, a line of JSON for each answer, how long it let the caller wait: from the last
sound of the question that it was given to the first of the answer that it has played. It is slow every other time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "integrations" / "livekit"))

from livekit import rtc
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli, stt
from livekit.agents.voice.room_io import AudioInputOptions, AudioOutputOptions, RoomOptions
from world import FRAME_S, RATE, Answer, Detector, Model, Recognizer, Truth, Voice, loud  # type: ignore[import-not-found]

TRUTH = Path(os.environ["AGENT_TRUTH"])
HANGOVER_S = 0.4
"""Longer than any pause within a question."""
COUGH_S = 0.3

server = AgentServer(load_fnc=lambda: 0.0, load_threshold=1.0, num_idle_processes=2, port=0, host="127.0.0.1")


class Ears(Recognizer):  # type: ignore[misc]
    """Has understood when the caller has been silent for a while; a cough has no words."""

    def stream(self, **options: Any) -> stt.RecognizeStream:
        return EarsStream(stt=self, conn_options=options["conn_options"])


class EarsStream(stt.RecognizeStream):
    async def _run(self) -> None:
        ears: Any = self._stt
        spoken_s, silent_s = 0.0, 0.0
        async for frame in self._input_ch:
            if not isinstance(frame, rtc.AudioFrame):
                continue
            if loud(frame):
                ears.truth.note("sound")
                spoken_s, silent_s = spoken_s + FRAME_S, 0.0
            elif (silent_s := silent_s + FRAME_S) > HANGOVER_S / 2:
                if spoken_s > COUGH_S:
                    data = stt.SpeechData(language="en", text="when do you open", confidence=1.0)  # type: ignore[arg-type]
                    event = stt.SpeechEvent(stt.SpeechEventType.FINAL_TRANSCRIPT, alternatives=[data])
                    self._event_ch.send_nowait(event)
                spoken_s = 0.0


class Greeter(Agent):
    async def on_enter(self) -> None:
        _ = self.session.say("Good morning.")


@server.rtc_session(agent_name=os.environ.get("AGENT_NAME", ""))
async def entrypoint(context: JobContext) -> None:
    """Hold a call."""
    truth = Truth()
    slow = told() % 2
    session: AgentSession[None] = AgentSession(
        stt=Ears(truth, SimpleNamespace()), vad=Detector(HANGOVER_S), tts=Voice(truth), aec_warmup_duration=None,
        llm=Model(truth, Answer("At eight.", ttft_s=0.2 + 0.5 * slow)),
        turn_handling={"endpointing": {"min_delay": HANGOVER_S + 0.1}, "turn_detection": "vad"},
    )  # fmt: skip
    options = RoomOptions(
        audio_input=AudioInputOptions(sample_rate=RATE, frame_size_ms=round(FRAME_S * 1000), auto_gain_control=False),
        audio_output=AudioOutputOptions(sample_rate=RATE),
    )
    await session.start(Greeter(instructions="be brief"), room=context.room, room_options=options)
    assert session.output.audio is not None
    session.output.audio.on("playback_started", lambda _: tell(context.room.name, truth))


def told() -> int:
    """Return how many answers there were."""
    return len(TRUTH.read_text().splitlines())


def tell(room: str, truth: Truth) -> None:
    """Write down what is played, unless it is the greeting."""
    if "sound" in truth.times:
        waited_s = (time.time_ns() - truth.at("sound", -1)) / 1e9
        with TRUTH.open("a") as file:
            file.write(json.dumps({"room": room, "waited_s": waited_s}) + "\n")


if __name__ == "__main__":
    cli.run_app(server)
