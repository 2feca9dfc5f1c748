"""What the frames of one pipeline mean: the session, and which of its turns each of them belongs to.

Nothing here knows Pipecat's classes: `attach.py` translates frames into these calls, each at the moment at which the
frame was pushed. The turn that a call belongs to is decided here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voicespan.context import Scope
from voicespan.guard import guarded
from voicespan.integrations.pipecat import service
from voicespan.stage import Llm, Realtime, Tts

if TYPE_CHECKING:
    from voicespan.sessions import Session, Trigger
    from voicespan.stage import Asr, Stage, Tool
    from voicespan.turn import Turn

LATE_S = 5.0
"""How long an utterance without a transcript waits for one that comes after the decision."""
AT_ONCE_NS = 500_000_000
"""A request to the model that follows a decision so closely is made for it."""
MAX_REMEMBERED = 256
"""Tool calls and syntheses whose ids are remembered, so that a long call does not grow."""


@dataclass(slots=True, eq=False)
class Reply:
    """A turn on its way to an answer, or one in which the agent speaks of its own accord."""

    turn: Turn
    generations: int = 0
    spoken: bool = False
    """Something that is no filler was handed to the synthesizer."""
    unread: int = 0
    """Results of tools that no request to the model has taken in yet."""
    broken: bool = False
    """The last request failed or was cut off: another one may make it good."""
    working: set[Stage] = field(default_factory=set)
    """Requests and tools that run."""

    @property
    def awaits_model(self) -> bool:
        """Whether the next request to a model is made for this turn, and not a new thought of the agent."""
        return self.turn.open and (self.broken or self.unread > 0 or not (self.generations or self.spoken))

    @property
    def sounds(self) -> bool:
        """Whether what was said last belongs to it still: nothing is heard yet, or it has not been played out."""
        playback = self.turn.record.playback
        return self.turn.open and (playback.first_sent_ns is None or self.turn.now_ns() < playback.out_ns)


@dataclass(slots=True, eq=False)
class Generation:
    """One response of a language model."""

    stage: Llm | Realtime
    reply: Reply
    scope: Scope | None = None


@dataclass(slots=True, eq=False)
class Call:
    """One call of a tool."""

    stage: Tool
    reply: Reply
    scope: Scope | None = None
    done: bool = False


@dataclass(slots=True, eq=False)
class Voice:
    """One synthesis: what Pipecat calls an audio context."""

    stage: Tts | Realtime
    reply: Reply
    source: object
    interruptible: bool
    done: bool = False


class Conversation:
    """One call: its session, the user's utterance, and what the agent does about it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.recognizes = False
        """There is a recognizer: speech without a transcript was no utterance."""
        self.decides = False
        """The pipeline tells when the user's turn is over; else the request to the model shows it."""
        self.agent: str | None = None
        """The agent that speaks, where there are several."""
        self._connected_ns: int | None = None
        self._cut_ns: int | None = None
        # The user
        self._speaking = False
        self._utterance: Turn | None = None
        """The turn whose speech is not decided on."""
        self._asr: Asr | None = None
        self._final_ns: int | None = None
        self._refused = False
        """The recognizer failed in this utterance."""
        self._late: Turn | None = None
        """The utterance that was decided on without a transcript, while one may still come."""
        self._decided_ns = 0
        # The agent
        self._reply: Reply | None = None
        self._generated: Reply | None = None
        self._told: Tool | None = None
        """A tool that outlived its turn, and whose result is not told yet."""
        self._generations: dict[object, Generation] = {}
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._voices: OrderedDict[object, Voice] = OrderedDict()
        self._playing: Voice | None = None
        self._left: dict[object, Scope] = {}
        """What is current in the task of a service although it is over: another task has told its end."""

    # The line

    def connected(self, *, client: bool) -> None:
        """The transport is ready, or the client is there: the first speech of the agent is measured from here."""
        if client or self._connected_ns is None:
            self._connected_ns = self.now_ns()

    def activated(self, agent: str) -> None:
        """Another agent takes over."""
        before, self.agent = self.agent, agent
        if before is not None and before != agent:
            turn = self._utterance if self._reply is None or not self._reply.turn.open else self._reply.turn
            if turn is not None:
                turn.handoff(agent)

    def cut(self) -> None:
        """The pipeline is cancelled: nothing more is heard from now on."""
        if self._cut_ns is None:
            self._cut_ns = self.now_ns()
            if self._playing is not None:
                self._playing.reply.turn.audio_cleared()

    def end(self) -> None:
        """The pipeline is over. What was played is a reply, not an interruption."""
        self._forget_late()
        self._recognized()
        self.session.end(at=self._cut_ns)

    # The user

    def speech_started(self, at_ns: int) -> None:
        """The detector has found speech that began at `at_ns`."""
        if not self._speaking:
            self._speaking = True
            self._forget_late()
            self._listen(at_ns)

    def speech_ended(self, at_ns: int) -> None:
        """The detector has found that the user fell silent at `at_ns`."""
        if self._speaking:
            self._speaking = False
            if (turn := self._listening()) is not None:
                turn.speech_ended(at_ns)

    def turn_started(self) -> None:
        """The pipeline takes what it hears for an utterance; without a detector this is the first sign of it."""
        self.decides = True
        if self._listening() is None:
            late, self._late = self._late, None
            if late is not None and late.open:
                self._utterance = late
            else:
                self._listen(self._final_ns)

    def partial(self) -> None:
        """A partial transcript is there."""
        if (turn := self._listening()) is not None:
            turn.transcript(final=False)

    def transcribed(self, recognizer: object, *, by_model: bool = False) -> None:
        """A piece of the transcript is there; the last one before the decision is the final one.

        `by_model`: a model that hears by itself tells what it heard, some time; nothing waits for that.
        """
        if by_model:
            if (turn := self._listening()) is not None:
                turn.transcript()
            return
        self.recognizes = True
        self._final_ns = self.now_ns()
        turn = self._listening()
        if turn is None and self._late is not None and self._late.open:
            turn, self._utterance, self._late = self._late, self._late, None
        if turn is not None and self._asr is None:
            self._asr = self._recognition(turn, recognizer)

    def turn_ended(self) -> None:
        """The end-of-turn decision."""
        self.decides = True
        turn = self._listening()
        if turn is None:
            return
        answered = self._reply is not None and self._reply.turn is turn
        if self.recognizes and self._final_ns is None and not self._refused and not answered:
            self._wait_for_transcript(turn)
        else:
            self._recognized()
            self._commit(turn)
        self._utterance, self._asr, self._final_ns, self._refused = None, None, None, False

    def _wait_for_transcript(self, turn: Turn) -> None:
        """Dismiss an utterance in which nothing was said, unless its transcript is only late."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or (turn.over is not None and turn.over.open):
            turn.dismissed()
        else:
            self._late, self._decided_ns = turn, self.now_ns()
            loop.call_later(LATE_S, self._forget_late, turn)

    @guarded
    def _forget_late(self, which: Turn | None = None) -> None:
        late = self._late
        if late is not None and which in (None, late):
            self._late = None
            late.dismissed()

    def recognition_failed(self, recognizer: object, error: BaseException | str) -> None:
        """The recognizer has reported an error."""
        turn = self._listening()
        if turn is not None:
            self._asr = self._asr or self._recognition(turn, recognizer)
            self._asr.fail(error)
            self._refused = True

    def _listening(self) -> Turn | None:
        turn = self._utterance
        return turn if turn is not None and turn.open and turn.record.committed_ns is None else None

    def _listen(self, at_ns: int | None) -> None:
        before = self._listening()
        turn = self._utterance = self.session.user_turn(at=at_ns)
        turn.agent = turn.agent or self.agent
        if turn is not before:
            self._asr, self._refused = None, False
            if self._final_ns is not None and self._final_ns < turn.record.onset_ns:
                self._final_ns = None

    def _recognition(self, turn: Turn, recognizer: object) -> Asr:
        asr = turn.asr(
            model=service.model(recognizer),
            provider=service.provider(recognizer),
            language=service.language(recognizer),
        )
        asr.audio(turn.record.onset_ns)
        return asr

    def _recognized(self) -> None:
        """End the recognition with the last piece of the transcript."""
        turn = self._listening()
        if self._asr is not None:
            if self._final_ns is not None:
                self._asr.final(self._final_ns)
            self._asr.end(self._final_ns)
        elif turn is not None and self._final_ns is not None:
            turn.transcript(self._final_ns)

    def _commit(self, turn: Turn) -> None:
        turn.committed()
        if self._reply is None or self._reply.turn is not turn:
            self._reply = Reply(turn)

    # The model

    def generation_began(self, source: object, *, current: bool) -> None:
        """The model is asked; with `current` the stage stands for the work of this task until the end."""
        self.generation_ended(source)
        reply = self._reply_for_generation()
        reply.generations += 1
        reply.unread = 0
        reply.broken = False
        stage = reply.turn.llm(model=service.model(source), provider=service.provider(source))
        generation = self._generations[source] = Generation(stage, reply)
        reply.working.add(stage)
        self._generated = reply
        if current:
            generation.scope = Scope(stage, reply.turn)

    def token(self, source: object) -> None:
        """A piece of the response is there."""
        generation = self._generations.get(source)
        if generation is not None and isinstance(generation.stage, Llm):
            generation.stage.token()

    def model_speaks(self, source: object) -> None:
        """The model answers in audio itself: what was begun as text is a stage `realtime`."""
        if source not in self._generations:
            self.generation_began(source, current=False)
        generation = self._generations[source]
        if isinstance(generation.stage, Llm):
            generation.reply.working.discard(generation.stage)
            generation.stage = generation.stage.speaks()
            generation.reply.working.add(generation.stage)
        voice = self._voices.get(source)
        if voice is None or voice.stage is not generation.stage:
            generation.reply.spoken = True
            self._voices.pop(source, None)
            self._voices[source] = Voice(generation.stage, generation.reply, source, interruptible=True)
            self._forget_voices()

    def works(self, source: object) -> None:
        """A service takes up something new: in its task, what is over is no longer current."""
        scope = self._left.get(source)
        if scope is not None and scope.close():
            del self._left[source]

    def tokens_used(self, source: object, prompt: int, completion: int) -> None:
        """The provider tells what it bills."""
        if (generation := self._generations.get(source)) is not None:
            generation.stage.usage(input_tokens=prompt, output_tokens=completion)

    def generation_ended(self, source: object) -> None:
        """The response is complete, or given up."""
        generation = self._generations.pop(source, None)
        if generation is not None:
            if generation.scope is not None and not generation.scope.close():
                self._left[source] = generation.scope
            if (voice := self._voices.get(source)) is not None:  # a model that speaks
                voice.done = True
            generation.stage.end()
            generation.reply.working.discard(generation.stage)

    def generation_withdrawn(self, source: object) -> None:
        """The model's work was done for an utterance that goes on after all."""
        if (generation := self._generations.get(source)) is not None:
            generation.stage.cancelled()
            if isinstance(generation.stage, Llm):
                generation.stage.discarded()
            generation.reply.broken = True
            self.generation_ended(source)

    def written(self) -> None:
        """The user has sent a message in writing, which the model is asked to answer."""
        turn = self.session.user_turn(input="text")
        turn.agent = turn.agent or self.agent
        self._reply = Reply(turn)

    def _reply_for_generation(self) -> Reply:
        turn, reply = self._listening(), self._reply
        late = self._late
        if turn is None and late is not None and late.open and self.now_ns() - self._decided_ns < AT_ONCE_NS:
            self._late = None  # the pipeline answers it without knowing what was said
            self._commit(late)
            return self._reply or Reply(late)
        if turn is not None and not self.decides:
            self._recognized()
            self._commit(turn)
            self._utterance, self._asr, self._final_ns = None, None, None
        elif turn is not None and not self._speaking and (reply is None or not reply.unread):
            # Before the decision: it may turn out that the user was not done.
            self._reply = reply if reply is not None and reply.turn is turn else Reply(turn)
            return self._reply
        reply = self._reply
        return reply if reply is not None and reply.awaits_model else self._agent_reply()

    def _agent_reply(self) -> Reply:
        """Begin a turn that nobody but the agent asked for."""
        tool, self._told = self._told, None
        trigger: Trigger = "tool_result" if tool is not None else "greeting" if self._reply is None else "say"
        if self._connected_ns is not None:
            self.session.media_up(self._connected_ns)
        turn = self.session.agent_turn(trigger, tool=tool)
        turn.agent = self.agent
        self._reply = Reply(turn)
        return self._reply

    # Tools

    def tool_called(self, source: object, call_id: str, name: str, *, background: bool, current: bool) -> None:
        """A tool is called; with `background` the conversation goes on meanwhile."""
        if call_id in self._calls:
            return
        generation = self._generations.get(source)
        reply = generation.reply if generation is not None else self._generated or self._reply
        if reply is None:
            return
        stage = reply.turn.tool(name, background=background)
        call = self._calls[call_id] = Call(stage, reply)
        reply.working.add(stage)
        if current:
            call.scope = Scope(stage, reply.turn)
        while len(self._calls) > MAX_REMEMBERED:
            self._calls.popitem(last=False)

    def tool_returned(self, call_id: str, error: str | None) -> None:
        """The tool has given its result, or failed."""
        call = self._calls.get(call_id)
        if call is None or call.done:
            return
        if error is not None:
            call.stage.fail(error.partition(":")[0])
        self._tool_over(call)
        call.reply.unread += 1
        if not call.reply.turn.open:
            self._told = call.stage

    def tool_cancelled(self, call_id: str) -> None:
        """The call is given up."""
        call = self._calls.get(call_id)
        if call is not None and not call.done:
            call.stage.cancelled()
            self._tool_over(call)

    def _tool_over(self, call: Call) -> None:
        call.done = True
        if call.scope is not None:
            call.scope.close()
        call.stage.end()
        call.reply.working.discard(call.stage)

    # Synthesis

    def text_given(self, source: object, context: object, text: str | None, said: object | None) -> Stage:
        """Text is handed to the synthesizer; `said` is the frame of an application that speaks without a model."""
        voice = self._voices.get(context)
        if voice is None or voice.done:  # an id may be taken up again after a pause
            voice = self._begin_voice(source, context, said)
        if text and isinstance(voice.stage, Tts):
            voice.stage.text(text)
        return voice.stage

    def _begin_voice(self, source: object, context: object, said: object | None) -> Voice:
        reply, filler = self._reply_for_voice(said)
        reply.spoken = reply.spoken or not filler
        stage = reply.turn.tts(
            voice=service.voice(source),
            model=service.model(source),
            provider=service.provider(source),
            language=service.language(source),
            filler=filler,
        )
        voice = Voice(stage, reply, source, interruptible=getattr(said, "interruptible", True))
        self._voices[context] = voice
        self._forget_voices()
        return voice

    def _forget_voices(self) -> None:
        while len(self._voices) > MAX_REMEMBERED:
            _, voice = self._voices.popitem(last=False)
            if not voice.done:
                voice.stage.end()

    def _reply_for_voice(self, said: object | None) -> tuple[Reply, bool]:
        reply = self._reply
        if said is None:
            reply = self._generated or reply
            return (reply, False) if reply is not None and reply.turn.open else (self._agent_reply(), False)
        if reply is not None and reply.turn.open:
            if reply.working and not reply.spoken:
                return reply, True
            if not reply.spoken or reply.sounds:
                return reply, False
        return self._agent_reply(), False

    def audio_made(self, source: object, context: object, seconds: float) -> None:
        """The synthesizer has given a frame."""
        voice = self._voices.get(context)
        if voice is None:
            voice = self._begin_voice(source, context, None)
        if voice.source is source:
            voice.stage.audio(seconds)

    def voice_ended(self, source: object, context: object) -> None:
        """The synthesizer has given everything."""
        voice = self._voices.get(context)
        if voice is not None and voice.source is source and not voice.done:
            voice.done = True
            if not isinstance(voice.stage, Realtime):  # whose response says itself when it is over
                voice.stage.end()

    # The way to the user

    def voice_plays(self, context: object) -> None:
        """What is sent from now on is of this synthesis."""
        if context is None and self._voices:  # a model that speaks names none
            self._playing = next(reversed(self._voices.values()))
        else:
            self._playing = self._voices.get(context, self._playing)

    def audio_sent(self, seconds: float, at_ns: int) -> None:
        """A frame of speech has left for the user; the transport took it at `at_ns`."""
        voice = self._playing
        if voice is None:
            voice = self._playing = next(iter(reversed(self._voices.values())), None)
        if voice is not None and voice.reply.turn.open:
            voice.reply.turn.audio_sent(seconds, at_ns)

    # Interruption

    def interruption_decided(self) -> None:
        """The pipeline is told to stop; an interruption only where the user speaks and something is heard."""
        if self._playing is not None and self._listening() is not None:
            self._playing.reply.turn.interrupted()

    def model_stopped(self, source: object) -> None:
        """The model's work is given up."""
        if (generation := self._generations.get(source)) is not None:
            generation.stage.cancelled()
            generation.reply.broken = not generation.reply.spoken
            self.generation_ended(source)
            generation.reply.turn.barge_in("server_cancel")

    def voice_stopped(self, source: object) -> None:
        """The synthesizer's work is given up, but for what must not be interrupted."""
        for voice in self._voices.values():
            if voice.source is source and not voice.done and voice.interruptible:
                voice.done = True
                voice.stage.cancelled()
                voice.stage.end()
                voice.reply.turn.barge_in("worker_pause")

    def output_stopped(self) -> None:
        """The transport has dropped what it had not sent."""
        if self._playing is not None and self._playing.interruptible:
            self._playing.reply.turn.audio_cleared()

    # Failures

    def failed(self, source: object, error: BaseException | str) -> None:
        """A service has reported an error: what it was working on has failed."""
        if (generation := self._generations.get(source)) is not None:
            generation.stage.fail(error)
            generation.reply.broken = True
        for voice in self._voices.values():
            if voice.source is source and not voice.done:
                voice.done = True
                voice.stage.fail(error)
                voice.stage.end()

    def now_ns(self) -> int:
        """Return the session's monotonic time."""
        return self.session.recorder.clock.monotonic_ns()
