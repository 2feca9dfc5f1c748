"""Grafana: where its data comes from, and the ways from a dot to a turn and from a turn to its logs and numbers."""

from __future__ import annotations

from typing import Any

from voicespan import names as n
from voicespan.stack import promql as q

PROMETHEUS, TEMPO, LOKI, ALERTMANAGER = "prometheus", "tempo", "loki", "alertmanager"
"""The uids of the data sources."""

_FLUSH = "15s"
"""The Collector's: a rate over less has no two samples."""
_TAGS = [{"key": n.SERVICE_NAME, "value": q.label(n.SERVICE_NAME)}]


def datasources() -> dict[str, Any]:
    """Return the data sources; their addresses come from the environment of Grafana.

    A dollar sign of Grafana's own is written twice.
    """
    return {
        "apiVersion": 1,
        "datasources": [
            _source("Prometheus", PROMETHEUS, isDefault=True, jsonData=_prometheus()),
            _source("Tempo", TEMPO, jsonData=_to_metrics()),
            _source("Alertmanager", ALERTMANAGER, jsonData={"implementation": "prometheus"}),
        ],
    }


def loki() -> dict[str, Any]:
    """Return the data source for logs, for who has them: the trace id of a line opens its turn, a span its logs.

    Tempo stands in it once more: without Loki a way to the logs would lead nowhere. Of two files Grafana reads this one
    last, by its name, and what is read last is kept.
    """
    fields = [
        {
            "name": "trace_id",
            "matcherType": kind,
            "matcherRegex": pattern,
            "datasourceUid": TEMPO,
            "url": "$${__value.raw}",
            "urlDisplayLabel": "Open the turn",
        }
        for kind, pattern in (("label", "trace_id"), ("regex", '"trace_id": ?"([0-9a-f]{32})"'))
    ]
    sources = [
        _source("Loki", LOKI, jsonData={"derivedFields": fields}),
        _source("Tempo", TEMPO, jsonData=_to_logs() | _to_metrics()),
    ]
    return {"apiVersion": 1, "datasources": sources}


def dashboards() -> dict[str, Any]:
    """Return where Grafana finds the dashboards."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "voicespan",
                "folder": "voicespan",
                "type": "file",
                "allowUiUpdates": False,
                "updateIntervalSeconds": 30,
                "options": {"path": "$VOICESPAN_DASHBOARDS_DIR"},
            }
        ],
    }


def _source(name: str, uid: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "uid": uid,
        "type": uid,
        "access": "proxy",
        "url": f"$VOICESPAN_{name.upper()}_URL",
        "editable": False,
        **more,
    }


def _prometheus() -> dict[str, Any]:
    return {
        "httpMethod": "POST",
        "timeInterval": _FLUSH,
        "manageAlerts": True,
        "exemplarTraceIdDestinations": [
            {"name": "trace_id", "datasourceUid": TEMPO, "urlDisplayLabel": "Open the turn"}
        ],
    }


def _to_logs() -> dict[str, Any]:
    return {
        "tracesToLogsV2": {
            "datasourceUid": LOKI,
            "spanStartTimeShift": "-1m",
            "spanEndTimeShift": "1m",
            "tags": _TAGS,
            "filterByTraceID": True,
            "filterBySpanID": False,
            "customQuery": True,
            "query": '{$${__tags}} | trace_id = "$${__trace.traceId}"',
        }
    }


def _to_metrics() -> dict[str, Any]:
    return {
        "tracesToMetrics": {
            "datasourceUid": PROMETHEUS,
            "spanStartTimeShift": "-5m",
            "spanEndTimeShift": "5m",
            "tags": _TAGS,
            "queries": [
                {"name": "Latency of each span (p95)", "query": _linked(f"{q.DURATION}_bucket", quantile=True)},
                {"name": "Spans per second", "query": _linked(q.CALLS)},
                {"name": "Failed spans per second", "query": _linked(q.CALLS, q.FAILED)},
            ],
        },
        "traceQuery": {"timeShiftEnabled": True, "spanStartTimeShift": "-1h", "spanEndTimeShift": "1h"},
        "nodeGraph": {"enabled": True},
        "search": {"hide": False},
        "spanBar": {"type": "Tag", "tag": n.GEN_AI_REQUEST_MODEL},
    }


def _linked(metric: str, *matchers: str, quantile: bool = False) -> str:
    """Return a query of a link from a span; Grafana puts the span's service in."""
    by = ("le", q.SPAN_NAME) if quantile else (q.SPAN_NAME,)
    rates = q.total(q.rate(q.select(metric, ["$$__tags", *matchers]), "$$__rate_interval"), by)
    return f"histogram_quantile(0.95, {rates})" if quantile else rates
