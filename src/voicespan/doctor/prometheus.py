"""Whether Prometheus has what dashboards and alerts are made of: targets, series, exemplars, rules."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.diagnostics import number
from voicespan.doctor.ask import Program, Unanswered, within
from voicespan.doctor.check import Check
from voicespan.doctor.start import SERVICE
from voicespan.stack import alerts
from voicespan.stack import promql as q
from voicespan.stack.files import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS = f'{q.JOB}=~"(.*/)?{SERVICE}"'
_TURNS = f"sum({q.select(q.CALLS, [q.span(n.SPAN_TURN), _OURS])})"
_RESPONSE = q.select(f"{q.DURATION}_bucket", [q.span(n.SPAN_RESPONSE), _OURS])
_RULE_FILES = ("recording.yml", "alerts.yml", "pipeline.yml")
_RULE = re.compile(r"^\s*-? (?:alert|record): (\S+)", re.MULTILINE)
_HOUR_S = 3600
_SHOWN = 3
_FIRST_SCRAPE_S = 15.0
"""A Prometheus that has just started knows of no target yet."""
_DROPPED = q.select(q.series(n.METRIC_OTEL_SDK_PROCESSOR_SPAN_PROCESSED), [q.is_(n.ERROR_TYPE)])
_LOST = tuple(
    alerts.collected(f"{metric}_spans")
    for metric in (alerts.RECEIVER_REFUSED, alerts.RECEIVER_FAILED, alerts.EXPORTER_NOT_QUEUED)
)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus, or who speaks its API."""

    program: Program

    def before(self) -> float:
        """Return how many test turns it knows of; 0 where it does not answer."""
        try:
            return self._value(_TURNS)
        except Unanswered:
            return 0.0

    def examine(self, trace_id: str | None, before: float, wait_s: float) -> Iterator[Check]:
        """Yield what it has; the test turn is `trace_id`, of which `before` were known already."""
        try:
            answer = self.program.ask("/api/v1/query", parameters={"query": "1"})
        except Unanswered as error:
            yield self._fail(f"nobody answers at {self.program.shown}: {error}", "is this the address of Prometheus?")
            return
        if not answer.ok:
            yield self._fail(
                f"{self.program.shown} answers {answer.status}",
                "give the base of its API, and what it asks for with --header NAME=VALUE",
            )
            return
        for part in (
            self._targets(wait_s),
            self._storage(),
            self._series(trace_id, before, wait_s),
            self._rules(),
            self._alertmanagers(),
            self._lost(),
        ):
            try:
                yield from part
            except (Unanswered, KeyError, TypeError, ValueError) as error:
                yield self._fail(
                    f"{self.program.shown} gave no answer that can be read: {error!r}",
                    "is this the address of Prometheus?",
                )

    def _fail(self, message: str, remedy: str) -> Check:
        return Check("prometheus", "fail", message, remedy)

    def _data(self, path: str, **parameters: str) -> Any:
        """Return what is asked for; None where this program does not have it, as others that speak its API."""
        told = self.program.ask(f"/api/v1/{path}", parameters=parameters).json()
        return told.get("data") if isinstance(told, dict) else None

    def _value(self, promql: str) -> float:
        data = self._data("query", query=promql)
        return float(data["result"][0]["value"][1]) if data and data["result"] else 0.0

    def _targets(self, wait_s: float) -> Iterator[Check]:
        targets: list[dict[str, Any]] = []

        def scraped() -> bool:
            data = self._data("targets", state="active")
            targets[:] = data["activeTargets"] if data else []
            return data is None or (bool(targets) and all(each["health"] != "unknown" for each in targets))

        known = within(min(wait_s, _FIRST_SCRAPE_S), scraped)
        if known and not targets:
            return  # others that speak its API have none
        down = [each for each in targets if each["health"] == "down"]
        for each in down:
            yield Check(
                "targets",
                "fail",
                f"{each['labels'].get('job')} at {each['scrapeUrl']}: {each['lastError']}",
                "start it, or mend its address in prometheus.yml or scrape.d/",
            )
        if not targets:
            yield Check(
                "targets", "fail", "Prometheus scrapes nothing", "start it with deploy/prometheus/prometheus.yml"
            )
        elif not down:
            yield Check("targets", "ok", f"{number(len(targets), 'target')}, none of them down")

    def _storage(self) -> Iterator[Check]:
        data = self._data("status/flags")
        if data is not None and "exemplar-storage" not in data.get("enable-feature", ""):
            yield Check(
                "exemplars",
                "fail",
                "Prometheus keeps none: no dot opens a turn",
                "start it with --enable-feature=exemplar-storage",
            )

    def _series(self, trace_id: str | None, before: float, wait_s: float) -> Iterator[Check]:
        if trace_id is None:
            return
        if not within(wait_s, lambda: self._value(_TURNS) > before):
            yield Check(
                "series",
                "fail",
                f"no span-derived series of the test turn after {wait_s:g} s ({q.CALLS})",
                "the Collector needs its span_metrics connector and Prometheus a scrape of its port 8889: "
                "deploy/otel-collector.yaml, deploy/prometheus/prometheus.yml",
            )
            return
        yield Check("series", "ok", "the test turn is counted")
        data = self._data("status/flags")
        if data is not None and "exemplar-storage" not in data.get("enable-feature", ""):
            return  # said already
        if within(wait_s, lambda: trace_id in self._exemplars()):
            yield Check("exemplars", "ok", "the test turn's dot leads to its trace")
        else:
            yield Check(
                "exemplars",
                "fail",
                f"no exemplar of the test turn after {wait_s:g} s",
                "the Collector's span_metrics need exemplars, its prometheus exporter enable_open_metrics, and "
                "a scrape not rarer than the flush",
            )

    def _exemplars(self) -> set[str]:
        now_s = time.time()
        found = self._data("query_exemplars", query=_RESPONSE, start=str(now_s - _HOUR_S), end=str(now_s + _HOUR_S))
        return {each["labels"].get("trace_id", "") for series in found or () for each in series["exemplars"]}

    def _rules(self) -> Iterator[Check]:
        data = self._data("rules")
        if data is None:
            return
        rules = [rule for group in data["groups"] for rule in group["rules"]]
        for rule in (each for each in rules if each.get("health") == "err"):
            yield Check(
                "rules", "fail", f"{rule['name']}: {rule.get('lastError', '')}", "`voicespan slo` writes the rules anew"
            )
        loaded = {rule["name"] for rule in rules}
        missing = sorted(_expected() - loaded)
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            yield Check(
                "rules",
                "fail",
                f"not loaded: {', '.join(missing[:_SHOWN])}{more}",
                "deploy/prometheus/rules/*.yml belong under rule_files; then reload Prometheus",
            )
        else:
            yield Check("rules", "ok", f"{number(len(loaded), 'rule')} loaded")

    def _alertmanagers(self) -> Iterator[Check]:
        data = self._data("alertmanagers")
        if data is None:
            return
        found = [each["url"] for each in data["activeAlertmanagers"]]
        if found:
            yield Check("alertmanager", "ok", f"alerts go to {', '.join(found)}")
        else:
            yield Check(
                "alertmanager",
                "warn",
                "no Alertmanager gets the alerts",
                "alerting.alertmanagers in prometheus.yml; deploy/alertmanager/alertmanager.yml",
            )

    def _lost(self) -> Iterator[Check]:
        found = [
            Check("dropped", "warn", words.format(count), remedy)
            for selectors, words, remedy in (
                ((_DROPPED,), "services dropped {} spans in an hour", "docs/runbooks/service-drops-spans.md"),
                (_LOST, "the Collector refused or lost {} spans in an hour", "docs/runbooks/README.md"),
            )
            if (count := round(sum(self._value(f"sum(increase({selector}[1h]))") for selector in selectors)))
        ]
        yield from found
        if not found:
            yield Check("dropped", "ok", "no span was refused or dropped in the last hour, as far as Prometheus knows")


def _expected() -> set[str]:
    """Return the names of the rules that every installation has."""
    folder = deploy() / "prometheus" / "rules"
    return {name for file in _RULE_FILES for name in _RULE.findall((folder / file).read_text(encoding="utf-8"))}
