"""Helpers by the names that pipelines have used for them: views of the turns that voicespan measures anyway.

Times are in seconds, rates from 0 to 1. `record` is for values of your own; all else comes from the turns of this
process as soon as this module is imported.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.history import LLM, STT, TOKEN_RATE, TTFT, TTS, History, history
from voicespan.metrics.level import tasks

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from voicespan.metrics.level import Key
    from voicespan.stage import Llm


def _limits(span: str) -> dict[str, float]:
    """The warning and the critical limit of a span in the names module."""
    found = {
        level: limit.value for limit in n.THRESHOLDS for level in ("warning", "critical")
        if limit.on == span and limit.purpose.startswith(level)
    }  # fmt: skip
    return {"warning": found["warning"], "critical": found["critical"]}


ALERT_RULES: dict[str, dict[str, float]] = {
    STT: _limits(n.SPAN_ASR_FINALIZE),
    TTFT: _limits(n.SPAN_LLM_TTFT),
    "error_rate": {"warning": 0.05, "critical": 0.1},
}
"""The limits of the alerts that `deploy/` ships, as data."""

_COMPONENTS = {"stt": ("asr", STT), "llm": ("llm", TTFT), "tts": ("tts", TTS)}


class MetricTracker:
    """Values by name."""

    def __init__(self, max_history: int = 1000) -> None:
        """Have a history of one's own; `tracker` is that of the process."""
        self._history = History(max_history)

    def record(self, name: str, value: float) -> None:
        """Keep a value."""
        self._history.record(name, value)

    def get_stats(self, name: str) -> dict[str, float]:
        """Return `avg`, `p90`, `p95` and `count`; of an unknown name `count` 0 and nothing else."""
        return self._history.stats(name)


tracker = MetricTracker()
tracker._history = history  # noqa: SLF001 - the one instance that shows the process's own


def record(name: str, value: float) -> None:
    """Keep a value of your own, beside those of the turns."""
    history.record(name, value)


def get_stats(name: str) -> dict[str, float]:
    """Return `avg`, `p90`, `p95` and `count` of a name: of `stt_latency`, `ttft`, `tts_latency`, or of your own."""
    return history.stats(name)


class ErrorCounter:
    """Failed stages."""

    def get_rate(self, component: str) -> float:
        """Return the share of failed stages of `stt`, `llm`, `tts` or another component, from 0 to 1."""
        return history.error_rate(_COMPONENTS.get(component, (component, ""))[0])


error_counter = ErrorCounter()


def analyze_bottlenecks() -> str | None:
    """Return the component with the greatest p90 of its latency, `stt`, `llm` or `tts`; None before any turn."""
    p90 = {name: history.stats(latency).get("p90") for name, (_, latency) in _COMPONENTS.items()}
    known = {name: value for name, value in p90.items() if value is not None}
    return max(known, key=lambda name: known[name], default=None)


def export_metrics() -> dict[str, Any]:
    """Return the figures of each component, ready for JSON."""
    return {
        "stt": {"latency": get_stats(STT), "error_rate": error_counter.get_rate("stt")},
        "llm": {
            "ttft": get_stats(TTFT),
            "ttlt": get_stats(LLM),
            "token_rate": get_stats(TOKEN_RATE),
            "error_rate": error_counter.get_rate("llm"),
        },
        "tts": {"latency": get_stats(TTS), "error_rate": error_counter.get_rate("tts")},
        **{group: _ranges(group) for group in ("word_count_performance", "character_count_performance")},
    }


def _ranges(group: str) -> dict[str, dict[str, float]]:
    return {name[len(group) + 1 :]: get_stats(name) for name in history.names() if name.startswith(f"{group}.")}


class ThroughputCalculator:
    """Tokens per second since the first one; with a stage, its tokens are marked as well."""

    def __init__(self, llm: Llm | None = None) -> None:
        self._llm = llm
        self._since_s: float | None = None
        self.token_count = 0

    def update(self, tokens: int) -> None:
        """Count tokens that have come."""
        if self._since_s is None:
            self._since_s = time.monotonic()
        self.token_count += tokens
        if self._llm is not None:
            self._llm.token(tokens)

    @property
    def tokens_per_sec(self) -> float:
        """The rate from the first update until now; 0 until time has passed."""
        passed_s = 0.0 if self._since_s is None else time.monotonic() - self._since_s
        return self.token_count / passed_s if passed_s > 0 else 0.0


class ConcurrencyTracker:
    """Work under way of one component; the stages of turns are in it already (`asr`, `llm`, `tool`, `tts`)."""

    def __init__(self, component: str = "tool") -> None:
        self._attributes: dict[str, Any] = {n.VOICE_COMPONENT: component}
        self._begun: list[Key] = []
        self._key: Key = ((n.VOICE_COMPONENT, component),)

    def task_start(self) -> None:
        """Count one more."""
        self._begun.append(tasks.up(self._attributes))

    def task_end(self) -> None:
        """Count one less; more ends than begins count for nothing."""
        if self._begun:
            tasks.down(self._begun.pop())

    def task(self) -> AbstractContextManager[None]:
        """Count one more in a block."""
        return tasks.held(self._attributes)

    @property
    def active_tasks(self) -> int:
        """How many there are now."""
        return tasks.now().get(self._key, 0)

    @property
    def peak_tasks(self) -> int:
        """How many there were at most."""
        return tasks.ever().get(self._key, 0)
