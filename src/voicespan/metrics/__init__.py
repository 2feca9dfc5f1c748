"""Metrics: what a service may count of itself, and, in the rooms of this package, what voicespan counts of it.

Turns, stages and sessions are measured without a call. What nothing can see from outside has one call each here::

    with metrics.model_load("cosyvoice2"):
        ...
    metrics.intent("weather")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voicespan.metrics.instruments import counter, histogram, views
    from voicespan.metrics.scrape import scrape_app
    from voicespan.metrics.signals import (
        allow,
        audio_quality,
        client_error,
        client_mark,
        client_reconnected,
        connection,
        control,
        intent,
        message_received,
        message_sent,
        model_load,
        model_unloaded,
        model_warmup,
        queued,
        rate_limited,
        speaking,
        synthesized,
        task,
    )

__all__ = (
    "allow",
    "audio_quality",
    "client_error",
    "client_mark",
    "client_reconnected",
    "connection",
    "control",
    "counter",
    "histogram",
    "intent",
    "message_received",
    "message_sent",
    "model_load",
    "model_unloaded",
    "model_warmup",
    "queued",
    "rate_limited",
    "scrape_app",
    "speaking",
    "synthesized",
    "task",
    "views",
)

_ROOMS = {"counter": "instruments", "histogram": "instruments", "views": "instruments", "scrape_app": "scrape"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f"{__name__}.{_ROOMS.get(name, 'signals')}")
    value = globals()[name] = getattr(room, name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
