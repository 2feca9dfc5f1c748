"""From the facts of a closed turn to its spans, outcome and shares; pure, so that every rule can be checked by hand.

The rules are those of docs/turn-model.md. Inside, times are monotonic nanoseconds; the spans carry Unix time.

Half of what a turn costs is spent here. A comprehension, a generator or a small function is a call, which takes longer
than a loop over the few stages of a turn: hence the plain loops.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.finished import Event, FinishedSpan, FinishedTurn, Link
from voicespan.outcome import outcome, unmended
from voicespan.record import GAP_NS
from voicespan.silence import causes, divide, real_speech_end, silence, speech_end_known, waited_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voicespan.finished import AttributeValue
    from voicespan.record import Noted, StageRecord, TurnRecord
    from voicespan.silence import SpanKey

NS_PER_S = 1_000_000_000

_COMPONENT_SPAN = {
    "asr": n.SPAN_ASR,
    "llm": n.SPAN_LLM,
    "tool": n.SPAN_EXECUTE_TOOL,
    "tts": n.SPAN_TTS,
    "realtime": n.SPAN_REALTIME,
}
_FIRST_AUDIO = {"tts": n.SPAN_TTS_FIRST_AUDIO, "realtime": n.SPAN_REALTIME_FIRST_AUDIO}
_GENERATES = ("llm", "realtime")
_OPERATION = {"llm": "chat", "tool": "execute_tool"}
_DRAFT_OPERATION = {"asr": "speech_to_text", "tts": "text_to_speech"}
_OF_VOICE = (n.VOICE_TTS_VOICE_NAME, n.VOICE_LANGUAGE, n.VOICE_WORKER_ID)
_COPIED = (n.GEN_AI_REQUEST_MODEL, *_OF_VOICE)
_SHARES = {stage: f"voice.response.share.{stage}" for stage in n.SHARE_STAGES}

_PLAIN: Mapping[str, AttributeValue] = MappingProxyType({})
"""The attributes of an event that has none."""
_START = attrgetter("start_ns")
_END = attrgetter("end_ns")
_TIME = attrgetter("time_ns")


def finish(record: TurnRecord, new_span_id: Callable[[], int]) -> FinishedTurn:
    """Return the turn that the facts tell; `new_span_id` makes a 64-bit id for each span that has none yet."""
    return _Finisher(record, new_span_id).turn()


def finish_late(record: TurnRecord, stage: StageRecord, new_span_id: Callable[[], int]) -> FinishedTurn:
    """Return the span of a tool that outlived its turn, alone, as a late part of the same trace."""
    span = _stage_span(record, stage, new_span_id)
    return FinishedTurn(record.trace_id, record.session_id, (span,), sampled=record.sampled, late=True)


class _Finisher:
    """Builds the spans of one turn; one method per part of the tree."""

    __slots__ = ("by_key", "created_ns", "end_ns", "failed", "failure", "new_span_id", "offset_ns", "outcome",
                 "reason", "recognized", "record", "root", "silence", "spans", "speech_end_ns")  # fmt: skip

    def __init__(self, record: TurnRecord, new_span_id: Callable[[], int]) -> None:
        self.record = record
        self.new_span_id = new_span_id
        self.offset_ns = record.wall_offset_ns
        self._look_over()
        self.failure = unmended(record) if self.failed else None
        self.outcome, self.reason = outcome(record, self.failure)
        onset_ns = record.onset_ns + self.offset_ns
        self.root = FinishedSpan(n.SPAN_TURN, record.span_id, None, onset_ns, onset_ns, "internal", None, {})
        self.spans: list[FinishedSpan] = []
        self.by_key: dict[SpanKey, FinishedSpan] = {}
        self.end_ns = _reply_end(record)
        speech_end = real_speech_end(record)
        self.speech_end_ns = speech_end[0]
        self.silence = silence(record, self.outcome, speech_end)

    def _look_over(self) -> None:
        """Note what is asked of all stages: whether one failed, whether one recognized, and when the first answered."""
        failed, recognized, created_ns = self.record.failure is not None, False, None
        for stage in self.record.stages:
            if stage.failure is not None:
                failed = True
            component = stage.component
            if component == "asr":
                recognized = True
            elif component in _GENERATES and (created_ns is None or stage.start_ns < created_ns):
                created_ns = stage.start_ns
        self.failed, self.recognized, self.created_ns = failed, recognized, created_ns

    def turn(self) -> FinishedTurn:
        """Put the tree together."""
        record = self.record
        spoken = record.trigger is None and record.input == "speech"
        if spoken:
            self._vad()
            if record.transcript_ns is not None and not self.recognized:
                self._implicit_asr(record.transcript_ns)
        for stage in record.stages:
            if stage.component != "tool" or not _outlives(record, stage):
                self._stage(stage)
        self._playback()
        self._response()
        self._barge_in()
        self._root(spoken=spoken)
        self.spans.sort(key=_START)
        return FinishedTurn(record.trace_id, record.session_id, (self.root, *self.spans), sampled=record.sampled)

    def _add(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        parent: FinishedSpan,
        attributes: dict[str, AttributeValue],
        key: SpanKey | None = None,
    ) -> FinishedSpan:
        """Add a span; with `key` it may be a cause of the silence."""
        start_ns += self.offset_ns
        end_ns += self.offset_ns
        if start_ns < self.root.start_ns:  # noqa: PLR1730 - a dozen times a turn, and a call takes longer
            start_ns = self.root.start_ns
        if end_ns < start_ns:  # noqa: PLR1730
            end_ns = start_ns
        span = FinishedSpan(name, self.new_span_id(), parent.span_id, start_ns, end_ns, "internal", None, attributes)
        self.spans.append(span)
        if key is not None:
            self.by_key[key] = span
        return span

    def _vad(self) -> None:
        record = self.record
        decided_ns = record.committed_ns or record.closed_ns
        vad = self._add(n.SPAN_VAD, record.onset_ns, decided_ns, self.root, {n.VOICE_COMPONENT: "vad"}, n.SPAN_VAD)
        if record.detected_ns is not None:
            vad.events = (Event(n.EVENT_VAD_SPEECH_END, record.detected_ns + self.offset_ns, _PLAIN),)
        if record.committed_ns is not None and (record.detected_ns is not None or speech_end_known(record)):
            self._add(n.SPAN_VAD_ENDPOINT, self.speech_end_ns, record.committed_ns, vad, {}, n.SPAN_VAD_ENDPOINT)

    def _implicit_asr(self, transcript_ns: int) -> None:
        """A transcript without a stage of its own: the recognizer heard the user from the onset on."""
        asr = self._add(n.SPAN_ASR, self.record.onset_ns, transcript_ns, self.root, {n.VOICE_COMPONENT: "asr"})
        self._finalize(asr, {})

    def _finalize(self, asr: FinishedSpan, same: dict[str, AttributeValue]) -> None:
        record = self.record
        if record.transcript_ns is None or not speech_end_known(record):
            return
        start_ns = self.speech_end_ns
        end_ns = max(start_ns, record.transcript_ns)
        self._add(n.SPAN_ASR_FINALIZE, start_ns, end_ns, asr, same, n.SPAN_ASR_FINALIZE)
        self.by_key[n.SPAN_ASR] = asr

    def _stage(self, stage: StageRecord) -> None:
        record, key = self.record, id(stage)
        span = _stage_span(record, stage, self.new_span_id)
        self.spans.append(span)
        self.by_key[key, _COMPONENT_SPAN[stage.component]] = span
        first_ns = stage.first_ns
        if first_ns is None:
            return
        if stage.component == "asr":
            if first_ns == record.transcript_ns:
                self._finalize(span, _identity(span.attributes))
        elif stage.component == "llm":
            self._llm(stage, span, first_ns)
        else:
            start_ns = span.start_ns - self.offset_ns
            name = _FIRST_AUDIO[stage.component]
            self._add(name, start_ns, first_ns, span, _identity(span.attributes), (key, name))

    def _llm(self, stage: StageRecord, span: FinishedSpan, first_ns: int) -> None:
        start_ns, key = span.start_ns - self.offset_ns, id(stage)
        same = _identity(span.attributes)
        self._add(n.SPAN_LLM_TTFT, start_ns, first_ns, span, same, (key, n.SPAN_LLM_TTFT))
        span.attributes[n.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = (first_ns - stage.start_ns) / NS_PER_S
        handed_ns = self.record.handed_over(stage)
        if handed_ns is not None:
            name = n.SPAN_LLM_FIRST_SENTENCE
            self._add(name, start_ns, handed_ns, span, same.copy(), (key, name))

    def _playback(self) -> None:
        record, playback = self.record, self.record.playback
        first_sent_ns = playback.first_sent_ns
        if first_sent_ns is None or self.end_ns is None:
            return
        heard_ns = first_sent_ns if playback.heard_ns is None else playback.heard_ns
        end_ns = max(self.end_ns, heard_ns, first_sent_ns)
        shift_ns = playback.shift_ns
        gaps: list[tuple[int, int]] = []
        heard_length_ns = end_ns - heard_ns
        for gap_start_ns, gap_end_ns in playback.gaps:
            gap = (gap_start_ns + shift_ns, min(gap_end_ns + shift_ns, end_ns))
            length_ns = gap[1] - gap[0]
            if length_ns > GAP_NS:
                gaps.append(gap)
                heard_length_ns -= length_ns
        attributes: dict[str, AttributeValue] = {
            n.VOICE_COMPONENT: "playback",
            n.VOICE_MEASUREMENT_POINT: record.observed_at,
            n.VOICE_PLAYBACK_SENT_S: playback.sent_ns / NS_PER_S,
            n.VOICE_PLAYBACK_HEARD_S: min(max(heard_length_ns, 0), playback.sent_ns) / NS_PER_S,
        }
        if playback.network is not None:
            attributes |= playback.network
        if playback.stopped_ns is None or playback.stopped_ns != self.end_ns:
            attributes[n.VOICE_PLAYBACK_ESTIMATED] = True
        if record.barge_in is not None:
            attributes[n.VOICE_PLAYBACK_INTERRUPTED] = True
        span = self._add(n.SPAN_PLAYBACK, first_sent_ns, end_ns, self.root, attributes, n.SPAN_PLAYBACK)
        if playback.heard_ns is not None:
            start: dict[str, AttributeValue] = {n.VOICE_MEASUREMENT_POINT: record.measurement_point}
            if record.clock_error_ns is not None:
                start[n.VOICE_CLOCK_OFFSET_ERROR_S] = record.clock_error_ns / NS_PER_S
            self._add(n.SPAN_PLAYBACK_START, first_sent_ns, heard_ns, span, start, n.SPAN_PLAYBACK_START)
        for gap_start_ns, gap_end_ns in gaps:
            self._add(n.SPAN_PLAYBACK_GAP, gap_start_ns, gap_end_ns, span, {})

    def _response(self) -> None:
        record, silence = self.record, self.silence
        if silence is None:
            return
        voice = record.voice
        shares, critical = divide(silence, causes(record, silence, voice))
        bottleneck = max(shares, key=shares.__getitem__)
        by_key = self.by_key
        for key in critical:
            span = by_key.get(key)
            if span is not None:
                span.attributes[n.VOICE_CRITICAL_PATH] = True
        attributes: dict[str, AttributeValue] = {
            n.VOICE_RESPONSE_FROM: silence.source,
            n.VOICE_MEASUREMENT_POINT: record.observed_at if silence.answered else "server",
            n.VOICE_TURN_INITIATOR: "user",
            n.VOICE_TURN_OUTCOME: self.outcome,
            n.VOICE_TURN_BOTTLENECK: bottleneck,
        }
        if record.transport is not None:
            attributes[n.VOICE_TRANSPORT] = record.transport
        if record.clock_error_ns is not None and record.playback.heard_ns is not None:
            attributes[n.VOICE_CLOCK_OFFSET_ERROR_S] = record.clock_error_ns / NS_PER_S
        if self.reason is not None:
            attributes[n.VOICE_TURN_NO_REPLY_REASON] = self.reason
        if self.failure is not None:
            attributes[n.ERROR_TYPE] = self.failure.kind
        _copy(record, voice, attributes)
        answer_ns = record.playback.answer_ns
        if answer_ns is not None and silence.answered:
            answer_ns += record.playback.shift_ns
            self._add(n.SPAN_ANSWER, silence.start_ns, answer_ns, self.root, attributes.copy())
        for stage, share_ns in shares.items():
            attributes[_SHARES[stage]] = share_ns / NS_PER_S
        name = n.SPAN_RESPONSE if silence.answered else n.SPAN_UNANSWERED
        self._add(name, silence.start_ns, silence.end_ns, self.root, attributes)
        self.root.attributes[n.VOICE_TURN_BOTTLENECK] = bottleneck

    def _barge_in(self) -> None:
        record, barge_in = self.record, self.record.barge_in
        if barge_in is None or record.playback.first_sent_ns is None:
            return
        ends = dict(barge_in.phases)
        if self.end_ns is not None:
            ends.setdefault("playback_stop", self.end_ns)
        starts = dict.fromkeys(ends, barge_in.detected_ns)
        common: dict[str, AttributeValue] = {}
        _copy(record, record.voice, common)
        if barge_in.onset_ns is not None:
            starts["total"] = barge_in.onset_ns
            ends["total"] = ends["playback_stop"]
            common[n.VOICE_BARGE_IN_DETECTION_S] = max(0, barge_in.detected_ns - barge_in.onset_ns) / NS_PER_S
        for phase, start_ns in starts.items():
            reported = phase in barge_in.seen or ends[phase] == record.playback.stopped_ns
            reported = reported or (phase == "total" and "playback_stop" in barge_in.seen)
            attributes: dict[str, AttributeValue] = {
                **common,
                n.VOICE_BARGE_IN_PHASE: phase,
                n.VOICE_MEASUREMENT_POINT: record.measurement_point if reported else "server",
            }
            self._add(n.SPAN_BARGE_IN, start_ns, ends[phase], self.root, attributes)

    def _root(self, *, spoken: bool) -> None:
        record, root, attributes = self.record, self.root, self.root.attributes
        end_ns = max(map(_END, self.spans), default=root.start_ns)
        if not self.spans or self.outcome in ("timeout", "no_reply") or record.close == "user_left":
            end_ns = max(end_ns, waited_until(record) + self.offset_ns)
        root.end_ns = end_ns
        if record.attributes:
            attributes |= record.attributes
        attributes[n.SESSION_ID] = attributes[n.GEN_AI_CONVERSATION_ID] = record.session_id
        attributes[n.GEN_AI_OPERATION_NAME] = "invoke_agent"
        attributes[n.VOICE_TURN_INITIATOR] = "agent" if record.trigger else "user"
        attributes[n.VOICE_TURN_OUTCOME] = self.outcome
        if record.index is not None:
            attributes[n.VOICE_TURN_INDEX] = record.index
        if record.trigger is not None:
            attributes[n.VOICE_TURN_TRIGGER] = record.trigger
        else:
            attributes[n.VOICE_TURN_INPUT] = record.input
        if self.reason is not None:
            attributes[n.VOICE_TURN_NO_REPLY_REASON] = self.reason
        if spoken:
            attributes[n.VOICE_SPEECH_SEGMENTS] = record.segments
        if record.transport is not None:
            attributes[n.VOICE_TRANSPORT] = record.transport
        if self.outcome == "error":
            if self.failure is not None:
                attributes[n.ERROR_TYPE] = self.failure.kind
            root.error = self.failure.message if self.failure is not None else ""
        elif self.outcome == "timeout":
            attributes[n.ERROR_TYPE] = "timeout"
            root.error = ""
        elif self.outcome == "completed" and self.failed and _recovered(record):
            attributes[n.VOICE_TURN_RECOVERED] = True
        heard_ns = record.playback.first_heard_ns
        if record.media_up_ns is not None and heard_ns is not None:
            attributes[n.VOICE_SESSION_FIRST_AUDIO] = (heard_ns - record.media_up_ns) / NS_PER_S
        if record.links:
            root.links = tuple([Link(context, {n.VOICE_LINK_TYPE: relation}) for context, relation in record.links])
        root.events = self._events(spoken=spoken)

    def _events(self, *, spoken: bool) -> tuple[Event, ...]:
        """What was noted of the turn, and its milestones, in order of time."""
        record, offset_ns = self.record, self.offset_ns
        events: list[Event] = []
        for name, at_ns, attributes in record.events:
            events.append(Event(name, at_ns + offset_ns, attributes))
        if spoken:
            events.append(Event(n.EVENT_SPEECH_START, record.onset_ns + offset_ns, _PLAIN))
            if record.speech_end_ns is not None:
                events.append(Event(n.EVENT_SPEECH_END, record.speech_end_ns + offset_ns, _PLAIN))
        transcript_ns = record.transcript_ns
        if record.partial_ns is not None and (transcript_ns is None or record.partial_ns < transcript_ns):
            transcript_ns = record.partial_ns
        if transcript_ns is not None:
            events.append(Event(n.EVENT_FIRST_TRANSCRIPT, transcript_ns + offset_ns, _PLAIN))
        if self.created_ns is not None:
            events.append(Event(n.EVENT_RESPONSE_CREATED, self.created_ns + offset_ns, _PLAIN))
        events.sort(key=_TIME)
        return tuple(events)


def _identity(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """What a milestone repeats from its stage: model, voice, language, worker."""
    same = {}
    for key in _COPIED:
        if key in attributes:
            same[key] = attributes[key]
    return same


def _reply_end(record: TurnRecord) -> int | None:
    """When the reply fell silent at the ear; None without audio."""
    playback = record.playback
    if playback.first_sent_ns is None:
        return None
    if record.barge_in is not None and record.barge_in.silent_ns is not None:
        silent_ns = record.barge_in.silent_ns
        reported_ns = playback.stopped_ns
        return reported_ns if reported_ns is not None and reported_ns >= record.barge_in.detected_ns else silent_ns
    return min(playback.out_ns, record.closed_ns) if record.closed_ns else playback.out_ns


def _recovered(record: TurnRecord) -> bool:
    """Whether something failed that was meant to be used."""
    for stage in record.stages:  # noqa: SIM110
        if stage.failure is not None and not stage.discarded:
            return True
    return False


def _outlives(record: TurnRecord, stage: StageRecord) -> bool:
    """Whether a tool still runs when its turn is over; its span comes when it ends."""
    return stage.component == "tool" and stage.open and record.close not in ("limit", "shutdown")


def _stage_span(record: TurnRecord, stage: StageRecord, new_span_id: Callable[[], int]) -> FinishedSpan:
    """The span of one stage with everything it carries."""
    component, offset_ns = stage.component, record.wall_offset_ns
    start_ns = max(stage.began_ns, record.onset_ns)
    end_ns = max(start_ns, stage.ended_by(record.closed_ns))
    name = _COMPONENT_SPAN[component]
    if component == "tool":
        name = f"{name} {stage.attributes.get(n.GEN_AI_TOOL_NAME, '')}".rstrip()
    if stage.span_id is None:
        stage.span_id = new_span_id()
    attributes: dict[str, AttributeValue] = {n.VOICE_COMPONENT: component, **stage.attributes}
    events: Sequence[Noted] = stage.events
    error = None
    operation = _OPERATION.get(component)
    if operation is None and record.genai_drafts:
        operation = _DRAFT_OPERATION.get(component)
    if operation is not None:
        attributes[n.GEN_AI_OPERATION_NAME] = operation
    failure = stage.failure
    if stage.end_ns is None and record.close == "limit":
        error = "the turn's time limit"
        attributes[n.ERROR_TYPE] = "timeout"
    elif stage.cancelled or stage.end_ns is None:
        attributes[n.VOICE_STAGE_CANCELLED] = True
    if failure is not None:
        error = failure.message
        attributes[n.ERROR_TYPE] = failure.kind
        exception: dict[str, AttributeValue] = {n.EXCEPTION_TYPE: failure.kind, n.EXCEPTION_MESSAGE: failure.message}
        if failure.stacktrace:
            exception[n.EXCEPTION_STACKTRACE] = failure.stacktrace
        events = [*events, (n.EVENT_EXCEPTION, failure.at_ns, exception)]
    if stage.discarded:
        attributes[n.VOICE_GENERATION_DISCARDED] = True
    if stage.consumer_wait_ns:
        attributes[n.VOICE_STAGE_CONSUMER_WAIT_S] = stage.consumer_wait_ns / NS_PER_S
    if component == "llm":
        _measure_llm(stage, attributes)
    elif component in ("tts", "realtime"):
        _measure_audio(stage, attributes, end_ns)
    return FinishedSpan(
        name,
        stage.span_id,
        record.span_id,
        start_ns + offset_ns,
        end_ns + offset_ns,
        "client" if stage.remote else "internal",
        error,
        attributes,
        tuple(sorted([Event(name, at_ns + offset_ns, its) for name, at_ns, its in events], key=_TIME))
        if events
        else (),
    )


def _measure_llm(stage: StageRecord, attributes: dict[str, AttributeValue]) -> None:
    """Count tokens, and their rate; the time that the consumer held the stream is not the model's."""
    if not stage.count:
        return
    attributes[n.VOICE_LLM_TOKEN_COUNT] = stage.count
    if stage.first_ns is not None and stage.last_ns is not None and stage.count > 1:
        streaming_ns = stage.last_ns - stage.first_ns - stage.last_wait_ns
        if streaming_ns > 0:
            attributes[n.VOICE_LLM_TOKEN_RATE] = (stage.count - 1) * NS_PER_S / streaming_ns


def _measure_audio(stage: StageRecord, attributes: dict[str, AttributeValue], end_ns: int) -> None:
    """Count frames and their length, and what text they speak; held time is not the synthesizer's."""
    synthesis = stage.component == "tts"
    if stage.count:
        attributes[n.VOICE_AUDIO_FRAME_COUNT] = stage.count
        if stage.audio_ns:
            attributes[n.VOICE_AUDIO_DURATION_S] = stage.audio_ns / NS_PER_S
            if synthesis:
                working_ns = end_ns - stage.began_ns - stage.last_wait_ns
                attributes[n.VOICE_TTS_REAL_TIME_FACTOR] = max(0, working_ns) / stage.audio_ns
    if not synthesis:
        return
    attributes[n.VOICE_ALIAS] = n.ALIAS_TTS
    if stage.filler:
        attributes[n.VOICE_TTS_FILLER] = True
    if stage.handed_ns is not None and stage.characters:
        attributes[n.VOICE_TEXT_LENGTH] = stage.characters
        attributes[n.VOICE_TEXT_WORD_COUNT_RANGE] = word_range(0 if stage.words is None else stage.words.total)
        attributes[n.VOICE_TEXT_CHARACTER_COUNT_RANGE] = character_range(stage.characters)


def word_range(words: int) -> str:
    """Return the range of `voice.text.word_count.range` that so many words fall into."""
    return _range(words, (10, 25, 50, 100, 200))


def character_range(characters: int) -> str:
    """Return the range of `voice.text.character_count.range` that so many characters fall into."""
    return _range(characters, (50, 150, 300, 600, 1200))


@lru_cache(256)
def _range(count: int, limits: tuple[int, ...]) -> str:
    """Return the range that a count falls into, as catalog F-AT18 and F-AT19 name them."""
    if count == 0:
        return "0"
    low = 1
    for limit in limits:
        if count <= limit:
            return f"{low}-{limit}"
        low = limit + 1
    return f"{limits[-1]}+"


def _copy(record: TurnRecord, voice: StageRecord | None, to: dict[str, AttributeValue]) -> None:
    """Add what the heard silence copies from the stages that made it: model, voice, language, worker."""
    voice = voice or record.last("tts")
    if voice is not None:
        spoken = voice.attributes
        for key in _OF_VOICE:
            if key in spoken:
                to[key] = spoken[key]
    model = record.last("llm") or record.last("realtime")
    if model is not None and n.GEN_AI_REQUEST_MODEL in model.attributes:
        to[n.GEN_AI_REQUEST_MODEL] = model.attributes[n.GEN_AI_REQUEST_MODEL]
