"""Panels as Grafana reads them: the classic schema, which every Grafana from 9.4 on shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan.stack import promql as q

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Panel = dict[str, Any]
Target = dict[str, Any]

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
TEMPO = {"type": "tempo", "uid": "${tempo}"}

RATE = "$__rate_interval"
"""The window of a rate on a panel: follows zoom and scrape interval."""

EXEMPLARS = " Each dot is a turn: click it to open its trace."
"""What a panel with exemplars says of them."""

PROCESS = (q.JOB, q.INSTANCE)
"""The labels that tell one process from another; the second one alone is often no more than a long id."""

_SHORT_IDS = {
    "id": "renameByRegex",
    "options": {"regex": "([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "renamePattern": "$1"},
}
"""The first eight characters of an id tell processes apart; all 36 would leave room for three names in a legend."""

_COLOURS = {"p50": "green", "p90": "yellow", "p95": "orange", "p99": "red"}


def query(
    expression: str, legend: str = "", *, exemplar: bool = False, instant: bool = False, form: str = "time_series"
) -> Target:
    """Ask Prometheus."""
    target: Target = {
        "datasource": PROMETHEUS,
        "expr": expression,
        "legendFormat": legend or "__auto",
        "range": not instant,
        "instant": instant,
        "format": form,
        "editorMode": "code",
    }
    return target | ({"exemplar": True} if exemplar else {})


def traces(selector: str, limit: int = 20) -> Target:
    """Ask Tempo for the traces that hold such spans."""
    return {
        "datasource": TEMPO,
        "queryType": "traceql",
        "query": selector,
        "limit": limit,
        "tableType": "traces",
        "filters": [],
    }


def trace_metric(expression: str) -> Target:
    """Ask Tempo for a number over the spans themselves (Grafana 11 and later)."""
    return {
        "datasource": TEMPO,
        "queryType": "traceql",
        "metricsQueryType": "range",
        "query": expression,
        "filters": [],
    }


def percentiles(
    metric: str, matchers: Iterable[str], shares: Sequence[float] = (0.5, 0.95, 0.99), by: Sequence[str] = ()
) -> list[Target]:
    """Ask for quantiles of a histogram; the exemplars come with the highest one."""
    matchers = tuple(matchers)
    return [
        query(
            q.quantile(share, metric, matchers, by, RATE),
            f"p{share * 100:g} {legend(*by)}".strip(),
            exemplar=share == max(shares),
        )
        for share in shares
    ]


def _panel(kind: str, title: str, description: str, targets: Sequence[Target], width: int, height: int) -> Panel:
    numbered = [{"refId": _ref(number), **target} for number, target in enumerate(targets)]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": targets[0]["datasource"],
        "gridPos": {"w": width, "h": height, "x": 0, "y": 0},
        "targets": numbered,
        "transformations": [],
    }


def _ref(number: int) -> str:
    return chr(ord("A") + number)


def _steps(*limits: tuple[str, float | None]) -> dict[str, Any]:
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for colour, value in limits]}


def _field(unit: str, **more: Any) -> dict[str, Any]:
    defaults = {"unit": unit, "mappings": [], "thresholds": _steps(("green", None)), **more}
    return {"defaults": defaults, "overrides": []}


def _coloured(name: str, colour: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def timeseries(
    title: str,
    description: str,
    targets: Sequence[Target],
    unit: str,
    *,
    line: float | None = None,
    stacked: bool = False,
    most: float | None = None,
    width: int = 8,
    height: int = 8,
) -> Panel:
    """Return a panel of lines; `line` is drawn across it as a limit."""
    panel = _panel("timeseries", title, description, targets, width, height)
    legends = [target.get("legendFormat", "") for target in targets]
    if any(legend(q.INSTANCE) in each for each in legends):
        panel["transformations"] = [_SHORT_IDS]
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 0,
        "gradientMode": "none",
        "showPoints": "auto",
        "pointSize": 4,
        "spanNulls": 120_000,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "axisPlacement": "auto",
        "axisLabel": "",
        "scaleDistribution": {"type": "linear"},
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
        "thresholdsStyle": {"mode": "off" if line is None else "line"},
    }
    limits = {} if line is None else {"thresholds": _steps(("transparent", None), ("red", line))}
    highest = {} if most is None else {"max": most}
    field = _field(unit, min=0, color={"mode": "palette-classic"}, custom=custom, **limits, **highest)
    field["overrides"] = [_coloured(each, _COLOURS[each]) for each in legends if each in _COLOURS]
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel | {"fieldConfig": field, "options": options}


def legend(*labels: str) -> str:
    """Return a legend of the values of some labels."""
    return " ".join(f"{{{{{each}}}}}" for each in labels)


def lines(
    title: str, description: str, expression: str, unit: str, *, by: Sequence[str] = (), name: str = "", **style: Any
) -> Panel:
    """Return a panel of the lines of one query, called by the values of their labels, or by a name."""
    return timeseries(title, description, [query(expression, name or legend(*by))], unit, **style)


def trace_lines(title: str, description: str, named: dict[str, str], unit: str, **style: Any) -> Panel:
    """Return a panel of numbers over the spans themselves, by their names; without a name each series says its own."""
    panel = timeseries(title, description, [trace_metric(expression) for expression in named.values()], unit, **style)
    panel["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byFrameRefID", "options": _ref(number)},
            "properties": [{"id": "displayName", "value": name}],
        }
        for number, name in enumerate(named)
        if name
    ]
    return panel


def heatmap(
    title: str,
    description: str,
    metric: str,
    matchers: Iterable[str],
    unit: str = "s",
    *,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """Return the distribution of a histogram over time, with its exemplars."""
    buckets = q.total(q.increase(q.select(f"{metric}_bucket", matchers), RATE), ("le",))
    target = query(buckets, "{{le}}", exemplar=True, form="heatmap")
    panel = _panel("heatmap", title, description + EXEMPLARS, [target], width, height)
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Spectral",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
            "fill": "red",
        },
        # White dots would not be seen in the light theme.
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"show": True, "mode": "single", "yHistogram": True, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "unit": unit, "reverse": False},
    }
    custom = {"hideFrom": {"legend": False, "tooltip": False, "viz": False}, "scaleDistribution": {"type": "linear"}}
    return panel | {"fieldConfig": _field(unit, custom=custom), "options": options}


def stat(
    title: str,
    description: str,
    expression: str,
    unit: str,
    *,
    limits: Sequence[tuple[str, float | None]] = (("text", None),),
    legend: str = "",
    names_only: bool = False,
    width: int = 4,
    height: int = 4,
) -> Panel:
    """Return one number, or one for each series; or only what the series is called."""
    panel = _panel("stat", title, description, [query(expression, legend, instant=names_only)], width, height)
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "auto",
        # Of one series alone Grafana would not say the name: whose number it is, in which currency.
        "textMode": "name" if names_only else "value_and_name" if legend else "auto",
        "colorMode": "value",
        "graphMode": "none" if names_only else "area",
        "justifyMode": "auto",
    }
    return panel | {"fieldConfig": _field(unit, thresholds=_steps(*limits)), "options": options}


def gauge(
    title: str,
    description: str,
    expression: str,
    unit: str,
    limits: Sequence[tuple[str, float | None]],
    *,
    most: float | None = None,
    width: int = 6,
    height: int = 8,
) -> Panel:
    """Return a number on a dial."""
    panel = _panel("gauge", title, description, [query(expression)], width, height)
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "auto",
        "showThresholdLabels": False,
        "showThresholdMarkers": True,
    }
    highest = {} if most is None else {"max": most}
    return panel | {"fieldConfig": _field(unit, min=0, thresholds=_steps(*limits), **highest), "options": options}


def bars(
    title: str, description: str, expression: str, legend: str, unit: str, *, width: int = 8, height: int = 8
) -> Panel:
    """Return the values of now, one bar for each series."""
    panel = _panel("bargauge", title, description, [query(expression, legend, instant=True)], width, height)
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal",
        "displayMode": "gradient",
        "showUnfilled": True,
        "minVizWidth": 0,
        "minVizHeight": 10,
    }
    field = _field(unit, min=0, color={"mode": "continuous-GrYlRd"})
    return panel | {"fieldConfig": field, "options": options}


def table(
    title: str,
    description: str,
    columns: Sequence[tuple[str, str, str]],
    *,
    hidden: Sequence[str] = (),
    names: dict[str, str] | None = None,
    order: int = 0,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """Return the values of now, one row for each combination of labels.

    A column is its title, query and unit; the table is sorted by the column `order`, the largest value first.
    """
    targets = [query(expression, instant=True, form="table") for _, expression, _ in columns]
    panel = _panel("table", title, description, targets, width, height)
    titles = [column for column, _, _ in columns]
    # A column is called after its query, but when only one query has an answer it is called Value.
    rename = {f"Value #{_ref(number)}": column for number, column in enumerate(titles)}
    rename |= {"Value": titles[0]} | (names or {})
    excluded = dict.fromkeys(("Time", *hidden), True)
    panel["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": excluded, "indexByName": {}, "renameByName": rename}},
        {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": titles[order], "desc": True}]}},
    ]
    custom = {"align": "auto", "displayMode": "auto", "filterable": True, "inspect": False, "minWidth": 90}
    field = _field("none", custom=custom)
    field["overrides"] = [
        {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "unit", "value": unit}]}
        for column, _, unit in columns
    ]
    return panel | {"fieldConfig": field, "options": {"showHeader": True}}


def trace_table(
    title: str, description: str, selector: str, *, link: str = "", width: int = 24, height: int = 9
) -> Panel:
    """Return traces as a table, the newest first; a click on one opens it, or shows it at the address of a link."""
    panel = _panel("table", title, description, [traces(f"{selector} with (most_recent=true)")], width, height)
    custom = {"align": "auto", "displayMode": "auto", "filterable": True, "inspect": False}
    # The columns that Tempo gives have units of their own.
    field: dict[str, Any] = {"defaults": {"mappings": [], "custom": custom}, "overrides": []}
    if link:
        shown = {"title": "Show it as a waterfall", "url": link, "targetBlank": False}
        field["overrides"] = [
            {"matcher": {"id": "byName", "options": "traceID"}, "properties": [{"id": "links", "value": [shown]}]}
        ]
    return panel | {"fieldConfig": field, "options": {"showHeader": True}}


def waterfall(title: str, description: str, trace_id: str, *, width: int = 24, height: int = 16) -> Panel:
    """Return the spans of one trace, one below the other."""
    target = {"datasource": TEMPO, "queryType": "traceql", "query": trace_id, "filters": []}
    panel = _panel("traces", title, description, [target], width, height)
    return panel | {"fieldConfig": {"defaults": {}, "overrides": []}, "options": {}}


def node_graph(title: str, description: str, nodes: str, edges: str, *, width: int = 24, height: int = 11) -> Panel:
    """Return a graph; labels of the nodes are `id`, `title` and `mainstat`, of the edges `id`, `source`, `target`."""
    targets = [query(expression, instant=True, form="table") for expression in (nodes, edges)]
    panel = _panel("nodeGraph", title, description, targets, width, height)
    for target, name in zip(panel["targets"], ("nodes", "edges"), strict=True):
        target["refId"] = name
    return panel | {"fieldConfig": _field("none"), "options": {"nodes": {}, "edges": {}}}


def row(title: str) -> Panel:
    """Return a heading."""
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"w": 24, "h": 1, "x": 0, "y": 0},
    }
