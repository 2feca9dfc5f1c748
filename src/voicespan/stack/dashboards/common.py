"""Panels that several dashboards show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from voicespan import names as n
from voicespan.stack import promql as q
from voicespan.stack import rules
from voicespan.stack.alerts import LIMITS
from voicespan.stack.dashboards import panels as p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voicespan.stack.dashboards.board import Filter
    from voicespan.stack.dashboards.panels import Panel
    from voicespan.stack.objectives import Objectives

MODEL = q.label(n.GEN_AI_REQUEST_MODEL)
VOICE = q.label(n.VOICE_TTS_VOICE_NAME)
WORKER = q.label(n.VOICE_WORKER_ID)
LANGUAGE = q.label(n.VOICE_LANGUAGE)
TRANSPORT = q.label(n.VOICE_TRANSPORT)
PHASE = q.label(n.VOICE_BARGE_IN_PHASE)
BOTTLENECK = q.label(n.VOICE_TURN_BOTTLENECK)
COMPONENT = q.label(n.VOICE_COMPONENT)
OUTCOME = q.label(n.VOICE_TURN_OUTCOME)
VERSION = q.label(n.SERVICE_VERSION)
ERROR = q.label(n.ERROR_TYPE)
DIRECTION = q.label(n.NETWORK_IO_DIRECTION)
ROUTE = q.label(n.HTTP_ROUTE)
STATUS = q.label(n.HTTP_RESPONSE_STATUS_CODE)
TOOL = q.label(n.GEN_AI_TOOL_NAME)

MILESTONES = (
    n.SPAN_VAD_ENDPOINT,
    n.SPAN_ASR_FINALIZE,
    n.SPAN_LLM_TTFT,
    n.SPAN_LLM_FIRST_SENTENCE,
    n.SPAN_TTS_FIRST_AUDIO,
    n.SPAN_REALTIME_FIRST_AUDIO,
    n.SPAN_PLAYBACK_START,
)
"""The latencies that stages add, in the order in which they pass."""

AT = f'{q.POINT}="$point"'
"""A matcher for the place of measurement that is chosen; what was measured at two of them does not compare."""

TO_WATERFALL = "/d/voicespan-pipeline?${__url_time_range}&${job:queryparam}&var-trace=${__value.raw}"
"""Where a turn of a table is shown stage by stage."""

SLOW = ("1s", "600ms", "1500ms", "2s", "3s", "5s")
"""The choices of what is slow."""
CPU = "Processor time over elapsed time and cores."

Colours: TypeAlias = "Sequence[tuple[str, float | None]]"


def limit(objectives: Objectives, alert: str) -> float:
    """Return the number that an alert compares with, to draw it as a line."""
    return objectives.limits.get(alert, LIMITS[alert].value)


def until(bad: float, worse: float | None = None) -> Colours:
    """Return colours: green, red from a limit on; yellow before it, where there are two."""
    if worse is None:
        return (("green", None), ("red", bad))
    return (("green", None), ("yellow", bad), ("red", worse))


def from_(fair: float, good: float | None = None) -> Colours:
    """Return colours: red, green from a limit on; yellow before it, where there are two."""
    if good is None:
        return (("red", None), ("green", fair))
    return (("red", None), ("yellow", fair), ("green", good))


def per_second(metric: str, matchers: Sequence[str], by: Sequence[str] = ()) -> str:
    """Return events per second; without labels over all series."""
    rate = q.rate(q.select(metric, matchers), p.RATE)
    return q.total(rate, by) if by else f"sum({rate})"


def or_none(expression: str, label: str) -> str:
    """Return 0 under the name `none` where nothing of the kind ever happened: a panel of errors is empty otherwise."""
    return f'{expression} or on () label_replace(vector(0), "{label}", "none", "", "")'


def calls(
    title: str, description: str, matchers: Sequence[str], unit: str = "cps", *, by: Sequence[str], **style: Any
) -> Panel:
    """Return how often spans come."""
    return p.lines(title, description, per_second(q.CALLS, matchers, by), unit, by=by, **style)


def failures(title: str, description: str, matchers: Sequence[str], *, by: Sequence[str], **style: Any) -> Panel:
    """Return how often spans come that should not."""
    found = or_none(per_second(q.CALLS, matchers, by), by[0])
    return p.lines(title, description, found, "cps", by=by, **style)


def latency(
    of: Filter,
    span_name: str,
    title: str,
    description: str,
    *matchers: str,
    by: Sequence[str] = (),
    shares: Sequence[float] = (0.5, 0.95, 0.99),
    **style: Any,
) -> Panel:
    """Return quantiles of a span's duration, with exemplars."""
    targets = p.percentiles(q.DURATION, of.span(span_name, *matchers), shares, by)
    return p.timeseries(title, description + p.EXEMPLARS, targets, "s", **style)


def recorded(
    of: Filter,
    metric: str,
    title: str,
    description: str,
    *matchers: str,
    by: Sequence[str] = (),
    shares: Sequence[float] = (0.95,),
    unit: str = "s",
    **style: Any,
) -> Panel:
    """Return quantiles of a histogram that services record themselves, with exemplars."""
    targets = p.percentiles(q.series(metric), [*of.direct(metric), *matchers], shares, by)
    return p.timeseries(title, description + p.EXEMPLARS, targets, unit, **style)


def count(
    of: Filter,
    metric: str,
    title: str,
    description: str,
    unit: str = "cps",
    *,
    by: Sequence[str],
    part: str = "",
    **style: Any,
) -> Panel:
    """Return how often something happens that services count themselves; of a histogram, a part."""
    rates = per_second(q.series(metric, part), of.direct(metric), by)
    return p.lines(title, description, rates, unit, by=by, **style)


def level(
    of: Filter, metric: str, title: str, description: str, unit: str, *, by: Sequence[str] = p.PROCESS, **style: Any
) -> Panel:
    """Return a state that services report."""
    return p.lines(title, description, q.total(of.metric(metric), by), unit, by=by, **style)


def silence(of: Filter, title: str, point: str | None = None, **style: Any) -> Panel:
    """Return the silence that users hear, at one place of measurement, or at each."""
    where = {
        "client": "Measured at the user's ear, where the client reports it.",
        "server": "Measured where the frames were sent: without network and jitter buffer.",
        None: "Each place of measurement is a line of its own: they do not compare.",
    }[point]
    description = f"End of speech to the first sample heard. {where}"
    if point is None:
        return latency(of, n.SPAN_RESPONSE, title, description, by=(q.POINT,), **style)
    return latency(of, n.SPAN_RESPONSE, title, description, q.is_(n.VOICE_MEASUREMENT_POINT, point), **style)


def answered_within(of: Filter, seconds: float) -> str:
    """Return the share of turns that were answered within a time; who was never answered was not.

    That is the share in time of the answers at the chosen place, times the share of turns with an answer: where a turn
    without one would have been heard nobody knows.
    """
    in_time = per_second(f"{q.DURATION}_bucket", of.span(n.SPAN_RESPONSE, AT, q.within(seconds)))
    there = per_second(f"{q.DURATION}_count", of.span(n.SPAN_RESPONSE, AT))
    answered = per_second(q.CALLS, of.spans(n.SPAN_RESPONSE))
    counted = q.not_(n.VOICE_TURN_NO_REPLY_REASON, *rules.UNCOUNTED_REASONS)
    everybody = per_second(q.CALLS, [*of.spans(n.SPAN_RESPONSE, n.SPAN_UNANSWERED), counted])
    return f"{in_time} / {there} * ({answered} / {everybody})"


def target_met(of: Filter) -> str:
    """Return the share of sessions that met the latency target of their service."""
    metric = n.METRIC_VOICE_SESSION_LATENCY_TARGET
    met = [*of.direct(metric), q.is_(n.VOICE_LATENCY_TARGET_OUTCOME, "met")]
    return q.ratio(per_second(q.series(metric), met), per_second(q.series(metric), of.direct(metric)))


def outcomes(of: Filter) -> Panel:
    """Return what users got."""
    turns = of.span(n.SPAN_TURN)
    return calls("Turns by outcome", "What users got, in turns per second.", turns, by=(OUTCOME,), stacked=True)


def mos(of: Filter) -> Panel:
    """Return how good the audio is."""
    metric = n.METRIC_VOICE_AUDIO_MOS
    median = q.quantile(0.5, q.series(metric), of.direct(metric), (DIRECTION,), p.RATE)
    described = "1 is bad, 4.5 is as good as it gets; estimated from jitter, loss and delay."
    return p.lines("Mean opinion score", described, median, "none", by=(DIRECTION,))


def loss(of: Filter) -> Panel:
    """Return how much of the audio does not arrive."""
    metric = n.METRIC_VOICE_AUDIO_PACKET_LOSS
    most = q.quantile(0.95, q.series(metric), of.direct(metric), (DIRECTION,), p.RATE)
    return p.lines("Packet loss (p95)", "Share of packets that were lost.", most, "percentunit", by=(DIRECTION,))


def slow_turns(of: Filter, *, span_name: str = n.SPAN_RESPONSE, title: str = "Slow turns") -> Panel:
    """Return the turns with a long silence, from Tempo."""
    return p.trace_table(
        title,
        "Turns whose silence lasted longer than chosen above; a click opens the trace. With the sampling overlay these "
        "are kept from 0.6 s on.",
        "{ " + of.trace(span_name, "span:duration > $slow") + " }",
        link=TO_WATERFALL,
    )
