"""The last turns of this process in numbers: what JSON statistics and the helpers of `voicespan.performance` show.

Fed by the recorder with the turns that it finishes, once this module is imported. A thousand values of each name are
kept; for anything longer there is Prometheus.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from voicespan import names as n

if TYPE_CHECKING:
    from voicespan.finished import FinishedSpan, FinishedTurn

MAX_VALUES = 1000
MAX_NAMES = 200

STT, TTFT, LLM, TTS, RESPONSE, TOKEN_RATE, RTF = (
    "stt_latency", "ttft", "ttlt", "tts_latency", "end_to_end_latency", "token_rate", "real_time_factor",
)  # fmt: skip
_BY_SPAN = {
    n.SPAN_ASR: STT,
    n.SPAN_LLM: LLM,
    n.SPAN_LLM_TTFT: TTFT,
    n.SPAN_TTS_FIRST_AUDIO: TTS,
    n.SPAN_RESPONSE: RESPONSE,
}
_BY_ATTRIBUTE = {n.VOICE_LLM_TOKEN_RATE: TOKEN_RATE, n.VOICE_TTS_REAL_TIME_FACTOR: RTF}
_RANGES = {
    n.VOICE_TEXT_WORD_COUNT_RANGE: "word_count_performance",
    n.VOICE_TEXT_CHARACTER_COUNT_RANGE: "character_count_performance",
}


class History:
    """Values by name, in seconds or the unit of what they are; stages and failures by component."""

    def __init__(self, max_values: int = MAX_VALUES) -> None:
        self._max_values = max_values
        self._values: dict[str, deque[float]] = {}
        self._stages: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._lock = threading.Lock()

    def record(self, name: str, value: float) -> None:
        """Keep a value; of more names than 200 the rest is not kept."""
        with self._lock:
            values = self._values.get(name)
            if values is None:
                if len(self._values) >= MAX_NAMES:
                    return
                values = self._values[name] = deque(maxlen=self._max_values)
            values.append(value)

    def take(self, turn: FinishedTurn) -> None:
        """Keep what a turn tells."""
        for span in turn.spans:
            self.take_span(span)

    def take_span(self, span: FinishedSpan) -> None:
        """Keep the length of a span, and what its attributes measure; a failed stage counts, and has a length too."""
        length_s = span.duration_ns / 1e9
        component = span.attributes.get(n.VOICE_COMPONENT)
        if isinstance(component, str):
            self.outcome(component, failed=span.error is not None)
        name = _BY_SPAN.get(span.name)
        if name is not None:
            self.record(name, length_s)
        elif component == "tool":
            self.record(f"function.{span.attributes.get(n.GEN_AI_TOOL_NAME, '')}", length_s)
        for attribute, measure in _BY_ATTRIBUTE.items():
            value = span.attributes.get(attribute)
            if isinstance(value, float | int):
                self.record(measure, value)
        for attribute, prefix in _RANGES.items():
            if attribute in span.attributes:
                self.record(f"{prefix}.{span.attributes[attribute]}", length_s)

    def take_synthesis(
        self, length_s: float, first_audio_s: float | None, *, words: str, characters: str, failed: bool
    ) -> None:
        """Keep a synthesis that belongs to no turn."""
        self.outcome("tts", failed=failed)
        if first_audio_s is not None:
            self.record(TTS, first_audio_s)
        self.record(f"word_count_performance.{words}", length_s)
        self.record(f"character_count_performance.{characters}", length_s)

    def outcome(self, component: str, *, failed: bool) -> None:
        """Count a stage, and whether it failed."""
        with self._lock:
            self._stages[component] = self._stages.get(component, 0) + 1
            self._failed[component] = self._failed.get(component, 0) + failed

    def values(self, name: str) -> list[float]:
        """Return what is kept of a name, oldest first."""
        with self._lock:
            return list(self._values.get(name, ()))

    def names(self) -> list[str]:
        """Return the names that there are values of."""
        with self._lock:
            return sorted(self._values)

    def stats(self, name: str) -> dict[str, float]:
        """Return `count` and, where there is anything, `avg`, `p90` and `p95`."""
        values = sorted(self.values(name))
        if not values:
            return {"count": 0}
        return {
            "avg": sum(values) / len(values),
            "p90": quantile(values, 0.9),
            "p95": quantile(values, 0.95),
            "count": len(values),
        }

    def error_rate(self, component: str) -> float:
        """Return the share of failed stages of a component, from 0 to 1; 0 when there was none."""
        with self._lock:
            return self._failed.get(component, 0) / max(1, self._stages.get(component, 0))


def quantile(ordered: list[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed (nearest rank)."""
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, int(rank) - 1)]


history = History()
"""That of this process."""
