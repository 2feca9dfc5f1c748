"""What the integrations add to the frameworks' hot paths, on the calling thread; printed as JSON.

Pipecat: the events of a real processor with and without our handlers, for a frame that means nothing to us and for a
token; a frame on its way out. LiveKit: a frame that is given to the output, and a chunk of the model. Frameworks that
are not installed are left out.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import platform
import time
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import voicespan
from voicespan import emit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 100
CALLS = 400


async def each_us(call: Callable[[], Awaitable[object]]) -> float:
    """Return microseconds of one call: the least of all rounds, since a busy machine only adds."""
    found = []
    for _ in range(ROUNDS):
        begin = time.perf_counter_ns()
        for _ in range(CALLS):
            await call()
        found.append((time.perf_counter_ns() - begin) / CALLS / 1000)
    return min(found)


def told_us(call: Callable[[], object]) -> float:
    """Return the same for a plain call."""
    found = []
    for _ in range(ROUNDS):
        begin = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        found.append((time.perf_counter_ns() - begin) / CALLS / 1000)
    return min(found)


async def pipecat() -> dict[str, float]:
    """Return what a frame costs that a processor pushes, a token, and a frame that leaves."""
    from loguru import logger

    logger.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from pipecat.frames import frames as f
        from pipecat.processors.frame_processor import FrameProcessor

        from voicespan.integrations.pipecat.attach import Watch
        from voicespan.integrations.pipecat.conversation import Conversation

    class Output:
        async def write_audio_frame(self, _frame: object) -> bool:
            return True

        async def write_transport_frame(self, _frame: object) -> None:
            pass

    conversation = Conversation(voicespan.session())
    watch = Watch(conversation)
    plain, heard = FrameProcessor(), FrameProcessor()
    watch.add([heard])
    bare, output = Output(), Output()
    watch._watch_output(output)
    conversation.generation_began(heard, current=False)
    conversation.text_given("voice", "context", "Yes.", None)

    def pushed(processor: FrameProcessor, frame: f.Frame) -> Callable[[], Awaitable[object]]:
        return lambda: processor._call_event_handler("on_before_push_frame", frame)

    audio, token = f.InputAudioRawFrame(bytes(640), 16_000, 1), f.LLMTextFrame("word")
    spoken = f.TTSAudioRawFrame(bytes(640), 16_000, 1)
    return {
        "a frame that a processor pushes": await each_us(pushed(heard, audio)) - await each_us(pushed(plain, audio)),
        "a token": await each_us(pushed(heard, token)) - await each_us(pushed(plain, token)),
        "a frame that leaves for the user": await each_us(lambda: output.write_audio_frame(spoken))
        - await each_us(lambda: bare.write_audio_frame(spoken)),
    }


async def livekit() -> dict[str, float]:
    """Return what a frame costs that is given to the output, and a chunk of the model."""
    from livekit.agents.voice.agent_activity import _SpeechHandleContextVar
    from livekit.agents.voice.speech_handle import SpeechHandle

    from voicespan.integrations.livekit import conversation
    from voicespan.integrations.livekit.playback import Playback
    from voicespan.integrations.livekit.reply import Reply

    turn = voicespan.session().agent_turn()
    made, handle = Reply(turn), SpeechHandle.create()
    talk: Any = SimpleNamespace()
    conversation._replies[handle] = talk, made
    _SpeechHandleContextVar.set(handle)
    playback = Playback(turn.session, conversation.current_reply)
    playback.top = None
    playback.given(0.02)
    playback.started = True
    generation = made.generates("words-1", None)
    return {
        "a frame that is given to the output": told_us(lambda: playback.given(0.02)),
        "a chunk of the model": told_us(lambda: generation.chunk("word")),
    }


async def measure() -> dict[str, dict[str, float]]:
    """Return the microseconds of every framework that is installed."""
    emit._recorder = emit.BackgroundRecorder()
    kinds = {"pipecat": pipecat, "livekit": livekit}
    found = {name: await kind() for name, kind in kinds.items() if importlib.util.find_spec(name) is not None}
    return {name: {what: round(us, 2) for what, us in each.items()} for name, each in found.items()}


if __name__ == "__main__":
    added = asyncio.run(measure())
    print(json.dumps({"python": platform.python_version(), "microseconds": added}, indent=2))
