"""Series as promtool's unit tests take them: what the Collector would show of scripted events."""

from __future__ import annotations

from typing import Any

from voicespan import names as n
from voicespan.stack import promql as q

SERVICE = {"job": "voice-agent", "deployment_environment_name": "production"}
MINUTES = 60
"""How long scripted series go on, unless told otherwise."""

Series = dict[str, str]


def series(metric: str, values: str, /, **labels: str) -> Series:
    """One series; `values` are in promtool's notation, one for each minute."""
    inner = ", ".join(f'{name}="{value}"' for name, value in (SERVICE | labels).items())
    return {f"{metric}{{{inner}}}": values}


def counter(metric: str, per_minute: float, minutes: int = MINUTES, /, **labels: str) -> Series:
    """A counter that grows evenly."""
    return series(metric, f"0+{per_minute:g}x{minutes}", **labels)


def gauge(metric: str, value: float, minutes: int = MINUTES, /, **labels: str) -> Series:
    """A gauge that stays."""
    return series(metric, f"{value:g}x{minutes}", **labels)


def histogram(
    metric: str, bounds: tuple[float, ...], value: float, per_minute: float, minutes: int = MINUTES, /, **labels: str
) -> Series:
    """A histogram in which the same value comes again and again."""
    found: Series = {}
    for bound in bounds:
        grows = per_minute if value <= bound else 0
        le = f"{bound:.1f}" if bound == int(bound) else f"{bound:g}"
        found |= counter(f"{metric}_bucket", grows, minutes, le=le, **labels)
    found |= counter(f"{metric}_bucket", per_minute, minutes, le="+Inf", **labels)
    found |= counter(f"{metric}_count", per_minute, minutes, **labels)
    return found | counter(f"{metric}_sum", per_minute * value, minutes, **labels)


def spans(name: str, duration_s: float, per_minute: float, minutes: int = MINUTES, /, **labels: str) -> Series:
    """What the Collector makes of spans of one length."""
    labels = {"span_name": name, "status_code": "STATUS_CODE_UNSET", "collector_instance_id": "gateway-0"} | labels
    timed = histogram(q.DURATION, n.BOUNDARIES_S, duration_s, per_minute, minutes, **labels)
    return timed | counter(q.CALLS, per_minute, minutes, **labels)


def failed(name: str, duration_s: float, per_minute: float, /, **labels: str) -> Series:
    """The same of spans that failed."""
    return spans(name, duration_s, per_minute, MINUTES, status_code="STATUS_CODE_ERROR", **labels)


def case(given: Series, expression: str, value: float | None, at: str = "30m", **labels: str) -> dict[str, Any]:
    """A unit test: at that time the expression has this value, or none."""
    expected = [] if value is None else [{"labels": _labels(labels), "value": value}]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": at, "exp_samples": expected}],
    }


def _labels(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
