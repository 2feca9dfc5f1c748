"""The report of a client: its form, which is also the published schema, and whether its times can be true.

Times are milliseconds of the client's own clock (in a browser `performance.now()`), those of the server in an exchange
milliseconds of its monotonic clock.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_BYTES = 64 * 1024
"""Size of a report; the tracker stays below 10 kB."""
MAX_TURNS = 50
_TOLD_ERRORS = 50
MAX_AGE_MS = 15 * 60 * 1000
"""Marks may wait this long while the client is offline."""
FUTURE_MS = 1_000
"""Marks may lie this much behind their report's sending: sound that is scheduled and not out yet."""

Time = Annotated[float, Field(ge=0, le=1e13, allow_inf_nan=False)]
Length = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,40}$")]
Counts = Annotated[dict[Word, Count], Field(max_length=20)]
MarkName = Literal[
    "speech_start",
    "speech_end",
    "first_transcript",
    "final_transcript",
    "response_created",
    "first_audio_delta",
    "playback_start",
    "playback_end",
    "response_complete",
]
Phase = Literal["playback_stop", "server_cancel", "total"]
Latency = Literal["asr", "ttft", "e2e", "playback_stop", "server_cancel", "total"]


class MalformedReportError(ValueError):
    """The report is refused; the message is the reason, without anything that the client sent."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Exchanges(_Form):
    """Exchanges of four time stamps: client sent, server received, server answered, client received.

    Over the endpoint and over the socket alike: what counts is whose clock the inner two are of.
    """

    server: Word
    """Which clock that is, as the server's answer named it."""
    exchanges: Annotated[list[Annotated[list[Time], Field(min_length=4, max_length=4)]], Field(max_length=16)]


class BargeIn(_Form):
    """One phase of the client's reaction to speech over the reply."""

    phase: Phase
    start_ms: Time
    """The detection."""
    end_ms: Time


class TurnMarks(_Form):
    """New moments of one turn."""

    turn: Count
    """Number of the turn on this page: what the client measured itself is kept together by it."""
    traceparent: Annotated[str, Field(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None = None
    """The server's turn; None where the server has not said it: such marks are counted and join no trace."""
    marks: Annotated[dict[MarkName, Time], Field(max_length=9)] = {}
    durations_ms: Annotated[dict[MarkName, Length], Field(max_length=9)] = {}
    """How long each new mark took: from the end of speech; first_transcript from its start, response_complete from
    response_created."""
    barge_in: Annotated[list[BargeIn], Field(max_length=16)] = []
    error_ms: Length = 0
    """How far off the times may be already: a gateway's, that passes on what another clock has measured."""


class Counters(_Form):
    """Counts since the page was loaded: absolute, so that a lost report loses nothing."""

    audio_sent_chunks: Count = 0
    audio_sent_bytes: Count = 0
    audio_received_chunks: Count = 0
    audio_received_bytes: Count = 0
    """Decoded audio, not base64."""
    reconnections: Count = 0
    errors: Counts = {}
    intents: Counts = {}


class Network(_Form):
    """WebRTC statistics since the report before: of the audio that the client receives."""

    jitter_ms: Length | None = None
    loss: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    round_trip_ms: Length | None = None


class Stability(_Form):
    """How evenly audio arrived since the report before."""

    jitter_ms: Length
    """Smoothed change of the time between chunks (the estimator of RFC 3550, section 6.4.1)."""
    longest_gap_ms: Length


class Summary(_Form):
    """One latency over the time since the report before."""

    count: Count
    min_ms: Length
    mean_ms: Length
    p95_ms: Length
    max_ms: Length


class Report(_Form):
    """What a page has to say since its report before."""

    version: Literal[1]
    client: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Random, one for each load of the page: its clock and its counts are its own."""
    number: Annotated[int, Field(ge=1, le=1 << 40)]
    """Counts up; a report that is sent again has the same number, and is taken once."""
    sent_ms: Time
    clocks: Annotated[list[Exchanges], Field(max_length=4)] = []
    turns: Annotated[list[TurnMarks], Field(max_length=MAX_TURNS)] = []
    counters: Counters | None = None
    latencies: Annotated[dict[Latency, Summary], Field(max_length=6)] = {}
    network: Network | None = None
    stability: Stability | None = None
    dropped: Count = 0
    """Turns that the page forgot because it was offline for too long."""


def read(body: bytes) -> Report:
    """Return the report in a request's body.

    Raises:
        MalformedReportError: it is not JSON, has not this form, or its times contradict each other.

    """
    try:
        report = Report.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > _TOLD_ERRORS:  # to list them all would take longer than to read the report
            raise MalformedReportError("the report: too many errors") from None
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # Names that the client made up are not repeated.
        where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _FIELDS)
        raise MalformedReportError(f"{where or 'the report'}: {first['type']}") from None
    _check_times(report)
    return report


_FIELDS = frozenset(
    name
    for form in (Report, Exchanges, TurnMarks, BargeIn, Counters, Network, Stability, Summary)
    for name in form.model_fields
)


def _check_times(report: Report) -> None:
    latest, earliest = report.sent_ms + FUTURE_MS, report.sent_ms - MAX_AGE_MS
    for turn in report.turns:
        for at in (*turn.marks.values(), *(at for each in turn.barge_in for at in (each.start_ms, each.end_ms))):
            if not earliest <= at <= latest:
                raise MalformedReportError("turns: a mark is after the report was sent, or too old")
        if any(each.end_ms < each.start_ms for each in turn.barge_in):
            raise MalformedReportError("barge_in: it ends before it starts")
    for sent, received, answered, back in (stamps for each in report.clocks for stamps in each.exchanges):
        if not (sent <= back <= latest and received <= answered):
            raise MalformedReportError("clock: an exchange that cannot be")
