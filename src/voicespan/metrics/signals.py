"""What a service says of itself that no turn tells: connections, messages, models, commands, queues, limits, clients.

Each is one call or one block; nothing here raises or waits, and a block lets exceptions of its body pass.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace

from voicespan import events
from voicespan import names as n
from voicespan.connection import offered
from voicespan.guard import guarded
from voicespan.metrics.instruments import record
from voicespan.metrics.labels import labels
from voicespan.metrics.level import connections, models, tasks, voices, waiting
from voicespan.metrics.loop import watch_loop
from voicespan.metrics.messages import Handling, messages
from voicespan.stage import failure_of, is_cancellation
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import Literal

    from opentelemetry.util.types import AttributeValue

    from voicespan.metrics.audio import Direction
    from voicespan.metrics.labels import Value

    UnloadReason = Literal["ttl_eviction", "lru_eviction", "manual"]


def allow(attribute: str, values: Iterable[Value]) -> None:
    """List the values that a label may have, as the voices there are; all others become `other`."""
    labels.allow(attribute, values)


# The media connection


def connection(transport: str = "websocket") -> AbstractContextManager[None]:
    """Count a media connection while the block lasts (`voice.connection.active`)."""
    watch_loop()
    found = offered()
    if found is not None:
        found.counted_by_service()
    return connections.held({n.VOICE_TRANSPORT: transport})


@guarded
def message_sent(kind: str) -> None:
    """Count a message to the client (`voice.messages`)."""
    messages.by_service = True
    messages.count(kind, "transmit")


def message_received(kind: str) -> AbstractContextManager[None]:
    """Count a message of the client; the block is its handling (`voice.message.process.duration`)."""
    return Handling(kind)


@guarded
def rate_limited(route: str) -> None:
    """Count a request that the rate limiter refused; `route` is the template, never the address that was asked for."""
    record(n.METRIC_VOICE_RATE_LIMIT_REJECTIONS, 1, {n.HTTP_ROUTE: route})


# Models


@contextmanager
def model_load(model: str) -> Iterator[None]:
    """Load a model in the block: span `model.load` in a trace of its own, duration, and one model more in memory.

    A load that fails has the span's status ERROR and no model.
    """
    with _measured(n.SPAN_MODEL_LOAD, n.METRIC_VOICE_MODEL_LOAD_DURATION, {n.GEN_AI_REQUEST_MODEL: model}, alone=True):
        yield
    models.up({n.GEN_AI_REQUEST_MODEL: model})
    events.say(logging.INFO, "Model loaded", "model.loaded", model_id=model)


def model_warmup(model: str) -> AbstractContextManager[None]:
    """Warm a model up in the block: span `model.warmup` in a trace of its own, and its duration."""
    what = {n.GEN_AI_REQUEST_MODEL: model}
    return _measured(n.SPAN_MODEL_WARMUP, n.METRIC_VOICE_MODEL_WARMUP_DURATION, what, alone=True)


@guarded
def model_unloaded(model: str, reason: UnloadReason = "manual") -> None:
    """Say that a model is no longer in memory, and why."""
    models.down(tuple(labels.of({n.GEN_AI_REQUEST_MODEL: model}).items()))
    record(n.METRIC_VOICE_MODEL_UNLOADS, 1, {n.GEN_AI_REQUEST_MODEL: model, n.VOICE_MODEL_UNLOAD_REASON: reason})
    events.say(logging.INFO, "Model unloaded", "model.unloaded", model_id=model, reason=reason)


# Workers


@contextmanager
def control(command: str) -> Iterator[None]:
    """Apply a command that a worker has received in the block: span `control`, count, and duration until applied.

    The commands that are told apart are PAUSE, RESUME and STOP.
    """
    watch_loop()
    what: dict[str, str] = {n.VOICE_CONTROL_COMMAND: command}
    record(n.METRIC_VOICE_CONTROL_COMMANDS, 1, what)
    with _measured(n.SPAN_CONTROL, n.METRIC_VOICE_CONTROL_DURATION, what):
        yield


def queued() -> AbstractContextManager[None]:
    """Count a request that waits for a worker while the block lasts (`voice.inference.queue.length`)."""
    watch_loop()
    return waiting.held({})


def speaking(voice: str) -> AbstractContextManager[None]:
    """Count a voice as in use while the block lasts (`voice.tts.voice.active`)."""
    return voices.held({n.VOICE_TTS_VOICE_NAME: voice})


def task(component: str) -> AbstractContextManager[None]:
    """Count work of a component while the block lasts (`voice.task.active`). Stages of turns do so themselves."""
    return tasks.held({n.VOICE_COMPONENT: component})


@guarded
def synthesized(model: str, *, spent_s: float, audio_s: float) -> None:
    """Say how long a worker needed for how much audio: the real-time factor. Stages of turns do so themselves."""
    if audio_s > 0:
        record(n.METRIC_VOICE_TTS_REAL_TIME_FACTOR, spent_s / audio_s, {n.GEN_AI_REQUEST_MODEL: model})


# Users and their clients


@guarded
def intent(kind: str) -> None:
    """Count what a user wanted: a word of the service's own, as `weather` (`voice.intents`)."""
    record(n.METRIC_VOICE_INTENTS, 1, {n.VOICE_INTENT_TYPE: kind})


@guarded
def client_error(kind: str) -> None:
    """Count an error that a client has reported."""
    record(n.METRIC_VOICE_CLIENT_ERRORS, 1, {n.ERROR_TYPE: kind})


@guarded
def client_reconnected() -> None:
    """Count a client that has come back after its connection was lost."""
    record(n.METRIC_VOICE_CLIENT_RECONNECTIONS, 1)


@guarded
def client_mark(mark: str, seconds: float) -> None:
    """Take the time of a moment that a client has measured; which ones there are, is in docs/names.md."""
    if seconds >= 0:
        record(n.METRIC_VOICE_CLIENT_MARK_DURATION, seconds, {n.VOICE_CLIENT_MARK: mark})


@guarded
def audio_quality(
    direction: Direction,
    *,
    jitter_s: float | None = None,
    loss: float | None = None,
    delay_s: float | None = None,
    measured: str = "client",
) -> None:
    """Take a report on the network's part in the audio: jitter, share of packets lost, one-way delay.

    `direction` is seen from the service, `measured` says who has measured: client, gateway or server. With loss and
    either of the others the mean opinion score is estimated (`voicespan.mos`). Every ten seconds or so is right.
    """
    from voicespan.mos import mos

    way: dict[str, Value | None] = {n.NETWORK_IO_DIRECTION: direction}
    if jitter_s is not None and jitter_s >= 0:
        record(n.METRIC_VOICE_AUDIO_FRAME_JITTER, jitter_s, way | {n.VOICE_MEASUREMENT_POINT: measured})
        events.jittery(direction, jitter_s)
    if loss is not None and 0 <= loss <= 1:
        record(n.METRIC_VOICE_AUDIO_PACKET_LOSS, loss, way)
        if jitter_s is not None or delay_s is not None:
            score = mos(loss=loss, jitter_s=jitter_s or 0, delay_s=delay_s or 0)
            record(n.METRIC_VOICE_AUDIO_MOS, score, way | {n.VOICE_AUDIO_MOS_METHOD: "e_model"})


@contextmanager
def _measured(span_name: str, metric: str, what: dict[str, str], *, alone: bool = False) -> Iterator[None]:
    """Make a span of the block and record its duration in it; `alone`: in a trace of its own."""
    from opentelemetry.context import Context

    tracer = trace.get_tracer("voicespan.metrics", __version__)  # the one named "voicespan" has ids of its own
    attributes: dict[str, AttributeValue] = dict(what)
    span = tracer.start_span(span_name, Context() if alone else None, attributes=attributes)
    begin_ns = time.monotonic_ns()
    try:
        with trace.use_span(span, record_exception=True, set_status_on_exception=False):
            yield
    except BaseException as error:
        if not is_cancellation(error):
            span.set_attribute(n.ERROR_TYPE, failure_of(error, 0).kind)
            span.set_status(trace.StatusCode.ERROR, str(error))
        raise
    finally:
        spent_s = (time.monotonic_ns() - begin_ns) / 1e9
        record(metric, spent_s, what, trace.set_span_in_context(span))
        span.end()
