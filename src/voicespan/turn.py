"""A turn as a pipeline reports it: marks with their times, stages, and the audio on its way to the user.

Every mark takes `at`, a time of `time.monotonic_ns()` on this machine, for what is known only afterwards. Marks come
in any order, twice, late and from any thread: nothing here raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from opentelemetry import trace

from voicespan import diagnostics, settings
from voicespan import names as n
from voicespan.context import Scope
from voicespan.guard import guarded, swallowed
from voicespan.metrics.level import tasks
from voicespan.mos import mos
from voicespan.record import GAP_NS, BargeIn, Component, Playback, StageRecord, TurnRecord
from voicespan.stage import Asr, Llm, Realtime, Tool, Tts, failure_of

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.util.types import AttributeValue

    from voicespan import finished
    from voicespan.content import Role
    from voicespan.metrics.level import Key
    from voicespan.sessions import Session

FUTURE_NS = 100_000_000
"""Clocks and schedulers disagree a little: a mark this far in the future is taken as now, one further is refused."""
ROUNDING_NS = 1_000_000
"""Lengths of audio are sums of rounded seconds: they are compared with this tolerance."""

_TASKS: dict[Component, Key] = {name: ((n.VOICE_COMPONENT, name),) for name in get_args(Component)}
"""As what the stages of each component count among `tasks`."""

Phase = Literal["playback_stop", "server_cancel", "worker_pause"]


class Turn:
    """One utterance and the reply to it, until it is closed; made by `Session.user_turn` and `Session.agent_turn`."""

    MAX_STAGES = 256
    MAX_EVENTS = 128

    __slots__ = (
        "__weakref__",
        "_context",
        "_session",
        "agent",
        "counted",
        "dropped",
        "look_ns",
        "noted",
        "now_ns",
        "over",
        "pending",
        "record",
        "recording",
        "voice",
        "yielded_ns",
    )

    def __init__(self, session: Session, record: TurnRecord) -> None:
        self._session = session
        self.now_ns = session.now_ns
        """The session's monotonic time."""
        self.recording = session.recorder.enabled
        """Whether voicespan is switched on."""
        self._context: trace.SpanContext | None = None
        self.record = record
        self.voice: StageRecord | None = None
        """The synthesis that speaks, so that what is sent can be told from a filler: the last that gave a frame."""
        self.counted = False
        """Frames are counted where they are made; else they are taken to be made when they are sent."""
        self.over: Turn | None = None
        """While this turn's speech is not committed: the turn that it may interrupt."""
        self.pending: Turn | None = None
        """Speech that has begun over this turn and is not committed yet."""
        self.yielded_ns: int | None = None
        """When the speech that interrupted it was committed, while it waits for what the client has heard of it."""
        self.look_ns = 0
        """Before this time nothing but a mark ends it, so it need not be looked at; marks set it to 0."""
        self.agent: str | None = None
        self.noted = False
        """The turn that it spoke over has noted it already, as a false interruption."""
        self.dropped = False
        """It was no utterance: nothing is reported."""

    # Identity

    @property
    def session(self) -> Session:
        """The session that the turn belongs to."""
        return self._session

    @property
    def trace_id(self) -> int:
        """The 128-bit trace id, minted at the onset."""
        return self.record.trace_id

    @property
    def open(self) -> bool:
        """Whether marks are still taken."""
        return self.record.close is None and not self.dropped

    @property
    def traceparent(self) -> str:
        """The W3C `traceparent` of the turn, for the client and for whoever works on the turn elsewhere."""
        context = self.span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def span_context(self) -> trace.SpanContext:
        """Return the identity of `voice.turn`."""
        if self._context is None:
            self._context = self.context_of(self.record.span_id)
        return self._context

    def context_of(self, span_id: int) -> trace.SpanContext:
        """Return the identity of a span of this turn."""
        record = self.record
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if record.sampled else trace.TraceFlags.DEFAULT)
        return trace.SpanContext(record.trace_id, span_id, is_remote=False, trace_flags=flags)

    def new_span_id(self) -> int:
        """Return a fresh 64-bit span id."""
        return self._session.recorder.new_span_id()

    def use(self) -> _Use:
        """Make the turn current in a block, for queues and threads: `with turn.use(): ...`."""
        return _Use(self)

    # Speech

    @guarded
    def speech_ended(self, at: int | None = None) -> None:
        """Say that the detector has decided that speech is over; the user really fell silent at `at`.

        Before the commit the last end counts. Without `at` the real end is taken to be the decision less
        VOICESPAN_VAD_HANGOVER_MS.
        """
        record = self._live("speech_ended")
        if record is None:
            return
        real_ns = self.moment(at, "speech_ended") if at is not None else None
        if real_ns is not None and real_ns < record.onset_ns:
            self._refuse("speech_ended", "before the onset")
            real_ns = None
        lock = self._session.lock
        lock.acquire()  # a `with` costs twice as much, and the marks of every turn pass here
        try:
            if record.committed_ns is None:
                record.detected_ns = record.active_ns
                if self._session.measured:
                    self.detected("speech_end", record.detected_ns, real_ns)
                record.speech_end_ns = real_ns if real_ns is not None else record.speech_end_ns
            elif record.speech_end_ns is None and real_ns is not None and real_ns <= record.committed_ns:
                record.speech_end_ns = real_ns
        finally:
            lock.release()

    @guarded
    def committed(self, at: int | None = None) -> None:
        """Say that the user's turn is over and will be answered: the end-of-turn decision."""
        record = self._live("committed")
        if record is None:
            return
        moment_ns = None if at is None else self.moment(at, "committed")
        session = self._session
        session.lock.acquire()
        try:
            if record.committed_ns is None and record.trigger is None:
                decided_ns = moment_ns if moment_ns is not None else record.active_ns
                record.committed_ns = max(record.onset_ns, decided_ns)
                session.turn_committed(self)
        finally:
            session.lock.release()

    @guarded
    def transcript(self, at: int | None = None, *, final: bool = True) -> None:
        """Say that the transcript (with `final=False` a partial one) is there. Its text is not taken."""
        record = self._live("transcript")
        if record is None:
            return
        moment_ns = record.active_ns if at is None else self.moment(at, "transcript")
        if moment_ns is None:
            return
        if not final:
            record.partial_ns = moment_ns if record.partial_ns is None else record.partial_ns
            return
        for stage in reversed(record.stages):
            if stage.component == "asr" and stage.first_ns is None:
                self.transcript_of(stage, at)
                return
        if record.transcript_ns is None:
            record.transcript_ns = moment_ns

    def transcript_of(self, recognizer: StageRecord, at: int | None) -> None:
        """Take the final transcript of one recognition."""
        record = self._live("transcript")
        moment_ns = self.moment(at, "transcript")
        if record is None or moment_ns is None or recognizer.first_ns is not None:
            return
        recognizer.first_ns = max(moment_ns, recognizer.start_ns)
        record.transcript_ns = recognizer.first_ns

    @guarded
    def dismissed(self) -> None:
        """Say that this was no utterance (a cough, a "mhm"): the turn that plays notes it, and none is reported.

        A turn that was committed already is reported, as `no_reply` with reason `no_speech`.
        """
        if self._live("dismissed") is not None:
            with self._session.lock:
                self._session.turn_dismissed(self)

    # Stages

    def asr(
        self, *, model: str | None = None, provider: str | None = None, language: str | None = None, remote: bool = True
    ) -> Asr:
        """Begin recognition; needed only for its model, its failures and its own start, else `transcript()` does."""
        record = self._stage("asr", remote=remote, model=model, provider=provider, language=language)
        return Asr(self, record)

    def llm(
        self, *, model: str | None = None, provider: str | None = None, remote: bool = True, at: int | None = None
    ) -> Llm:
        """Begin a request to a language model, made at `at`. One that is made before the commit is speculative."""
        return Llm(self, self._stage("llm", remote=remote, model=model, provider=provider, at=at))

    def tool(self, name: str, *, background: bool = False) -> Tool:
        """Begin a tool call. With `background=True` it does not hold the turn open."""
        record = self._stage("tool", remote=False, name=name)
        record.background = background
        return Tool(self, record)

    def tts(
        self,
        *,
        voice: str | None = None,
        model: str | None = None,
        provider: str | None = None,
        language: str | None = None,
        filler: bool = False,
        text: str | None = None,
        sample_rate: int | None = None,
        remote: bool = True,
    ) -> Tts:
        """Begin synthesis; `filler` is speech that only bridges ("one moment"), `text` the first chunk where known.

        `sample_rate` in hertz lets the length of 16-bit mono PCM frames be known.
        """
        record = self._stage("tts", remote=remote, model=model, provider=provider, language=language, voice=voice)
        record.filler = filler
        self.voice = self.voice if self.counted else record
        record.sample_rate = sample_rate
        stage = Tts(self, record)
        if text is not None:
            stage.text(text)
        return stage

    def realtime(
        self,
        *,
        model: str | None = None,
        provider: str | None = None,
        voice: str | None = None,
        sample_rate: int | None = None,
        at: int | None = None,
    ) -> Realtime:
        """Begin a response of a speech-to-speech model; `at` is the commit or request that it answers."""
        record = self._stage("realtime", remote=True, model=model, provider=provider, voice=voice, at=at)
        self.voice = self.voice if self.counted else record
        record.sample_rate = sample_rate
        return Realtime(self, record)

    def _stage(
        self,
        component: Component,
        *,
        remote: bool,
        model: str | None = None,
        provider: str | None = None,
        language: str | None = None,
        voice: str | None = None,
        name: str | None = None,
        at: int | None = None,
    ) -> StageRecord:
        now_ns = self.now_ns()
        start_ns = now_ns if at is None else self.moment(at, component) or now_ns
        attributes: dict[str, finished.AttributeValue] = {}
        if model is not None:
            attributes[n.GEN_AI_REQUEST_MODEL] = model
        if provider is not None:
            attributes[n.GEN_AI_PROVIDER_NAME] = provider
        if language is not None:
            attributes[n.VOICE_LANGUAGE] = language
        if voice is not None:
            attributes[n.VOICE_TTS_VOICE_NAME] = voice
        if name is not None:
            attributes[n.GEN_AI_TOOL_NAME] = name
        if self.agent is not None:
            attributes[n.GEN_AI_AGENT_NAME] = self.agent
        stage = StageRecord(component, start_ns, attributes, remote)
        record = self._live(component, now_ns)
        if record is not None:
            if len(record.stages) < self.MAX_STAGES:
                record.stages.append(stage)
                if self._session.measured:
                    stage.task = tasks.up_by(_TASKS[component])
            else:
                diagnostics.counters.add("stage.over_limit")
        return stage

    def stage_ended(self, stage: StageRecord, now_ns: int) -> None:
        """Note the end of a stage; a tool that outlived its turn is reported now."""
        record = self.record
        record.active_ns, self.look_ns = now_ns, 0
        if stage.task is not None:
            self.task_over(stage)
        if record.close is not None and stage.component == "tool" and not self.dropped:
            self._session.recorder.late(record, stage)

    def task_over(self, stage: StageRecord) -> None:
        """Count a stage as work no longer, once."""
        key = stage.task
        if key is not None:
            stage.task = None
            tasks.down(key)

    # Audio

    def audio_sent(self, seconds: float, at: int | None = None) -> None:
        """Say that a frame of the reply, `seconds` long, has left for the user."""
        try:
            record = self.record
            if record.close is not None:
                diagnostics.counters.add("mark.late")
                return
            if at is None:
                now_ns = self.now_ns()
            elif (moment_ns := self.moment(at, "audio_sent")) is not None:
                now_ns = moment_ns
            else:
                return
            if record.barge_in is not None and record.barge_in.silent_ns is not None:
                diagnostics.counters.add("audio.after_stop")
                return
            # The playout clock moves: the frame plays now, or when what is before it is played out.
            playback, voice, length_ns = record.playback, self.voice, round(seconds * 1e9)
            if not self.counted and voice is not None and voice.end_ns is None:
                # Frames that nobody counted at the synthesizer's mouth: it spoke when the first one was sent.
                voice.first_ns = now_ns if voice.first_ns is None else voice.first_ns
                voice.last_ns = now_ns
            end_ns = playback.end_ns
            if playback.first_sent_ns is None:
                playback.first_sent_ns = end_ns = now_ns
            elif now_ns > end_ns:
                if now_ns - end_ns > GAP_NS and playback.paused_ns is None:
                    self._gap(playback, end_ns, now_ns)
                end_ns = now_ns
            if playback.filler_only and (voice is None or not voice.filler) and self._fillers_sent(playback):
                playback.filler_only = False
                if playback.sent_ns:
                    playback.answer_ns = end_ns
            playback.end_ns = end_ns + length_ns
            playback.last_sent_ns = now_ns
            playback.sent_ns += length_ns
        except Exception as error:
            swallowed("Turn.audio_sent", error)

    def _gap(self, playback: Playback, start_ns: int, end_ns: int) -> None:
        """Note that nothing was left to play for a while."""
        with self._session.lock:
            if len(playback.gaps) < self.MAX_EVENTS:
                playback.gaps += ((start_ns, end_ns),)

    def _fillers_sent(self, playback: Playback) -> bool:
        """Whether all audio of fillers has left, or was dropped: what leaves now is the answer."""
        fillers_ns = sum(stage.audio_ns for stage in self.record.stages if stage.filler)
        return playback.cleared or playback.sent_ns + ROUNDING_NS >= fillers_ns

    @guarded
    def audio_heard(self, at: int | None = None, *, error_ns: int | None = None) -> None:
        """Take the client's report that the first sample was heard.

        `error_ns` bounds the error of `at` where another clock was translated; without it the bound of the session's
        `remote_clock` is taken.
        """
        record = self._live("audio_heard")
        moment_ns = self.moment(at, "audio_heard")
        if record is None or moment_ns is None or record.playback.heard_ns is not None:
            return
        record.playback.heard_ns = moment_ns
        record.clock_error_ns = self._session.remote_clock.error_ns if error_ns is None else error_ns
        self._session.reports = True

    @guarded
    def audio_stopped(self, at: int | None = None) -> None:
        """Take the client's report that it is silent: played out, or stopped by the user's speech."""
        record = self._live("audio_stopped")
        moment_ns = self.moment(at, "audio_stopped")
        if record is None or moment_ns is None or record.playback.first_sent_ns is None:
            return
        playback = record.playback
        if playback.stopped_ns is not None and playback.stopped_ns >= playback.last_sent_ns:
            return
        if playback.went_on_after(moment_ns):
            return
        cut = moment_ns + GAP_NS < playback.end_ns + playback.shift_ns
        playback.stopped_ns = moment_ns
        if not cut:
            return
        if record.barge_in is not None or self.pending is not None:
            with self._session.lock:
                self._silenced(moment_ns)
        else:
            playback.cut_ns = moment_ns

    @guarded
    def audio_cleared(self, at: int | None = None) -> None:
        """Say that the server has dropped what was not played yet."""
        self._cut("audio_cleared", at, keep=False)

    @guarded
    def audio_paused(self, at: int | None = None) -> None:
        """Say that the server holds back what was not played yet; `audio_resumed` goes on with it."""
        self._cut("audio_paused", at, keep=True)

    def _cut(self, mark: str, at: int | None, *, keep: bool) -> None:
        self._session.audio_stops()
        record = self._live(mark)
        moment_ns = self.moment(at, mark)
        first_sent_ns = self.record.playback.first_sent_ns
        if record is None or moment_ns is None or first_sent_ns is None:
            return
        playback = record.playback
        with self._session.lock:
            playing = self._playing_at(moment_ns)
            shift_ns = playback.shift_ns
            left_ns = max(0, playback.end_ns + shift_ns - moment_ns)
            playback.end_ns = min(playback.end_ns, max(moment_ns - shift_ns, first_sent_ns))
            if keep:
                playback.paused_ns = moment_ns if playback.paused_ns is None else playback.paused_ns
                playback.left_ns += left_ns
            else:
                playback.cleared = True
                playback.unsent_ns += left_ns + playback.left_ns
                playback.left_ns = 0
                playback.paused_ns = None
            if playing and (self.pending is not None or record.barge_in is not None):
                self._silenced(moment_ns)

    def _silenced(self, at_ns: int) -> None:
        """The reply was stopped by the user's speech: provisional until that speech is committed."""
        record, pending = self.record, self.pending
        if record.barge_in is None:
            detected_ns = pending.record.announced_ns if pending is not None else at_ns
            onset_ns = pending.record.onset_ns if pending is not None else None
            record.barge_in = BargeIn(min(detected_ns, at_ns), onset_ns)
        if record.barge_in.silent_ns is None:
            record.barge_in.silent_ns = at_ns
        if pending is not None and pending.record.committed_ns is not None:
            self._session.link_interrupted(pending, self)

    def spoken_over(self, speech: Turn) -> None:
        """Take note of speech that has begun while this turn is open; what stopped already may be explained by it."""
        self.pending = speech
        playback, onset_ns = self.record.playback, speech.record.onset_ns
        barge_in = self.record.barge_in
        if barge_in is not None and barge_in.onset_ns is None and onset_ns <= barge_in.detected_ns:
            barge_in.onset_ns = onset_ns
        elif barge_in is None and playback.cut_ns is not None and onset_ns <= playback.cut_ns:
            self._silenced(playback.cut_ns)

    @guarded
    def audio_resumed(self, at: int | None = None) -> None:
        """Say that the reply goes on after a pause or clear: what stopped it was a false interruption."""
        record = self._live("audio_resumed")
        moment_ns = self.moment(at, "audio_resumed")
        if record is None or moment_ns is None or record.playback.first_sent_ns is None:
            return
        playback = record.playback
        with self._session.lock:
            shift_ns = playback.shift_ns
            stopped_ns = playback.end_ns
            if record.barge_in is not None:
                began_ns = record.barge_in.silent_ns or moment_ns
                self.note(record, n.EVENT_FALSE_INTERRUPTION, began_ns, {})
                record.barge_in = None
                if self.pending is not None:
                    self.pending.noted = True
            resumed_ns = max(moment_ns - shift_ns, stopped_ns)
            if resumed_ns - stopped_ns > GAP_NS:
                self._gap(playback, stopped_ns, resumed_ns)
            playback.end_ns = resumed_ns + playback.left_ns
            playback.left_ns = 0
            playback.paused_ns = None
            playback.stopped_ns = None
            playback.resumed_ns = moment_ns

    @guarded
    def interrupted(self, at: int | None = None) -> None:
        """Say that a barge-in was detected and the reply is about to be stopped; without audio playing it is none.

        Where several detect it the earliest counts.
        """
        record = self._live("interrupted")
        moment_ns = self.moment(at, "interrupted")
        if record is None or moment_ns is None:
            return
        with self._session.lock:
            barge_in = record.barge_in
            if barge_in is None and self._playing_at(moment_ns):
                onset_ns = self.pending.record.onset_ns if self.pending is not None else None
                record.barge_in = BargeIn(moment_ns, onset_ns)
            elif barge_in is not None and not record.playback.went_on_after(moment_ns):
                barge_in.detected_ns = min(barge_in.detected_ns, moment_ns)

    @guarded
    def barge_in(self, phase: Phase, at: int | None = None, *, reported: bool = False) -> None:
        """Say that one phase of the reaction to a barge-in is done; phases start at the detection.

        The first word on a phase counts. `reported` says that the client has seen it, where the session's
        `measurement_point` is: that counts more than what the server has said before.
        """
        record = self._live("barge_in")
        moment_ns = self.moment(at, "barge_in")
        if record is None or moment_ns is None:
            return
        with self._session.lock:
            if record.barge_in is None and self.pending is not None and self._playing_at(moment_ns):
                record.barge_in = BargeIn(self.pending.record.announced_ns, self.pending.record.onset_ns)
            barge_in = record.barge_in
            if barge_in is None or record.playback.went_on_after(moment_ns):
                return
            if phase not in barge_in.phases or (reported and phase not in barge_in.seen):
                barge_in.phases[phase] = max(moment_ns, barge_in.detected_ns)
                if reported:
                    barge_in.seen.add(phase)

    @guarded
    def client_marked(self, mark: str, at: int, *, error_ns: int | None = None) -> None:
        """Note a moment of the client's own (`voice.client.mark`) as an event; `error_ns` as for `audio_heard`."""
        record = self._live("client_marked")
        moment_ns = self.moment(at, "client_marked")
        if record is None or moment_ns is None:
            return
        attributes: dict[str, finished.AttributeValue] = {n.VOICE_CLIENT_MARK: mark}
        if error_ns is not None:
            attributes[n.VOICE_CLOCK_OFFSET_ERROR_S] = error_ns / 1e9
        self.note(record, n.EVENT_CLIENT_MARK, moment_ns, attributes)

    @guarded
    def network_measured(
        self, *, jitter_s: float | None = None, loss: float | None = None, round_trip_s: float | None = None
    ) -> None:
        """Take what the receiver of the reply (browser, gateway, RTCP) says of the network on the way to the user.

        `loss` is the share of packets lost, 0 to 1. What is known stands on `playback`, and with `loss` the mean
        opinion score that the E-model makes of it (`voicespan.mos`). The latest report counts.
        """
        record = self._live("network_measured")
        if record is None:
            return
        delay_s = None if round_trip_s is None else round_trip_s / 2
        inputs = {n.VOICE_AUDIO_JITTER_S: jitter_s, n.VOICE_AUDIO_LOSS: loss, n.VOICE_AUDIO_DELAY_S: delay_s}
        known = {key: float(value) for key, value in inputs.items() if value is not None}
        if not all(0 <= value < float("inf") for value in known.values()) or known.get(n.VOICE_AUDIO_LOSS, 0) > 1:
            self._refuse_value("network_measured")
            return
        if loss is not None:
            known[n.VOICE_AUDIO_MOS] = mos(loss=loss, jitter_s=jitter_s or 0.0, delay_s=delay_s or 0.0)
        record.playback.network = dict(known)

    def _playing_at(self, at_ns: int) -> bool:
        playback = self.record.playback
        if playback.first_sent_ns is None or at_ns < playback.first_sent_ns or playback.went_on_after(at_ns):
            return False
        return playback.paused_ns is not None or at_ns < playback.out_ns

    # What was said

    @guarded
    def user_said(self, text: str = "", *, audio: bytes | None = None, sample_rate: int | None = None) -> None:
        """Give what the user said to a viewer on this machine; without VOICESPAN_CONTENT=true nothing is taken.

        It goes there once the turn is over, and never into spans, logs or metrics. Several calls append; `audio` is
        16-bit mono PCM. At most 64 KiB of text and 10 MiB of audio are kept.
        """
        self._said("user", text, audio, sample_rate)

    @guarded
    def agent_said(self, text: str = "", *, audio: bytes | None = None, sample_rate: int | None = None) -> None:
        """Give what the agent said to a viewer on this machine, as `user_said` does."""
        self._said("agent", text, audio, sample_rate)

    def _said(self, role: Role, text: str, audio: object, sample_rate: int | None) -> None:
        if not settings.current().content or self._live(f"{role}_said") is None:
            return
        from voicespan import viewer

        viewer.said(self, role, text, audio, sample_rate)

    # The turn itself

    @guarded
    def handoff(self, agent: str) -> None:
        """Say that another agent takes over within this turn; later stages carry its name."""
        self.agent = agent
        self.event(n.EVENT_HANDOFF, **{n.GEN_AI_AGENT_NAME: agent})

    @guarded
    def failed(self, error: BaseException | str) -> None:
        """Say that a failure outside any stage cut or prevented the reply."""
        record = self._live("failed")
        if record is not None and record.failure is None:
            record.failure = failure_of(error, record.active_ns)

    @guarded
    def suppressed(self) -> None:
        """Say that the agent decides not to answer; the turn ends."""
        record = self._live("suppressed")
        if record is not None:
            record.suppressed = True
            self.end()

    @guarded
    def end(self, at: int | None = None) -> None:
        """Say that nothing more comes: the turn closes as soon as its audio is played out. Optional.

        Without a reply the turn is `no_reply` and counts against the service; `suppressed()` says that it was meant.
        """
        record = self._live("end")
        if record is None:
            return
        moment_ns = None if at is None else self.moment(at, "end")
        session = self._session
        session.lock.acquire()
        try:
            if record.ended_ns is None:
                record.ended_ns = moment_ns if moment_ns is not None else record.active_ns
            session.close_due(self, record.active_ns)
        finally:
            session.lock.release()

    @guarded
    def set(self, key: str, value: AttributeValue) -> None:
        """Set an attribute of `voice.turn`."""
        record = self._live("set")
        if record is not None:
            record.attributes[key] = value  # type: ignore[assignment]

    @guarded
    def event(self, name: str, **attributes: AttributeValue) -> None:
        """Add an event, now, to `voice.turn`."""
        record = self._live("event")
        if record is not None:
            self.note(record, name, record.active_ns, attributes)

    def note(self, record: TurnRecord | StageRecord, name: str, at_ns: int, attributes: dict[str, Any]) -> None:
        """Add an event to what is known of the turn or of one of its stages, where there is room for it."""
        with self._session.lock:
            if len(record.events) < self.MAX_EVENTS:
                record.events += ((name, at_ns, attributes),)

    def detected(self, what: str, at_ns: int, real_ns: int | None) -> None:
        """Note what the detector said, for its metrics; for who has the lock."""
        record = self.record
        if len(record.detections) < self.MAX_EVENTS:
            record.detections += ((what, at_ns, real_ns),)

    def fail(self, error: BaseException | str) -> None:
        """Do as `failed`: what an ERROR status on the current span means."""
        self.failed(error)

    # Times

    def circumstances(self) -> dict[str, object]:
        """Return those of the session."""
        return self.session.circumstances()

    def moment(self, at: int | None, mark: str) -> int | None:
        """Return the time of a mark: now, or `at` where it can be true; None where it is refused."""
        now_ns = self.now_ns()
        if at is None:
            return now_ns
        if type(at) is not int:
            why = "not an integer of time.monotonic_ns()"
        elif at < self._session.earliest_ns:
            why = "before the session; is it from another clock?"
        elif at <= now_ns:
            return at
        elif at <= now_ns + FUTURE_NS:
            return now_ns
        else:
            why = f"{(at - now_ns) / 1e9:.3g} s in the future"
        self._refuse(mark, why)
        return None

    def _refuse(self, mark: str, why: str) -> None:
        diagnostics.counters.add("mark.refused")
        diagnostics.say(f"mark.refused.{mark}", f"the time given to {mark}(at=...) is refused: {why}")

    def _refuse_value(self, mark: str) -> None:
        diagnostics.counters.add("mark.refused")
        diagnostics.say(f"mark.refused.{mark}", f"{mark}() is refused: a value is negative, not finite, or over 1")

    def _live(self, mark: str, now_ns: int | None = None) -> TurnRecord | None:
        """The record with its activity brought up to now; None, and counted, when the turn is over."""
        record = self.record
        if record.close is not None or self.dropped:
            diagnostics.counters.add("mark.late")
            return None
        record.active_ns = self.now_ns() if now_ns is None else now_ns
        self.look_ns = 0
        return record


class _Use:
    """The block of `Turn.use()`."""

    __slots__ = ("_scope", "_turn")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._scope: Scope | None = None

    def __enter__(self) -> Turn:
        try:
            if self._turn.recording:
                self._scope = Scope(self._turn, self._turn)
        except Exception as error:
            swallowed("Turn.use", error)
        return self._turn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        try:
            if self._scope is not None:
                self._scope.close()
        except Exception as failure:
            swallowed("Turn.use", failure)
