"""From the facts of a closed turn to its spans, outcome and shares; pure, so that every rule can be checked by hand.

The rules are those of docs/turn-model.md. Inside, times are monotonic nanoseconds; the finished turn carries Unix time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from voicespan import names as n
from voicespan.finished import Event, FinishedSpan, FinishedTurn, Link
from voicespan.record import GAP_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.finished import AttributeValue, Kind
    from voicespan.record import Failure, StageRecord, TurnRecord

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


class _Silence(NamedTuple):
    """The heard silence: from the real end of speech to the first sample, or to the end without one."""

    start_ns: int
    end_ns: int
    source: str
    answered: bool


class _Share(NamedTuple):
    """One interval that may account for part of the silence, and the spans that it stands for."""

    stage: str
    start_ns: int
    end_ns: int
    spans: tuple[_Span | None, ...]


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
        self.failure = _unmended(record)
        self.outcome, self.reason = _outcome(record, self.failure)
        self.root = _Span(n.SPAN_TURN, None, record.onset_ns, record.onset_ns, span_id=record.span_id)
        self.spans = [self.root]
        self.by_stage: dict[int, _Span] = {}
        self.milestone: dict[int, _Span] = {}
        self.sentence: dict[int, _Span] = {}
        self.end_ns = _reply_end(record)
        self.silence = _silence(record, self.outcome)
        self.endpoint: tuple[_Span | None, ...] = ()
        self.finalize: tuple[_Span | None, ...] = ()
        self.network: tuple[_Span | None, ...] = ()

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
        self, name: str, start_ns: int, end_ns: int, parent: _Span | None = None, **attributes: AttributeValue
    ) -> _Span:
        start_ns = max(start_ns, self.root.start_ns)
        span = _Span(name, parent or self.root, start_ns, max(start_ns, end_ns), attributes=attributes)
        self.spans.append(span)
        return span

    def _vad(self) -> None:
        record = self.record
        decided_ns = record.committed_ns or record.closed_ns
        vad = self._add(n.SPAN_VAD, record.onset_ns, decided_ns)
        vad.attributes[n.VOICE_COMPONENT] = "vad"
        if record.detected_ns is not None:
            vad.events.append((n.EVENT_VAD_SPEECH_END, record.detected_ns, {}))
        real_end_ns, _ = real_speech_end(record)
        if record.committed_ns is not None and (record.detected_ns is not None or _end_known(record)):
            self.endpoint = (vad, self._add(n.SPAN_VAD_ENDPOINT, real_end_ns, record.committed_ns, vad))

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
        if record.transcript_ns is None or not _end_known(record):
            return
        start_ns, _ = real_speech_end(record)
        finalize = self._add(n.SPAN_ASR_FINALIZE, start_ns, max(start_ns, record.transcript_ns), asr)
        finalize.attributes |= _identity(asr)
        self.finalize = (asr, finalize)

    def _stage(self, stage: StageRecord) -> None:
        record = self.record
        span = _stage_span(record, stage, self.root)
        self.spans.append(span)
        self.by_stage[id(stage)] = span
        if stage.component == "asr":
            if stage.first_ns is not None and stage.first_ns == record.transcript_ns:
                self._finalize(span)
        elif stage.component == "llm":
            self._llm(stage, span)
        elif stage.first_ns is not None:
            name = {"tts": n.SPAN_TTS_FIRST_AUDIO, "realtime": n.SPAN_REALTIME_FIRST_AUDIO}[stage.component]
            first = self._add(name, span.start_ns, stage.first_ns, span)
            first.attributes |= _identity(span)
            self.milestone[id(stage)] = first

    def _llm(self, stage: StageRecord, span: _Span) -> None:
        if stage.first_ns is None:
            return
        ttft = self._add(n.SPAN_LLM_TTFT, span.start_ns, stage.first_ns, span)
        span.attributes[n.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = (stage.first_ns - stage.start_ns) / NS_PER_S
        self.milestone[id(stage)] = ttft
        handed_ns = _handed_over(self.record, stage)
        ttft.attributes |= _identity(span)
        if handed_ns is not None:
            sentence = self._add(n.SPAN_LLM_FIRST_SENTENCE, span.start_ns, handed_ns, span)
            sentence.attributes |= _identity(span)
            self.sentence[id(stage)] = sentence

    def _playback(self) -> None:
        record, playback = self.record, self.record.playback
        if playback.first_sent_ns is None or self.end_ns is None:
            return
        heard_ns = heard(record) or playback.first_sent_ns
        reported = playback.stopped_ns is not None and playback.stopped_ns == self.end_ns
        span = self._add(n.SPAN_PLAYBACK, playback.first_sent_ns, max(self.end_ns, heard_ns))
        shift_ns = playback.shift_ns
        gaps = [(start + shift_ns, min(end + shift_ns, span.end_ns)) for start, end in playback.gaps]
        gaps = [(start, end) for start, end in gaps if end - start > GAP_NS]
        heard_length_ns = span.end_ns - heard_ns - sum(end - start for start, end in gaps)
        span.attributes |= {
            n.VOICE_COMPONENT: "playback",
            n.VOICE_MEASUREMENT_POINT: measurement_point(record),
            n.VOICE_PLAYBACK_SENT_S: playback.sent_ns / NS_PER_S,
            n.VOICE_PLAYBACK_HEARD_S: min(max(heard_length_ns, 0), playback.sent_ns) / NS_PER_S,
        }
        if not reported:
            span.attributes[n.VOICE_PLAYBACK_ESTIMATED] = True
        if record.barge_in is not None:
            span.attributes[n.VOICE_PLAYBACK_INTERRUPTED] = True
        start: _Span | None = None
        if playback.heard_ns is not None:
            start = self._add(n.SPAN_PLAYBACK_START, playback.first_sent_ns, heard_ns, span)
            start.attributes[n.VOICE_MEASUREMENT_POINT] = record.measurement_point
            if record.clock_error_ns is not None:
                start.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S] = record.clock_error_ns / NS_PER_S
        self.network = (span, start)
        for gap_start_ns, gap_end_ns in gaps:
            self._add(n.SPAN_PLAYBACK_GAP, gap_start_ns, gap_end_ns, span)

    def _response(self) -> None:
        record, silence = self.record, self.silence
        if silence is None:
            return
        shares, critical = _shares(silence, self._causes(silence))
        bottleneck = max(shares, key=lambda stage: shares[stage])
        for span in critical:
            span.attributes[n.VOICE_CRITICAL_PATH] = True
        attributes: dict[str, AttributeValue] = {
            n.VOICE_RESPONSE_FROM: silence.source,
            n.VOICE_MEASUREMENT_POINT: measurement_point(record) if silence.answered else "server",
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

    def _causes(self, silence: _Silence) -> list[_Share]:
        """Every interval that may account for the silence, in the causal order of the generation that was heard."""
        record = self.record
        causes = []
        if record.input == "speech":
            if record.committed_ns is not None:
                causes.append(_Share("endpoint", silence.start_ns, record.committed_ns, self.endpoint))
            if record.transcript_ns is not None:
                causes.append(_Share("asr", silence.start_ns, record.transcript_ns, self.finalize))
            elif (asr := _last(record, "asr")) is not None:
                causes.append(_Share("asr", silence.start_ns, _span_end(record, asr), (self.by_stage.get(id(asr)),)))
        voice = _heard_voice(record)
        if not silence.answered and (voice is None or voice.first_ns is None):
            voice = _last(record, "tts") or _last(record, "realtime")
        spoken_ns = _span_start(voice) if voice is not None else silence.end_ns
        thinking = [stage for stage in record.stages if _may_cause(stage, spoken_ns, waiting=voice is None)]
        for position, stage in enumerate(sorted(thinking, key=lambda stage: stage.start_ns)):
            causes.extend(self._thought(stage, spoken_ns, last=position == len(thinking) - 1))
        if voice is not None:
            causes += [
                _Share("tts", _span_start(other), _span_end(record, other), (self.by_stage.get(id(other)),))
                for other in record.stages
                if other.component == "tts"
                and _failed(other)
                and other.start_ns <= voice.start_ns
                and other is not voice
            ]
            stage_name = "realtime" if voice.component == "realtime" else "tts"
            spans = (self.by_stage.get(id(voice)), self.milestone.get(id(voice)))
            first_ns = voice.first_ns if voice.first_ns is not None else _span_end(record, voice)
            causes.append(_Share(stage_name, spoken_ns, first_ns, spans))
            sent_ns = record.playback.first_sent_ns
            if voice.first_ns is not None and sent_ns is not None:
                causes.append(_Share("send", voice.first_ns, sent_ns, ()))
        if record.playback.first_sent_ns is not None and record.playback.heard_ns is not None:
            causes.append(_Share("network", record.playback.first_sent_ns, record.playback.heard_ns, self.network))
        return causes

    def _thought(self, stage: StageRecord, spoken_ns: int, *, last: bool) -> list[_Share]:
        """The intervals of one request to a model or tool before the voice began to speak."""
        span = self.by_stage.get(id(stage))
        stage_end_ns = min(_span_end(self.record, stage), spoken_ns)
        if stage.component == "tool":
            return [_Share("tool", stage.start_ns, stage_end_ns, (span,))]
        if not last or stage.first_ns is None:
            return [_Share("llm", stage.start_ns, stage_end_ns, (span,))]
        ttft = _Share("llm", stage.start_ns, min(stage.first_ns, spoken_ns), (span, self.milestone.get(id(stage))))
        handed_ns = _handed_over(self.record, stage)
        sentence_end_ns = spoken_ns if handed_ns is None else min(handed_ns, spoken_ns)
        return [ttft, _Share("sentence", stage.first_ns, sentence_end_ns, (span, self.sentence.get(id(stage))))]

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
            reported = phase in ("playback_stop", "total") and ends[phase] == record.playback.stopped_ns
            span.attributes[n.VOICE_MEASUREMENT_POINT] = record.measurement_point if reported else "server"

    def _root(self) -> None:
        record, root = self.record, self.root
        ends = [span.end_ns for span in self.spans[1:]]
        if not ends or self.outcome in ("timeout", "no_reply") or record.close == "user_left":
            ends.append(_stopped_waiting(record))
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
        if self.outcome == "completed" and any(_failed(stage) for stage in record.stages):
            root.attributes[n.VOICE_TURN_RECOVERED] = True
        if self.outcome in ("error", "timeout"):
            root.error = self.failure.message if self.failure and self.outcome == "error" else ""
        heard_ns = heard(record)
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


def real_speech_end(record: TurnRecord) -> tuple[int, str]:
    """Return when the user really fell silent, and the value of `voice.response.from` that says how it is known."""
    if record.input != "speech":
        return record.onset_ns, "message"
    if record.speech_end_ns is not None:
        return record.speech_end_ns, "speech_end"
    decision_ns = record.detected_ns or record.committed_ns or record.closed_ns
    return max(record.onset_ns, decision_ns - (record.hangover_ns or 0)), "decision"


def heard(record: TurnRecord) -> int | None:
    """Return when the first sample was heard: by the client's report, else when it was sent; None without audio."""
    playback = record.playback
    if playback.first_sent_ns is None:
        return None
    return playback.first_sent_ns if playback.heard_ns is None else playback.heard_ns


def _end_known(record: TurnRecord) -> bool:
    """Whether the real end of speech is more than the decision itself."""
    return record.speech_end_ns is not None or record.hangover_ns is not None


def _identity(span: _Span) -> dict[str, AttributeValue]:
    """What a milestone repeats from its stage: model, voice, language, worker."""
    return {key: span.attributes[key] for key in _COPIED if key in span.attributes}


def measurement_point(record: TurnRecord) -> str:
    """Return where the first sample was observed: at the client's (or gateway's) report, else at the server."""
    return "server" if record.playback.heard_ns is None else record.measurement_point


def _failed(stage: StageRecord) -> bool:
    return stage.failure is not None and not stage.discarded


def _mends(other: StageRecord, stage: StageRecord, at_ns: int) -> bool:
    """Whether another attempt made good what failed: the same component, or for a tool the model that took over."""
    kindred = other.component == stage.component or (
        stage.component == "tool" and other.component in ("llm", "realtime")
    )
    sound = other.failure is None and not other.cancelled and not other.discarded
    return kindred and sound and other.end_ns is not None and other.end_ns >= at_ns and other is not stage


def _unmended(record: TurnRecord) -> Failure | None:
    """The failure that cut or prevented the reply, or None."""
    if record.failure is not None:
        return record.failure
    for stage in record.stages:
        failure = stage.failure
        if failure is None or stage.discarded:
            continue
        if not any(_mends(other, stage, failure.at_ns) for other in record.stages):
            return failure
    return None


def _outcome(record: TurnRecord, failure: Failure | None) -> tuple[str, str | None]:
    """Return `voice.turn.outcome` and, for no_reply, its reason: what the user got, first match."""
    replied = record.playback.first_sent_ns is not None and not record.playback.filler_only
    if record.barge_in is not None and record.playback.first_sent_ns is not None:
        return "interrupted", None
    if failure is not None:
        return "error", None
    speechless = record.trigger is None and record.input == "speech" and _speechless(record)
    if record.close == "limit" or (record.close == "idle" and not replied and not speechless):
        return "timeout", None
    if replied or record.close == "transferred":
        return "completed", None
    if record.close in ("superseded", "user_left"):
        return "no_reply", record.close
    if speechless or record.close == "dismissed":
        return "no_reply", "no_speech"
    # An end without a reply that nobody decided on has no reason: it must not look like a decision.
    return "no_reply", "suppressed" if record.suppressed else None


def _speechless(record: TurnRecord) -> bool:
    """Whether nothing that was said became words: never committed, or a recognizer that found none."""
    if record.transcript_ns is not None or record.suppressed:
        return False
    recognizers = [stage for stage in record.stages if stage.component == "asr"]
    return record.committed_ns is None or (bool(recognizers) and all(stage.first_ns is None for stage in recognizers))


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


def _stopped_waiting(record: TurnRecord) -> int:
    """When the wait for a reply ended without one: at the failure, the explicit end, or what closed the turn."""
    failure = _unmended(record)
    if failure is not None:
        return failure.at_ns
    if record.close == "ended" and record.ended_ns is not None:
        return record.ended_ns
    return record.closed_ns


def _silence(record: TurnRecord, outcome: str) -> _Silence | None:
    """The silence that the user heard; None when the agent spoke first or nobody had finished speaking."""
    if record.trigger is not None:
        return None
    start_ns, source = real_speech_end(record)
    heard_ns = heard(record)
    if heard_ns is not None:
        return _Silence(start_ns, max(start_ns, heard_ns), source, answered=True)
    spoke = record.committed_ns is not None or record.speech_end_ns is not None
    if outcome == "completed" or not spoke or (record.committed_ns is None and record.close == "idle"):
        return None
    return _Silence(start_ns, max(start_ns, _stopped_waiting(record)), source, answered=False)


def _outlives(record: TurnRecord, stage: StageRecord) -> bool:
    """Whether a tool still runs when its turn is over; its span comes when it ends."""
    return stage.component == "tool" and stage.open and record.close not in ("limit", "shutdown")


def _span_start(stage: StageRecord) -> int:
    if stage.component == "tts" and stage.handed_ns is not None:
        return stage.handed_ns
    return stage.start_ns


def _span_end(record: TurnRecord, stage: StageRecord) -> int:
    """When the operation really ended: its last product where it went well, else when it was left."""
    end_ns = stage.end_ns if stage.end_ns is not None else record.closed_ns
    if stage.failure is not None or stage.cancelled or stage.open:
        return end_ns
    if stage.component == "asr":
        return stage.first_ns if stage.first_ns is not None else end_ns
    if stage.component in ("tool", "realtime"):
        return end_ns
    product_ns = stage.last_ns if stage.last_ns is not None else stage.exhausted_ns
    return end_ns if product_ns is None else min(product_ns, end_ns)


def _stage_span(record: TurnRecord, stage: StageRecord, root: _Span) -> _Span:
    """The span of one stage with everything it carries."""
    start_ns = max(_span_start(stage), root.start_ns)
    end_ns = max(start_ns, _span_end(record, stage))
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
    working_ns = end_ns - _span_start(stage) - stage.last_wait_ns
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
            found[n.VOICE_TEXT_WORD_COUNT_RANGE] = _range(stage.words, (10, 25, 50, 100, 200))
            found[n.VOICE_TEXT_CHARACTER_COUNT_RANGE] = _range(stage.characters, (50, 150, 300, 600, 1200))
    return found


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


def _handed_over(record: TurnRecord, stage: StageRecord) -> int | None:
    """When the first chunk of a generation reached the synthesizer: as reported, else when the next voice started."""
    if stage.first_ns is None or stage.handed_ns is not None:
        return stage.handed_ns
    later = [other.start_ns for other in record.stages if other.component == "llm" and other.start_ns > stage.start_ns]
    until_ns = min(later, default=record.closed_ns)
    starts = [
        _span_start(other)
        for other in record.stages
        if other.component == "tts" and not other.filler and not other.discarded
    ]
    return min((start_ns for start_ns in starts if stage.first_ns <= start_ns <= until_ns), default=None)


def _last(record: TurnRecord, component: str) -> StageRecord | None:
    found = [stage for stage in record.stages if stage.component == component and not stage.discarded]
    return max(found, key=lambda stage: stage.start_ns, default=None)


def _heard_voice(record: TurnRecord) -> StageRecord | None:
    """The synthesis that was heard first: the earliest with audio."""
    voices = [
        stage
        for stage in record.stages
        if stage.component in ("tts", "realtime") and stage.first_ns is not None and not stage.discarded
    ]
    return min(voices, key=lambda stage: stage.first_ns or 0, default=None)


def _may_cause(stage: StageRecord, spoken_ns: int, *, waiting: bool) -> bool:
    """Whether a request can have delayed the voice: made before it, and done or streaming when it began to speak."""
    if stage.component not in ("llm", "tool") or stage.discarded or stage.start_ns > spoken_ns:
        return False
    if waiting:
        return not stage.background
    known_ns = stage.first_ns if stage.component == "llm" and stage.first_ns is not None else stage.end_ns
    return known_ns is not None and known_ns <= spoken_ns


def _copies(record: TurnRecord) -> dict[str, AttributeValue]:
    """What the heard silence copies from the stages that made it: model, voice, language, worker."""
    copies: dict[str, AttributeValue] = {}
    voice = _heard_voice(record) or _last(record, "tts")
    model = _last(record, "llm") or _last(record, "realtime")
    for stage, keys in ((voice, _COPIED[1:]), (model, _COPIED[:1])):
        if stage is not None:
            copies |= {key: stage.attributes[key] for key in keys if key in stage.attributes}
    return copies


def _shares(silence: _Silence, causes: list[_Share]) -> tuple[dict[str, int], list[_Span]]:
    """Divide the silence among its causes: nanoseconds by stage, with what no stage covers, and the spans concerned."""
    shares: dict[str, int] = {}
    critical: list[_Span] = []
    cursor_ns = silence.start_ns
    for cause in causes:
        end_ns = min(cause.end_ns, silence.end_ns)
        share_ns = end_ns - max(cause.start_ns, cursor_ns)
        if share_ns > 0:
            shares[cause.stage] = shares.get(cause.stage, 0) + share_ns
            critical += [span for span in cause.spans if span is not None]
        cursor_ns = max(cursor_ns, end_ns)
    shares["unattributed"] = silence.end_ns - silence.start_ns - sum(shares.values())
    return shares, critical


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
