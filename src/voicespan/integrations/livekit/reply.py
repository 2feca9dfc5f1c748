"""One speech of the agent (a `SpeechHandle`): the turn that it belongs to, and its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from voicespan.guard import guarded, swallowed
from voicespan.integrations.livekit import apart, moments
from voicespan.stage import is_cancellation
from voicespan.stream import AsyncStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from voicespan.context import Scope
    from voicespan.stage import Llm, Realtime, Stage, Tts
    from voicespan.turn import Turn

_STARTED = "lk.tts_started_time"
"""Where the framework's synthesizers note on a frame when its text was sent to the provider."""
BY_USER = ("audio_activity", "user_turn")
"""Sources of an interruption that are the user's speech."""


class Reply:
    """A speech of the agent, from its request to its last sample."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.generation: Generation | None = None
        self.synthesis: Synthesis | None = None
        self.realtime: Realtime | None = None
        self.spoken = False
        """Some of it was heard."""
        self.failed = False
        self.cancelled_ns: int | None = None
        """When the last of its work was stopped from outside."""

    def generates(self, model: str | None, provider: str | None) -> Generation:
        """Begin a request to the language model."""
        self.generation = Generation(self, self.turn, known(model), provider_of(provider))
        return self.generation

    def synthesizes(self, model: str | None, provider: str | None, voice: str | None) -> Synthesis:
        """Begin a synthesis."""
        self.synthesis = Synthesis(self, self.turn, known(model), provider_of(provider), voice)
        return self.synthesis

    def responds(self, messages: Any) -> Any:
        """Take the response of a speech-to-speech model; return its messages, watched to the end of the response."""
        stage = self.realtime
        return messages if stage is None else AsyncStream(messages, _Attempts(self, lambda: stage), lambda _: None)  # type: ignore[arg-type]

    @guarded
    def discarded(self) -> None:
        """Take the decision that this speculation is not used."""
        if self.generation is not None:
            self.generation.discarded()
        if self.synthesis is not None:
            self.synthesis.stage.cancelled()

    def end(self) -> None:
        """End what is still open: a node that was prepared and never asked for anything, or never at its end."""
        if self.realtime is not None:
            self.realtime.end()
        for part in (self.generation, self.synthesis):
            if part is not None:
                part.stage.cancelled()
                part.stage.end()

    def stopped(self) -> None:
        """Note that work was cancelled."""
        self.cancelled_ns = self.turn.now_ns()


class _Attempts:
    """What is watched of a stage that a framework repeats after a failure: each attempt is a stage of its own."""

    def __init__(self, reply: Reply, begin: Callable[[], Any]) -> None:
        self.reply = reply
        self.begin = begin
        self.stage: Any = begin()

    @guarded
    def failed(self, error: BaseException) -> None:
        """Take a failure that the framework mends by another attempt."""
        failed: Stage = self.stage
        failed.fail(error)
        failed.end()
        self.stage = self.begin()

    # The steps of the watched stream

    def step_begins(self) -> Scope | None:
        before = trace.get_current_span()
        scope: Scope | None = self.stage.step_begins()
        apart.carry(before)
        return scope

    def step_ends(self, scope: Scope | None) -> None:
        self.stage.step_ends(scope)

    def exhausted(self) -> None:
        self.stage.exhausted()

    def step_failed(self, error: BaseException) -> None:
        if is_cancellation(error):
            self.reply.stopped()
        else:
            self.reply.failed = True
        self.stage.step_failed(error)

    def abandoned(self) -> None:
        self.stage.abandoned()

    def dropped(self) -> None:
        self.stage.dropped()


class Generation(_Attempts):
    """One request to the language model, speculative where it was made before the end of the user's turn."""

    stage: Llm

    def __init__(self, reply: Reply, turn: Turn, model: str | None, provider: str | None) -> None:
        self.unused = False
        super().__init__(reply, lambda: turn.llm(model=model, provider=provider))

    @guarded
    def discarded(self) -> None:
        """Say that it is not used."""
        self.unused = True
        self.stage.discarded()

    def chunk(self, chunk: Any) -> None:
        """Take what the node yields: text, or a chunk with text, tool calls or the token counts."""
        if isinstance(chunk, str):
            if chunk:
                self.stage.token()
            return
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            self.stage.usage(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)
        delta = getattr(chunk, "delta", None)
        if delta is not None and (delta.content or delta.tool_calls):
            self.stage.token()


class Synthesis(_Attempts):
    """One synthesis: text goes in at its own pace, frames come out."""

    stage: Tts

    def __init__(self, reply: Reply, turn: Turn, model: str | None, provider: str | None, voice: str | None) -> None:
        self.clock = turn.session.recorder.clock
        self.waiting: list[str] = []
        self.asked_ns: int | None = None
        self.speaks = False
        super().__init__(reply, lambda: turn.tts(model=model, provider=provider, voice=voice))

    async def text(self, source: Any) -> AsyncIterator[str]:
        """Give the node its text, and take note of it."""
        try:
            async for chunk in source:
                try:
                    self._text(chunk)
                except Exception as error:
                    swallowed("livekit text", error)
                yield chunk
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _text(self, chunk: str) -> None:
        if self.speaks:
            self.stage.text(chunk)
            return
        if self.asked_ns is None:
            self.asked_ns = self.clock.monotonic_ns()
        self.waiting.append(chunk)

    def frame(self, frame: Any) -> None:
        """Take a frame of audio. The first one tells when its text was sent to the provider."""
        if not self.speaks:
            self._sent(frame.userdata.get(_STARTED))
        self.stage.audio(frame.duration)

    def _sent(self, counter_s: float | None) -> None:
        """Begin the stage where the provider got its first text: what came before was gathering a sentence."""
        self.speaks = True
        asked_ns = self.asked_ns if counter_s is None else moments.of_counter(self.clock, counter_s)
        self.stage.text("".join(self.waiting), asked_ns)
        self.waiting = []

    def step_failed(self, error: BaseException) -> None:
        """Take what ended it; text that was never answered was sent all the same."""
        if not self.speaks and self.waiting:
            self._sent(None)
        super().step_failed(error)

    def failed(self, error: BaseException) -> None:
        """Take a failure that the framework mends by another attempt, with the same text."""
        if not self.speaks and self.waiting:
            self.stage.text("", self.asked_ns)
        super().failed(error)


def watched_node(node: Callable[..., Any], attempts: _Attempts, on_item: Callable[[Any], None]) -> Callable[..., Any]:
    """Return a node of the framework whose stream is watched; what it returns and raises stays."""

    def call(*args: Any, **kwargs: Any) -> Any:
        scope = attempts.step_begins()
        try:
            result = node(*args, **kwargs)
        except BaseException as error:
            attempts.step_failed(error)
            raise
        finally:
            attempts.step_ends(scope)
        return _rest_of(result) if hasattr(result, "__await__") else _stream(result)

    async def _rest_of(awaitable: Any) -> Any:
        scope = attempts.step_begins()
        try:
            result = await awaitable
        except BaseException as error:
            attempts.step_failed(error)
            raise
        finally:
            attempts.step_ends(scope)
        return _stream(result)

    def _stream(result: Any) -> Any:
        if hasattr(result, "__aiter__"):
            return AsyncStream(result, attempts, on_item)  # type: ignore[arg-type]
        if result is not None:
            on_item(result)
        attempts.exhausted()
        return result

    return call


def known(name: str | None) -> str | None:
    """Return the name of a model; the framework calls what it does not know `unknown`."""
    return None if not name or name == "unknown" else name


def provider_of(name: str | None) -> str | None:
    """Return a provider's name as the GenAI conventions spell it."""
    from livekit.agents.telemetry import trace_types

    normal: Callable[[str | None], str | None] = getattr(trace_types, "gen_ai_provider_name", known)
    return known(normal(known(name)))


def voice_of(tts: object) -> str | None:
    """Return the voice of a synthesizer, where its plugin keeps it as most do."""
    options = getattr(tts, "_opts", None)
    for name in ("voice", "voice_id"):
        voice = getattr(options, name, None)
        if isinstance(voice, str) and voice:
            return voice
    return None
