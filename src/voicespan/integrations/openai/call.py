"""Requests for text (chat completions, responses) and for speech, as the stages `llm` and `tts` of the current turn.

Without a current turn a request passes untouched. So it does inside a stage that is open already, whoever opened it (a
framework, a stage map, the service): there it is a part of that stage, and told by whoever did.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from voicespan import names as n
from voicespan.context import subject
from voicespan.integrations.hook import Args, Kwargs, quiet
from voicespan.integrations.openai.event import number, text
from voicespan.sessions import current_turn
from voicespan.stage import Llm, Stage, Tts, is_cancellation
from voicespan.stream import AsyncStream, SyncStream

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from voicespan.context import Scope
    from voicespan.record import StageRecord
    from voicespan.turn import Turn

Component = Literal["llm", "tts"]
PCM_RATE = 24_000
"""Samples per second of `response_format="pcm"`."""
_TOKENS = ("response.output_text.delta", "response.function_call_arguments.delta", "response.refusal.delta")
_ENDS = ("response.completed", "response.incomplete", "response.failed")

expected: ContextVar[Stage | None] = ContextVar("voicespan_openai_expected", default=None)
"""A stage whose tokens or frames nobody else counts: the requests made in it do."""
_calls: weakref.WeakSet[Call] = weakref.WeakSet()
"""The requests that have a stage of their own."""


class Call:
    """One request: its stage, and what its answer says. Has the steps that a watched stream wants."""

    __slots__ = ("__weakref__", "owned", "stage")

    def __init__(self, stage: Stage, *, owned: bool) -> None:
        self.stage = stage
        self.owned = owned
        """The stage was begun for this request, and ends with it."""
        if owned:
            _calls.add(self)

    def step_begins(self) -> Scope | None:
        """Make the stage current."""
        return self.stage.step_begins()

    def step_ends(self, scope: Scope | None) -> None:
        """Restore what was current before."""
        self.stage.step_ends(scope)

    def step_failed(self, error: BaseException) -> None:
        """Take that the request, or the stream of its answer, has failed."""
        if self.owned:
            self.stage.step_failed(error)
        elif not is_cancellation(error):
            self.stage.fail(error)

    def exhausted(self) -> None:
        """Take the end of the answer."""
        if self.owned:
            self.stage.exhausted()

    def abandoned(self) -> None:
        """Take that nobody wants the rest."""
        if self.owned:
            self.stage.abandoned()

    def item(self, item: Any) -> None:
        """Take a part of the answer, or all of it."""
        if isinstance(self.stage, Tts):
            self.stage.frame(item)
        elif isinstance(self.stage, Llm):
            _take_text(self.stage, item)

    def complete(self, answer: Any) -> None:
        """Take an answer that came as a whole."""
        self.item(getattr(answer, "content", answer) if isinstance(self.stage, Tts) else answer)
        self.exhausted()


def _take_text(llm: Llm, item: Any) -> None:
    fields = getattr(item, "__dict__", {})  # the client's models take long to say that they do not have a field
    kind = fields.get("type")
    if kind in _TOKENS:
        llm.token()
    elif kind is None and fields.get("object") != "response":
        llm.chunk(item)
    elif kind is None or kind in _ENDS:
        answer = getattr(item, "response", item)
        llm.usage(
            input_tokens=number(answer, "usage", "input_tokens"),
            output_tokens=number(answer, "usage", "output_tokens"),
        )
        if kind is None and getattr(answer, "output", None):
            llm.token()
        if text(answer, "status") == "failed":
            llm.fail(text(answer, "error", "code") or "error")
    elif kind == "error":
        llm.fail(text(item, "code") or "error")


# Whether a request is a stage


def opens(turn: Turn | None, component: Component) -> bool:
    """Return whether a request that is made now is a stage of its own."""
    if turn is None or not turn.recording:
        return False
    current = subject()
    if isinstance(current, Stage) and current.open:
        return False
    return not any(_is_told(record, component) for record in turn.record.stages)


def _is_told(record: StageRecord, component: Component) -> bool:
    """Whether a stage says that somebody else tells this turn's requests."""
    if record.component == "realtime" and component == "llm":
        return True  # the model that answers is another one
    ours = any(call.stage._record is record for call in list(_calls))  # noqa: SLF001
    return record.component == component and record.open and not ours


def _begin(instance: Any, component: Component, kwargs: Kwargs) -> Call | None:
    wanted = expected.get()
    kind = Llm if component == "llm" else Tts
    model, voice = kwargs.get("model"), kwargs.get("voice")
    model = model if isinstance(model, str) else None
    if isinstance(wanted, kind) and wanted.open:
        wanted.set(n.GEN_AI_PROVIDER_NAME, _provider_of(instance))
        if model is not None:
            wanted.set(n.GEN_AI_REQUEST_MODEL, model)
        return Call(wanted, owned=False)
    turn = current_turn()
    if turn is None or not opens(turn, component):
        return None
    if component == "llm":
        return Call(turn.llm(model=model, provider=_provider_of(instance)), owned=True)
    said = kwargs.get("input")
    stage = turn.tts(
        voice=voice if isinstance(voice, str) else text(voice, "id"),
        model=model,
        provider=_provider_of(instance),
        text=said if isinstance(said, str) else None,
        sample_rate=PCM_RATE if kwargs.get("response_format") == "pcm" else None,
    )
    return Call(stage, owned=True)


def _provider_of(instance: Any) -> str:
    return "azure.ai.openai" if "Azure" in type(getattr(instance, "_client", None)).__name__ else "openai"


# The hooks


def generates(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """Hook of a request for text."""
    return _request(wrapped, instance, "llm", args, kwargs)


def speaks(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """Hook of a request for speech."""
    return _request(wrapped, instance, "tts", args, kwargs)


def generates_async(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """Hook of a request for text, which is made when it is awaited."""
    if current_turn() is None:
        return wrapped(*args, **kwargs)
    return _request_async(wrapped, instance, "llm", args, kwargs)


def speaks_async(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """Hook of a request for speech, which is made when it is awaited."""
    if current_turn() is None:
        return wrapped(*args, **kwargs)
    return _request_async(wrapped, instance, "tts", args, kwargs)


def closes(wrapped: Any, stream: Any, args: Args, kwargs: Kwargs) -> Any:
    """Hook of the end of a stream before its time."""
    with quiet("openai stream"):
        call = getattr(stream, "_voicespan", None)
        if call is not None:
            call.abandoned()
    return wrapped(*args, **kwargs)


class _Step:
    """The block of the request itself: the stage is current in it, and takes its failure."""

    __slots__ = ("call", "scope")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.scope: Scope | None = None

    def __enter__(self) -> None:
        self.scope = self.call.step_begins()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        if error is not None:
            self.call.step_failed(error)
        self.call.step_ends(self.scope)


def _request(wrapped: Any, instance: Any, component: Component, args: Args, kwargs: Kwargs) -> Any:
    call = None
    if current_turn() is not None:
        with quiet("openai request"):
            call = _begin(instance, component, kwargs)
    if call is None:
        return wrapped(*args, **kwargs)
    with _Step(call):
        answer = wrapped(*args, **kwargs)
    with quiet("openai answer"):
        _watch(call, answer)
    return answer


async def _request_async(wrapped: Any, instance: Any, component: Component, args: Args, kwargs: Kwargs) -> Any:
    call = None
    with quiet("openai request"):
        call = _begin(instance, component, kwargs)
    if call is None:
        return await wrapped(*args, **kwargs)
    with _Step(call):
        answer = await wrapped(*args, **kwargs)
    with quiet("openai answer"):
        _watch(call, answer)
    return answer


# The answers


def _watch(call: Call, answer: Any) -> None:
    """Follow an answer to its end. The object that the service gets is the client's own."""
    # The stock instrumentation wraps a stream, where it is asked first.
    stream = next((each for each in (answer, getattr(answer, "stream", None)) if _is_stream(each)), None)
    if stream is not None:
        stream._iterator = _watched(stream._iterator, call)  # noqa: SLF001
    elif hasattr(answer, "http_response") and not getattr(answer.http_response, "is_closed", True):
        stream = answer
        _watch_raw(call, answer)
    elif hasattr(answer, "parse"):
        call.complete(answer.parse() if isinstance(call.stage, Llm) else answer)
        return
    else:
        call.complete(answer)
        return
    stream._voicespan = call  # noqa: SLF001
    weakref.finalize(stream, call.abandoned).atexit = False


def _is_stream(answer: Any) -> bool:
    return "_iterator" in getattr(answer, "__dict__", ())


def _watched(stream: Any, call: Call) -> Any:
    kind = AsyncStream if hasattr(stream, "__anext__") else SyncStream
    return kind(stream, call, call.item)  # type: ignore[arg-type]


def _watch_raw(call: Call, response: Any) -> None:
    """Follow a response whose body is not read yet: as bytes, as a whole, or as a stream of objects."""
    speaks = isinstance(call.stage, Tts)

    def parsed(found: Any) -> None:
        if _is_stream(found):
            _watch(call, found)
        elif not speaks:
            call.complete(found)

    response.parse = _then(call, response.parse, parsed)
    if not speaks or not hasattr(response, "iter_bytes"):
        return
    iterate, close = response.iter_bytes, response.close

    def iter_bytes(*args: Any, **kwargs: Any) -> Any:
        return _watched(iterate(*args, **kwargs), call)

    def closed(*args: Any, **kwargs: Any) -> Any:
        call.abandoned()
        return close(*args, **kwargs)

    response.iter_bytes = iter_bytes
    response.read = _then(call, response.read, call.complete)
    response.close = closed


def _then(call: Call, method: Callable[..., Any], take: Callable[[Any], None]) -> Callable[..., Any]:
    """Return a method, plain or asynchronous, whose result is looked at."""

    def look(result: Any) -> Any:
        with quiet("openai answer"):
            take(result)
        return result

    async def awaited(result: Any) -> Any:
        with _Step(call):
            found = await result
        return look(found)

    def called(*args: Any, **kwargs: Any) -> Any:
        with _Step(call):
            result = method(*args, **kwargs)
        return awaited(result) if hasattr(result, "__await__") else look(result)

    return called
