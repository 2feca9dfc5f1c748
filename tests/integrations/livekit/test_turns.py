"""What becomes of the utterances of an unmodified `AgentSession`, against what its caller and providers have noted."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from livekit.agents import Agent, APIConnectionError, RunContext, StopResponse, function_tool, llm

from voicespan.logs import JSONFormatter

from .conftest import Turns, calling
from .world import Answer

if TYPE_CHECKING:
    from voicespan.finished import FinishedTurn

    from .world import Truth

pytestmark = pytest.mark.alone

NEAR_MS = 30
NINE = Answer("It is nine degrees.")
AGAIN = {"endpointing": {"min_delay": 0.45}, "turn_detection": "vad", "preemptive_generation": {"enabled": False}}


class _Near:
    """A time of the truth: equal to what lies within 30 ms of it."""

    def __init__(self, time_ns: int) -> None:
        self.time_ns = time_ns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and abs(other - self.time_ns) <= NEAR_MS * 1_000_000

    def __repr__(self) -> str:
        return f"near {self.time_ns}"

    __hash__ = None  # type: ignore[assignment]


def near(time_ns: int) -> Any:
    return _Near(time_ns)


def times(turn: FinishedTurn, name: str, index: int = 0) -> tuple[int, int]:
    """Begin and end of a span."""
    found = turn.all(name)
    assert len(found) > index, f"no {name} {index} among {[each.name for each in turn.spans]}"
    return found[index].start_ns, found[index].end_ns


def truly(truth: Truth, *names: str | tuple[str, int]) -> Any:
    """The times that were noted under these names."""
    pairs = [(name, 0) if isinstance(name, str) else name for name in names]
    return tuple(_Near(truth.at(name, index)) for name, index in pairs)


def names(turn: FinishedTurn) -> set[str]:
    return {each.name for each in turn.spans}


def events(turn: FinishedTurn) -> list[str]:
    return [event.name for event in turn.root.events]


@pytest.mark.covers("D-T01", "F-TR01", "F-TR02", "F-TR04", "F-TR06", "F-TR09", "F-TR15")
async def test_plain(turns: Turns) -> None:
    """Every milestone of a plain turn lies where its provider, the caller or the line has noted it."""
    async with calling(NINE) as (call, _):
        await call.caller.speak(0.8, "how cold is it")
        (turn,) = await turns.wait(1)
    truth = call.truth
    (speech, silence, final, request) = truly(truth, "speech", "silence", "final", "request")
    (first, last, text, frame, heard, out) = truly(
        truth, "first token", "last token", "text", "first frame", "heard", "played out"
    )
    decided = times(turn, "vad")[1]
    assert turn.outcome == "completed"
    assert times(turn, "voice.turn") == (speech, out)
    assert times(turn, "vad") == (speech, near(truth.at("silence") + 450_000_000))
    assert times(turn, "vad.endpoint") == (silence, decided)
    assert times(turn, "asr") == (speech, final)
    assert times(turn, "asr.finalize") == (silence, final)
    assert times(turn, "llm") == (request, last)
    assert times(turn, "llm.ttft") == (request, first)
    assert times(turn, "llm.first_sentence") == (request, text)
    assert times(turn, "tts.first_audio") == (text, frame)
    assert times(turn, "playback") == (heard, out)
    assert times(turn, "voice.response") == (silence, heard)
    assert [event.time_ns for event in turn["vad"].events] == [near(truth.at("silence") + 300_000_000)]
    assert turn["llm"].attributes.items() >= {
        "gen_ai.request.model": "brain-1", "gen_ai.provider.name": "openai", "voice.llm.token.count": 4,
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 4,
    }.items()  # fmt: skip
    assert turn["asr"].attributes.items() >= {"gen_ai.request.model": "ears-1", "voice.language": "en"}.items()
    assert turn["tts"].attributes.items() >= {
        "gen_ai.request.model": "mouth-1", "gen_ai.provider.name": "cartesia", "voice.text.length": 20,
        "voice.audio.duration_s": pytest.approx(0.6),
    }.items()  # fmt: skip
    assert turn["playback"].attributes.items() >= {
        "voice.playback.sent_s": pytest.approx(0.6), "voice.measurement.point": "server",
    }.items()  # fmt: skip
    assert "voice.playback.estimated" not in turn["playback"].attributes
    assert not names(turn) & {"barge_in", "playback.gap", "voice.unanswered"}


@pytest.mark.covers("F-TR07", "B-T03")
async def test_tool(turns: Turns) -> None:
    """A tool is a stage between two requests of one turn, as long as it took, and its time is a share."""

    class Weather(Agent):
        @function_tool
        async def get_weather(self, context: RunContext[None], place: str) -> str:
            """Look up the weather."""
            await asyncio.sleep(0.3)
            call.truth.note("result")
            return "nine degrees"

    wish = Answer(call=("get_weather", {"place": "Oslo"}))
    async with calling(wish, NINE, agent=Weather(instructions="be brief"), turn_handling=AGAIN) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        (turn,) = await turns.wait(1)
    truth = call.truth
    assert turn.outcome == "completed"
    # From the model's word; the framework takes some time to prepare its first call of a function.
    assert times(turn, "execute_tool get_weather") == truly(truth, "first token", "result")
    assert turn["execute_tool get_weather"].attributes["gen_ai.tool.call.id"] == "call-1"
    assert times(turn, "llm", 0) == truly(truth, "request", "last token")
    assert times(turn, "llm", 1) == truly(truth, ("request", 1), ("last token", 1))
    assert times(turn, "llm.ttft", 1) == truly(truth, ("request", 1), ("first token", 1))
    assert times(turn, "voice.response") == truly(truth, "silence", "heard")
    # The synthesizer has the sentence some tokens after the first.
    assert times(turn, "llm.first_sentence") == truly(truth, ("request", 1), "text")
    assert times(turn, "tts.first_audio") == truly(truth, "text", "first frame")
    assert turn.shares["tool"] >= 0.29
    assert len(turn.all("tts")) == 1


@pytest.mark.covers("F-TR16")
@pytest.mark.parametrize("pause", [True, False], ids=["pausing", "stopping"])
async def test_barge_in(turns: Turns, pause: bool) -> None:
    """The user stops the agent: detected when the framework acts on it, silent when the line is, and linked."""
    async with calling(NINE, NINE, voice={"seconds": 3.0}, pause=pause) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        await asyncio.sleep(1.6)
        await call.caller.speak(1.0, "no stop it")
        first, second = await turns.wait(2)
    truth = call.truth
    onset, quiet = truly(truth, ("speech", 1), "quiet")
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    phases = {span.attributes["voice.barge_in.phase"]: span for span in first.all("barge_in")}
    total = phases["total"]
    assert (total.start_ns, total.end_ns) == (onset, quiet)
    # The framework waits for half a second of speech.
    assert total.attributes["voice.barge_in.detection_s"] == pytest.approx(0.5, abs=0.04)
    assert times(first, "playback") == (near(truth.at("heard")), quiet)
    assert first["playback"].attributes["voice.playback.interrupted"] is True
    assert times(second, "voice.turn")[0] == onset
    links = {link.attributes["voice.link.type"]: link.context.trace_id for link in second.root.links}
    assert links == {"previous": first.trace_id, "interrupted": first.trace_id}
    assert times(second, "voice.response") == truly(truth, ("silence", 1), ("heard", 1))


async def test_false_interruption(turns: Turns) -> None:
    """What held the agent back and was nothing is a gap and an event, and no turn of its own."""
    turn_handling = {**AGAIN, "interruption": {"min_duration": 0.3, "false_interruption_timeout": 0.5}}
    async with calling(NINE, voice={"seconds": 2.5}, turn_handling=turn_handling) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        await asyncio.sleep(1.6)
        await call.caller.speak(0.5)
        (turn,) = await turns.wait(1)
        await asyncio.sleep(0.3)
    truth = call.truth
    assert len(turns.found) == 1
    assert turn.outcome == "completed"
    assert "barge_in" not in names(turn)
    assert "voice.false_interruption" in events(turn)
    assert times(turn, "playback.gap") == truly(truth, "quiet", "heard again")
    assert times(turn, "playback") == truly(truth, "heard", "played out")


async def test_abort_before_the_first_token(turns: Turns) -> None:
    """Speech after the decision and before any answer supersedes the turn, which reports no token and no audio."""
    answers = Answer("Never said.", ttft_s=5), NINE
    async with calling(*answers, turn_handling=AGAIN) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        await asyncio.sleep(0.9)
        await call.caller.speak(0.8, "in Oslo")
        first, second = await turns.wait(2)
    truth = call.truth
    assert (first.outcome, first.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "superseded")
    assert not names(first) & {"llm.ttft", "llm.first_sentence", "tts", "playback", "voice.response", "barge_in"}
    assert first["llm"].attributes["voice.stage.cancelled"] is True
    assert times(first, "voice.unanswered") == truly(truth, "silence", ("speech", 1))
    assert second.outcome == "completed"
    assert times(second, "voice.response") == truly(truth, ("silence", 1), "heard")


async def test_speculation_is_counted_once(turns: Turns) -> None:
    """A generation that more speech made void keeps its span as discarded; the answer is the other one."""
    answers = Answer("Never said.", ttft_s=2), NINE
    async with calling(*answers, detector={"hangover_s": 0.1}) as (call, _):
        await call.caller.speak(0.5, "how cold")
        await asyncio.sleep(0.3)
        await call.caller.speak(0.5, "is it")
        (turn,) = await turns.wait(1)
    truth = call.truth
    void, used = turn.all("llm")
    assert turn.outcome == "completed"
    assert turn.root.attributes["voice.speech.segments"] == 2
    assert void.attributes["voice.generation.discarded"] is True
    assert "voice.generation.discarded" not in used.attributes
    assert len(turn.all("llm.ttft")) == 1
    assert times(turn, "llm.ttft") == truly(truth, ("request", 1), "first token")
    assert times(turn, "voice.response") == truly(truth, ("silence", 1), "heard")
    assert times(turn, "asr.finalize") == truly(truth, ("silence", 1), ("final", 1))


async def test_two_calls_at_once(turns: Turns) -> None:
    """Two calls in one process keep their turns apart, each with its own times."""

    async def one(wait_s: float, say: str) -> tuple[Truth, str]:
        async with calling(Answer(say)) as (call, session):
            await asyncio.sleep(wait_s)
            await call.caller.speak(0.6, "how cold is it")
            await call.truth.happened("played out")
            await asyncio.sleep(0.2)
            return call.truth, session.history.messages()[-1].text_content or ""

    truths = await asyncio.gather(one(0.0, "It is nine."), one(0.25, "It is ten degrees there."))
    found = await turns.wait(2)
    assert len({turn.session_id for turn in found}) == 2
    for turn, (truth, _) in zip(found, truths, strict=True):
        assert times(turn, "voice.response") == truly(truth, "silence", "heard")
        assert times(turn, "llm.ttft") == truly(truth, "request", "first token")
        assert times(turn, "playback") == truly(truth, "heard", "played out")
        assert turn["llm"].attributes["voice.llm.token.count"] == len(truth.times["token"]) + 1


async def test_a_failure_that_is_mended(turns: Turns) -> None:
    """Failures of every provider that the framework mends are attempts of their own, and the turn has recovered."""
    lost = Answer(error=APIConnectionError("the model has gone"), ttft_s=0.1)
    async with calling(lost, NINE, ears={"failures": 1}, voice={"failures": 1}, turn_handling=AGAIN) as (call, _):
        await call.caller.speak(0.9, "how cold is it")
        (turn,) = await turns.wait(1)
    truth = call.truth
    assert turn.outcome == "completed"
    assert turn.root.attributes["voice.turn.recovered"] is True
    for stage in ("asr", "llm", "tts"):
        first, second = turn.all(stage)
        assert first.attributes["error.type"] == "livekit.agents._exceptions.APIConnectionError", stage
        assert second.error is None, stage
    assert times(turn, "llm", 0) == truly(truth, "request", "llm failed")
    assert times(turn, "llm.ttft") == (turn.all("llm")[1].start_ns, *truly(truth, "first token"))
    assert times(turn, "tts", 0)[1] == near(truth.at("tts failed"))
    assert times(turn, "voice.response") == truly(truth, "silence", "heard")


async def test_a_failure_that_is_not(turns: Turns) -> None:
    """A request that fails for good ends the turn in an error, and the silence without an answer counts."""
    lost = Answer(error=ValueError("no such model"), ttft_s=0.2)
    async with calling(lost, turn_handling=AGAIN) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        (turn,) = await turns.wait(1)
    assert turn.outcome == "error"
    assert turn["llm"].attributes["error.type"] == "ValueError"
    assert turn.root.attributes["error.type"] == "ValueError"
    assert times(turn, "voice.unanswered") == truly(call.truth, "silence", "llm failed")
    assert not names(turn) & {"llm.ttft", "tts", "playback"}


async def test_hand_over(turns: Turns) -> None:
    """The agent that takes over answers within the turn of the utterance that has brought it."""

    class Expert(Agent):
        def __init__(self) -> None:
            super().__init__(instructions="know all")

        async def on_enter(self) -> None:
            _ = self.session.generate_reply()

    class Desk(Agent):
        @function_tool
        async def transfer(self, context: RunContext[None]) -> Agent:
            """Call the expert."""
            return Expert()

    async with calling(Answer(call=("transfer", {})), NINE, NINE, agent=Desk(instructions="")) as (call, _):
        await call.caller.speak(0.5, "I want the expert")
        (first,) = await turns.wait(1)
        await call.caller.speak(0.5, "how cold is it")
        _, second = await turns.wait(2)
    truth = call.truth
    assert first.outcome == second.outcome == "completed"
    (handoff,) = [event for event in first.root.events if event.name == "voice.handoff"]
    assert handoff.attributes["gen_ai.agent.name"] == "expert"
    assert len(first.all("llm")) == 2
    assert times(first, "voice.response") == truly(truth, "silence", "heard")
    assert times(second, "voice.response") == truly(truth, ("silence", 1), ("heard", 1))
    assert {link.context.trace_id for link in second.root.links} == {first.trace_id}


async def test_greeting(turns: Turns) -> None:
    """What the agent says first is a turn of its own, with no listening in it, measured from the start of the call."""

    class Polite(Agent):
        async def on_enter(self) -> None:
            _ = self.session.say("Good morning.")

    async with calling(NINE, agent=Polite(instructions="")) as (call, session):
        (greeting,) = await turns.wait(1)
        await call.caller.speak(0.5, "how cold is it")
        await turns.wait(2)
        _ = session.say("By the way.")
        found = await turns.wait(3)
    truth = call.truth
    attributes = greeting.root.attributes
    assert attributes.items() >= {"voice.turn.initiator": "agent", "voice.turn.trigger": "greeting"}.items()
    assert attributes["voice.session.first_audio"] == pytest.approx(
        (truth.at("heard") - greeting.root.start_ns) / 1e9, abs=0.06
    )
    assert not names(greeting) & {"vad", "asr", "llm", "voice.response", "voice.unanswered"}
    assert times(greeting, "tts.first_audio") == truly(truth, "text", "first frame")
    assert times(greeting, "playback") == truly(truth, "heard", "played out")
    assert [turn.root.attributes.get("voice.turn.trigger") for turn in found] == ["greeting", None, "say"]
    assert [turn.root.attributes["voice.turn.index"] for turn in found] == [1, 2, 3]


async def test_typed_message(turns: Turns) -> None:
    """A message that is typed is a turn whose answer counts from the message."""
    async with calling(NINE) as (call, session):
        call.truth.note("message")
        _ = session.generate_reply(user_input="how cold is it")
        (turn,) = await turns.wait(1)
    assert turn.root.attributes["voice.turn.input"] == "text"
    assert times(turn, "voice.response") == truly(call.truth, "message", "heard")
    assert not names(turn) & {"vad", "asr"}


async def test_a_cough_is_no_turn(turns: Turns) -> None:
    """Sound over the agent that is too short to stop it and has no words is an event of the turn that plays."""
    async with calling(NINE, voice={"seconds": 7.0}) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        await asyncio.sleep(1.5)
        await call.caller.speak(0.15)
        (turn,) = await turns.wait(1, timeout_s=20)
        await asyncio.sleep(0.3)
    assert len(turns.found) == 1
    assert (turn.outcome, events(turn).count("voice.user_overlap")) == ("completed", 1)
    assert "barge_in" not in names(turn)


async def test_no_answer_on_purpose(turns: Turns) -> None:
    """A service that declines to answer has suppressed the turn; one that fails before the request has failed it."""

    class Silent(Agent):
        said: Exception = StopResponse()

        async def on_user_turn_completed(self, turn_ctx: llm.ChatContext, new_message: llm.ChatMessage) -> None:
            raise self.said

    agent = Silent(instructions="")
    async with calling(NINE, agent=agent, turn_handling=AGAIN) as (call, _):
        await call.caller.speak(0.4, "never mind")
        await turns.wait(1)
        agent.said = LookupError("no such customer")
        await call.caller.speak(0.4, "how cold is it")
        first, second = await turns.wait(2)
    assert (first.outcome, first.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "suppressed")
    assert (second.outcome, second.root.attributes["error.type"]) == ("error", "LookupError")


async def test_hang_up_is_no_interruption(turns: Turns) -> None:
    """A call that ends while the agent speaks cuts the audio; nobody has interrupted it."""
    async with calling(NINE, voice={"seconds": 3.0}) as (call, _):
        await call.caller.speak(0.5, "how cold is it")
        await asyncio.sleep(1.5)
        assert "heard" in call.truth.times
    (turn,) = await turns.wait(1)
    assert turn.outcome == "completed"
    assert "barge_in" not in names(turn)
    assert times(turn, "playback") == truly(call.truth, "heard", "quiet")


async def test_log_lines_carry_their_turn(turns: Turns, caplog: pytest.LogCaptureFixture) -> None:
    """Lines of a tool, of the node of the model and of an event handler carry the trace id of their turn."""
    lines: dict[str, dict[str, object]] = {}
    log = logging.getLogger("service")
    formatter = JSONFormatter()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines[record.getMessage()] = formatter.line(record)

    class Chatty(Agent):
        @function_tool
        async def look(self, context: RunContext[None]) -> str:
            """Look."""
            log.warning("in the tool")
            return "nine"

        async def llm_node(self, chat_ctx, tools, model_settings):  # type: ignore[no-untyped-def]
            log.warning("in the node")
            async for chunk in Agent.default.llm_node(self, chat_ctx, tools, model_settings):
                yield chunk

    handler = Handler()
    log.addHandler(handler)
    try:
        async with calling(Answer(call=("look", {})), NINE, agent=Chatty(instructions="")) as (call, session):
            session.on("conversation_item_added", lambda _: log.warning("in the handler"))
            await call.caller.speak(0.5, "how cold is it")
            (turn,) = await turns.wait(1)
    finally:
        log.removeHandler(handler)
    trace_id = f"{turn.trace_id:032x}"
    assert {name: line.get("trace_id") for name, line in lines.items()} == dict.fromkeys(
        ("in the node", "in the tool", "in the handler"), trace_id
    )
    assert lines["in the tool"]["span_id"] == f"{turn['execute_tool look'].span_id:016x}"
    assert lines["in the node"]["span_id"] == f"{turn.all('llm')[1].span_id:016x}"
