"""A mapped pipeline in real time: every milestone against what really happened, within 30 ms."""

from __future__ import annotations

import asyncio
import copy
import importlib
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.stillness import ATTEMPTS

from voicespan import diagnostics, emit
from voicespan.emit import BackgroundRecorder
from voicespan.stagemap import install as installing
from voicespan.stagemap.document import parse

from .test_stagemap import _forget_hooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from voicespan.finished import FinishedSpan, FinishedTurn
    from voicespan.testing import VoiceRecorder

    from .callbot.live import Answer, Bot

pytestmark = pytest.mark.alone

BOT = "callbot.live:Bot"
MAP: dict[str, Any] = {
    "session": {"enter": f"{BOT}.hold", "id": "self.call_id"},
    "turn": {
        "speech_started": {"call": f"{BOT}.on_speech", "at": "arg.at_ns"},
        "speech_ended": {"call": f"{BOT}.on_silence", "at": "arg.at_ns"},
        "committed": f"{BOT}.on_end_of_turn",
        "handoff": {"call": f"{BOT}.hand_over", "agent": "arg.agent"},
    },
    "stages": {
        "asr": f"{BOT}.recognize",
        "llm": {"call": f"{BOT}.think", "model": "small-1", "attributes": {"gen_ai.agent.name": "self.agent"}},
        "tool": f"{BOT}.look_up",
        "tts": {"call": f"{BOT}.speak", "seconds": "item"},
    },
    "playback": {
        "frame": {"call": f"{BOT}.send", "seconds": "arg.seconds"},
        "clear": f"{BOT}.clear",
        "paused": f"{BOT}.pause",
        "resumed": f"{BOT}.go_on",
    },
}


class Calls:
    """Calls of a service that is imported anew, their turns, and the truth to compare with."""

    def __init__(self, recorder: BackgroundRecorder) -> None:
        self._recorder = recorder
        self._found: list[FinishedTurn] = []
        recorder.watch = self._found.append
        self._service: Any = importlib.import_module("callbot.live")
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def answer(self, **how: Any) -> Answer:
        """Return an answer of the model."""
        made: Answer = self._service.Answer(**how)
        return made

    async def hold(
        self, caller: Callable[[Bot], Awaitable[None]], *answers: Answer, call_id: str = "call-1"
    ) -> tuple[Bot, list[FinishedTurn]]:
        """Hold a call; return the service and the turns of this call in order of their onset.

        The service plays each frame just in time: where the machine was later than half a frame, its audio has holes,
        and the call is held again.
        """
        for attempt in range(1, ATTEMPTS + 1):
            bot: Bot = self._service.Bot(f"{call_id}, attempt {attempt}", *map(copy.copy, answers))
            await bot.hold(caller)
            if bot.late_s < self._service.FRAME_S / 2:
                break
        self._recorder.drain()
        found = [turn for turn in self._found if turn.session_id == bot.call_id]
        return bot, sorted(found, key=lambda turn: turn.root.start_ns)

    def at(self, bot: Bot, at_ns: int, what: str, index: int = 0) -> None:
        """A time stamp is when something happened."""
        late_ms = (at_ns - self._offset_ns - bot.journal[what][index]) / 1e6
        assert abs(late_ms) <= 30 + 2e3 * bot.late_s, f"{late_ms:.0f} ms after: {what} {index}"

    def span(self, bot: Bot, span: FinishedSpan, begin: str, end: str, index: int = 0, answer: int = 0) -> None:
        """A span lies between two things that happened; `answer` is which one of the second."""
        self.at(bot, span.start_ns, begin, index)
        self.at(bot, span.end_ns, end, answer)

    def plain(self, bot: Bot, turn: FinishedTurn, index: int = 0, answer: int = 0, request: int = 0) -> None:
        """Every milestone of an answer lies where it happened."""
        self.at(bot, turn.root.start_ns, "speech", index)
        self.span(bot, turn["vad"], "speech", "decided", index, index)
        self.span(bot, turn["vad.endpoint"], "silence", "decided", index, index)
        self.span(bot, turn["asr.finalize"], "silence", "transcript", index, index)
        self.span(bot, turn["llm.ttft"], "request", "token", request, request)
        self.at(bot, turn["tts.first_audio"].end_ns, "first audio", answer)
        self.span(bot, turn["voice.response"], "silence", "heard", index, answer)
        self.at(bot, turn["playback"].start_ns, "heard", answer)


@pytest.fixture
def calls(voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Map the service, and import it."""
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    recorder = BackgroundRecorder()
    monkeypatch.setattr(emit, "_recorder", recorder)
    installing.install(parse(MAP))
    yield Calls(recorder)
    recorder.shut_down()
    for name in [name for name in sys.modules if name.partition(".")[0] == "callbot"]:
        del sys.modules[name]
    _forget_hooks()
    assert diagnostics.counters.get("internal_error") == 0
    assert diagnostics.counters.get("mark.refused") == 0


async def _one_question(bot: Bot) -> None:
    await bot.say()
    await bot.listen()


@pytest.mark.covers("D-T01", "F-TR02", "F-TR04", "F-TR06", "F-TR09", "F-TR15")
async def test_a_plain_answer(calls: Calls) -> None:
    """One utterance is one complete turn."""
    bot, (turn,) = await calls.hold(_one_question, calls.answer())
    calls.plain(bot, turn)
    calls.at(bot, turn["playback"].end_ns, "played out")
    assert turn.outcome == "completed"
    assert turn.shares["unattributed"] < 0.03 + 2 * bot.late_s


@pytest.mark.covers("F-TR07", "B-T03")
async def test_a_tool(calls: Calls) -> None:
    """A tool stands between two requests of one turn."""
    bot, (turn,) = await calls.hold(_one_question, calls.answer(tool=True))
    assert len(turn.all("llm")) == 2
    calls.span(bot, turn["execute_tool look_up"], "tool", "result")
    assert turn.shares["tool"] == pytest.approx(0.2, abs=0.03 + 2 * bot.late_s)
    calls.span(bot, turn["voice.response"], "silence", "heard")
    assert turn.outcome == "completed"


@pytest.mark.covers("F-TR16")
async def test_a_barge_in(calls: Calls) -> None:
    """Speech over the agent interrupts its turn, from the real onset until the service is silent."""

    async def caller(bot: Bot) -> None:
        await bot.say()
        await asyncio.sleep(0.6)
        await bot.say()
        await bot.listen()

    bot, (first, second) = await calls.hold(caller, calls.answer(spoken_s=3), calls.answer())
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    phases = {span.attributes["voice.barge_in.phase"]: span for span in first.all("barge_in")}
    calls.span(bot, phases["total"], "speech", "cleared", 1)
    calls.span(bot, first["playback"], "heard", "cleared")
    assert first["tts"].attributes["voice.stage.cancelled"] is True
    calls.plain(bot, second, 1, 1, 1)


async def test_a_false_interruption(calls: Calls) -> None:
    """A sound at which the service pauses and goes on is a gap and an event, and no turn."""

    async def caller(bot: Bot) -> None:
        await bot.say()
        await asyncio.sleep(0.6)
        await bot.cough()
        await bot.listen()

    bot, (turn,) = await calls.hold(caller, calls.answer(spoken_s=1))
    assert turn.outcome == "completed"
    assert turn.all("barge_in") == []
    (event,) = [event for event in turn.root.events if event.name == "voice.false_interruption"]
    calls.at(bot, event.time_ns, "paused")
    calls.span(bot, turn["playback.gap"], "paused", "resumed")
    calls.at(bot, turn["playback"].end_ns, "played out")


async def test_an_abort_before_the_first_token(calls: Calls) -> None:
    """Speech before anything was heard: no token, no interruption; the first utterance was never answered."""

    async def caller(bot: Bot) -> None:
        await bot.say()
        await asyncio.sleep(0.2)
        await bot.say()
        await bot.listen()

    bot, (first, second) = await calls.hold(caller, calls.answer(wait_s=2), calls.answer())
    assert (first.outcome, first.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "superseded")
    assert not {span.name for span in first.spans} & {"llm.ttft", "playback", "barge_in", "voice.response"}
    calls.span(bot, first["voice.unanswered"], "silence", "speech", 0, 1)
    assert first["llm"].attributes["voice.stage.cancelled"] is True
    calls.at(bot, second["voice.response"].end_ns, "heard")
    assert second.outcome == "completed"


async def test_two_calls_at_once(calls: Calls) -> None:
    """Two callers who speak at the same time have their own turns."""
    held = await asyncio.gather(
        *[calls.hold(_one_question, calls.answer(wait_s=wait_s), call_id=f"call-{wait_s}") for wait_s in (0.2, 0.5)]
    )
    for bot, (turn,) in held:
        calls.plain(bot, turn)
        assert turn.outcome == "completed"


async def test_a_provider_error(calls: Calls) -> None:
    """A model that fails is the turn's error; the next turn is whole."""

    async def caller(bot: Bot) -> None:
        await bot.say()
        await bot.listen()
        assert isinstance(bot.reply.exception() if bot.reply is not None else None, ConnectionError)
        await bot.say()
        await bot.listen()

    bot, (first, second) = await calls.hold(caller, calls.answer(fails=True), calls.answer())
    assert (first.outcome, first.root.attributes["error.type"]) == ("error", "ConnectionError")
    assert first["llm"].error is not None
    assert not {span.name for span in first.spans} & {"llm.ttft", "tts", "playback"}
    calls.at(bot, second["voice.response"].end_ns, "heard")
    assert second.outcome == "completed"


async def test_a_hand_over(calls: Calls) -> None:
    """Another agent that takes over within a turn is an event, and later stages carry its name."""

    async def caller(bot: Bot) -> None:
        await bot.say()
        await asyncio.sleep(0.1)
        bot.note("handed over")
        bot.hand_over("billing")
        await bot.listen()

    bot, (turn,) = await calls.hold(caller, calls.answer(tool=True))
    (event,) = [event for event in turn.root.events if event.name == "voice.handoff"]
    assert event.attributes["gen_ai.agent.name"] == "billing"
    calls.at(bot, event.time_ns, "handed over")
    assert [llm.attributes.get("gen_ai.agent.name") for llm in turn.all("llm")] == ["desk", "billing"]
    assert turn["tts"].attributes["gen_ai.agent.name"] == "billing"
