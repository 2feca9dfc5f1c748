"""A dashboard: its variables, what they filter, and where its panels stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.stack import promql as q
from voicespan.stack.dashboards import panels as p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voicespan.stack.dashboards.panels import Panel

SCHEMA_VERSION = 37
"""That of Grafana 9.4: later ones bring it up to their own, earlier ones cannot read later ones."""
COLUMNS = 24
EVERY_TURN = q.select(q.CALLS, [q.span(n.SPAN_TURN)])

_LLM_SPANS = frozenset(
    {
        *(n.SPAN_LLM, n.SPAN_LLM_TTFT, n.SPAN_LLM_FIRST_SENTENCE, n.SPAN_REALTIME, n.SPAN_REALTIME_FIRST_AUDIO),
        *(n.SPAN_RESPONSE, n.SPAN_ANSWER, n.SPAN_UNANSWERED, n.SPAN_BARGE_IN),
    }
)
_TTS_SPANS = frozenset({n.SPAN_TTS, n.SPAN_TTS_FIRST_AUDIO, n.SPAN_TTS_INFERENCE})


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the head of a dashboard, of the values that a label has."""

    name: str
    title: str
    label: str
    source: str
    """The series whose values are offered."""
    attribute: str | None = None
    """The attribute that it filters by; None for what every series has."""
    spans: frozenset[str] | None = None
    """The spans whose attribute is meant; None for all that carry it."""

    @property
    def matcher(self) -> str:
        """Return what a query is filtered by."""
        return f'{self.label}=~"${self.name}"'

    def of_span(self, span_name: str) -> bool:
        """Whether such a span can be filtered by it."""
        if self.attribute is None:
            return True
        if self.spans is not None and span_name not in self.spans:
            return False
        return q.carries(span_name, self.attribute)

    def data(self) -> dict[str, Any]:
        """Return it as Grafana reads it."""
        definition = f"label_values({self.source}, {self.label})"
        return {
            "name": self.name,
            "label": self.title,
            "type": "query",
            "datasource": p.PROMETHEUS,
            "definition": definition,
            "query": {"query": definition, "refId": f"variable-{self.name}"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            # Series without the label are not left out.
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "options": [],
            "hide": 0,
            "regex": "",
            "skipUrlSync": False,
        }


def _of(name: str, title: str, attribute: str, *spans: str, only: frozenset[str] | None = None) -> Variable:
    chosen = [q.span(*spans), f'{q.JOB}=~"$job"']
    return Variable(name, title, q.label(attribute), q.select(q.CALLS, chosen), attribute, only)


JOB = Variable("job", "Service", q.JOB, q.CALLS)
ENVIRONMENT = Variable("environment", "Environment", q.ENVIRONMENT, q.CALLS)
INSTANCE = Variable(
    "instance", "Instance", q.INSTANCE, q.select(q.series(n.METRIC_PROCESS_MEMORY_USAGE), ['job=~"$job"'])
)
MODEL = _of("model", "Model", n.GEN_AI_REQUEST_MODEL, n.SPAN_LLM, n.SPAN_REALTIME, only=_LLM_SPANS)
ENGINE = _of("model", "Model", n.GEN_AI_REQUEST_MODEL, n.SPAN_TTS, only=_TTS_SPANS)
TRANSPORT = _of("transport", "Transport", n.VOICE_TRANSPORT, n.SPAN_TURN)
VOICE = _of("voice", "Voice", n.VOICE_TTS_VOICE_NAME, n.SPAN_TTS, n.SPAN_RESPONSE)
LANGUAGE = _of("language", "Language", n.VOICE_LANGUAGE, n.SPAN_TTS, n.SPAN_ASR)

_DATASOURCES = (("datasource", "Metrics", "prometheus"), ("tempo", "Traces", "tempo"))


class Filter:
    """Selectors that follow the choices of a dashboard."""

    def __init__(self, *variables: Variable) -> None:
        self.variables = (JOB, ENVIRONMENT, *variables)

    def span(self, name: str, *more: str) -> list[str]:
        """Return the matchers for the spans of a name."""
        return [q.span(name), *self._of(name), *more]

    def spans(self, *names: str) -> list[str]:
        """Return the matchers for spans of several names, by what all of them have."""
        common = [variable for variable in self.variables if all(variable.of_span(name) for name in names)]
        return [q.span(*names), *(variable.matcher for variable in common if variable.name != INSTANCE.name)]

    def any_span(self, *more: str) -> list[str]:
        """Return the matchers for spans of all names."""
        return [JOB.matcher, ENVIRONMENT.matcher, *more]

    def metric(self, name: str, *more: str, part: str = "") -> str:
        """Return a selector of a direct metric, with the suffix of a histogram's part."""
        return q.select(q.series(name) + part, [*self.direct(name), *more])

    def direct(self, name: str) -> list[str]:
        """Return the matchers for a direct metric."""
        carried = next(metric.attributes for metric in n.METRICS if metric.name == name)
        return [
            variable.matcher
            for variable in self.variables
            if variable.attribute is None or (variable.attribute in carried and variable.spans is None)
        ]

    def trace(self, span_name: str, condition: str = "") -> str:
        """Return the inside of a TraceQL selector for spans of the chosen services."""
        parts = [f'span:name = "{span_name}"', 'resource.service.name =~ "${service:pipe}"', condition]
        return " && ".join(part for part in parts if part)

    def _of(self, span_name: str) -> list[str]:
        return [
            variable.matcher
            for variable in self.variables
            if variable.name != INSTANCE.name and variable.of_span(span_name)
        ]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    about: str
    filter: Filter
    rows: Sequence[tuple[str, Sequence[Panel]]]
    refresh: str = "10s"
    since: str = "now-1h"
    choices: Sequence[dict[str, Any]] = ()
    """Variables of its own, as Grafana reads them."""

    def data(self) -> dict[str, Any]:
        """Return it as Grafana reads it."""
        placed = _place(self.rows)
        asked = str(placed)
        variables = [
            _datasource(*each) for each in _DATASOURCES if f"${{{each[0]}}}" in asked or each[0] == "datasource"
        ]
        variables += [variable.data() for variable in self.filter.variables]
        if "$point" in asked:
            variables.append(_point())
        if "${service:pipe}" in asked:
            variables.append(_service())
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["voicespan"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "liveNow": False,
            "refresh": self.refresh,
            "time": {"from": self.since, "to": "now"},
            "timepicker": {},
            "timezone": "",
            "weekStart": "",
            "links": [_link()],
            "annotations": {"list": [_deploys()]},
            "templating": {"list": [*variables, *self.choices]},
            "panels": placed,
        }


def custom(name: str, title: str, values: Sequence[str]) -> dict[str, Any]:
    """Return a variable with given values, the first of them chosen."""
    options = [{"selected": value == values[0], "text": value, "value": value} for value in values]
    return {
        "name": name,
        "label": title,
        "type": "custom",
        "query": ",".join(values),
        "options": options,
        "current": options[0],
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "skipUrlSync": False,
    }


def textbox(name: str, title: str) -> dict[str, Any]:
    """Return a variable that the reader, or a link, writes."""
    return {
        "name": name,
        "label": title,
        "type": "textbox",
        "query": "",
        "current": {"selected": True, "text": "", "value": ""},
        "options": [],
        "hide": 0,
        "skipUrlSync": False,
    }


def values_of(name: str, title: str, label: str, source: str) -> dict[str, Any]:
    """Return a variable of any of the values that a label of some series has."""
    return Variable(name, title, label, source).data()


def one_of(name: str, title: str, label: str, *, descending: bool) -> dict[str, Any]:
    """Return a variable of one of the values that a label of turns has; the first in this order is chosen."""
    variable = values_of(name, title, label, EVERY_TURN)
    variable.pop("allValue")
    return variable | {"multi": False, "includeAll": False, "current": {}, "sort": 2 if descending else 1}


def _place(rows: Sequence[tuple[str, Sequence[Panel]]]) -> list[Panel]:
    placed: list[Panel] = []
    y = 0
    for title, panels in rows:
        placed.append(_at(p.row(title), 0, y, len(placed)))
        y += 1
        x = highest = 0
        for panel in panels:
            width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
            if x + width > COLUMNS:
                x, y, highest = 0, y + highest, 0
            placed.append(_at(panel, x, y, len(placed)))
            x, highest = x + width, max(highest, height)
        y += highest
    return placed


def _at(panel: Panel, x: int, y: int, number: int) -> Panel:
    return {"id": number + 1, **panel, "gridPos": panel["gridPos"] | {"x": x, "y": y}}


def _datasource(name: str, title: str, kind: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": title,
        "type": "datasource",
        "query": kind,
        "current": {},
        "options": [],
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "skipUrlSync": False,
    }


def _service() -> dict[str, Any]:
    """Traces know the service by its name alone: this follows the choice of `job`, and nobody needs to see it."""
    series = q.select(q.CALLS, [JOB.matcher])
    variable = values_of("service", "Service in traces", q.label(n.SERVICE_NAME), series)
    variable.pop("allValue")
    return variable | {"hide": 2}


def _point() -> dict[str, Any]:
    """One place where the silence was measured, since two do not compare: the ear, if any client reports it."""
    source = q.select(q.CALLS, [q.span(n.SPAN_RESPONSE), JOB.matcher])
    variable = values_of("point", "Measured at", q.POINT, source)
    variable.pop("allValue")
    return variable | {"multi": False, "includeAll": False, "current": {}, "sort": 1}


def _link() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "title": "voicespan",
        "tags": ["voicespan"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }


def _deploys() -> dict[str, Any]:
    """A version of a service that was not there in the hour before; a restart or a quiet minute is no deploy."""
    by = f"group by ({q.JOB}, {q.label(n.SERVICE_VERSION)})"
    turns = q.select(q.CALLS, [q.span(n.SPAN_TURN), JOB.matcher])
    return {
        "name": "Deploys",
        "datasource": p.PROMETHEUS,
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        # Not a sum: Grafana marks nothing where the value is 0, as the first ones of a counter are.
        "expr": f"{by} ({turns}) unless {by} (max_over_time({turns}[1h] offset 1m))",
        "step": "60s",
        "titleFormat": "Deploy",
        "textFormat": f"{{{{{q.JOB}}}}} {{{{{q.label(n.SERVICE_VERSION)}}}}}",
        "tagKeys": q.label(n.SERVICE_VERSION),
        "useValueForTime": False,
    }
