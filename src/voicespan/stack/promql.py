"""PromQL in the words of `names.py`: metrics, labels and the few shapes of query that rules and panels are made of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from voicespan import names as n

if TYPE_CHECKING:
    from collections.abc import Iterable

# What the Collector makes of every span.
DURATION = "traces_span_metrics_duration_seconds"
CALLS = "traces_span_metrics_calls_total"

# Labels that are no attribute of ours.
JOB = "job"
"""The service: namespace and name, on span-derived and direct metrics alike."""
INSTANCE = "instance"
SPAN_NAME = "span_name"
STATUS_CODE = "status_code"
SPAN_KIND = "span_kind"
FAILED = 'status_code="STATUS_CODE_ERROR"'
SERVED = 'span_kind="SPAN_KIND_SERVER"'

_METRICS = {metric.name: metric for metric in n.METRICS}
_SPANS = {span.name: span for span in n.SPANS}


def label(attribute: str) -> str:
    """The label that an attribute becomes in Prometheus."""
    return attribute.replace(".", "_")


ENVIRONMENT = label(n.DEPLOYMENT_ENVIRONMENT_NAME)
POINT = label(n.VOICE_MEASUREMENT_POINT)
SERVICE = (JOB, ENVIRONMENT)
"""What tells one service from another; every alert and every objective is per service."""


def is_(attribute: str, *values: str) -> str:
    """A matcher for one of the values; without a value, for any that is not empty."""
    if not values:
        return f'{label(attribute)}!=""'
    return _match(attribute, values, "=", "=~")


def not_(attribute: str, *values: str) -> str:
    """A matcher for everything but the values."""
    return _match(attribute, values, "!=", "!~")


def _match(attribute: str, values: tuple[str, ...], one: str, many: str) -> str:
    if len(values) == 1:
        return f'{label(attribute)}{one}"{values[0]}"'
    # RE2 is anchored in matchers; names have dots, and a backslash is written twice inside double quotes.
    pattern = "|".join(re.escape(value).replace("\\-", "-").replace("\\", "\\\\") for value in values)
    return f'{label(attribute)}{many}"{pattern}"'


def span(*span_names: str) -> str:
    """A matcher for spans; one that has its tool's name behind it is matched by its beginning."""
    if span_names == (n.SPAN_EXECUTE_TOOL,):
        return f'{SPAN_NAME}=~"{n.SPAN_EXECUTE_TOOL} .*"'
    return is_(SPAN_NAME, *span_names)


def carries(span_name: str, attribute: str) -> bool:
    """Whether a span may carry an attribute, and the Collector makes a label of it."""
    listed = next((found for name, found in _SPANS.items() if name.split(" {")[0] == span_name), None)
    return attribute in n.DIMENSIONS and listed is not None and attribute in listed.attributes


def within(seconds: float) -> str:
    """A matcher for the bucket that ends there.

    A scrape writes the bound of whole seconds as "5.0", remote write as "5".
    """
    if seconds == int(seconds):
        return f'le=~"{int(seconds)}(\\\\.0)?"'
    return f'le="{seconds:g}"'


def select(metric: str, matchers: Iterable[str] = ()) -> str:
    """A selector of series."""
    inner = ", ".join(matchers)
    return f"{metric}{{{inner}}}" if inner else metric


def series(name: str, suffix: str = "") -> str:
    """The Prometheus name of a metric of `names.py`, with the suffix of a histogram's part."""
    return _METRICS[name].prometheus + suffix


def boundaries(name: str) -> tuple[float, ...]:
    """The bucket boundaries of a span's duration or of a histogram; none for any other metric."""
    return _METRICS[name].boundaries if name in _METRICS else n.BOUNDARIES_S


def rate(selector: str, window: str) -> str:
    """Events per second."""
    return f"rate({selector}[{window}])"


def increase(selector: str, window: str) -> str:
    """Events."""
    return f"increase({selector}[{window}])"


def total(expression: str, by: Iterable[str]) -> str:
    """The sum for each combination of some labels; also over the Collectors, whose id is never one of them."""
    return f"sum by ({', '.join(by)}) ({expression})"


def quantile(share: float, metric: str, matchers: Iterable[str], by: Iterable[str], window: str) -> str:
    """A quantile of a histogram for each combination of some labels."""
    buckets = rate(select(f"{metric}_bucket", matchers), window)
    return f"histogram_quantile({share:g}, {total(buckets, ('le', *by))})"


def mean(metric: str, matchers: Iterable[str], by: Iterable[str], window: str) -> str:
    """The mean of a histogram for each combination of some labels."""
    matchers, by = tuple(matchers), tuple(by)
    sums, counts = (rate(select(metric + part, matchers), window) for part in ("_sum", "_count"))
    return f"{total(sums, by)} / {total(counts, by)}"


def ratio(part: str, whole: str) -> str:
    """A share that is 0 where the part has no series yet, and not there where nothing happened."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"
