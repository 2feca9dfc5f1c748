"""The row that sums up a turn: what lists, charts and the head of the waterfall show without reading the spans."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from voicespan import names as n
from voicespan.local.blame import blame
from voicespan.local.span import Attributes, Value, scopes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

NS_PER_S = 1_000_000_000
_MAX_S = 1 << 33
_NUMBERS = (float, int)
_SHARE_KEYS = tuple((stage, n.SHARE_PREFIX + stage) for stage in n.SHARE_STAGES)


class SpanLike(Protocol):
    """What the summary reads of a span."""

    @property
    def name(self) -> str:
        """Name of the span."""

    @property
    def parent_id(self) -> object:
        """Id of its parent; None for a root."""

    @property
    def start_ns(self) -> int:
        """Unix time in nanoseconds."""

    @property
    def end_ns(self) -> int:
        """Unix time in nanoseconds."""

    @property
    def service(self) -> str:
        """The `service.name` of its resource."""

    @property
    def scope(self) -> str:
        """Name of its instrumentation scope."""

    @property
    def error(self) -> str | None:
        """Status message of a failed span, else None."""

    @property
    def attributes(self) -> Attributes:
        """Its attributes."""


class Turn(NamedTuple):
    """One turn. Times are Unix time, lengths nanoseconds; None is what the trace does not tell."""

    trace_id: str
    service: str
    run: int | None
    """The run of the service, which the store knows; None for a turn that is not stored."""
    session_id: str | None
    turn_index: int | None
    start_ns: int
    duration_ns: int
    complete: bool
    """False while the root span has not arrived, and for good when its process was killed."""
    outcome: str | None
    no_reply_reason: str | None
    initiator: str | None
    trigger: str | None
    input: str | None
    error: str | None
    failed: str | None
    """The stage that failed and its model, tool or voice (`llm gpt-x`): of an error its cause, else the first that
    another attempt made good."""
    failure: str | None
    """The `error.type` of that stage."""
    bottleneck: str | None
    culprit: str | None
    """The model, tool or voice that most of the bottleneck belongs to; `and 1 more` where it took several."""
    response_ns: int | None
    """The silence that the user heard; of an unanswered turn, how long they waited."""
    unanswered: bool
    response_from: str | None
    answer_ns: int | None
    endpoint_ns: int | None
    asr_ns: int | None
    llm_ttft_ns: int | None
    sentence_ns: int | None
    tool_ns: int | None
    tool: str | None
    """The name of the tool that took longest."""
    tts_first_audio_ns: int | None
    realtime_first_audio_ns: int | None
    playback_start_ns: int | None
    first_audio_ns: int | None
    """Media up to the first sample heard, on the first turn that the agent starts."""
    silenced_ns: int | None
    """Interruption: the user's onset until the audio was silent, else the detection until playback stopped."""
    model: str | None
    voice: str | None
    language: str | None
    worker: str | None
    transport: str | None
    measurement_point: str | None
    clock_error_ns: int | None
    shares: dict[str, int]
    """Nanoseconds of `response_ns` by stage, with `unattributed`; empty without a response."""
    attributes: dict[str, Value]
    """The attributes of the root span, whole."""

    @property
    def share_send_ns(self) -> int | None:
        """The part of the silence in which audio was there and had not left the server."""
        return self.shares.get("send")

    @property
    def share_unattributed_ns(self) -> int | None:
        """The part of the silence that no stage explains."""
        return self.shares.get("unattributed")


_LATENCIES = {
    "endpoint_ns": n.SPAN_VAD_ENDPOINT,
    "asr_ns": n.SPAN_ASR_FINALIZE,
    "llm_ttft_ns": n.SPAN_LLM_TTFT,
    "sentence_ns": n.SPAN_LLM_FIRST_SENTENCE,
    "tool_ns": n.SPAN_EXECUTE_TOOL,
    "tts_first_audio_ns": n.SPAN_TTS_FIRST_AUDIO,
    "realtime_first_audio_ns": n.SPAN_REALTIME_FIRST_AUDIO,
    "playback_start_ns": n.SPAN_PLAYBACK_START,
}

_THINKS = (n.SPAN_LLM, n.SPAN_REALTIME)
_SPEAKS = (n.SPAN_TTS, n.SPAN_REALTIME)
_LISTENS = (n.SPAN_ASR, n.SPAN_TTS)
_PLAYS = (n.SPAN_PLAYBACK,)


def summarise(
    trace_id: str, spans: Iterable[SpanLike], run_of: Callable[[Any], int | None] = lambda _: None
) -> Turn | None:
    """Return the turn that the spans of one trace make; None when they are no turn.

    Spans of the scopes of `scopes_of` count. Without a root span the trace is a turn that is not complete, if it has
    any of these. Service and run, which `run_of` knows, are those of the root, else of the first of these spans.
    """
    spans = list(spans)
    tree = _Tree(spans)
    root = tree.first(n.SPAN_TURN)
    if root is None and (not tree.by_name or any(span.parent_id is None for span in spans)):
        return None
    teller = root or min(chain(*tree.by_name.values()), key=lambda span: (span.start_ns, -span.end_ns))
    own = root.attributes if root is not None else {}
    response = tree.first(n.SPAN_RESPONSE) or tree.first(n.SPAN_UNANSWERED)
    silence = response.attributes if response is not None else {}
    bottleneck = _text(own.get(n.VOICE_TURN_BOTTLENECK) or silence.get(n.VOICE_TURN_BOTTLENECK))
    blamed = blame(tree.by_name, bottleneck, _text(own.get(n.ERROR_TYPE)), silence)
    # The response has copies of what its stages say; only without one is it worth asking them.
    thinks, speaks, plays = (_THINKS, _SPEAKS, _PLAYS) if response is None else ((), (), ())
    start_ns = root.start_ns if root is not None else min(span.start_ns for span in spans)
    end_ns = root.end_ns if root is not None else max(span.end_ns for span in spans)
    return Turn(
        trace_id=trace_id,
        service=teller.service,
        run=run_of(teller),
        session_id=_text(own.get(n.SESSION_ID)),
        turn_index=_whole(own.get(n.VOICE_TURN_INDEX)),
        start_ns=start_ns,
        duration_ns=end_ns - start_ns,
        complete=root is not None,
        outcome=_text(own.get(n.VOICE_TURN_OUTCOME)),
        no_reply_reason=_text(own.get(n.VOICE_TURN_NO_REPLY_REASON)),
        initiator=_text(own.get(n.VOICE_TURN_INITIATOR)),
        trigger=_text(own.get(n.VOICE_TURN_TRIGGER)),
        input=_text(own.get(n.VOICE_TURN_INPUT)),
        error=_text(own.get(n.ERROR_TYPE)) or (root.error if root is not None else None),
        failed=blamed.failed,
        failure=blamed.failure,
        bottleneck=bottleneck,
        culprit=blamed.culprit,
        response_ns=_length(response),
        unanswered=response is not None and response.name == n.SPAN_UNANSWERED,
        response_from=_text(silence.get(n.VOICE_RESPONSE_FROM)),
        answer_ns=_length(tree.first(n.SPAN_ANSWER)),
        **{column: tree.latency(name) for column, name in _LATENCIES.items()},
        tool=blamed.tool,
        first_audio_ns=_ns(own.get(n.VOICE_SESSION_FIRST_AUDIO)),
        silenced_ns=_silenced(tree),
        model=_text(tree.said(n.GEN_AI_REQUEST_MODEL, silence, thinks)),
        voice=_text(tree.said(n.VOICE_TTS_VOICE_NAME, silence, speaks)),
        language=_text(tree.said(n.VOICE_LANGUAGE, silence, _LISTENS)),
        worker=_text(tree.said(n.VOICE_WORKER_ID, silence, speaks)),
        transport=_text(own.get(n.VOICE_TRANSPORT) or silence.get(n.VOICE_TRANSPORT)),
        measurement_point=_text(tree.said(n.VOICE_MEASUREMENT_POINT, silence, plays)),
        clock_error_ns=_ns(silence.get(n.VOICE_CLOCK_OFFSET_ERROR_S)),
        shares=_shares(silence),
        attributes=dict(own),
    )


class _Tree:
    """The voice spans of a trace by name; all tools under one name."""

    def __init__(self, spans: Sequence[SpanLike]) -> None:
        self.by_name: dict[str, list[SpanLike]] = {}
        scopes = scopes_of(spans)
        for span in spans:
            if span.scope in scopes:
                name = span.name
                if name.startswith(n.SPAN_EXECUTE_TOOL):
                    name = n.SPAN_EXECUTE_TOOL
                if name in self.by_name:
                    self.by_name[name].append(span)
                else:
                    self.by_name[name] = [span]

    def first(self, name: str) -> SpanLike | None:
        found = self.by_name.get(name)
        if not found:
            return None
        return found[0] if len(found) == 1 else min(found, key=lambda span: span.start_ns)

    def latency(self, name: str) -> int | None:
        """Return the length of the span; of several, of the longest that the user waited for, else the last."""
        found = self.by_name.get(name)
        if not found:
            return None
        if len(found) == 1:
            return _length(found[0])
        waited_for = [span for span in found if span.attributes.get(n.VOICE_CRITICAL_PATH)]
        if waited_for:
            return max(span.end_ns - span.start_ns for span in waited_for)
        return _length(max(found, key=lambda span: span.start_ns))

    def said(self, key: str, silence: Attributes, names: tuple[str, ...]) -> Value:
        """Return an attribute from the response, else from the first of these spans that has it."""
        if key in silence:
            return silence[key]
        spans = (self.first(name) for name in names)
        values = (span.attributes.get(key) for span in spans if span is not None)
        return next((value for value in values if value is not None), None)


def _silenced(tree: _Tree) -> int | None:
    phases = {str(span.attributes.get(n.VOICE_BARGE_IN_PHASE)): span for span in tree.by_name.get(n.SPAN_BARGE_IN, ())}
    return _length(phases.get("total") or phases.get("playback_stop"))


def _shares(silence: Mapping[str, Value]) -> dict[str, int]:
    return {stage: share_ns for stage, key in _SHARE_KEYS if key in silence and (share_ns := _ns(silence[key]))}


def _length(span: SpanLike | None) -> int | None:
    return None if span is None else span.end_ns - span.start_ns


def _ns(seconds: Value) -> int | None:
    """Return a length in nanoseconds; None for what is none, or too long for the store."""
    if isinstance(seconds, bool) or not isinstance(seconds, _NUMBERS) or not 0 <= seconds < _MAX_S:
        return None
    return round(seconds * NS_PER_S)


def _whole(value: Value) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) else None
