"""One `AgentSession` as a session: whose turn it is, and which turn each speech of the agent belongs to."""

from __future__ import annotations

import asyncio
import functools
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from voicespan import names as n
from voicespan.context import LiveSpan, Scope, bound
from voicespan.guard import guarded, swallowed
from voicespan.integrations.livekit import apart, moments
from voicespan.integrations.livekit.network import Network
from voicespan.integrations.livekit.playback import Playback
from voicespan.integrations.livekit.reply import BY_USER, Reply, known, provider_of
from voicespan.sessions import Session, session
from voicespan.stage import Tool
from voicespan.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import ContextVar

    from voicespan.context import Subject
    from voicespan.sessions import Trigger
    from voicespan.stage import Asr, Realtime

SILENT_END_S = 3.0
"""How long a turn stays open whose reply ended without a word: a hand-over or a tool's result may still speak."""

EXPECTED_S = 15.0
"""How long a speech-to-speech model is waited for that may not answer at all."""

_conversations: weakref.WeakKeyDictionary[Any, Conversation] = weakref.WeakKeyDictionary()
_replies: weakref.WeakKeyDictionary[Any, tuple[Conversation, Reply]] = weakref.WeakKeyDictionary()
"""By the framework's `SpeechHandle`."""


def of(agent_session: Any) -> Conversation | None:
    """Return the conversation of an `AgentSession` that runs."""
    found = _conversations.get(agent_session)
    return found if found is not None and found.session.open else None


def begin(agent_session: Any, room: Any) -> Conversation:
    """Begin the conversation of an `AgentSession` that is being started, and make its session current."""
    made = Conversation(agent_session, room)
    _conversations[agent_session] = made
    Scope(made.session, made.session)  # for this task and those that it starts, as the framework's own span
    made.playback.listen(agent_session.output.audio)
    return made


class Conversation:
    """What is known of one `AgentSession`. Its methods may raise: their callers guard them."""

    def __init__(self, agent_session: Any, room: Any) -> None:
        context = _job_context()
        job = getattr(context, "job", None)
        first = getattr(context, "_primary_agent_session", None) in (None, agent_session)
        name = getattr(room if room is not None else getattr(job, "room", None), "name", None)
        self.session: Session = session(
            job.id if job is not None and first else None,
            transport=None if room is None else "livekit",
            room_id=name if isinstance(name, str) and name else None,
            measurement_point="server",
        )
        self.session.gen_ai_metrics = False  # the framework records them
        self.clock = self.session.recorder.clock
        self.loop = asyncio.get_running_loop()
        self.agent_session = weakref.ref(agent_session)
        self.playback = Playback(self.session, current_reply)
        self.network = Network(room)
        self.speech: Turn | None = None
        """The user's turn while it is not committed."""
        self.speech_ended = False
        self.asked: Turn | None = None
        """The user's turn that was committed last."""
        self.expected: Realtime | None = None
        """The response that a speech-to-speech model owes to it."""
        self.responding: Realtime | None = None
        """The response that it has begun last."""
        self.sound_ns: int | None = None
        self.quiet_ns: int | None = None
        """When the sound, and the quiet, that the detector hears now has begun: the earliest estimate."""
        self.recognition: Asr | None = None
        self.final_ns: int | None = None
        self.begun = False
        """Somebody has spoken."""
        self.working: dict[Turn, int] = {}
        """How many speeches of a turn are not done."""
        if room is None:
            self.session.media_up()

    # What the running code works on

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the session current in a block, for work that outlives a turn."""
        yield from _block(self.session, self.session)

    @contextmanager
    def works_on(self, turn: Turn) -> Iterator[None]:
        """Make the turn current in a block, and in the tasks that it starts."""
        yield from _block(turn, turn)

    def turn_of_task(self) -> Turn | None:
        """Return the open turn that the running task works on."""
        current = bound()
        if isinstance(current, Turn) and current.open and current.session is self.session:
            return current
        return None

    # The user speaks

    def inferred(self, sound_s: float, quiet_s: float, took_s: float) -> None:
        """Take how long the detector has heard sound, or quiet.

        It counts samples, so what it says comes late when the loop was kept from its work: never early, so that of all
        that it says the earliest is nearest.
        """
        self.sound_ns = self._earliest(self.sound_ns, sound_s, took_s)
        self.quiet_ns = self._earliest(self.quiet_ns, quiet_s, took_s)

    def _earliest(self, known_ns: int | None, lasted_s: float, took_s: float) -> int | None:
        if lasted_s <= 0:
            return None
        at_ns = moments.ago(self.clock, lasted_s + took_s)
        return at_ns if known_ns is None else min(known_ns, at_ns)

    def onset(self, at: int | None) -> Turn:
        """Take the onset of speech, or of a further part of it."""
        self.begun = True
        if at is not None and self.sound_ns is not None:
            at = min(at, self.sound_ns)
        self.expect_nothing()
        self._look_for_ears()
        turn = self.session.user_turn(at=at)
        if turn is not self.speech:
            self.speech, self.speech_ended, self.recognition, self.final_ns = turn, False, None, None
        return turn

    def recognizes(self, stt: Any, at: int | None) -> None:
        """Let the recognizer have its stage: it hears the user from the onset on."""
        if self.speech is not None and self.recognition is None and stt is not None:
            self.recognition = self.speech.asr(model=known(stt.model), provider=provider_of(stt.provider))
            if at is not None:
                self.recognition.audio(at)

    def silence(self, at: int) -> None:
        """Take the detector's decision that the user fell silent at `at`; a model may have been faster to answer."""
        at = at if self.quiet_ns is None else min(at, self.quiet_ns)
        turn = self.speech or self.asked
        if turn is not None and turn.open:
            turn.speech_ended(at)
            self.speech_ended = True

    def partial(self) -> None:
        """Take a transcript that may still change."""
        if self.speech is not None:
            self.speech.transcript(final=False)

    def transcript(self, stt: Any, event: Any) -> None:
        """Take a final transcript; the last one before the decision counts."""
        at_ns = moments.of_wall(self.clock, event.created_at)
        if self.speech is None or not self.speech.open:
            self.onset(None)  # the detector has missed it
        self.recognizes(stt, None)
        self.final_ns = min(at_ns, self.clock.monotonic_ns())
        language = getattr(event.alternatives[0], "language", None)
        if self.recognition is not None and language:
            self.recognition.set(n.VOICE_LANGUAGE, str(language))

    def recognizer_failed(self, stt: Any, error: BaseException, *, recoverable: bool) -> None:
        """Take a failure of the recognizer; what it mends by another attempt is an attempt of its own."""
        if self.recognition is None:
            return
        self.recognition.fail(error)
        self.recognition.end()
        self.recognition = None
        if recoverable:
            self.recognizes(stt, None)

    def committed(self, turn: Turn, at: int) -> None:
        """Take the decision that the user's turn is over."""
        if self.recognition is not None:
            if self.final_ns is not None:
                self.recognition.final(self.final_ns)
            self.recognition.end(self.final_ns)
        elif self.final_ns is not None:
            turn.transcript(self.final_ns)
        turn.committed(at)
        self.asked = turn
        self.speech = self.recognition = self.final_ns = None

    def expect(self, turn: Turn, model: Any) -> None:
        """Begin the wait for a model that answers by itself."""
        self.expect_nothing()
        self.expected = turn.realtime(model=known(model.model), provider=provider_of(model.provider))
        self.loop.call_later(EXPECTED_S, self.expect_nothing, self.expected)

    def expect_nothing(self, what: Realtime | None = None) -> None:
        """End the wait without an answer."""
        if self.expected is not None and what in (None, self.expected):
            self.expected.cancelled()
            self.expected.end()
            self.expected = None

    def responds(self, reply: Reply, model: Any) -> None:
        """Let the response of a speech-to-speech model have its stage: from the request, or from the turn's end."""
        if reply.realtime is None and self.expected is not None and reply.turn is self.asked:
            reply.realtime, self.expected = self.expected, None
        if reply.realtime is None:
            reply.realtime = reply.turn.realtime(model=known(model.model), provider=provider_of(model.provider))
        self.responding = reply.realtime

    def forgotten(self) -> None:
        """Drop what the user said so far: the service asked for it."""
        if self.speech is not None:
            self.speech.dismissed()
        self.speech = self.recognition = self.final_ns = None

    # The agent speaks

    def turn_for(self, *, typed: bool = False, spoken: bool = False) -> Turn:
        """Return the turn of a speech that is being made: the one that the code works on, else a new one.

        `typed`: it answers a message; `spoken`: it answers what the user has just said, for a model that listens.
        """
        current = self.turn_of_task()
        if current is not None:
            return current
        self._look_for_ears()
        if spoken and self.speech is not None and self.speech.open:
            self.committed(self.speech, self.clock.monotonic_ns())
        if spoken and self.asked is not None and self.asked.open and self.asked not in self.working:
            return self.asked
        if typed:
            return self.session.user_turn(input="text")
        live = trace.get_current_span()
        if isinstance(live, LiveSpan) and isinstance(live.subject, Tool):
            return self.session.agent_turn("tool_result", tool=live.subject)
        return self.session.agent_turn(self._trigger())

    def _look_for_ears(self) -> None:
        """Report no turns while the agent answers in text only: nobody waits for sound."""
        output = getattr(self.agent_session(), "output", None)
        if output is not None:
            self.session.unheard = output.audio is None or not output.audio_enabled

    def tokens_used(self, prompt: int, completion: int) -> None:
        """Take what the provider of a speech-to-speech model bills for the response that has just ended."""
        if self.responding is not None:
            self.responding.usage(input_tokens=prompt, output_tokens=completion)

    def _trigger(self) -> Trigger:
        from livekit.agents.voice.agent_activity import _OnEnterContextVar

        if not self.begun:
            return "greeting"
        if _OnEnterContextVar.get(None) is not None:
            return "handoff"
        return "no_input" if getattr(self.agent_session(), "user_state", None) == "away" else "say"

    def adopt(self, handle: Any, turn: Turn) -> Reply:
        """Take a speech for part of a turn."""
        self.begun = True
        reply = Reply(turn)
        _replies[handle] = self, reply
        self.working[turn] = self.working.get(turn, 0) + 1
        return reply

    def elsewhere(self, handle: Any, reply: Reply) -> Reply:
        """Move a speech whose turn is over, as a tool outlives it: what it says now is another turn."""
        waiting = self.session.replying
        if waiting is None or waiting in self.working:
            waiting = self.session.agent_turn("tool_result")
        self._leave(reply.turn)
        return self.adopt(handle, waiting)

    def done(self, handle: Any, reply: Reply, error: BaseException | None) -> None:
        """Take the end of a speech; with the last one the turn is answered."""
        turn = reply.turn
        reply.end()
        last = self._leave(turn)
        if not handle.scheduled and handle.interrupted:
            return
        if handle.interrupted and reply.cancelled_ns is not None:
            turn.barge_in("server_cancel", reply.cancelled_ns)
        if error is not None and not reply.failed:
            turn.failed(error)
        if not last:
            return
        if reply.spoken or reply.failed or error is not None or handle.interrupted:
            turn.end()
        else:
            at_ns = self.clock.monotonic_ns()
            self.loop.call_later(SILENT_END_S, self._end_if_idle, turn, at_ns)

    def _leave(self, turn: Turn) -> bool:
        """Count one speech of the turn less; return whether it was the last."""
        left = self.working.get(turn, 1) - 1
        if left > 0:
            self.working[turn] = left
            return False
        self.working.pop(turn, None)
        return True

    def _end_if_idle(self, turn: Turn, at_ns: int) -> None:
        if turn.open and turn not in self.working:
            turn.end(at_ns)

    # The end

    def hung_up(self) -> None:
        """Take the user's leaving."""
        self._rest()
        self.session.hung_up()

    def ended(self, error: BaseException | None) -> None:
        """Take the end of the `AgentSession`."""
        self._rest()
        if error is not None:
            self.session.end("error", error=error)
        else:
            self.session.end()

    def _rest(self) -> None:
        self.network.stop()
        self.playback.listen(None)


def _block(subject: Subject, owner: Session | Turn) -> Iterator[None]:
    """Make a subject current; the framework's own span stays the parent of its next."""
    scope = None
    try:
        before = trace.get_current_span()
        if isinstance(subject, Turn) and not subject.open:
            subject = owner = subject.session
        scope = Scope(subject, owner)
        apart.carry(before)
    except Exception as error:
        swallowed("livekit", error)
    try:
        yield
    finally:
        if scope is not None:
            guarded(scope.close)()


def reply_of(handle: Any) -> Reply | None:
    """Return the speech that a `SpeechHandle` stands for, in a turn that is open."""
    found = None if handle is None else _replies.get(handle)
    if found is None:
        return None
    conversation, reply = found
    return reply if reply.turn.open else conversation.elsewhere(handle, reply)


def current_reply() -> Reply | None:
    """Return the speech that the running task works on."""
    return reply_of(_speech_handle().get(None))


@functools.cache
def _speech_handle() -> ContextVar[Any]:
    from livekit.agents.voice.agent_activity import _SpeechHandleContextVar

    return _SpeechHandleContextVar


def stopped(handle: Any) -> None:
    """Take the cancellation of a speech: an interruption, or speculation that did not hold."""
    found = _replies.get(handle)
    if found is None:
        return
    if not handle.scheduled:
        found[1].discarded()
    elif getattr(handle, "_interrupt_source", None) in BY_USER:
        found[1].turn.interrupted()


def done(handle: Any, error: BaseException | None) -> None:
    """Take the end of a speech."""
    found = _replies.pop(handle, None)
    if found is not None:
        found[0].done(handle, found[1], error)


def _job_context() -> Any:
    from livekit.agents import get_job_context

    return get_job_context(required=False)
