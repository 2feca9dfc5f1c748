"""Prometheus rules: what a rule file is made of, and the series that are computed once for panels and alerts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.stack import promql as q

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from voicespan.stack.objectives import Prices

INTERVAL_S = 30
"""How often a group is evaluated, unless it says otherwise."""

# Records that panels and alerts read.
RESPONSE_P95 = "voice:response_seconds:p95"
RESPONSE_MEAN = "voice:response_seconds:avg"
LATENCY_TARGET = "voice:latency_target:ratio"
COMPONENT_ERRORS = "voice:component_errors:ratio"
STAGE_P90 = "voice:stage_duration_seconds:p90"
BOTTLENECK = "voice:bottleneck"
LLM_TOKENS = "voice:llm_tokens:rate"
TASK_PEAK = "voice:task_peak:max"
AVAILABILITY = "voice:availability:ratio30d"
TURN_SUCCESS = "voice:turn_success:ratio"
REDIS_ERRORS = "voice:redis_errors:ratio"
WORKER_UP = "voice:worker_up:max"
SERVICE_UP = "voice:service_up:max"
PRICE_OF_TOKEN = "voice:price:per_token"
PRICE_OF_CHARACTER = "voice:price:per_character"
CHARACTERS_OF_RANGE = "voice:text_range:characters"
TOKEN_COST = "voice:token_cost:rate"
CHARACTER_COST = "voice:character_cost:rate"

UNCOUNTED_REASONS = ("no_speech", "suppressed")
"""Reasons of a turn without reply at which nobody waited for one."""
SUCCESSFUL = ("completed", "interrupted")
"""Outcomes with which the user got what the agent had to say."""

_STAGE = (*q.SERVICE, q.SPAN_NAME, q.POINT)
_MODEL = q.label(n.GEN_AI_REQUEST_MODEL)
_VOICE = q.label(n.VOICE_TTS_VOICE_NAME)
_TOKEN_TYPE = q.label(n.GEN_AI_TOKEN_TYPE)
_DISCARDED = q.label(n.VOICE_GENERATION_DISCARDED)
_RANGE = q.label(n.VOICE_TEXT_CHARACTER_COUNT_RANGE)
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Record:
    """A series that is computed once for all who ask."""

    name: str
    expression: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Return it as Prometheus reads it."""
        rule: dict[str, Any] = {"record": self.name, "expr": self.expression}
        return rule | ({"labels": dict(self.labels)} if self.labels else {})


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that somebody is told of."""

    name: str
    expression: str
    wait: str
    severity: str
    summary: str
    description: str
    page: str
    """Its page in the runbooks; alerts of one page are one family, in which the critical one silences the others."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def data(self, runbooks: str) -> dict[str, Any]:
        """Return it as Prometheus reads it, with a link into the folder or site of the runbooks."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.wait,
            "labels": {"severity": self.severity, "family": self.page, **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": f"{runbooks}/{self.page}.md",
            },
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated together, in their order."""

    name: str
    rules: tuple[Record | Alert, ...]
    interval_s: int = INTERVAL_S


def file(groups: Iterable[Group], runbooks: str) -> dict[str, Any]:
    """Return a rule file as Prometheus reads it."""
    return {
        "groups": [
            {
                "name": group.name,
                "interval": f"{group.interval_s}s",
                "rules": [rule.data(runbooks) if isinstance(rule, Alert) else rule.data() for rule in group.rules],
            }
            for group in groups
        ]
    }


def recording() -> Group:
    """Return the series that are computed from spans and direct metrics."""
    response = [q.span(n.SPAN_RESPONSE)]
    silence = (*q.SERVICE, q.POINT)
    component = (*q.SERVICE, q.label(n.VOICE_COMPONENT))
    staged = [q.is_(n.VOICE_COMPONENT)]
    targets = q.series(n.METRIC_VOICE_SESSION_LATENCY_TARGET)
    ended = q.series(n.METRIC_VOICE_SESSION_ENDED)
    redis = q.series(n.METRIC_DB_CLIENT_OPERATION_DURATION, "_count")
    of_redis = q.is_(n.DB_SYSTEM_NAME, "redis")
    heartbeat, worker = q.series(n.METRIC_VOICE_SERVICE_UP), q.label(n.VOICE_WORKER_ID)
    of_worker = q.select(heartbeat, [q.is_(n.VOICE_WORKER_ID)])
    bottlenecks = q.total(q.rate(q.select(q.CALLS, response), "5m"), (*q.SERVICE, q.label(n.VOICE_TURN_BOTTLENECK)))
    asked = q.is_(n.VOICE_TURN_INITIATOR, "user"), q.not_(n.VOICE_TURN_NO_REPLY_REASON, *UNCOUNTED_REASONS)

    def rates(metric: str, by: Iterable[str], *matchers: str, window: str = "5m") -> str:
        return q.total(q.rate(q.select(metric, matchers), window), by)

    def share(metric: str, by: tuple[str, ...], part: str, *matchers: str, window: str = "5m") -> str:
        whole = rates(metric, by, *matchers, window=window)
        return q.ratio(rates(metric, by, *matchers, part, window=window), whole)

    failed_sessions = share(ended, q.SERVICE, q.is_(n.VOICE_SESSION_END_REASON, "error"), window="30d")
    return Group(
        "voicespan-recording",
        (
            Record(RESPONSE_P95, q.quantile(0.95, q.DURATION, response, silence, "5m")),
            Record(RESPONSE_MEAN, q.mean(q.DURATION, response, silence, "5m")),
            Record(LATENCY_TARGET, share(targets, q.SERVICE, q.is_(n.VOICE_LATENCY_TARGET_OUTCOME, "met"))),
            Record(COMPONENT_ERRORS, share(q.CALLS, component, q.FAILED, *staged)),
            Record(STAGE_P90, q.quantile(0.9, q.DURATION, (), _STAGE, "5m")),
            Record(BOTTLENECK, f"topk by ({', '.join(q.SERVICE)}) (1, {bottlenecks})"),
            Record(
                LLM_TOKENS,
                rates(
                    q.series(n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE, "_sum"),
                    (*q.SERVICE, _MODEL),
                    q.is_(n.GEN_AI_TOKEN_TYPE, "output"),
                ),
            ),
            Record(TASK_PEAK, f"max_over_time({q.series(n.METRIC_VOICE_TASK_PEAK)}[1h])"),
            Record(AVAILABILITY, f"1 - {failed_sessions}"),
            Record(
                TURN_SUCCESS,
                share(q.CALLS, q.SERVICE, q.is_(n.VOICE_TURN_OUTCOME, *SUCCESSFUL), q.span(n.SPAN_TURN), *asked),
            ),
            Record(REDIS_ERRORS, share(redis, q.SERVICE, q.is_(n.ERROR_TYPE), of_redis)),
            Record(WORKER_UP, f"max by ({', '.join((*q.SERVICE, worker))}) ({of_worker})"),
            Record(SERVICE_UP, f"max by ({', '.join(q.SERVICE)}) ({heartbeat})"),
        ),
    )


def cost(prices: Prices) -> Group:
    """Return what the answers cost per second, for the models and voices whose prices are known.

    The length of a text is a label only as a range; the cost of its synthesis takes the middle of the range.
    """
    constants = [
        Record(
            PRICE_OF_TOKEN,
            f"vector({price / _MILLION:.12g})",
            {_MODEL: model, _TOKEN_TYPE: kind, "currency": prices.currency},
        )
        for model, pair in prices.tokens.items()
        for kind, price in zip(("input", "output"), pair, strict=True)
    ]
    constants += [
        Record(PRICE_OF_CHARACTER, f"vector({price / _MILLION:.12g})", {_VOICE: voice, "currency": prices.currency})
        for voice, price in prices.characters.items()
    ]
    constants += [
        Record(CHARACTERS_OF_RANGE, f"vector({_middle(text_range):g})", {_RANGE: text_range})
        for text_range in n.CHARACTER_COUNT_RANGES
    ]
    tokens = q.total(
        q.rate(q.series(n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE, "_sum"), "5m"),
        (*q.SERVICE, _MODEL, _TOKEN_TYPE, _DISCARDED),
    )
    texts = q.total(q.rate(q.select(q.CALLS, [q.span(n.SPAN_TTS)]), "5m"), (*q.SERVICE, _VOICE, _RANGE))
    characters = q.total(f"{texts} * on ({_RANGE}) group_left () {CHARACTERS_OF_RANGE}", (*q.SERVICE, _VOICE))
    return Group(
        "voicespan-cost",
        (
            *constants,
            Record(TOKEN_COST, f"{tokens} * on ({_MODEL}, {_TOKEN_TYPE}) group_left (currency) {PRICE_OF_TOKEN}"),
            Record(CHARACTER_COST, f"{characters} * on ({_VOICE}) group_left (currency) {PRICE_OF_CHARACTER}"),
        ),
    )


def _middle(text_range: str) -> float:
    """Return the middle of a range such as `51-150`; of the open one, its beginning."""
    first, _, last = text_range.rstrip("+").partition("-")
    return (int(first) + int(last or first)) / 2
