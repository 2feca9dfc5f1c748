"""Registers what is read at collection: once for each meter provider, and from zero in the child of a fork."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from voicespan import names as n
from voicespan.metrics import audio, gpu, loop, machine
from voicespan.metrics.calls import calls
from voicespan.metrics.instruments import BATCHED, flushed, observe, somebody_reads, take
from voicespan.metrics.labels import labels
from voicespan.metrics.level import LEVELS, connections, models, tasks, voices, waiting
from voicespan.metrics.messages import messages
from voicespan.metrics.series import series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def start() -> None:
    """Register every observable metric with the meter provider that is in place, once."""
    provider = metrics.get_meter_provider()
    somebody_reads(provider)
    if provider in _started:
        return
    _started.add(provider)
    machine.start()
    for name, read in observed().items():
        observe(name, read)
    # They take their first values in a collection. It may be the last one, and then it is too late to make them.
    for name in BATCHED:
        take(name)
    flushed(provider)
    _fork_safe()


def observed() -> dict[str, Callable[[], Iterable[Observation]]]:
    """Return what reads each observable metric of this package."""
    found: dict[str, Any] = {
        # First: what was counted in plain numbers is handed to its histograms, which are collected afterwards.
        **audio.OBSERVED,
        n.METRIC_VOICE_SERVICE_UP: None,
        n.METRIC_VOICE_MESSAGES: messages.observed,
        n.METRIC_VOICE_MESSAGE_IO: messages.observed_bytes,
        n.METRIC_VOICE_SESSION_ACTIVE: calls.observed,
        n.METRIC_VOICE_CONNECTION_ACTIVE: connections.observed,
        n.METRIC_VOICE_TASK_ACTIVE: tasks.observed,
        n.METRIC_VOICE_TASK_PEAK: tasks.observed_peaks,
        n.METRIC_VOICE_INFERENCE_QUEUE_LENGTH: waiting.observed,
        n.METRIC_VOICE_MODEL_RESIDENT: _resident,
        n.METRIC_VOICE_TTS_VOICE_ACTIVE: _voices,
        **machine.observed(),
        **{name: gpu.gpus.observer(name) for name in gpu.METRICS},
    }
    alive = found[n.METRIC_VOICE_SERVICE_UP]
    found[n.METRIC_VOICE_SERVICE_UP] = lambda: [*loop.flush(), *_flush(), *alive()]
    return found


def _flush() -> Iterable[Observation]:
    series.flush()
    return ()


def _resident() -> Iterable[Observation]:
    """How many models are in memory, once there was any."""
    counts = models.now()
    return [Observation(sum(counts.values()))] if counts else []


def _voices() -> Iterable[Observation]:
    """How many different voices speak, once any did."""
    counts = voices.now()
    return [Observation(sum(1 for count in counts.values() if count))] if counts else []


def _fork_safe() -> None:
    if not _registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
        _registered.append(True)


def _after_fork() -> None:
    labels.after_fork()
    for level in LEVELS:
        level.start()
    audio.flows.start()
    messages.start()
    series.start()
    calls.start()
    loop.start()
    gpu.gpus.start()
    machine.start()


_started: weakref.WeakSet[object] = weakref.WeakSet()
_registered: list[bool] = []
