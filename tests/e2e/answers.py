"""What queries ask for, part by part, and what of it is silent for a reason.

A query may have an answer though half of it asks for nothing: an alternative (`or`) stands in. So each selector of
series in it is asked for alone, and each label that it groups by must be on one of these series.
"""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tests.stack import queries

from .stack import get

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .stack import Prometheus

LOAD, DEMO = "load", "demo"
SERIES, LABEL, QUERY, SEARCH = "series", "label", "query", "search"
"""A selector, a label of what a query groups, a query to Prometheus as it stands, one to Tempo."""

NO_SAMPLING = "without the sampling overlay nothing is decided on"
NOT_BROKEN = "the pipeline was well all the time"
NOBODY_GONE = "nobody went away"
NO_LOGS = "the demo sends no logs"
NO_GPU = "this machine has none"
NO_REALTIME = "its models are a recognizer, a language model and a voice"
NO_HTTP = "its worker speaks gRPC"
MACHINE = "it depends on how fast the machine is"
"""The only reason for what is silent on one machine, and not on another."""

SILENT: dict[str, dict[tuple[str, str], str]] = {
    LOAD: {
        (SERIES, "otelcol_processor_tail_sampling_"): NO_SAMPLING,
        (SERIES, "otelcol_exporter_send_failed_"): NOT_BROKEN,
        (SERIES, "otelcol_exporter_enqueue_failed_"): NOT_BROKEN,
        (SERIES, 'otel_metric_overflow="true"'): NOT_BROKEN,
        (SERIES, 'job="tts-workers"'): "nobody is scraped but the Collector",
        (QUERY, "SpanMetricsMissing"): MACHINE,  # the first flush may come after a scrape: it is for 10 minutes
        (QUERY, "CollectorDown"): NOBODY_GONE,
        (LABEL, "voice_measurement_point of asr.finalize"): "stages are grouped as the silence is",
        (LABEL, "voice_measurement_point of llm.ttft"): "stages are grouped as the silence is",
    },
}
SILENT[DEMO] = SILENT[LOAD] | {
    (SERIES, "_log_records"): NO_LOGS,
    (SERIES, '"hw_'): NO_GPU,
    (SERIES, 'span_name="realtime.first_audio"'): NO_REALTIME,
    (SERIES, 'voice_measurement_point="server"'): "its caller reports what is heard",
    (SERIES, 'http_route="/tts"'): NO_HTTP,
    (SERIES, 'voice_latency_target_outcome="met"'): "its slow scenarios take the only call over the target",
    (SERIES, 'voice_generation_discarded="true"'): "it generates nothing before the caller has ended",
    (SERIES, 'db_system_name="redis", error_type!=""'): "its Redis answers",
    (SERIES, '"ALERTS"'): MACHINE,
    (QUERY, "ServiceDown"): MACHINE,
    (LABEL, "voice_generation_discarded"): "it generates nothing before the caller has ended",
    (SEARCH, "share.realtime"): NO_REALTIME,
    (SEARCH, "share.tool"): "a filler is heard before its tool has ended",
    (SEARCH, "share.asr"): MACHINE,
    (SEARCH, '"/tts"'): NO_HTTP,
    (SEARCH, "runbook high-barge-in-latency"): MACHINE,
    (SEARCH, "runbook llm-ttft"): MACHINE,
    (SEARCH, "runbook stt-latency"): MACHINE,
}


@dataclass(frozen=True)
class Answers:
    """What a Prometheus answers to the queries that are shipped, over the time since a load began."""

    prometheus: Prometheus
    began_s: float
    values: Mapping[str, str]
    """What stands for the variables of dashboards."""
    _labels: dict[str, frozenset[str]] = field(default_factory=dict, init=False)

    def series(self, promql: str) -> list[dict[str, Any]]:
        """The series that a query gives at any time since the beginning, as a panel asks."""
        return list(self._api("query_range", query=promql, start=self.began_s, end=time.time(), step=5)["result"])

    def labels(self, selector: str) -> frozenset[str]:
        """The labels of all series of a selector; none where there are no such series."""
        if not self._labels.get(selector):
            found = self._api("series", **{"match[]": selector}, start=self.began_s, end=time.time())
            self._labels[selector] = frozenset(name for each in found for name, value in each.items() if value)
        return self._labels[selector]

    def tree(self, promql: str) -> Any:
        """A query as Prometheus reads it."""
        return self._api("parse_query", query=promql)

    def _api(self, name: str, **parameters: object) -> Any:
        return json.loads(get(f"{self.prometheus.url}/api/v1/{name}?{urllib.parse.urlencode(parameters)}"))["data"]

    @cached_property
    def things(self) -> list[Thing]:
        """All that is asked for, each once."""
        found: dict[Thing, None] = {}
        for query in queries.asked():
            expression = queries.substituted(query.expression, **self.values)
            tree = self.tree(expression)
            selectors = tuple(dict.fromkeys(selectors_of(tree)))
            found |= dict.fromkeys(Thing(SERIES, each, each, (each,)) for each in selectors)
            found |= dict.fromkeys(labels_of(tree))
            found[Thing(QUERY, query.where, relaxed(expression) if query.alert else expression, selectors)] = None
        return list(found)

    def given(self, thing: Thing) -> bool:
        """Whether there is such a thing."""
        if thing.kind == QUERY:
            return bool(self.series(thing.asked))
        if thing.kind == SERIES:
            return bool(self.labels(thing.asked))
        return any(thing.asked in self.labels(selector) for selector in thing.selectors)

    def missing(self, silent: Iterable[tuple[str, str]], timeout_s: float = 60) -> list[Thing]:
        """What is asked for in vain and not listed; what is on its way is waited for."""
        listed = tuple(silent)
        left = [thing for thing in self.things if not thing.excused(listed)]
        deadline = time.monotonic() + timeout_s
        while (left := [thing for thing in left if not self.given(thing)]) and time.monotonic() < deadline:
            self._labels.clear()
            time.sleep(1)
        # A label of series that are not there is no news.
        return [thing for thing in left if thing.kind != LABEL or any(map(self.labels, thing.selectors))]

    def stale(self, silent: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
        """What is listed as silent, but is not asked for or has an answer."""
        found = []
        for (kind, part), reason in silent.items():
            if kind == SEARCH or reason == MACHINE:
                continue
            meant = [thing for thing in self.things if thing.kind == kind and part in thing.place]
            if not meant or any(self.given(thing) for thing in meant):
                found.append((kind, part))
        return found


@dataclass(frozen=True)
class Thing:
    """Something that a query asks for."""

    kind: str
    place: str
    """What a person knows it by, and exceptions name."""
    asked: str
    """A query, a selector or a label."""
    selectors: tuple[str, ...]
    """The series that it is about."""

    def excused(self, listed: Iterable[tuple[str, str]]) -> bool:
        """Whether it is listed, or about series that are."""
        about = {SERIES: self.selectors, self.kind: (self.place,)}
        return any(part in each for kind, part in listed for each in about.get(kind, ()))


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All parts of a query."""
    if isinstance(tree, list):
        for each in tree:
            yield from nodes(each)
    elif isinstance(tree, dict):
        if "type" in tree:
            yield tree
        for each in tree.values():
            yield from nodes(each)


def selectors_of(tree: Any) -> Iterator[str]:
    """The selectors of a query, without their windows."""
    for node in nodes(tree):
        if node["type"] in {"vectorSelector", "matrixSelector"}:
            matchers = (f"{each['name']}{each['type']}{json.dumps(each['value'])}" for each in node["matchers"])
            yield "{" + ", ".join(matchers) + "}"


def labels_of(tree: Any) -> Iterator[Thing]:
    """The labels that a query groups by, but for those that it makes itself."""
    for node in nodes(tree):
        if node["type"] != "aggregation" or node["without"]:
            continue
        calls = [each for each in nodes(node["expr"]) if each["type"] == "call"]
        made = {each["args"][1]["val"] for each in calls if each["func"]["name"].startswith("label_")}
        about = tuple(dict.fromkeys(selectors_of(node["expr"])))
        spans = [name for each in about for name in re.findall(r'span_name=~?"([^"]*)"', each)]
        for label in node["grouping"]:
            if label not in made:
                yield Thing(LABEL, f"{label} of {' '.join(spans) or ' '.join(about)}", label, about)


def relaxed(expression: str) -> str:
    """Return an alert's expression with limits that everything exceeds: it must have something to compare."""
    return re.sub(r"(>=?) [\d.]+(?=[\s)]|$)", r">= -1e9", expression)
