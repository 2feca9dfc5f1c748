"""Which turns are asked for, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

from voicespan.local.row import COLUMNS

INCOMPLETE = "incomplete"
"""In a query, the outcome of turns whose root span has not arrived."""

UNANSWERED = "unanswered"
"""In a query, the outcome of turns whose user waited and heard nothing."""

FAILED = "failed"
"""In a query, the outcomes that count as errors."""

CONDITIONS = {
    INCOMPLETE: "NOT complete",
    UNANSWERED: "unanswered",
    FAILED: "outcome IN ('error', 'timeout')",
}
"""What is asked for as an outcome and is none of the turn model, in SQL."""

SORT_COLUMNS = {
    "start": "start_ns",
    "response": "response_ns",
    "duration": "duration_ns",
    "answer": "answer_ns",
    "endpoint": "endpoint_ns",
    "asr": "asr_ns",
    "llm": "llm_ttft_ns",
    "sentence": "sentence_ns",
    "tool": "tool_ns",
    "tts": "tts_first_audio_ns",
    "realtime": "realtime_first_audio_ns",
    "network": "playback_start_ns",
    "silenced": "silenced_ns",
    "send": "share_send_ns",
    "unattributed": "share_unattributed_ns",
}
"""What a list of turns can be sorted by; the largest comes first. What has no span of its own, by its share of the
silence."""

MAX_LIMIT = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnQuery:
    """Which turns, in which order. Times are Unix time in nanoseconds.

    Raises:
        ValueError: `sort` or `limit` is not possible.

    """

    session: str | None = None
    outcome: str | None = None
    """An outcome of the turn model, or `incomplete`, `unanswered`, `failed`."""
    service: str | None = None
    model: str | None = None
    voice: str | None = None
    worker: str | None = None
    run: int | None = None
    search: str | None = None
    """Only turns whose session contains this, or whose trace id begins with it."""
    slower_than_ns: int | None = None
    """Only turns whose heard silence was longer."""
    stage: str = "response"
    """What `over_ns` is about: a key of SORT_COLUMNS."""
    over_ns: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    sort: str = "start"
    ascending: bool = False
    limit: int = 50
    offset: int = 0
    """How many of the turns come before the first one that is asked for."""

    def __post_init__(self) -> None:
        if self.sort not in SORT_COLUMNS:
            raise ValueError(f"sort is one of {', '.join(SORT_COLUMNS)}")
        if self.stage not in SORT_COLUMNS:
            raise ValueError(f"stage is one of {', '.join(SORT_COLUMNS)}")
        if not 0 < self.limit <= MAX_LIMIT:
            raise ValueError(f"limit is a number from 1 to {MAX_LIMIT}")

    @property
    def plain_outcome(self) -> str | None:
        """The outcome, where it is one of the turn model."""
        return None if self.outcome in CONDITIONS else self.outcome

    def sql(self) -> tuple[str, list[object]]:
        """Return the statement and its parameters."""
        where, parameters = self.where()
        direction = "ASC" if self.ascending else "DESC"
        order = f" ORDER BY {SORT_COLUMNS[self.sort]} {direction} NULLS LAST, start_ns DESC LIMIT ? OFFSET ?"
        return f"SELECT {', '.join(COLUMNS)} FROM turn{where}{order}", [*parameters, self.limit, self.offset]  # noqa: S608

    def where(self) -> tuple[str, list[object]]:
        """Return the condition alone, empty when every turn is asked for, and its parameters."""
        conditions: list[str] = []
        parameters: list[object] = []
        for condition, value in (
            ("session_id = ?", self.session),
            ("service = ?", self.service),
            ("model = ?", self.model),
            ("voice = ?", self.voice),
            ("worker = ?", self.worker),
            ("run = ?", self.run),
            ("response_ns > ?", self.slower_than_ns),
            (f"{SORT_COLUMNS[self.stage]} > ?", self.over_ns),
            ("start_ns >= ?", self.since_ns),
            ("start_ns < ?", self.until_ns),
            ("outcome = ?", self.plain_outcome),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        if self.outcome in CONDITIONS:
            conditions.append(CONDITIONS[self.outcome])
        if self.search:
            conditions.append("(instr(lower(session_id), ?) OR instr(lower(hex(trace_id)), ?) = 1)")
            parameters.extend([search_key(self.search)] * 2)
        return (f" WHERE {' AND '.join(conditions)}" if conditions else ""), parameters


def search_key(text: str) -> str:
    """Return the text as it is compared in a search: A to Z in lower case, as SQLite's `lower` does it."""
    return text.encode(errors="replace").lower().decode()
