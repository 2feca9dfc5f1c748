"""Calls in real time: every milestone of every turn against what really happened, within 30 ms."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("pipecat")

from pipecat.bus import BusBridgeProcessor
from pipecat.frames.frames import (
    InterruptionFrame,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    LLMRunFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.turns.user_start import MinWordsUserTurnStartStrategy
from pipecat.workers.runner import WorkerRunner

from voicespan.integrations.pipecat.conversation import Conversation

from .phone import Answer, Call, DecoratedModel, DecoratedVoice, Model, Pace, ms

if TYPE_CHECKING:
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.services.llm_service import FunctionCallParams

    from voicespan.testing import VoiceRecorder

    from .conftest import Turns

pytestmark = pytest.mark.alone


async def get_weather(params: FunctionCallParams) -> None:
    """Take a fifth of a second."""
    await asyncio.sleep(0.2)
    await params.result_callback({"degrees": 9})


@pytest.mark.covers("D-T01", "F-TR01", "F-TR02", "F-TR04", "F-TR06", "F-TR09", "F-TR15")
async def test_a_plain_answer(turns: Turns) -> None:
    """One utterance is one complete turn, with the real onset and end of speech, model, voice and token counts."""
    async with Call().held() as call:
        await call.ask()
        await asyncio.sleep(0.3)
    (turn,) = turns.all()
    call.assert_plain(turn)
    assert turn.outcome == "completed"
    call.assert_ends(turn["llm"], "last token")
    assert turn["llm"].attributes["gen_ai.request.model"] == "words-1"
    assert turn["llm"].attributes["gen_ai.usage.input_tokens"] == 212
    assert turn["asr"].attributes["voice.language"] == "en"
    assert turn["tts"].attributes["voice.tts.voice.name"] == "anna"
    assert turn["tts"].attributes["voice.audio.duration_s"] == pytest.approx(1.2)
    assert ms(turn["playback"].duration_ns) == pytest.approx(1200, abs=call.tolerance_ms)
    assert turn.shares["unattributed"] < call.tolerance_ms / 1e3


async def test_the_last_turn_is_not_interrupted_by_the_end(turns: Turns) -> None:
    """A call that is cancelled while the agent speaks ends with a completed turn, cut where it was."""
    async with Call().held() as call:
        await call.ask()
        await asyncio.sleep(0.4)
        await call.worker.cancel()
    (turn,) = turns.all()
    assert turn.outcome == "completed"
    assert turn.all("barge_in") == []
    assert ms(turn["playback"].duration_ns) == pytest.approx(400, abs=100)


@pytest.mark.covers("F-TR07", "B-T03")
async def test_a_tool(turns: Turns) -> None:
    """A tool stands between the two requests of one turn; a response without words has no first token."""
    call = Call([Answer(tool="get_weather"), Answer()])
    call.model.register_function("get_weather", get_weather)
    async with call.held():
        await call.ask()
        await asyncio.sleep(0.3)
    (turn,) = turns.all()
    call.assert_plain(turn, request=1)
    asked, told = turn.all("llm")
    call.assert_begins(asked, "request", 0)
    tool = turn["execute_tool get_weather"]
    call.assert_begins(tool, "last token", 0)
    assert ms(tool.duration_ns) == pytest.approx(200, abs=call.tolerance_ms)
    assert turn["llm.ttft"].parent_id == told.span_id
    assert turn.shares["tool"] == pytest.approx(0.2, abs=call.tolerance_ms / 1e3)


async def test_a_tool_that_fails(turns: Turns) -> None:
    """An exception of a tool is its own failure, not the model's; the model's next answer makes it good."""

    async def broken(_params: FunctionCallParams) -> None:
        raise KeyError("Oslo")

    call = Call([Answer(tool="broken"), Answer("I do not know. ")])
    call.model.register_function("broken", broken)
    async with call.held():
        await call.ask()
    (turn,) = turns.all()
    tool = turn["execute_tool broken"]
    assert (tool.error is not None, tool.attributes["error.type"]) == (True, "KeyError")
    assert [llm.error for llm in turn.all("llm")] == [None, None]
    assert turn.outcome == "completed"
    assert turn.root.attributes["voice.turn.recovered"] is True


@pytest.mark.covers("F-TR16")
async def test_a_barge_in(turns: Turns) -> None:
    """Speech over the agent interrupts its turn, from the real onset until the transport is silent."""
    async with Call().held() as call:
        await call.ask()
        await asyncio.sleep(0.4)
        await call.ask()
    first, second = turns.all()
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    total = next(span for span in first.all("barge_in") if span.attributes["voice.barge_in.phase"] == "total")
    call.assert_begins(total, "speech", 1)
    call.assert_ends(total, "cleared", 1)
    assert total.attributes["voice.barge_in.detection_s"] == pytest.approx(0.2, abs=call.tolerance_ms / 1e3)
    call.assert_ends(first["playback"], "cleared", 1)
    call.assert_plain(second, 1, 1)
    links = {link.attributes["voice.link.type"] for link in second.root.links}
    assert links == {"previous", "interrupted"}


async def test_a_barge_in_where_audio_lies_ahead(turns: Turns) -> None:
    """What the transport has taken and drops again was not heard: the playback ends with the clear."""
    call = Call(pace=Pace(spoken_s=2.0))
    call.ear.ahead_s = 0.6
    async with call.held():
        await call.ask()
        await asyncio.sleep(0.3)
        await call.ask()
    first = turns.all()[0]
    assert first.outcome == "interrupted"
    call.assert_ends(first["playback"], "cleared", 1)


async def test_an_interruption_by_the_application(turns: Turns) -> None:
    """A bot that stops itself was not interrupted by its user: the turn is completed, as far as it was heard."""
    async with Call().held() as call:
        await call.ask()
        await asyncio.sleep(0.4)
        await call.worker.queue_frame(InterruptionFrame())
        await call.journal.wait("cleared", 2)
    (turn,) = turns.all()
    assert turn.outcome == "completed"
    assert turn.all("barge_in") == []
    call.assert_ends(turn["playback"], "cleared", 1)


async def test_a_barge_in_stops_the_model_and_the_voice(turns: Turns) -> None:
    """Work that an interruption cuts off is cancelled, not failed, and the phases of the interruption tell it."""
    answers = [Answer("One. " + "word " * 200, token_s=0.03), Answer()]
    async with Call(answers, pace=Pace(spoken_s=3.0)).held() as call:
        await call.ask()
        await asyncio.sleep(0.2)
        await call.ask()
    first = turns.all()[0]
    assert first["llm"].attributes["voice.stage.cancelled"] is True
    assert first["llm"].error is None
    call.assert_ends(first["llm"], "cleared", 1)
    phases = {span.attributes["voice.barge_in.phase"] for span in first.all("barge_in")}
    assert {"total", "playback_stop", "server_cancel"} <= phases


async def test_speech_while_nothing_plays_is_no_barge_in(turns: Turns) -> None:
    """Pipecat sends its interruption at every onset: two questions with all answers heard are two completed turns."""
    async with Call(pace=Pace(spoken_s=0.4)).held() as call:
        await call.ask()
        await asyncio.sleep(0.7)
        await call.ask()
        await asyncio.sleep(0.6)
    found = turns.all()
    assert [turn.outcome for turn in found] == ["completed", "completed"]
    assert [span.name for turn in found for span in turn.spans if span.name == "barge_in"] == []


async def test_a_false_interruption(turns: Turns) -> None:
    """A cough that the pipeline does not take for an utterance stays an event on the turn that plays on."""
    start = [MinWordsUserTurnStartStrategy(min_words=3)]
    call = Call(words=["How warm is it?", ""], start=start, pace=Pace(spoken_s=2.0))
    async with call.held():
        await call.ask()
        await asyncio.sleep(0.3)
        call.line.speak(0.3)
        await asyncio.sleep(2.2)
    (turn,) = turns.all()
    assert turn.outcome == "completed"
    assert turn.all("barge_in") == []
    assert [event.name for event in turn.root.events].count("voice.user_overlap") == 1
    assert ms(turn["playback"].duration_ns) == pytest.approx(2000, abs=call.tolerance_ms)


async def test_noise_that_stops_the_agent(turns: Turns) -> None:
    """Noise that Pipecat lets stop the agent interrupts its turn and is none itself; the agent then asks again."""
    async with Call(words=["How warm is it?", ""], pace=Pace(spoken_s=2.0)).held() as call:
        await call.ask()
        await asyncio.sleep(0.3)
        call.line.speak(0.4)
        await call.journal.wait("heard", 2)
        await asyncio.sleep(0.3)
    turn, again = turns.all()
    assert turn.outcome == "interrupted"
    assert again.root.attributes["voice.turn.trigger"] == "say"
    call.assert_ends(turn["playback"], "cleared", 1)


async def test_an_abort_before_the_first_token(turns: Turns) -> None:
    """Who goes on before the answer begins has two turns: one superseded, without a first token, one answered."""
    async with Call([Answer(first_token_s=1.5), Answer()]).held() as call:
        call.line.speak(0.8)
        await call.journal.wait("request")
        await asyncio.sleep(0.2)
        await call.ask()
    first, second = turns.all()
    assert (first.outcome, first.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "superseded")
    assert first.get("llm.ttft") is None
    assert "gen_ai.response.time_to_first_chunk" not in first["llm"].attributes
    assert first["llm"].attributes["voice.stage.cancelled"] is True
    assert first.all("barge_in") == []
    call.assert_begins(first["voice.unanswered"], "silence", 0)
    call.assert_ends(first["voice.unanswered"], "speech", 1)
    assert second.outcome == "completed"
    call.assert_begins(second["voice.response"], "silence", 1)


async def test_a_pause_within_an_utterance(turns: Turns) -> None:
    """Speech that goes on before the decision is the same turn, and the silence counts from the last end."""
    async with Call(endpointing_s=0.8).held() as call:
        call.line.speak(0.6)
        await call.journal.wait("silence")
        await asyncio.sleep(0.45)
        await call.ask(0.6)
    (turn,) = turns.all()
    assert turn.root.attributes["voice.speech.segments"] == 2
    call.assert_begins(turn.root, "speech", 0)
    call.assert_begins(turn["voice.response"], "silence", 1)
    call.assert_ends(turn["asr.finalize"], "transcript", 1)


async def test_a_caller_who_hangs_up_in_the_silence(turns: Turns) -> None:
    """An utterance that was never answered is its own turn, and the wait for the answer is told."""
    async with Call([Answer(first_token_s=5)]).held() as call:
        call.line.speak(0.8)
        await call.journal.wait("request")
        await asyncio.sleep(0.5)
        await call.worker.cancel()
    (turn,) = turns.all()
    assert (turn.outcome, turn.root.attributes["voice.turn.no_reply.reason"]) == ("no_reply", "user_left")
    call.assert_begins(turn["voice.unanswered"], "silence")
    assert turn.get("llm.ttft") is None


async def test_a_greeting(turns: Turns) -> None:
    """What the application says first is an agent turn, measured from the moment at which media flows."""
    async with Call().held() as call:
        await call.worker.queue_frame(TTSSpeakFrame("Good morning."))
        await call.journal.wait("heard")
        await asyncio.sleep(1.5)
        await call.ask()
    greeting, answer = turns.all()
    assert greeting.root.attributes["voice.turn.trigger"] == "greeting"
    assert greeting.get("voice.response") is None
    call.assert_begins(greeting["tts"], "text", 0)
    call.assert_begins(greeting["playback"], "heard", 0)
    assert greeting.root.attributes["voice.session.first_audio"] == pytest.approx(0.15 + 0.3, abs=0.15)
    assert (answer.outcome, answer.root.attributes["voice.turn.initiator"]) == ("completed", "user")


async def test_a_greeting_of_the_model(turns: Turns) -> None:
    """What the model says unasked is an agent turn with its request."""
    async with Call().held() as call:
        await call.worker.queue_frame(LLMRunFrame())
        await call.journal.wait("heard")
        await asyncio.sleep(1.0)
    (greeting,) = turns.all()
    assert greeting.root.attributes["voice.turn.trigger"] == "greeting"
    call.assert_begins(greeting["llm.ttft"], "request")
    call.assert_ends(greeting["llm.ttft"], "first token")


async def test_one_moment_please(turns: Turns) -> None:
    """What the application says while a tool runs is a filler: the answer is measured beside what was heard first."""

    async def slow(params: FunctionCallParams) -> None:
        await params.llm.queue_frame(TTSSpeakFrame("One moment."))
        await asyncio.sleep(1.0)
        await params.result_callback({"degrees": 9})

    call = Call([Answer(tool="slow"), Answer()], pace=Pace(spoken_s=0.6))
    call.model.register_function("slow", slow)
    async with call.held():
        await call.ask()
        await call.journal.wait("heard", 2)
        await asyncio.sleep(0.2)
    (turn,) = turns.all()
    filler, answer = turn.all("tts")
    assert filler.attributes["voice.tts.filler"] is True
    assert "voice.tts.filler" not in answer.attributes
    call.assert_ends(turn["voice.response"], "heard", 0)
    call.assert_ends(turn["voice.answer"], "heard", 1)


async def test_a_model_that_fails(turns: Turns) -> None:
    """An error of the model is the turn's, with the kind of the exception; no first token is made up."""
    async with Call([Answer(error=ConnectionResetError("gone"))]).held() as call:
        call.line.speak(0.8)
        await call.journal.wait("model failed")
        await asyncio.sleep(0.2)
    (turn,) = turns.all()
    assert (turn.outcome, turn.root.attributes["error.type"]) == ("error", "ConnectionResetError")
    assert turn["llm"].error is not None
    assert turn.get("llm.ttft") is None
    call.assert_begins(turn["voice.unanswered"], "silence")
    call.assert_ends(turn["voice.unanswered"], "model failed")


async def test_a_voice_that_fails(turns: Turns) -> None:
    """An error of the synthesizer is the turn's; it has no first audio."""
    async with Call(pace=Pace(error=RuntimeError("no voice"))).held() as call:
        call.line.speak(0.8)
        await call.journal.wait("voice failed")
        await asyncio.sleep(0.2)
    (turn,) = turns.all()
    assert (turn.outcome, turn.root.attributes["error.type"]) == ("error", "RuntimeError")
    assert turn.get("tts.first_audio") is None
    assert turn.get("playback") is None


async def test_a_recognizer_that_fails(turns: Turns) -> None:
    """An utterance that was not understood is a turn with an error, not one that nobody made."""
    call = Call()
    call.recognizer.error = TimeoutError("no answer")
    async with call.held():
        call.line.speak(0.8)
        await call.journal.wait("recognizer failed")
        await asyncio.sleep(2.0)
    (turn,) = turns.all()
    assert (turn.outcome, turn.root.attributes["error.type"]) == ("error", "TimeoutError")
    assert turn["asr"].error is not None


async def test_two_calls_at_once(turns: Turns) -> None:
    """Two calls in one process have a session each, and every turn is in the right one."""
    calls = [Call([Answer(first_token_s=0.3 + 0.2 * number)]) for number in range(2)]

    async def hold(call: Call, wait_s: float) -> None:
        async with call.held():
            await asyncio.sleep(wait_s)
            await call.ask()

    await asyncio.gather(hold(calls[0], 0), hold(calls[1], 0.3))
    first, second = turns.all()
    assert first.session_id != second.session_id
    calls[0].assert_plain(first)
    calls[1].assert_plain(second)


async def test_a_hand_over_between_agents(turns: Turns) -> None:
    """An agent that takes over answers within the same turn: event, model and name say who it was."""

    async def transfer(params: FunctionCallParams) -> None:
        await params.pipeline_worker.activate_worker("support")
        await params.pipeline_worker.deactivate_worker("reception")
        await asyncio.sleep(0.1)
        await params.result_callback({"done": True})

    call = Call()
    runner = WorkerRunner(handle_sigint=False)
    reception = Model(call.journal, [Answer(tool="transfer")], name="words-1")
    reception.register_function("transfer", transfer)
    support = Model(call.journal, [Answer()], name="words-2")
    agents = [
        PipelineWorker(Pipeline([model]), name=name, bridged=(), active=name == "reception", idle_timeout_secs=None)
        for name, model in (("reception", reception), ("support", support))
    ]
    bridge = BusBridgeProcessor(bus=runner.bus, worker_name="phone")

    def processors() -> list[FrameProcessor]:
        user, assistant = call.context.user(), call.context.assistant()
        return [call.line, call.recognizer, user, bridge, call.voice, call.ear, assistant]

    call.processors = processors  # type: ignore[method-assign]
    call.options["name"] = "phone"
    async with call.held(*agents, runner=runner):
        await call.ask()
        await asyncio.sleep(0.3)
    (turn,) = turns.all()
    assert [span.attributes["gen_ai.request.model"] for span in turn.all("llm")] == ["words-1", "words-2"]
    (event,) = [event for event in turn.root.events if event.name == "voice.handoff"]
    assert event.attributes["gen_ai.agent.name"] == "support"
    assert turn.all("llm")[1].attributes["gen_ai.agent.name"] == "support"
    call.assert_plain(turn, request=1)


@pytest.mark.parametrize("metrics", [False, True], ids=["no metrics", "metrics"])
@pytest.mark.parametrize("tracing", [False, True], ids=["no tracing", "tracing"])
@pytest.mark.parametrize("decorated", [False, True], ids=["plain", "decorated"])
async def test_whatever_the_bot_switches_on(turns: Turns, *, metrics: bool, tracing: bool, decorated: bool) -> None:
    """The turn is the same with Pipecat's own metrics and tracing on or off, and its services decorated or not."""
    params = PipelineParams(enable_metrics=metrics, enable_usage_metrics=metrics)
    call = Call(params=params, enable_tracing=tracing)
    if decorated:
        call.model, call.voice = DecoratedModel(call.journal), DecoratedVoice(call.journal)
    async with call.held():
        await call.ask()
    (turn,) = turns.all()
    call.assert_plain(turn)
    names = sorted(span.name for span in turn.spans)
    assert names == [
        "asr", "asr.finalize", "llm", "llm.first_sentence", "llm.ttft", "playback", "tts", "tts.first_audio", "vad",
        "vad.endpoint", "voice.response", "voice.turn",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_names_before(turns: Turns) -> None:
    """A bot that still says `PipelineTask` and `PipelineRunner` has its turns too."""
    async with Call().held(runner=PipelineRunner(handle_sigint=False), kind=PipelineTask) as call:
        await call.ask()
    (turn,) = turns.all()
    call.assert_plain(turn)


async def test_an_utterance_that_is_answered_without_a_transcript(turns: Turns) -> None:
    """Where the pipeline asks the model although the recognizer is late, that is the answer to what was said."""
    call = Call()
    call.recognizer.delay_s = 2.2
    async with call.held():
        await call.ask()
    turn = turns.all()[0]
    call.assert_begins(turn.root, "speech")
    call.assert_begins(turn["voice.response"], "silence")
    call.assert_ends(turn["voice.response"], "heard")


async def test_a_transcript_that_comes_late(voice: VoiceRecorder) -> None:
    """An utterance that was given up waits for its transcript: the silence counts from the real end of speech."""
    call = Conversation(voice.session())
    call.recognizes = True
    voice.clock.to(1000)
    call.speech_started(voice.clock.at(800))
    call.turn_started()
    voice.clock.to(2200)
    call.speech_ended(voice.clock.at(2000))
    voice.clock.to(3500)
    call.turn_ended()  # nothing was recognized
    voice.clock.to(4100)
    call.transcribed("recognizer")
    call.turn_started()
    call.turn_ended()
    call.generation_began("model", current=False)
    call.token("model")
    call.generation_ended("model")
    call.text_given("voice", "context", "Yes.", None)
    call.audio_made("voice", "context", 0.5)
    voice.clock.to(4300)
    call.audio_sent(0.5, voice.clock.now_ns)
    call.voice_ended("voice", "context")
    (turn,) = voice.settle(5)
    assert ms(turn["voice.response"].duration_ns) == 2300
    assert ms(turn["asr.finalize"].duration_ns) == 2100
    assert ms(turn["vad"].duration_ns) == 3300
    call.speech_started(voice.clock.now_ns)
    call.speech_ended(voice.clock.now_ns)
    call.turn_ended()
    (given_up,) = voice._open
    call._forget_late(given_up)
    assert voice.settle(1) == [turn]


async def test_a_message_in_writing(turns: Turns) -> None:
    """A typed message that is to be answered is a turn of the user, from the message on."""
    async with Call().held() as call:
        await call.worker.queue_frames([LLMMessagesAppendFrame([{"role": "user", "content": "Hello?"}], run_llm=True)])
        call.journal.note("message")
        await call.journal.wait("heard")
        await asyncio.sleep(0.2)
    (turn,) = turns.all()
    assert turn.root.attributes["voice.turn.input"] == "text"
    assert turn.root.attributes["voice.turn.initiator"] == "user"
    call.assert_begins(turn["voice.response"], "message")
    call.assert_ends(turn["voice.response"], "heard")


class Listener(Model):  # type: ignore[misc]
    """A model that hears and speaks by itself."""

    async def _answer(self, frame: LLMContextFrame, answer: Answer) -> None:
        await asyncio.sleep(answer.first_token_s)
        await self.push_frame(TTSStartedFrame())
        self._journal.note("first audio")
        for word in answer.text.split():
            await self._push_llm_text(f"{word} ")
            await self.push_frame(TTSAudioRawFrame(bytes(4800), 24_000, 1))
            await asyncio.sleep(answer.token_s)
        await self.push_frame(TTSStoppedFrame())
        self._journal.note("last audio")
        await self.start_llm_usage_metrics(LLMTokenUsage(prompt_tokens=9, completion_tokens=5, total_tokens=14))


async def test_a_model_that_speaks(turns: Turns) -> None:
    """Speech to speech is the stage `realtime`, from the decision to the end of the response."""
    call = Call()
    call.model = Listener(call.journal)
    user, assistant = call.context.user(), call.context.assistant()
    call.processors = lambda: [call.line, call.recognizer, user, call.model, call.ear, assistant]  # type: ignore[method-assign]
    async with call.held():
        await call.ask()
        await asyncio.sleep(0.2)
        await call.ask()
        await asyncio.sleep(0.8)
    first, second = turns.all()
    assert (first.outcome, second.outcome) == ("interrupted", "completed")
    for number, turn in enumerate((first, second)):
        assert {span.name for span in turn.spans}.isdisjoint({"llm", "tts", "llm.ttft"})
        call.assert_ends(turn["realtime.first_audio"], "first audio", number)
        call.assert_begins(turn["playback"], "heard", number)
        assert turn["realtime"].start_ns == turn["vad"].end_ns
    call.assert_ends(second["realtime"], "last audio", 1)
    assert second["realtime"].attributes["gen_ai.usage.output_tokens"] == 5
    assert second["realtime"].attributes["voice.audio.duration_s"] == pytest.approx(0.6)
