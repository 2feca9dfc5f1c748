"""One synthesis of a speech service that knows of no turns: the same span, ranges and metrics as in a turn.

with Synthesis(text, voice="sam", language="en-US", model="cosy") as synthesis:
    for frame in engine.speak(text):
        synthesis.audio(0.02)
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from opentelemetry import context as otel_context
from opentelemetry import trace

from voicespan import names as n
from voicespan.finish import character_range, word_range
from voicespan.guard import guarded, swallowed
from voicespan.metrics import instruments
from voicespan.metrics.labels import labels
from voicespan.metrics.level import voices
from voicespan.stage import failure_of, is_cancellation
from voicespan.version import __version__
from voicespan.words import count_words

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.util.types import AttributeValue

    from voicespan.metrics.level import Key


class Synthesis:
    """A block in which text becomes speech; its span `tts` is a child of the request's, and current in the block.

    Voice and language are copied to the request's span. Like every label that comes with a request they have a bounded
    number of values (`voicespan.metrics.allow` lists those that count). The text itself is not kept.
    """

    def __init__(
        self, text: str, *, voice: str | None = None, language: str | None = None, model: str | None = None
    ) -> None:
        given = {n.VOICE_TTS_VOICE_NAME: voice, n.VOICE_LANGUAGE: language, n.GEN_AI_REQUEST_MODEL: model}
        self._named = labels.of(dict(given))
        self._length, self._words = len(text), count_words(text)
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._frames = 0
        self._audio_s = 0.0
        self._voice: Key | None = None
        self._token: object | None = None

    def __enter__(self) -> Self:
        try:
            request = trace.get_current_span()
            for key in (n.VOICE_TTS_VOICE_NAME, n.VOICE_LANGUAGE):
                if key in self._named:
                    request.set_attribute(key, self._named[key])
            attributes: dict[str, AttributeValue] = {
                n.VOICE_COMPONENT: "tts",
                n.VOICE_ALIAS: n.ALIAS_TTS,
                n.VOICE_TEXT_LENGTH: self._length,
                n.VOICE_TEXT_WORD_COUNT_RANGE: word_range(self._words),
                n.VOICE_TEXT_CHARACTER_COUNT_RANGE: character_range(self._length),
                **self._named,
            }
            self._tracer = trace.get_tracer("voicespan.synthesis", __version__)
            self._voice = voices.up({n.VOICE_TTS_VOICE_NAME: self._named.get(n.VOICE_TTS_VOICE_NAME)})
            self._begin_ns, self._wall_ns = time.monotonic_ns(), time.time_ns()
            self._span = self._tracer.start_span(n.SPAN_TTS, attributes=attributes, start_time=self._wall_ns)
            self._before = otel_context.get_current()
            self._attached = trace.set_span_in_context(self._span, self._before)
            otel_context.attach(self._attached)
            self._token = self._attached
        except Exception as error:
            swallowed("Synthesis begin", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        try:
            self._end(error)
        except Exception as failure:
            swallowed("Synthesis end", failure)

    @guarded
    def audio(self, seconds: float) -> None:
        """Say that a frame of audio has come out, so many seconds long."""
        now_ns = time.monotonic_ns()
        self._first_ns = now_ns if self._first_ns is None else self._first_ns
        self._last_ns = now_ns
        self._frames += 1
        self._audio_s += seconds

    def _end(self, error: BaseException | None) -> None:
        if self._voice is not None:
            voices.down(self._voice)
        if self._token is None:
            return
        if otel_context.get_current() is self._attached:
            otel_context.attach(self._before)
        end_ns = time.monotonic_ns()
        if error is not None and is_cancellation(error):
            self._span.set_attribute(n.VOICE_STAGE_CANCELLED, True)
        elif error is not None:
            failure = failure_of(error, end_ns)
            self._span.set_attribute(n.ERROR_TYPE, failure.kind)
            self._span.record_exception(error)
            self._span.set_status(trace.StatusCode.ERROR, failure.message)
        elif self._last_ns is not None:
            end_ns = self._last_ns
        self._measure(end_ns)
        self._span.end(self._wall(end_ns))
        history = sys.modules.get("voicespan.history")
        if history is not None:
            history.history.take_synthesis(
                (end_ns - self._begin_ns) / 1e9,
                None if self._first_ns is None else (self._first_ns - self._begin_ns) / 1e9,
                words=word_range(self._words),
                characters=character_range(self._length),
                failed=error is not None and not is_cancellation(error),
            )

    def _measure(self, end_ns: int) -> None:
        if self._first_ns is not None:
            first = self._tracer.start_span(
                n.SPAN_TTS_FIRST_AUDIO, self._attached, attributes=dict(self._named), start_time=self._wall_ns
            )
            first.end(self._wall(self._first_ns))
        if self._frames:
            self._span.set_attribute(n.VOICE_AUDIO_FRAME_COUNT, self._frames)
            self._span.set_attribute(n.VOICE_AUDIO_DURATION_S, self._audio_s)
        if self._audio_s > 0:
            factor = (end_ns - self._begin_ns) / 1e9 / self._audio_s
            self._span.set_attribute(n.VOICE_TTS_REAL_TIME_FACTOR, factor)
            model = {n.GEN_AI_REQUEST_MODEL: self._named.get(n.GEN_AI_REQUEST_MODEL)}
            instruments.record(n.METRIC_VOICE_TTS_REAL_TIME_FACTOR, factor, model, self._attached)

    def _wall(self, monotonic_ns: int) -> int:
        return self._wall_ns + monotonic_ns - self._begin_ns
