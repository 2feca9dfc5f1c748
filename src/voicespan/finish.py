"""From the facts of a closed turn to its spans, outcome and shares; pure, so that every rule can be checked by hand.

The rules are those of docs/turn-model.md. Inside, times are monotonic nanoseconds; the finished turn carries Unix time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.finished import Event, FinishedSpan, FinishedTurn, Link
from voicespan.outcome import outcome, unmended
from voicespan.record import GAP_NS
from voicespan.silence import causes, divide, real_speech_end, silence, speech_end_known, waited_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.finished import AttributeValue, Kind
    from voicespan.record import StageRecord, TurnRecord
    from voicespan.silence import SpanKey

NS_PER_S = 1_000_000_000

_COMPONENT_SPAN = {
    "asr": n.SPAN_ASR,
    "llm": n.SPAN_LLM,
    "tool": n.SPAN_EXECUTE_TOOL,
    "tts": n.SPAN_TTS,
    "realtime": n.SPAN_REALTIME,
}
_OPERATION = {"llm": "chat", "tool": "execute_tool"}
_DRAFT_OPERATION = {"asr": "speech_to_text", "tts": "text_to_speech"}
_COPIED = (n.GEN_AI_REQUEST_MODEL, n.VOICE_TTS_VOICE_NAME, n.VOICE_LANGUAGE, n.VOICE_WORKER_ID)


@dataclass(slots=True)
class _Span:
    """A span under construction, in monotonic nanoseconds."""

    name: str
    parent: _Span | None
    start_ns: int
    end_ns: int
    kind: Kind = "internal"
    span_id: int | None = None
    error: str | None = None
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    events: list[tuple[str, int, dict[str, AttributeValue]]] = field(default_factory=list)


def finish(record: TurnRecord, new_span_id: Callable[[], int]) -> FinishedTurn:
    """Return the turn that the facts tell; `new_span_id` makes a 64-bit id for each span that has none yet."""
    return _Finisher(record).turn(new_span_id)


def finish_late(record: TurnRecord, stage: StageRecord, new_span_id: Callable[[], int]) -> FinishedTurn:
    """Return the span of a tool that outlived its turn, alone, as a late part of the same trace."""
    root = _Span(n.SPAN_TURN, None, record.onset_ns, record.closed_ns, span_id=record.span_id)
    if stage.span_id is None:
        stage.span_id = new_span_id()
    span = _stage_span(record, stage, root)
    finished = _freeze(record, [span], new_span_id)
    return FinishedTurn(record.trace_id, record.session_id, finished, sampled=record.sampled, late=True)


class _Finisher:
    """Builds the spans of one turn; one method per part of the tree."""

    def __init__(self, record: TurnRecord) -> None:
        self.record = record
        self.failure = unmended(record)
        self.outcome, self.reason = outcome(record, self.failure)
        self.root = _Span(n.SPAN_TURN, None, record.onset_ns, record.onset_ns, span_id=record.span_id)
        self.spans = [self.root]
        self.by_key: dict[SpanKey, _Span] = {}
        self.end_ns = _reply_end(record)
        self.silence = silence(record, self.outcome)

    def turn(self, new_span_id: Callable[[], int]) -> FinishedTurn:
        """Put the tree together."""
        record = self.record
        if record.trigger is None and record.input == "speech":
            self._vad()
        if not any(stage.component == "asr" for stage in record.stages):
            self._implicit_asr()
        for stage in record.stages:
            if not _outlives(record, stage):
                self._stage(stage)
        self._playback()
        self._response()
        self._barge_in()
        self._root()
        ordered = [self.root, *sorted(self.spans[1:], key=lambda span: span.start_ns)]
        spans = _freeze(record, ordered, new_span_id)
        return FinishedTurn(record.trace_id, record.session_id, spans, sampled=record.sampled)

    def _add(
        self, name: str, start_ns: int, end_ns: int, parent: _Span | None = None, *, stage: StageRecord | None = None
    ) -> _Span:
        start_ns = max(start_ns, self.root.start_ns)
        return self._keep(_Span(name, parent or self.root, start_ns, max(start_ns, end_ns)), stage)

    def _keep(self, span: _Span, stage: StageRecord | None = None) -> _Span:
        self.spans.append(span)
        self.by_key[0 if stage is None else id(stage), span.name.partition(" ")[0]] = span
        return span

    def _vad(self) -> None:
        record = self.record
        decided_ns = record.committed_ns or record.closed_ns
        vad = self._add(n.SPAN_VAD, record.onset_ns, decided_ns)
        vad.attributes[n.VOICE_COMPONENT] = "vad"
        if record.detected_ns is not None:
            vad.events.append((n.EVENT_VAD_SPEECH_END, record.detected_ns, {}))
        real_end_ns, _ = real_speech_end(record)
        if record.committed_ns is not None and (record.detected_ns is not None or speech_end_known(record)):
            self._add(n.SPAN_VAD_ENDPOINT, real_end_ns, record.committed_ns, vad)

    def _implicit_asr(self) -> None:
        """A transcript without a stage of its own: the recognizer heard the user from the onset on."""
        record = self.record
        if record.transcript_ns is None or record.input != "speech" or record.trigger is not None:
            return
        asr = self._add(n.SPAN_ASR, record.onset_ns, record.transcript_ns)
        asr.attributes[n.VOICE_COMPONENT] = "asr"
        self._finalize(asr)

    def _finalize(self, asr: _Span) -> None:
        record = self.record
        if record.transcript_ns is None or not speech_end_known(record):
            return
        start_ns, _ = real_speech_end(record)
        finalize = self._add(n.SPAN_ASR_FINALIZE, start_ns, max(start_ns, record.transcript_ns), asr)
        finalize.attributes |= _identity(asr)
        self.by_key[0, n.SPAN_ASR] = asr

    def _stage(self, stage: StageRecord) -> None:
        record = self.record
        span = self._keep(_stage_span(record, stage, self.root), stage)
        if stage.component == "asr":
            if stage.first_ns is not None and stage.first_ns == record.transcript_ns:
                self._finalize(span)
        elif stage.component == "llm":
            self._llm(stage, span)
        elif stage.first_ns is not None:
            name = {"tts": n.SPAN_TTS_FIRST_AUDIO, "realtime": n.SPAN_REALTIME_FIRST_AUDIO}[stage.component]
            first = self._add(name, span.start_ns, stage.first_ns, span, stage=stage)
            first.attributes |= _identity(span)

    def _llm(self, stage: StageRecord, span: _Span) -> None:
        if stage.first_ns is None:
            return
        ttft = self._add(n.SPAN_LLM_TTFT, span.start_ns, stage.first_ns, span, stage=stage)
        span.attributes[n.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = (stage.first_ns - stage.start_ns) / NS_PER_S
        handed_ns = self.record.handed_over(stage)
        ttft.attributes |= _identity(span)
        if handed_ns is not None:
            sentence = self._add(n.SPAN_LLM_FIRST_SENTENCE, span.start_ns, handed_ns, span, stage=stage)
            sentence.attributes |= _identity(span)

    def _playback(self) -> None:
        record, playback = self.record, self.record.playback
        if playback.first_sent_ns is None or self.end_ns is None:
            return
        heard_ns = record.playback.first_heard_ns or playback.first_sent_ns
        reported = playback.stopped_ns is not None and playback.stopped_ns == self.end_ns
        span = self._add(n.SPAN_PLAYBACK, playback.first_sent_ns, max(self.end_ns, heard_ns))
        shift_ns = playback.shift_ns
        gaps = [(start + shift_ns, min(end + shift_ns, span.end_ns)) for start, end in playback.gaps]
        gaps = [(start, end) for start, end in gaps if end - start > GAP_NS]
        heard_length_ns = span.end_ns - heard_ns - sum(end - start for start, end in gaps)
        span.attributes |= {
            n.VOICE_COMPONENT: "playback",
            n.VOICE_MEASUREMENT_POINT: record.observed_at,
            n.VOICE_PLAYBACK_SENT_S: playback.sent_ns / NS_PER_S,
            n.VOICE_PLAYBACK_HEARD_S: min(max(heard_length_ns, 0), playback.sent_ns) / NS_PER_S,
        }
        span.attributes |= playback.network
        if not reported:
            span.attributes[n.VOICE_PLAYBACK_ESTIMATED] = True
        if record.barge_in is not None:
            span.attributes[n.VOICE_PLAYBACK_INTERRUPTED] = True
        if playback.heard_ns is not None:
            start = self._add(n.SPAN_PLAYBACK_START, playback.first_sent_ns, heard_ns, span)
            start.attributes[n.VOICE_MEASUREMENT_POINT] = record.measurement_point
            if record.clock_error_ns is not None:
                start.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S] = record.clock_error_ns / NS_PER_S
        for gap_start_ns, gap_end_ns in gaps:
            self._add(n.SPAN_PLAYBACK_GAP, gap_start_ns, gap_end_ns, span)

    def _response(self) -> None:
        record, silence = self.record, self.silence
        if silence is None:
            return
        shares, critical = divide(silence, causes(record, silence))
        bottleneck = max(shares, key=lambda stage: shares[stage])
        for key in critical:
            if key in self.by_key:
                self.by_key[key].attributes[n.VOICE_CRITICAL_PATH] = True
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
        attributes |= _copies(record)
        name = n.SPAN_RESPONSE if silence.answered else n.SPAN_UNANSWERED
        response = self._add(name, silence.start_ns, silence.end_ns)
        response.attributes |= attributes
        for stage, share_ns in shares.items():
            response.attributes[f"voice.response.share.{stage}"] = share_ns / NS_PER_S
        self.root.attributes[n.VOICE_TURN_BOTTLENECK] = bottleneck
        answer_ns = record.playback.answer_ns
        if answer_ns is not None and silence.answered:
            answer = self._add(n.SPAN_ANSWER, silence.start_ns, answer_ns + record.playback.shift_ns)
            answer.attributes |= attributes

    def _barge_in(self) -> None:
        record, barge_in = self.record, self.record.barge_in
        if barge_in is None or record.playback.first_sent_ns is None:
            return
        ends = dict(barge_in.phases)
        if self.end_ns is not None:
            ends.setdefault("playback_stop", self.end_ns)
        starts = dict.fromkeys(ends, barge_in.detected_ns)
        common: dict[str, AttributeValue] = _copies(record)
        if barge_in.onset_ns is not None:
            starts["total"] = barge_in.onset_ns
            ends["total"] = ends["playback_stop"]
            common[n.VOICE_BARGE_IN_DETECTION_S] = max(0, barge_in.detected_ns - barge_in.onset_ns) / NS_PER_S
        for phase, start_ns in starts.items():
            span = self._add(n.SPAN_BARGE_IN, start_ns, ends[phase])
            span.attributes |= common | {n.VOICE_BARGE_IN_PHASE: phase}
            reported = phase in barge_in.seen or ends[phase] == record.playback.stopped_ns
            reported = reported or (phase == "total" and "playback_stop" in barge_in.seen)
            span.attributes[n.VOICE_MEASUREMENT_POINT] = record.measurement_point if reported else "server"

    def _root(self) -> None:
        record, root = self.record, self.root
        ends = [span.end_ns for span in self.spans[1:]]
        if not ends or self.outcome in ("timeout", "no_reply") or record.close == "user_left":
            ends.append(waited_until(record))
        root.end_ns = max(root.start_ns, *ends)
        root.attributes |= record.attributes | {
            n.SESSION_ID: record.session_id,
            n.GEN_AI_CONVERSATION_ID: record.session_id,
            n.GEN_AI_OPERATION_NAME: "invoke_agent",
            n.VOICE_TURN_INITIATOR: "agent" if record.trigger else "user",
            n.VOICE_TURN_OUTCOME: self.outcome,
        }
        optional: dict[str, AttributeValue | None] = {
            n.VOICE_TURN_INDEX: record.index,
            n.VOICE_TURN_TRIGGER: record.trigger,
            n.VOICE_TURN_INPUT: None if record.trigger else record.input,
            n.VOICE_TURN_NO_REPLY_REASON: self.reason,
            n.VOICE_SPEECH_SEGMENTS: record.segments if record.input == "speech" and not record.trigger else None,
            n.VOICE_TRANSPORT: record.transport,
            n.ERROR_TYPE: self.failure.kind if self.failure and self.outcome == "error" else None,
        }
        root.attributes |= {key: value for key, value in optional.items() if value is not None}
        if self.outcome == "timeout":
            root.attributes[n.ERROR_TYPE] = "timeout"
        if self.outcome == "completed" and any(stage.failed for stage in record.stages):
            root.attributes[n.VOICE_TURN_RECOVERED] = True
        if self.outcome in ("error", "timeout"):
            root.error = self.failure.message if self.failure and self.outcome == "error" else ""
        heard_ns = record.playback.first_heard_ns
        if record.media_up_ns is not None and heard_ns is not None:
            root.attributes[n.VOICE_SESSION_FIRST_AUDIO] = (heard_ns - record.media_up_ns) / NS_PER_S
        root.events += record.events
        self._milestone_events()

    def _milestone_events(self) -> None:
        record, events = self.record, self.root.events
        if record.trigger is None and record.input == "speech":
            events.append((n.EVENT_SPEECH_START, record.onset_ns, {}))
            if record.speech_end_ns is not None:
                events.append((n.EVENT_SPEECH_END, record.speech_end_ns, {}))
        transcripts = [at for at in (record.partial_ns, record.transcript_ns) if at is not None]
        if transcripts:
            events.append((n.EVENT_FIRST_TRANSCRIPT, min(transcripts), {}))
        generations = [stage.start_ns for stage in record.stages if stage.component in ("llm", "realtime")]
        if generations:
            events.append((n.EVENT_RESPONSE_CREATED, min(generations), {}))


def _identity(span: _Span) -> dict[str, AttributeValue]:
    """What a milestone repeats from its stage: model, voice, language, worker."""
    return {key: span.attributes[key] for key in _COPIED if key in span.attributes}


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


def _outlives(record: TurnRecord, stage: StageRecord) -> bool:
    """Whether a tool still runs when its turn is over; its span comes when it ends."""
    return stage.component == "tool" and stage.open and record.close not in ("limit", "shutdown")


def _stage_span(record: TurnRecord, stage: StageRecord, root: _Span) -> _Span:
    """The span of one stage with everything it carries."""
    start_ns = max(stage.began_ns, root.start_ns)
    end_ns = max(start_ns, stage.ended_by(record.closed_ns))
    name = _COMPONENT_SPAN[stage.component]
    if stage.component == "tool":
        name = f"{name} {stage.attributes.get(n.GEN_AI_TOOL_NAME, '')}".rstrip()
    span = _Span(name, root, start_ns, end_ns, "client" if stage.remote else "internal", stage.span_id)
    span.attributes = {n.VOICE_COMPONENT: stage.component, **stage.attributes}
    span.events = list(stage.events)
    operation = _OPERATION.get(stage.component)
    if operation is None and record.genai_drafts:
        operation = _DRAFT_OPERATION.get(stage.component)
    if operation is not None:
        span.attributes[n.GEN_AI_OPERATION_NAME] = operation
    failure = stage.failure
    if stage.open and record.close == "limit":
        span.error = "the turn's time limit"
        span.attributes[n.ERROR_TYPE] = "timeout"
    elif stage.cancelled or stage.open:
        span.attributes[n.VOICE_STAGE_CANCELLED] = True
    if failure is not None:
        span.error = failure.message
        span.attributes[n.ERROR_TYPE] = failure.kind
        exception: dict[str, AttributeValue] = {n.EXCEPTION_TYPE: failure.kind, n.EXCEPTION_MESSAGE: failure.message}
        if failure.stacktrace:
            exception[n.EXCEPTION_STACKTRACE] = failure.stacktrace
        span.events.append((n.EVENT_EXCEPTION, failure.at_ns, exception))
    if stage.discarded:
        span.attributes[n.VOICE_GENERATION_DISCARDED] = True
    if stage.consumer_wait_ns:
        span.attributes[n.VOICE_STAGE_CONSUMER_WAIT_S] = stage.consumer_wait_ns / NS_PER_S
    span.attributes |= _measures(stage, end_ns)
    return span


def _measures(stage: StageRecord, end_ns: int) -> dict[str, AttributeValue]:
    """Counts and rates of one stage; the time that the consumer held the stream is not the producer's."""
    found: dict[str, AttributeValue] = {}
    working_ns = end_ns - stage.began_ns - stage.last_wait_ns
    if stage.component == "llm" and stage.count:
        found[n.VOICE_LLM_TOKEN_COUNT] = stage.count
        if stage.first_ns is not None and stage.last_ns is not None and stage.count > 1:
            streaming_ns = stage.last_ns - stage.first_ns - stage.last_wait_ns
            if streaming_ns > 0:
                found[n.VOICE_LLM_TOKEN_RATE] = (stage.count - 1) * NS_PER_S / streaming_ns
    if stage.component in ("tts", "realtime") and stage.count:
        found[n.VOICE_AUDIO_FRAME_COUNT] = stage.count
        if stage.audio_ns:
            found[n.VOICE_AUDIO_DURATION_S] = stage.audio_ns / NS_PER_S
            if stage.component == "tts":
                found[n.VOICE_TTS_REAL_TIME_FACTOR] = max(0, working_ns) / stage.audio_ns
    if stage.component == "tts":
        if stage.filler:
            found[n.VOICE_TTS_FILLER] = True
        if stage.handed_ns is not None and stage.characters:
            found[n.VOICE_TEXT_LENGTH] = stage.characters
            found[n.VOICE_TEXT_WORD_COUNT_RANGE] = word_range(stage.words)
            found[n.VOICE_TEXT_CHARACTER_COUNT_RANGE] = character_range(stage.characters)
    return found


def word_range(words: int) -> str:
    """Return the range of `voice.text.word_count.range` that so many words fall into."""
    return _range(words, (10, 25, 50, 100, 200))


def character_range(characters: int) -> str:
    """Return the range of `voice.text.character_count.range` that so many characters fall into."""
    return _range(characters, (50, 150, 300, 600, 1200))


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


def _copies(record: TurnRecord) -> dict[str, AttributeValue]:
    """What the heard silence copies from the stages that made it: model, voice, language, worker."""
    copies: dict[str, AttributeValue] = {}
    voice = record.voice or record.last("tts")
    model = record.last("llm") or record.last("realtime")
    for stage, keys in ((voice, _COPIED[1:]), (model, _COPIED[:1])):
        if stage is not None:
            copies |= {key: stage.attributes[key] for key in keys if key in stage.attributes}
    return copies


def _freeze(record: TurnRecord, spans: list[_Span], new_span_id: Callable[[], int]) -> tuple[FinishedSpan, ...]:
    """Give every span its id and its wall-clock times."""
    offset_ns = record.wall_offset_ns
    for span in spans:
        if span.span_id is None:
            span.span_id = new_span_id()
    links = tuple(Link(context, {n.VOICE_LINK_TYPE: relation}) for context, relation in record.links)
    return tuple(
        FinishedSpan(
            name=span.name,
            span_id=span.span_id or 0,
            parent_id=span.parent.span_id if span.parent is not None else None,
            start_ns=span.start_ns + offset_ns,
            end_ns=span.end_ns + offset_ns,
            kind=span.kind,
            error=span.error,
            attributes=span.attributes,
            events=tuple(
                Event(name, at_ns + offset_ns, attributes)
                for name, at_ns, attributes in sorted(span.events, key=lambda event: event[1])
            ),
            links=links if span.parent is None else (),
        )
        for span in spans
    )
