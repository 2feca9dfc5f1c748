"""The operations of a turn as a pipeline reports them: recognition, generation, tools, synthesis, realtime models."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Self, TypeVar

from voicespan import diagnostics
from voicespan import names as n
from voicespan.context import Scope
from voicespan.guard import guarded, swallowed
from voicespan.pcm import samples
from voicespan.record import Failure, StageRecord
from voicespan.stream import watch
from voicespan.words import WordCount

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable
    from types import TracebackType

    from opentelemetry import trace
    from opentelemetry.util.types import AttributeValue

    from voicespan.turn import Turn

Source = TypeVar("Source", bound="AsyncIterable[Any] | Iterable[Any]")


def is_cancellation(error: BaseException) -> bool:
    """Whether somebody stopped the work: a cancelled task of any event loop, a closed generator, the process's end.

    So does the caller who hangs up while a frame is sent inside a stage; other lost connections may be the stage's own.
    """
    return not isinstance(error, Exception) or type(error).__name__ == "WebSocketDisconnect"


def failure_of(error: BaseException | str, at_ns: int) -> Failure:
    """Return the failure that an exception, or an `error.type` in words, stands for.

    `error.type` is the exception's full name; for gRPC, by its convention, the name of the status code.
    """
    if isinstance(error, str):
        return Failure(error, error, "", at_ns)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    name, message = _grpc_status(error) or (name, str(error))
    return Failure(name, message, "".join(traceback.format_exception(error)), at_ns)


def _grpc_status(error: BaseException) -> tuple[str, str] | None:
    """The code and details of a `grpc.RpcError`, told by its shape: gRPC is not imported for it."""
    # Of the class: reading a property of somebody else's exception may warn, or raise.
    code, details = getattr(type(error), "code", None), getattr(type(error), "details", None)
    if not callable(code) or not callable(details):
        return None
    try:
        name = getattr(code(error), "name", None)
        return (name, str(details(error) or name)) if isinstance(name, str) else None
    except Exception:  # somebody else's exception, of another shape after all
        return None


class Stage:
    """One operation; begins when it is made, ends with its `with` block, its stream or `end()`.

    While the block runs it is the current OpenTelemetry span, so that requests made inside become its children.
    Leaving the block by an exception fails the stage and lets the exception pass; cancellation is no failure.
    """

    __slots__ = ("_context", "_held_since_ns", "_record", "_scope", "_turn")

    def __init__(self, turn: Turn, record: StageRecord) -> None:
        self._turn = turn
        self._record = record
        self._scope: Scope | None = None
        self._context: trace.SpanContext | None = None
        self._held_since_ns: int | None = None

    def __enter__(self) -> Self:
        try:
            if self._turn.recording:
                self._scope = Scope(self, self._turn)
        except Exception as error:
            swallowed("stage begin", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        try:
            if self._scope is not None:
                self._scope.close()
                self._scope = None
            if error is not None:
                self._left_by(error)
            self._end(None)
        except Exception as failure:
            swallowed("stage end", failure)

    @property
    def open(self) -> bool:
        """Whether the operation still runs, and marks are taken."""
        return self._record.open and (self._turn.open or self._record.component == "tool")

    @guarded
    def end(self, at: int | None = None) -> None:
        """End the operation; `at` as in every mark is `time.monotonic_ns()` of this machine. The first call counts."""
        self._end(at)

    def _end(self, at: int | None) -> None:
        record, turn = self._live(), self._turn
        if record is not None:
            now_ns = moment_ns = turn.now_ns()
            if at is not None:
                moment_ns = turn.moment(at, "stage.end") or now_ns
            record.end_ns = max(record.start_ns, moment_ns)
            turn.stage_ended(record, now_ns)

    @guarded
    def fail(self, error: BaseException | str) -> None:
        """Record why the operation failed: an exception, or a value for `error.type`. The first failure counts."""
        record = self._live()
        if record is not None and record.failure is None:
            record.failure = failure_of(error, self._turn.now_ns())
            self._turn.look_ns = 0

    @guarded
    def cancelled(self) -> None:
        """Say that the work was stopped from outside; not a failure."""
        record = self._live()
        if record is not None and record.exhausted_ns is None:
            record.cancelled = True

    @guarded
    def set(self, key: str, value: AttributeValue) -> None:
        """Set an attribute of the stage's span."""
        record = self._live()
        if record is not None:
            record.attributes[key] = value  # type: ignore[assignment]

    @guarded
    def usage(self, *, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
        """Set the token counts that the provider bills."""
        if input_tokens is not None:
            self.set(n.GEN_AI_USAGE_INPUT_TOKENS, input_tokens)
        if output_tokens is not None:
            self.set(n.GEN_AI_USAGE_OUTPUT_TOKENS, output_tokens)

    @guarded
    def event(self, name: str, **attributes: AttributeValue) -> None:
        """Add an event, now, to the stage's span."""
        record = self._live()
        if record is not None:
            self._turn.note(record, name, self._turn.now_ns(), attributes)

    def circumstances(self) -> dict[str, object]:
        """Return those of the session, with the stage's own attributes: its model, voice and worker."""
        return {**self._turn.circumstances(), **self._record.attributes}

    def _left_by(self, error: BaseException) -> None:
        if is_cancellation(error):
            self.cancelled()
        else:
            self.fail(error)

    def _live(self) -> StageRecord | None:
        """The record while it takes marks: until its end, and no longer than the turn unless it is a tool."""
        record, turn = self._record, self._turn
        if record.end_ns is not None:
            return None
        if (turn.record.close is not None or turn.dropped) and record.component != "tool":
            diagnostics.counters.add("mark.late")
            return None
        return record

    def span_context(self) -> trace.SpanContext:
        """Return the identity of the stage's span, minted when first asked for."""
        if self._context is None:
            record = self._record
            if record.span_id is None:
                record.span_id = self._turn.new_span_id()
            self._context = self._turn.context_of(record.span_id)
        return self._context

    # The steps of a watched stream.

    def step_begins(self) -> Scope | None:
        """Make the stage current for one step, and count the time for which the consumer held the item before."""
        try:
            now_ns = self._turn.now_ns()
            if self._held_since_ns is not None:
                self._record.consumer_wait_ns += now_ns - self._held_since_ns
                self._held_since_ns = None
            if self._scope is None and self._turn.recording:
                return Scope(self, self._turn)
        except Exception as error:
            swallowed("stream step", error)
        return None

    def step_ends(self, scope: Scope | None) -> None:
        """Restore what was current before the step."""
        try:
            if scope is not None:
                scope.close()
            self._held_since_ns = self._turn.now_ns()
        except Exception as error:
            swallowed("stream step", error)

    @guarded
    def exhausted(self) -> None:
        """The stream came to its end; outside a `with` block so does the stage."""
        if self._record.exhausted_ns is None:
            self._record.exhausted_ns = self._turn.now_ns()
        if self._scope is None:
            self.end()

    @guarded
    def step_failed(self, error: BaseException) -> None:
        """The stream raised; outside a `with` block the stage ends with it."""
        self._left_by(error)
        if self._scope is None:
            self.end()

    @guarded
    def abandoned(self) -> None:
        """The consumer closed the stream; what was not at its end is cancelled."""
        self.cancelled()
        if self._scope is None:
            self.end()

    def dropped(self) -> None:
        """The consumer let go of the stream, which says the garbage collector: in the middle of anything.

        So no lock is taken, nobody is called, and the sweep finds the stage ended.
        """
        record, turn = self._record, self._turn
        if record.end_ns is not None or not turn.open or self._scope is not None:  # a block ends by itself
            return
        record.cancelled = record.cancelled or record.exhausted_ns is None
        turn.record.active_ns = turn.now_ns()
        record.end_ns, turn.look_ns = max(record.start_ns, turn.record.active_ns), 0


class Asr(Stage):
    """Speech recognition: first audio to the recognizer .. final transcript."""

    __slots__ = ()

    @guarded
    def audio(self, at: int | None = None) -> None:
        """Say when the recognizer got its first audio, where that was not when the stage was made."""
        moment_ns = self._turn.moment(at, "asr.audio")
        if moment_ns is not None and self._record.first_ns is None:
            self._record.start_ns = min(moment_ns, self._record.end_ns or moment_ns)

    @guarded
    def final(self, at: int | None = None) -> None:
        """Say that the final transcript is there."""
        self._turn.transcript_of(self._record, at)


class Llm(Stage):
    """Text generation: request .. last token."""

    __slots__ = ()

    def token(self, count: int = 1, at: int | None = None) -> None:
        """Say that a token (or `count` of them) has come."""
        try:
            record, turn = self._live(), self._turn
            if record is not None and record.produced(turn.now_ns() if at is None else turn.moment(at, "llm.token")):
                record.count += count
        except Exception as error:
            swallowed("Llm.token", error)

    @guarded
    def sentence(self, at: int | None = None) -> None:
        """Say that the first chunk was handed to the synthesizer; the first call counts."""
        moment_ns = self._turn.moment(at, "llm.sentence")
        record = self._record
        if self._turn.open and moment_ns is not None and record.handed_ns is None and record.first_ns is not None:
            record.handed_ns = max(moment_ns, record.first_ns)

    @guarded
    def discarded(self) -> None:
        """Say that this generation is not used (speculation that did not hold); it takes no share of the silence."""
        if self._turn.open:
            self._record.discarded = True

    def speaks(self) -> Realtime:
        """Say that this model answers in audio itself; return the stage that stands in this one's place.

        The first request of a reply then begins with the end-of-turn decision: such a model listens all the time.
        """
        turn, record = self._turn, self._record
        made = Realtime(turn, record)
        try:
            committed_ns = turn.record.committed_ns
            if committed_ns is not None and not any(
                stage is not record and stage.start_ns >= committed_ns and stage.component in ("llm", "realtime")
                for stage in turn.record.stages
            ):
                record.start_ns = min(record.start_ns, committed_ns)
            record.component, record.count = "realtime", 0
            record.first_ns = record.last_ns = record.handed_ns = None
            made._context, made._scope = self._context, self._scope  # noqa: SLF001
            turn.voice = turn.voice if turn.counted else record
        except Exception as error:
            swallowed("Llm.speaks", error)
        return made

    def stream(self, source: Source) -> Source:
        """Return the model's stream, watched: first and last token, end, failure and cancellation."""
        return watch(source, self, self.chunk)  # type: ignore[no-any-return]

    @guarded
    def chunk(self, chunk: Any) -> None:
        """Take what a provider's stream gives: a token where it has content, and the token counts that it tells."""
        if not hasattr(chunk, "choices") and getattr(chunk, "type", None) == "chunk":
            chunk = chunk.chunk  # an event of the `openai` client's helper, around a chunk
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            self.usage(
                input_tokens=getattr(usage, "prompt_tokens", None),
                output_tokens=getattr(usage, "completion_tokens", None),
            )
        if _has_content(chunk):
            self.token()


class Tool(Stage):
    """A function call that the model asked for: call .. result."""

    __slots__ = ()

    @guarded
    def outlives(self) -> None:
        """Say that the turn does not wait for the call any more, as with `background=True` from the start."""
        self._record.background, self._turn.look_ns = True, 0


class _Speaking(Stage):
    """What makes audio."""

    __slots__ = ()

    @property
    def began(self) -> bool:
        """Whether a frame has come out."""
        return self._record.first_ns is not None

    def audio(self, seconds: float | None = None, *, frames: int = 1, at: int | None = None) -> None:
        """Say that a frame of audio has come out; `seconds` is its length where known."""
        try:
            record, turn = self._live(), self._turn
            if record is not None and record.produced(turn.now_ns() if at is None else turn.moment(at, "tts.audio")):
                record.count += frames
                if seconds is not None:
                    record.audio_ns += round(seconds * 1e9)
                turn.voice, turn.counted = record, True
        except Exception as error:
            swallowed(f"{type(self).__name__}.audio", error)

    def stream(self, source: Source) -> Source:
        """Return the synthesizer's stream, watched: first and last frame, end, failure and cancellation.

        The length of the audio is known where `sample_rate` was given and the frames are 16-bit mono PCM.
        """
        return watch(source, self, self.frame)  # type: ignore[no-any-return]

    @guarded
    def frame(self, frame: Any) -> None:
        """Take a frame of audio; its length is known where it is 16-bit mono PCM and `sample_rate` was given."""
        length, rate = samples(frame), self._record.sample_rate
        if length != 0:
            self.audio(length / rate if length and rate else None)


class Tts(_Speaking):
    """Speech synthesis: first text chunk .. last audio frame."""

    __slots__ = ()

    @guarded
    def text(self, chunk: str, at: int | None = None) -> None:
        """Hand text to the synthesizer: the first chunk begins the stage, lengths are added up; text is not kept."""
        moment_ns = self._turn.moment(at, "tts.text")
        record = self._live()
        if record is None:
            return
        if moment_ns is not None and record.handed_ns is None and record.first_ns is None:
            record.handed_ns = max(moment_ns, record.start_ns)
        record.characters += len(chunk)
        if record.words is None:
            record.words = WordCount()
        record.words.add(chunk)

    @guarded
    def worker(self, worker_id: str) -> None:
        """Say which worker speaks, by its stable name, for example `tts-cosy@0`."""
        self.set(n.VOICE_WORKER_ID, worker_id)


class Realtime(_Speaking):
    """A speech-to-speech model: commit or request .. done."""

    __slots__ = ()


def _has_content(chunk: Any) -> bool:
    """Whether a chunk carries output: not the role-only, empty or usage-only chunks of chat completion streams."""
    if isinstance(chunk, str | bytes):
        return bool(chunk)
    choices = getattr(chunk, "choices", None)
    if choices is None:
        kind = getattr(chunk, "type", None)
        return chunk is not None and not (isinstance(kind, str) and _is_no_token(kind))
    deltas = [getattr(choice, "delta", None) or getattr(choice, "message", None) for choice in choices]
    return any(getattr(delta, "content", None) or getattr(delta, "tool_calls", None) for delta in deltas)


def _is_no_token(event: str) -> bool:
    """Whether an event of a typed stream is about the stream, or repeats what another one gave.

    The types are those of the OpenAI responses and chat helper streams and of Anthropic's messages.
    """
    if event.startswith("response."):
        return not event.endswith(".delta")
    return event in _ABOUT_THE_STREAM or event.startswith(("content.", "refusal.", "logprobs.", "tool_calls."))


_ABOUT_THE_STREAM = frozenset(
    {"message_start", "message_delta", "message_stop", "content_block_start", "content_block_stop", "ping"}
)
