"""A session, one user's ear, and the rules by which its turns begin, replace one another and end."""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from opentelemetry import trace

from voicespan import diagnostics, events, exchange, hooked, settings
from voicespan import names as n
from voicespan.clock import Clock, RemoteClock
from voicespan.closing import ABANDONED_NS, due, undecided, waits_for_report
from voicespan.connection import offered
from voicespan.context import Scope, bound
from voicespan.finished import SpanContext
from voicespan.guard import guarded, swallowed
from voicespan.metrics.audio import Flow, flows
from voicespan.metrics.calls import Tally
from voicespan.metrics.instruments import wanted
from voicespan.record import TurnRecord
from voicespan.stage import failure_of
from voicespan.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from opentelemetry.util.types import AttributeValue

    from voicespan.metrics.audio import Direction, DropReason
    from voicespan.record import Close, Input, StageRecord

BEFORE_SESSION_NS = 60_000_000_000
"""How much before its session a mark may lie: audio that was recorded while the session was set up."""
MAX_OPEN_TURNS = 32
LOOK_AGAIN_NS = 1_000_000_000
"""A turn is looked at this often for its end at least. Shorter than `LINGER_NS`: frames, and the speech that one turn
is interrupted by, are no marks of the turn, and begin no shorter wait."""

EndReason = Literal["normal", "error", "client_disconnect", "timeout", "transferred"]
MeasurementPoint = Literal["client", "gateway", "server"]
Trigger = Literal["greeting", "say", "no_input", "tool_result", "handoff"]


_DISCONNECTS = frozenset({"WebSocketDisconnect", "ConnectionClosed", "ConnectionResetError", "BrokenPipeError"})
"""What Starlette, websockets and sockets raise when the other side has gone, by name: none is imported for it."""


def reason_of(error: BaseException | None) -> EndReason:
    """Return why a session ended whose block was left by an exception."""
    if not isinstance(error, Exception):
        return "normal"
    gone = any(kind.__name__ in _DISCONNECTS for kind in type(error).__mro__)
    return "client_disconnect" if gone else "error"


class Recorder(Protocol):
    """What a session needs of the outside: clock, ids, and somebody who takes its turns."""

    enabled: bool

    @property
    def clock(self) -> Clock:
        """Where times come from."""

    def mint(self, session_id: str) -> tuple[int, int, bool]:
        """Return a new trace id, the id of its root span, and whether it is sampled."""

    def new_span_id(self) -> int:
        """Return a fresh 64-bit span id."""

    def opened(self, turn: Turn) -> None:
        """Take a turn under supervision: `Session.close_if_due` is called for it until it is closed."""

    def closed(self, turn: Turn) -> None:
        """Take a turn that is over; one with `dropped` set is not reported."""

    def late(self, record: TurnRecord, stage: StageRecord) -> None:
        """Take a tool that ended after its turn."""

    def set_up(self, session: Session, at_ns: int, failure: str | None) -> None:
        """Take note that media flows since `at_ns`, or that it came to nothing then, by a failure of this class."""

    def began(self, session: Session) -> None:
        """Take note of a session that has begun."""

    def ended(self, session: Session, failure: str | None) -> None:
        """Take note of a session that has ended, after all its turns; `failure` is the class of what ended it."""


class Session:
    """One call or conversation. Use it as a `with` block, or call `end()`.

    Its turns are traces of their own; what they share is `session.id`.
    """

    def __init__(
        self,
        recorder: Recorder,
        session_id: str | None = None,
        *,
        transport: str | None = None,
        room_id: str | None = None,
        measurement_point: MeasurementPoint = "client",
        attributes: Mapping[str, AttributeValue] | None = None,
        connection: trace.SpanContext | None = None,
        id_follows: bool = False,
        model: str | None = None,
        adapter: str | None = None,
        sample_rate: int | None = None,
    ) -> None:
        """Begin a session; with `id_follows` its own id is told later, by `identified`."""
        self.recorder = recorder
        self.id = session_id or uuid.uuid4().hex
        self.transport = transport
        self.model = model
        self.adapter = adapter
        self.measurement_point = measurement_point
        self.attributes = dict(attributes or {})
        if room_id is not None:
            self.attributes[n.VOICE_ROOM_ID] = room_id
        self.remote_clock = RemoteClock()
        """The client's clock, where the client takes part in `exchange`."""
        self.lock = threading.RLock()
        self.reports = False
        """The client tells what it plays, so its report is waited for."""
        self.unheard = False
        """The agent answers in text only: turns that begin now are not reported, since nobody waits for sound."""
        self.end_reason: EndReason | None = None
        self.now_ns = recorder.clock.monotonic_ns
        """The monotonic time that all its turns go by."""
        self.began_ns = self.now_ns()
        self.earliest_ns = self.began_ns - BEFORE_SESSION_NS
        self._settings = settings.current()
        self._max_ns = round(self._settings.turn_max_s * 1e9)
        self._idle_ns = round(self._settings.turn_idle_s * 1e9)
        hangover_ms = self._settings.vad_hangover_ms
        self._hangover_ns = round(hangover_ms * 1e6) if hangover_ms is not None else None
        self._turns: list[Turn] = []
        self._index = 0
        self._last: SpanContext | None = None
        self._media_up_ns: int | None = None
        self._greeted = False
        self._scope: Scope | None = None
        self._connection = connection or trace.get_current_span().get_span_context()
        self._connected_by: tuple[SpanContext, str] | None = None
        """The link of each turn to the request that has opened the connection."""
        if self._connection.is_valid:
            self._connected_by = SpanContext(self._connection.trace_id, self._connection.span_id), "connection"
        self.source = hooked.OWN_CODE
        """Who has begun it; `hooked.Source.adopt` changes that."""
        self.source.sessions += 1
        self.gen_ai_metrics = True
        """The `gen_ai.client.*` metrics are ours to record; a framework that does so itself sets it to False."""
        self.measured = recorder.enabled and (wanted() or "voicespan.performance" in sys.modules)
        """Whether somebody asked for numbers when it began; else what only they tell is not counted."""
        self.tally = Tally()
        self._sample_rate = sample_rate
        self._received: Flow | None = None
        self._sent: Flow | None = None
        recorder.began(self)
        if not id_follows:
            self._started()

    def __enter__(self) -> Self:
        try:
            if self.recorder.enabled:
                self._scope = Scope(self, self)
        except Exception as error:
            swallowed("Session begin", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        try:
            if self._scope is not None:
                self._scope.close()
        except Exception as failure:
            swallowed("Session end", failure)
        self.end(reason_of(error), error=error)

    # What a pipeline calls

    @guarded
    def identified(self, session_id: str) -> None:
        """Take the call's own id where the other side tells it after the beginning, and before a turn is over."""
        with self.lock:
            if self._index == sum(turn.record.index is not None for turn in self._turns):
                self.id = session_id
                for turn in self._turns:
                    turn.record.session_id = session_id
        self._started()

    def _started(self) -> None:
        if events.enabled and self.recorder.enabled:
            self._say("Session started", "session.started")

    @property
    def turn(self) -> Turn | None:
        """The latest turn that is open, but for one that was interrupted and only waits for its client's report."""
        for turn in reversed(self._turns):
            if turn.open and turn.yielded_ns is None:
                return turn
        return None

    @property
    def replying(self) -> Turn | None:
        """The latest open turn that is being answered, or in which the agent speaks: not one that is a mere onset."""
        for turn in reversed(self._turns):
            begun = turn.record.committed_ns is not None or turn.record.trigger is not None
            if begun and turn.open and turn.yielded_ns is None:
                return turn
        return None

    @guarded
    def media_up(self, at: int | None = None) -> None:
        """Say when media flows; the first speech of the agent is measured from here (`voice.session.first_audio`)."""
        now_ns = self.now_ns()
        if self._media_up_ns is None and (at is None or self.earliest_ns <= at <= now_ns):
            self._media_up_ns = now_ns if at is None else at
            self.recorder.set_up(self, self._media_up_ns, None)
            for turn in self._turns:  # a greeting that waits for somebody to hear it
                if turn.record.index == 1 and turn.record.trigger and turn.record.playback.first_sent_ns is None:
                    turn.record.media_up_ns = self._media_up_ns

    def user_turn(self, at: int | None = None, *, input: Input = "speech") -> Turn:  # noqa: A002
        """Say that the user has begun to speak at `at`, and return the turn.

        The turn is provisional until `committed()`. While speech is not committed this is the same turn again. With
        `input="text"` or `"dtmf"` the message (or last digit) is complete and the turn is committed at once.
        """
        try:
            self.lock.acquire()  # as in the marks of a turn
            try:
                return self._user_turn(at, input)
            finally:
                self.lock.release()
        except Exception as error:
            swallowed("Session.user_turn", error)
            return self._lost_turn()

    def agent_turn(self, trigger: Trigger = "say", *, tool: object | None = None) -> Turn:
        """Begin a turn in which the agent speaks of its own accord.

        `tool` is the stage whose result it tells, when that outlived the turn it was called in: the turn links to it.
        """
        try:
            with self.lock:
                turn = self._new_turn(self.now_ns(), None, "speech", trigger)
                if not self._greeted and self._index == 0:
                    turn.record.media_up_ns = self._media_up_ns
                self._greeted = True
                self._close_quiet(turn)
                self._number(turn)
                context = getattr(tool, "span_context", None)
                if context is not None:
                    identity = context()
                    turn.record.links += ((SpanContext(identity.trace_id, identity.span_id), "tool"),)
                return turn
        except Exception as error:
            swallowed("Session.agent_turn", error)
            return self._lost_turn()

    def audio_in(self, frame: Any, seconds: float | None = None, *, dropped: DropReason | None = None) -> None:
        """Count a frame of the user's audio as it comes: frames, bytes, and how far off its time it was.

        `frame` is decoded audio: bytes, an array, or an object with `data`. Its length is `seconds`, or follows from
        the session's `sample_rate` (16-bit mono PCM); without either no jitter is told. With `dropped` the frame is
        thrown away, and counts as that alone. Cheap enough for every frame: see benchmarks/frames.py.
        """
        try:
            if dropped is not None:
                self._dropped(dropped)
            else:
                (self._received or self._flow("receive")).received(frame, seconds)
        except Exception as error:
            swallowed("Session.audio_in", error)

    def audio_out(self, frame: Any, seconds: float | None = None, *, dropped: DropReason | None = None) -> None:
        """Count a frame of the agent's audio as it leaves, as `audio_in` does.

        Off is a frame that leaves when all before it are played out already; one ahead of its time is none.
        """
        try:
            if dropped is not None:
                self._dropped(dropped)
            else:
                (self._sent or self._flow("transmit")).sent(frame, seconds)
        except Exception as error:
            swallowed("Session.audio_out", error)

    def _dropped(self, reason: DropReason) -> None:
        if self.recorder.enabled:
            flows.dropped(reason, 1)

    def _flow(self, direction: Direction) -> Flow:
        """Begin to count a direction; while switched off what is counted goes nowhere."""
        make = flows.make if self.recorder.enabled else Flow
        flow = make(self, direction, self._sample_rate)
        if direction == "receive":
            self._received = flow
        else:
            self._sent = flow
        return flow

    def audio_stops(self) -> None:
        """Note that what was sent is dropped or held: the next frame that leaves begins anew."""
        if self._sent is not None:
            self._sent.restart()

    @guarded
    def clock_exchange(self, message: object, *, received_ns: int | None = None) -> dict[str, Any] | None:
        """Return the answer to a message of `performance-tracker.js` about clocks; None where it is another message.

        `message` is the decoded JSON of a WebSocket or data channel, `received_ns` when it came (monotonic; now).
        Send the answer back at once: `remote_clock` learns of the client's clock by it, and so do the reports.
        """
        return exchange.answer(message, self.remote_clock, self.now_ns, received_ns)

    @property
    def open(self) -> bool:
        """Whether the session has not ended."""
        return self.end_reason is None

    @property
    def had_media(self) -> bool:
        """Whether media was said to flow, or anything was heard, sent or said."""
        flowed = self._received is not None or self._sent is not None
        return flowed or self._media_up_ns is not None or self._index > 0

    @guarded
    def hung_up(self, at: int | None = None) -> None:
        """Say that the user has left: open turns close, and one without a reply is `no_reply`, `user_left`."""
        self.end("client_disconnect", at=at)

    @guarded
    def end(
        self, reason: EndReason = "normal", *, at: int | None = None, error: BaseException | str | None = None
    ) -> None:
        """End the session and close its turns. The first call counts.

        `error` is an exception or a value of `error.type`; without any media it is a failed set-up.
        """
        now_ns = self.now_ns()
        at_ns = at if isinstance(at, int) and self.earliest_ns <= at <= now_ns else now_ns
        with self.lock:
            if self.end_reason is not None:
                return
            self.end_reason = reason
            for turn in reversed(list(self._turns)):
                self._end_turn(turn, reason, at_ns, error)
        failure = failure_of(error, at_ns).kind if error is not None else None
        if reason in ("error", "timeout") and not self.had_media:
            self.recorder.set_up(self, at_ns, failure or reason)
        self.recorder.ended(self, failure)
        if events.enabled and self.recorder.enabled:
            self._say("Session ended", "session.ended", reason=reason)

    def identify(
        self,
        session_id: str | None,
        transport: str | None,
        measurement_point: MeasurementPoint,
        attributes: Mapping[str, AttributeValue],
    ) -> None:
        """Take what is known of the call only now that it is under way; its open turns belong to this id too."""
        with self.lock:
            self.id = session_id or self.id
            self.transport = transport or self.transport
            self.measurement_point = measurement_point
            self.attributes.update(attributes)
            for turn in self._turns:
                turn.record.session_id, turn.record.transport = self.id, self.transport
                turn.record.attributes.update(attributes)  # type: ignore[arg-type]

    @guarded
    def _say(self, message: str, event: str, **fields: object) -> None:
        known = {
            "session_id": self.id,
            "model_id": self.model,
            "transport": self.transport,
            "client_ip": self.attributes.get(n.CLIENT_ADDRESS),
            **events.ids(self._connection),
        }
        events.say(logging.INFO, message, event, **known, **fields)

    # What turns report

    def turn_committed(self, turn: Turn) -> None:
        """Decide what a committed utterance does to the turn that it was spoken over."""
        record = turn.record
        self._number(turn)
        spoken_over, turn.over = turn.over, None
        if spoken_over is not None and spoken_over.open:
            if spoken_over.record.barge_in is not None:
                self.link_interrupted(turn, spoken_over)
                if waits_for_report(spoken_over.record, self.reports):
                    spoken_over.yielded_ns = record.active_ns
                else:
                    self._close(spoken_over, "done", record.active_ns)
            elif spoken_over.record.playback.first_sent_ns is None:
                self._close(spoken_over, "superseded", record.onset_ns)
        self._close_quiet(turn)

    def link_interrupted(self, turn: Turn, interrupted: Turn) -> None:
        """Link a turn to the one that its speech has cut off."""
        link = (SpanContext(interrupted.trace_id, interrupted.record.span_id), "interrupted")
        if turn.open and link not in turn.record.links:
            turn.record.links += (link,)

    def turn_dismissed(self, turn: Turn) -> None:
        """Drop what was no utterance; the turn that it was heard over keeps an event."""
        if turn.record.committed_ns is not None:
            self._close(turn, "dismissed", turn.record.active_ns)
            return
        spoken_over, turn.over = turn.over, None
        if spoken_over is not None and spoken_over.open:
            spoken_over.pending = None
            playback = spoken_over.record.playback
            heard_ns = playback.first_heard_ns
            heard_over = heard_ns is not None and heard_ns <= turn.record.onset_ns < playback.out_ns
            if heard_over and not turn.noted and spoken_over.record.barge_in is None:
                spoken_over.note(spoken_over.record, n.EVENT_USER_OVERLAP, turn.record.onset_ns, {})
        turn.dropped = True
        self._forget(turn)

    def close_if_due(self, turn: Turn, now_ns: int) -> None:
        """Close the turn when it is over; for every open turn whose `look_ns` has come, several times a second."""
        if not self.lock.acquire(timeout=0.05):
            return
        try:
            self.close_due(turn, now_ns)
        finally:
            self.lock.release()

    def close_due(self, turn: Turn, now_ns: int) -> None:
        """Close the turn when it is over; for who has the lock."""
        record = turn.record
        if record.close is not None or turn.dropped:
            return
        limit_ns = record.onset_ns + self._max_ns
        if now_ns >= limit_ns:
            self._close(turn, "limit", limit_ns)
            return
        why, at_ns = due(turn, limit_ns=limit_ns, idle_ns=self._idle_ns, reports=self.reports)
        if at_ns > now_ns:
            # What another turn's speech does to this one is no mark of its own.
            alone = turn.pending is None and turn.yielded_ns is None
            turn.look_ns = min(at_ns, limit_ns, now_ns + LOOK_AGAIN_NS) if alone else 0
        elif why == "dismissed":
            self.turn_dismissed(turn)
        else:
            self._close(turn, why, now_ns)

    def shut_down(self, now_ns: int) -> None:
        """Close every turn with what is known: the process ends."""
        # A signal may have stopped the very thread that holds the lock: then without it.
        locked = self.lock.acquire(timeout=0.2)
        try:
            for turn in list(self._turns):
                record = turn.record
                replied = record.playback.first_sent_ns is not None and not record.playback.filler_only
                if record.committed_ns is not None and not replied and record.failure is None:
                    record.failure = failure_of("shutdown", now_ns)
                self._close(turn, "shutdown", now_ns)
        finally:
            if locked:
                self.lock.release()

    # A subject of the current span

    def span_context(self) -> trace.SpanContext:
        """Return the identity of the turn that is worked on; between turns that of the connection.

        That is the one that is being answered: what is a mere onset may turn out to be a cough.
        """
        turn = self.replying or self.turn
        return self._connection if turn is None else turn.span_context()

    def set(self, key: str, value: AttributeValue) -> None:
        """Set an attribute of every turn from now on."""
        self.attributes[key] = value
        if (turn := self.turn) is not None:
            turn.set(key, value)

    def event(self, name: str, **attributes: AttributeValue) -> None:
        """Add an event to the current turn."""
        if (turn := self.turn) is not None:
            turn.event(name, **attributes)

    def fail(self, error: BaseException | str) -> None:
        """Fail the current turn."""
        if (turn := self.turn) is not None:
            turn.failed(error)

    def circumstances(self) -> dict[str, object]:
        """Return the session's id, transport and attributes."""
        return {
            **self.attributes,
            n.SESSION_ID: self.id,
            **({n.VOICE_TRANSPORT: self.transport} if self.transport else {}),
        }

    # Beginnings

    def _user_turn(self, at: int | None, kind: Input) -> Turn:
        now_ns = self.now_ns()
        self.source.heard = True
        speaking = self._speaking()
        if speaking is not None:
            record = speaking.record
            onset_ns = speaking.moment(at, "user_turn") or now_ns
            if kind == "speech" and not self._abandoned(record, onset_ns):
                self._resume(speaking, onset_ns)
                return speaking
            self._abandon(speaking, now_ns)
        spoken_over = self.turn if self._turns else None
        turn = self._new_turn(now_ns, at, kind, None)
        if kind == "speech" and self.measured:
            turn.detected("speech_start", now_ns, None if at is None else turn.record.onset_ns)
        if spoken_over is not None:
            turn.over = spoken_over
            spoken_over.spoken_over(turn)
        if kind != "speech":
            turn.record.committed_ns = turn.record.onset_ns
            self.turn_committed(turn)
        return turn

    def _speaking(self) -> Turn | None:
        """The turn whose speech is not committed yet."""
        for turn in self._turns:
            if turn.open and turn.record.committed_ns is None and turn.record.trigger is None:
                return turn
        return None

    def _abandoned(self, record: TurnRecord, onset_ns: int) -> bool:
        ended_ns = record.speech_end_ns if record.speech_end_ns is not None else record.detected_ns
        return ended_ns is not None and onset_ns - ended_ns > ABANDONED_NS

    def _abandon(self, turn: Turn, now_ns: int) -> None:
        """Speech that nobody committed makes way for new speech."""
        if turn.over is not None and turn.over.open:
            self.turn_dismissed(turn)
        else:
            self._close(turn, "idle", now_ns)

    def _resume(self, turn: Turn, onset_ns: int) -> None:
        record = turn.record
        record.active_ns = self.now_ns()
        if record.detected_ns is None and record.speech_end_ns is None:
            return  # the same onset, reported twice
        record.segments += 1
        if self.measured:
            turn.detected("speech_start", record.active_ns, onset_ns)
        record.speech_end_ns = record.detected_ns = record.transcript_ns = None
        turn.note(record, n.EVENT_SPEECH_RESUMED, max(onset_ns, record.onset_ns), {})

    def _new_turn(self, now_ns: int, at: int | None, kind: Input, trigger: Trigger | None) -> Turn:
        recorder = self.recorder
        trace_id, span_id, sampled = recorder.mint(self.id)
        wall_offset_ns = recorder.clock.time_ns() - self.now_ns()
        # By position and one by one: fifteen arguments by name take half as long again.
        record = TurnRecord(self.id, trace_id, span_id, sampled, wall_offset_ns, now_ns, now_ns)
        record.input = kind
        record.trigger = trigger
        record.transport = self.transport
        record.measurement_point = self.measurement_point
        record.hangover_ns = self._hangover_ns
        record.active_ns = now_ns
        record.genai_drafts = self._settings.genai_drafts
        if self.attributes:
            record.attributes.update(self.attributes)  # type: ignore[arg-type]
        if self._connected_by is not None:
            record.links = (self._connected_by,)
        turn = Turn(self, record)
        if at is not None:
            record.onset_ns = turn.moment(at, "user_turn") or now_ns
        if self.end_reason is not None or self.unheard:
            turn.dropped = True
            if self.end_reason is not None:
                diagnostics.counters.add("turn.after_session")
            return turn
        if len(self._turns) >= MAX_OPEN_TURNS:
            diagnostics.counters.add("turn.over_limit")
            self._close(self._turns[0], "limit", now_ns)
        self._turns.append(turn)
        recorder.opened(turn)
        return turn

    def _lost_turn(self) -> Turn:
        """A turn that takes every mark and reports nothing, for when ours could not be made."""
        now_ns = self.now_ns()
        record = TurnRecord(self.id, 0, 0, sampled=False, wall_offset_ns=0, onset_ns=now_ns, announced_ns=now_ns)
        turn = Turn(self, record)
        turn.dropped = True
        return turn

    def _number(self, turn: Turn) -> None:
        """Give a real turn its place in the session, and the link to the one before."""
        record = turn.record
        if turn.dropped:
            return
        self._index += 1
        self.source.turns += 1
        record.index = self._index
        if self._last is not None:
            record.links += ((self._last, "previous"),)
        self._last = SpanContext(record.trace_id, record.span_id)

    # Ends

    def _close_quiet(self, newer: Turn) -> None:
        """A new turn begins: close those that were only kept open for what might still come."""
        if len(self._turns) == 1 and self._turns[0] is newer:  # mostly it is alone
            return
        now_ns = newer.record.active_ns
        for turn in list(self._turns):
            record = turn.record
            pending = turn.pending
            if turn is newer or (pending is not None and pending is not newer and undecided(pending)):
                continue
            playback = record.playback
            quiet = playback.first_sent_ns is not None and not playback.filler_only and playback.paused_ns is None
            if quiet and now_ns >= playback.out_ns and not record.busy and not waits_for_report(record, self.reports):
                self._close(turn, "done", now_ns)

    def _end_turn(self, turn: Turn, reason: EndReason, at_ns: int, error: BaseException | str | None) -> None:
        record, over = turn.record, turn.over
        if record.committed_ns is None and record.transcript_ns is None and over is not None and over.open:
            if over.record.barge_in is None:
                self.turn_dismissed(turn)
                return
            self.link_interrupted(turn, over)
        playback = record.playback
        replied = playback.first_sent_ns is not None and not playback.filler_only
        if reason == "transferred":
            self._close(turn, "transferred", at_ns)
        elif reason == "error" and not replied and record.failure is None:
            record.failure = failure_of(error if error is not None else "session_error", at_ns)
            self._close(turn, "user_left", at_ns)
        elif reason == "normal" and replied:
            # The agent hangs up behind its last words: they are still heard.
            self._close(turn, "done", max(at_ns, playback.out_ns))
        else:
            self._close(turn, "user_left", at_ns)

    def _close(self, turn: Turn, why: Close, at_ns: int) -> None:
        record = turn.record
        if record.close is not None or turn.dropped:
            return
        if turn.yielded_ns is not None:  # it was over then, whatever happened while it waited for the client
            why, at_ns = "done", turn.yielded_ns
        record.close = why
        record.closed_ns = max(record.onset_ns, at_ns)
        for stage in record.stages:
            if stage.task is not None and not stage.background:
                turn.task_over(stage)
        if record.index is None:
            self._number(turn)
        if turn.over is not None:
            turn.over.pending = None
        self._forget(turn)

    def _forget(self, turn: Turn) -> None:
        if turn in self._turns:
            self._turns.remove(turn)
        self.recorder.closed(turn)


def session(
    id: str | None = None,  # noqa: A002
    *,
    transport: str | None = None,
    room_id: str | None = None,
    measurement_point: MeasurementPoint = "client",
    attributes: Mapping[str, AttributeValue] | None = None,
    id_follows: bool = False,
    model: str | None = None,
    adapter: str | None = None,
    sample_rate: int | None = None,
) -> Session:
    """Begin a session: one call, one conversation, one user's ear.

    Use it as a `with` block, or call `Session.end()`. `id` is the call's own id (else one is made; with `id_follows`
    it is told later, by `Session.identified`), `transport` one of websocket, webrtc, livekit, sip, http;
    `measurement_point` says where `Turn.audio_heard` is observed; `attributes` go onto every turn.
    `model` and `adapter` (the engine of a synthesis worker) split the metrics of sessions. `sample_rate` in hertz
    is that of the frames given to `Session.audio_in` and `audio_out`.
    """
    from voicespan.emit import recorder

    known = {**({} if room_id is None else {n.VOICE_ROOM_ID: room_id}), **(attributes or {})}
    connection = offered()
    opened = None if connection is None else connection.claim()
    if opened is not None:
        opened.identify(id, transport, measurement_point, known)
        return opened
    begun = Session(
        recorder(),
        id,
        transport=transport,
        measurement_point=measurement_point,
        attributes=known,
        id_follows=id_follows,
        model=model,
        adapter=adapter,
        sample_rate=sample_rate,
    )
    return begun if connection is None else connection.claimed(begun)


def current_session() -> Session | None:
    """Return the session of this task or thread, or None.

    Where a client is connected and nobody has begun a session yet, the connection becomes one now.
    """
    current = bound()
    if current is None:
        connection = offered()
        return None if connection is None else connection.session()
    return current.session if isinstance(current, Turn) else current


def current_turn() -> Turn | None:
    """Return the turn of this task or thread: the bound one while it is open, else the session's latest open one."""
    current = bound()
    if isinstance(current, Turn):
        return current if current.open else current.session.turn
    if current is None:
        connection = offered()
        current = None if connection is None else connection.begun
    return current.turn if current is not None else None
