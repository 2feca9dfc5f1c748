"""Every query that is shipped: of panels, rules, links and runbooks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from voicespan.stack import generate

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = generate.CHECKOUT / "deploy"
DOCS = generate.CHECKOUT / "docs"
PAGES = (*sorted((DOCS / "runbooks").glob("*.md")), DOCS / "troubleshooting.md", DOCS / "back-ends.md")

# What Grafana puts in for its variables, for a service that is chosen or for all of them.
VALUES = {
    "__rate_interval": "1m",
    "__range": "15m",
    "before": "1m",
    "point": "client",
    "baseline": "1.4.2",
    "candidate": "1.4.2",
    "slow": "1s",
    "service": "voice-agent",
    "__tags": 'service_name="voice-agent"',
}


@dataclass(frozen=True)
class Query:
    """A query, and where it stands."""

    where: str
    expression: str
    alert: bool = False
    """Whether it is a condition, which gives data only when something is wrong."""


def substituted(expression: str, **values: str) -> str:
    """Return a query with values for its variables; any that is not named stands for all."""
    known = VALUES | values

    def value(found: re.Match[str]) -> str:
        return known.get(found[1] or found[2], ".*")

    return re.sub(r"\$\{(\w+)(?::\w+)?\}|\$(\w*[a-zA-Z_]\w*)", value, expression.replace("$$", "$"))


def of_panels() -> Iterator[Query]:
    """The queries of panels to Prometheus, and the annotations."""
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                if "expr" in target:
                    yield Query(f"{path.stem} / {panel['title']} / {target['refId']}", target["expr"])
        for annotation in board["annotations"]["list"]:
            yield Query(f"{path.stem} / {annotation['name']}", annotation["expr"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                series = variable["definition"].removeprefix("label_values(").rpartition(",")[0]
                yield Query(f"{path.stem} / ${variable['name']}", series)


def of_traces() -> Iterator[Query]:
    """The queries of panels and runbooks to Tempo."""
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                # A waterfall shows the trace whose id is chosen.
                if target["datasource"]["type"] == "tempo" and panel["type"] != "traces":
                    yield Query(f"{path.stem} / {panel['title']} / {target['refId']}", target["query"])
    yield from _of_runbooks("traceql")


def of_rules() -> Iterator[Query]:
    """The expressions of rules."""
    for path in sorted((DEPLOY / "prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                labels = ", ".join(f"{key}={value}" for key, value in rule.get("labels", {}).items())
                name = rule.get("record") or rule["alert"]
                yield Query(f"{path.name} / {name} {{{labels}}}", rule["expr"], "alert" in rule)


def of_links() -> Iterator[Query]:
    """The queries that a span links to."""
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/voicespan.yml").read_text())["datasources"]
    for source in sources:
        for query in source.get("jsonData", {}).get("tracesToMetrics", {}).get("queries", ()):
            yield Query(f"link / {query['name']}", query["query"])


def _of_runbooks(language: str) -> Iterator[Query]:
    for path in PAGES:
        for block in re.findall(rf"^ *```{language}\n(.*?)\n *```$", path.read_text(), re.DOTALL | re.MULTILINE):
            yield Query(f"runbook {path.stem}", block.strip())


def asked() -> list[Query]:
    """All queries to Prometheus."""
    return [*of_panels(), *of_rules(), *of_links(), *_of_runbooks("promql")]


_WORDS = {"by", "on", "and", "or", "unless", "group_left", "offset", "without", "bool", "ignoring"}


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that a query names; of those that it finds by a pattern, none."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', substituted(expression))
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"(?:by|on|group_left|without|ignoring) \([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]|offset \w+", "", bare)
    names = re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()", bare)
    return {name for name in names if name not in _WORDS and not re.search(rf"\b{re.escape(name)}\s*\(", bare)}
