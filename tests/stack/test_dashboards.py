"""The dashboards: the rules of Grafana's dashboard linter, and what the catalog asks of each."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from voicespan import names as n
from voicespan.stack import generate, rules
from voicespan.stack import promql as q
from voicespan.stack.dashboards import panels

from .queries import asked, metrics_of, of_traces, substituted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = sorted((generate.CHECKOUT / "deploy/grafana/dashboards").glob("*.json"))
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FILES}
COLUMNS = 24
GRAPHS = {"timeseries", "heatmap", "stat", "gauge", "bargauge", "table", "nodeGraph", "traces"}

# Where a window is meant as it is: a promise over days, a table of all that is on display, the graph's five minutes.
FIXED_WINDOWS = {"5m", "1h", "7d", "$__range"}
FIXED_PANELS = {
    *(("voicespan-slo", title) for title in ("First audio in time (7 d)", "Barge-in in time (7 d)",
                                             "Frames in time (7 d)", "Average silence")),
    *(("voicespan-pipeline", title) for title in ("Stages", "By model", "By voice", "By worker", "Silence by model",
                                                  "Silence by voice", "Silence by worker")),
    ("voicespan-versions", "Stages (p90)"),
}  # fmt: skip

NOT_OF_A_SERVICE = {"Collectors up", "Overflow", "Failing rules", "Exemplars", "Series"}
"""Panels about the pipeline, which no service is chosen for; the Collector's own metrics are told by their names."""

# F.10 of the catalog, by the words of its table.
TITLES = {
    "voicespan-assistant": "Full-Duplex Voice Assistant - Performance Dashboard",
    "voicespan-experience": "User Experience Dashboard",
    "voicespan-operations": "Operations Dashboard",
    "voicespan-business": "Business Metrics",
    "voicespan-realtime": "Realtime Performance",
    "voicespan-resources": "Resource Utilization",
    "voicespan-calls": "Call Agent",
    "voicespan-tts": "TTS",
    "voicespan-pipeline": "Voice Pipeline",
    "voicespan-slo": "SLO",
    "voicespan-versions": "Version Comparison",
    "voicespan-telemetry": "Telemetry Pipeline",
}
PANELS = {
    "voicespan-assistant": [
        "End-to-end latency (client)", "End-to-end latency (server)", "Speech recognition", "Time to first token",
        "First audio", "Barge-in by phase", "Playout jitter", "Token minting (p95)", "HTTP requests",
        "Rate-limit rejections", "Client errors and reconnections", "Audio in and out", "CPU", "Memory", "Services up",
    ],
    "voicespan-experience": ["Heard silence", "Interruptions", "Jitter (p95)", "Mean opinion score",
                             "Packet loss (p95)", "Client's timeline (p95)", "Target compliance"],
    "voicespan-operations": ["CPU", "Memory", "Errors by component", "Active alerts", "Queue", "Not queued", "Series"],
    "voicespan-business": ["Intents", "Sessions per hour", "Turns per session", "Languages", "Voices", "Tokens",
                           "Cost per hour", "Cost per turn", "Cost per call", "Tokens thrown away"],
    "voicespan-realtime": ["Current Active Sessions", "First Audio Latency (p50/p95/p99)", "Barge-in Latency (p95)",
                           "Frame Jitter (p95)", "Session Start Rate", "Error Rate"],
    "voicespan-resources": ["GPU Memory Usage", "GPU Utilization", "Inference Queue Depth",
                            "Model Manager Resident Count", "Redis Command Latency (p95)", "Temperature", "Power"],
    "voicespan-calls": ["End-to-End Latency Percentiles", "Component Latency Breakdown", "Active calls", "Call rate",
                        "Success rate", "Target Compliance", "Mean opinion score", "Jitter", "Packet loss (p95)", "CPU",
                        "Memory"],
    "voicespan-tts": ["Request Rate", "Word Count Performance", "Voice Performance", "Error Rate", "System CPU",
                      "System Memory", "GPU", "Response Time Distribution", "P95 Response Time"],
    "voicespan-pipeline": ["Stages", "Latency of the stages (p90)", "Slowest stage", "Slow turns",
                           "Shares of the silence", "By model", "By voice", "By worker"],
    "voicespan-slo": ["Availability (30 d)", "Budget left", "Burn rate", "First audio in time (7 d)",
                      "Barge-in in time (7 d)"],
}  # fmt: skip


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels but the headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def all_panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each panel with its dashboard."""
    for uid, board in BOARDS.items():
        for panel in panels_of(board):
            yield uid, panel


def expressions(panel: dict[str, Any]) -> list[str]:
    """What a panel asks Prometheus."""
    return [target["expr"] for target in panel["targets"] if "expr" in target]


def by_title(uid: str, title: str) -> dict[str, Any]:
    """The panel of a dashboard."""
    return next(panel for panel in panels_of(BOARDS[uid]) if panel["title"] == title)


@pytest.mark.covers("A-D01", "A-P01", "A-D02", "A-D03", "A-D04", "B-D01", "C-D01", "C-D02", "C-P01", "C-P02", "C-P03",
                    "C-P04", "C-P05", "C-P06", "C-P07", "C-P08", "C-P09", "C-P10", "C-P11", "D-D01", "D-P01", "D-P02",
                    "D-P03", "D-P04", "D-P05", "D-P06", "E-D01", "E-P01", "E-P02", "E-P03", "E-P04", "E-P05", "E-P06",
                    "E-P07", "E-P08", "E-P09", "E-X05", "E-X08")  # fmt: skip
def test_what_the_catalog_asks_for_is_there() -> None:
    """Every dashboard and panel of the catalog is there under its name."""
    assert {uid: board["title"] for uid, board in BOARDS.items()} == TITLES
    for uid, titles in PANELS.items():
        missing = set(titles) - {panel["title"] for panel in panels_of(BOARDS[uid])}
        assert not missing, uid
    assert len(panels_of(BOARDS["voicespan-assistant"])) >= 12
    assert BOARDS["voicespan-calls"]["refresh"] == "5s"


@pytest.mark.covers("C-P01", "C-P02", "C-P03", "C-P04", "C-P07", "E-P02", "E-Q03", "B-P01")
def test_panels_look_as_asked() -> None:
    """Limits are lines, sessions a dial, GPU memory is stacked, lengths of text a heatmap, stages a graph."""
    lines = {"First Audio Latency (p50/p95/p99)": 0.3, "Barge-in Latency (p95)": 0.05, "Frame Jitter (p95)": 0.01}
    for title, limit in lines.items():
        panel = by_title("voicespan-realtime", title)
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == limit
        assert panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] == "line"
    sessions = by_title("voicespan-realtime", "Current Active Sessions")
    assert sessions["type"] == "gauge"
    steps = sessions["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [(step["color"], step["value"]) for step in steps] == [("green", None), ("yellow", 5), ("red", 10)]
    memory = by_title("voicespan-resources", "GPU Memory Usage")
    assert memory["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    words = by_title("voicespan-tts", "Word Count Performance")
    assert words["type"] == "heatmap"
    assert '=~"$words"' in expressions(words)[0]
    assert by_title("voicespan-pipeline", "Stages")["type"] == "nodeGraph"


@pytest.mark.covers("E-S04")
def test_what_is_usual_for_a_length_is_a_line() -> None:
    """Beside the measured durations of each range of words stands how long it may take, up to fifty words."""
    lines = [each for each in expressions(by_title("voicespan-tts", "P95 by word count")) if "vector" in each]
    assert lines == ["vector(1.5)", "vector(3)", "vector(5)"]


@pytest.mark.covers("E-S05")
def test_voices_and_languages_are_compared() -> None:
    """The time to the first audio is there for each voice and each language, and elsewhere how long models load."""
    for title, label in (("Voice Performance", "voice_tts_voice_name"), ("Language Performance", "voice_language")):
        (asked,) = expressions(by_title("voicespan-tts", title))
        assert f"by (le, {label})" in asked
        assert "tts.first_audio" in asked
    (loading,) = expressions(by_title("voicespan-resources", "Loading (p95)"))
    assert "model.load" in loading


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_say_what_they_show(uid: str) -> None:
    """Each panel has a title, a sentence about it, and a unit; no two panels of a dashboard have the same title."""
    titles = [panel["title"] for panel in panels_of(BOARDS[uid])]
    assert len(titles) == len(set(titles))
    for panel in panels_of(BOARDS[uid]):
        assert panel["type"] in GRAPHS
        assert panel["title"]
        assert re.fullmatch(r"[A-Z0-9].*[.]", panel["description"]), panel["title"]
        traces = all(target["datasource"]["type"] == "tempo" for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"].get("unit") or traces, panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_nothing_is_hard_coded(uid: str) -> None:
    """Data sources are variables, every variable that is used is declared, and every one that is declared is used."""
    board = BOARDS[uid]
    for panel in panels_of(board):
        for target in panel["targets"]:
            assert target["datasource"] in (panels.PROMETHEUS, panels.TEMPO)
    declared = {variable["name"] for variable in board["templating"]["list"]}
    assert {"datasource", "job", "environment"} <= declared
    text = json.dumps([board["panels"], board["annotations"]])
    # `instance` narrows the variables of others, too.
    used = {name or plain for name, plain in re.findall(r"\$\{(\w+)[:}]|\$(\w+)", text)}
    own = {"__rate_interval", "__range", "__url_time_range", "1"}
    assert used - own == declared


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_do_not_overlap(uid: str) -> None:
    """Each panel has its own place within the width, and an id of its own."""
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[uid]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= COLUMNS
        taken |= cells
    ids = [panel["id"] for panel in BOARDS[uid]["panels"]]
    assert len(ids) == len(set(ids))


def test_rates_follow_the_zoom() -> None:
    """Rates take `$__rate_interval`, except where a window is a part of the promise."""
    fixed = set()
    for uid, panel in all_panels():
        for expression in expressions(panel):
            windows = set(re.findall(r"\[([^\]]+)\]", expression)) - {panels.RATE}
            assert windows <= FIXED_WINDOWS, panel["title"]
            if windows:
                fixed.add((uid, panel["title"]))
    assert fixed == FIXED_PANELS


def test_queries_follow_the_choice_of_a_service() -> None:
    """Every query filters by the service and environment that are chosen, except those about the pipeline."""
    for _, panel in all_panels():
        for target in panel["targets"]:
            query = target.get("expr", target.get("query", ""))
            about_the_collector = "otelcol_" in query or panel["title"] in NOT_OF_A_SERVICE
            constant = query.startswith("vector(")
            chosen = "$job" in query or '"${service:pipe}"' in query
            assert chosen or about_the_collector or constant or query == "${trace}", panel["title"]


def test_legends_say_what_the_query_gives() -> None:
    """Every label of a legend is one that the query keeps; a process is told by its service, and by a short id."""
    for uid, panel in all_panels():
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            kept = re.findall(r" by \(([^)]*)\)", target.get("expr", ""))
            made = set(re.findall(r'label_replace\(.*?, "(\w+)"', target.get("expr", "")))
            labels = {label.strip() for group in kept for label in group.split(",")} | made
            assert not kept or panel["type"] == "heatmap" or named <= labels, (uid, panel["title"])
            if q.INSTANCE in named and "otelcol_" not in target["expr"]:
                assert q.JOB in named, (uid, panel["title"])
                assert any(each["id"] == "renameByRegex" for each in panel["transformations"]), (uid, panel["title"])


def test_latency_has_exemplars() -> None:
    """Every panel with a quantile over time, and every heatmap, has dots that open traces."""
    for uid, panel in all_panels():
        over_time = panel["type"] in {"timeseries", "heatmap"}
        if over_time and any("_seconds_bucket" in expression for expression in expressions(panel)):
            ratio = panel["fieldConfig"]["defaults"]["unit"] == "percentunit"
            assert ratio or any(target.get("exemplar") for target in panel["targets"]), (uid, panel["title"])


def test_distributions_are_heatmaps() -> None:
    """Where a distribution matters it is shown: silence, waiting in vain, first audio, requests, lengths of text."""
    found = {panel["title"] for _, panel in all_panels() if panel["type"] == "heatmap"}
    assert {
        "Distribution of the heard silence", "Distribution of the unanswered", "Distribution of first audio",
        "Response Time Distribution", "Word Count Performance",
    } <= found  # fmt: skip


OTHER_LABELS = {
    *(q.JOB, q.INSTANCE, q.SPAN_NAME, q.STATUS_CODE, q.SPAN_KIND, "le", "__name__", "otel_metric_overflow"),
    *("slo", "currency", "part", "id", "title", "mainstat", "source", "target"),
    *("exporter", "receiver", "sampled", "decision", "alertname", "alertstate", "severity", "rule_group"),
}
"""What is no attribute: labels of Prometheus, of the Collector, and those that queries make themselves."""


@pytest.mark.covers("F-R08")
def test_queries_name_what_there_is() -> None:
    """Every metric and label of a query is one that the names module, the rules or the programs have."""
    direct = {name for metric in n.METRICS for name in metric.attributes}
    labels = {q.label(name) for name in {*n.DIMENSIONS, *direct, n.SERVICE_NAME}} | OTHER_LABELS
    for query in asked():
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query.expression)
        named = re.findall(r"[{,]\s*(\w+)(?:=~|!~|!=|=)", bare)
        groups = re.findall(r"(?:by|on|group_left) \(([^)]*)\)", bare)
        grouped = [label for group in groups for label in group.split(",")]
        assert {label.strip() for label in (*named, *grouped)} - {""} <= labels, query
        assert metrics_of(query.expression) <= known_metrics(), query


def known_metrics() -> set[str]:
    """The names of all series that queries may ask for."""
    parts = ("_bucket", "_sum", "_count")
    direct = {metric.prometheus + part for metric in n.METRICS for part in ("", *parts)}
    recorded = set(re.findall(r"record: (\S+)", "".join(path.read_text() for path in generate_rules())))
    others = {"up", "ALERTS", "scrape_samples_post_metric_relabeling", "prometheus_rule_evaluation_failures_total",
              "prometheus_tsdb_exemplar_exemplars_appended_total"}  # fmt: skip
    own = {f"otelcol_{name}" for name in ("process_memory_rss", "exporter_queue_size", "exporter_queue_capacity")}
    prices = {rules.PRICE_OF_TOKEN, rules.PRICE_OF_CHARACTER}
    return direct | recorded | prices | others | own | {q.CALLS, *(q.DURATION + part for part in parts)}


def generate_rules() -> list[Path]:
    """The rule files."""
    return sorted((generate.CHECKOUT / "deploy/prometheus/rules").glob("*.yml"))


def test_queries_are_promql(promtool: Callable[..., str], tmp_path: Path) -> None:
    """Prometheus can read every query of a panel, a variable's series, an annotation, a link and a runbook."""
    queries = [
        {"record": f"query:{number}", "expr": substituted(query.expression)} for number, query in enumerate(asked())
    ]
    assert len(queries) > 200
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": queries}]}))
    promtool("check", "rules", "--lint=none", tmp_path / "rules.yml")


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """What of a dashboard another one does not have."""
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(kept, dict) and key in kept:
                yield from lost(value, kept[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(given, list):
        if not isinstance(kept, list) or len(given) != len(kept):
            yield path
        else:
            for each, other in zip(given, kept, strict=True):
                yield from lost(each, other, f"{path}[]")
    elif given != kept:
        yield path


# The query of an annotation belongs to its data source, and Grafana 9 needs two keys that later ones do not have.
OTHERS_KEYS = {
    *(f"/annotations/list[]/{key}" for key in ("step", "titleFormat", "textFormat", "tagKeys", "useValueForTime")),
    "/templating/list[]/definition",
    "/panels[]/options/tooltip/show",
}


@pytest.mark.parametrize("uid", BOARDS)
def test_grafana_11_knows_every_key(uid: str) -> None:
    """The types of Grafana 11.6 have each key of each panel, target, option and field."""
    plugins.register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(BOARDS[uid])))
    assert set(lost(BOARDS[uid], read)) <= OTHERS_KEYS


@pytest.mark.covers("B-P02", "C-T11", "C-W01")
def test_slow_turns_can_be_found() -> None:
    """A table asks Tempo for slow turns of the chosen service, by a limit that the reader chooses."""
    (target,) = by_title("voicespan-pipeline", "Slow turns")["targets"]
    assert target["query"] == (
        '{ span:name = "voice.response" && resource.service.name =~ "${service:pipe}" && span:duration > $slow }'
        " with (most_recent=true)"
    )
    (slow,) = [each for each in BOARDS["voicespan-pipeline"]["templating"]["list"] if each["name"] == "slow"]
    assert all(re.fullmatch(r"\d+m?s", value) for value in slow["query"].split(","))


@pytest.mark.covers("B-P02", "C-T11")
def test_a_slow_turn_is_shown_as_a_waterfall() -> None:
    """A click in a table of slow turns shows the spans of that turn on the pipeline dashboard."""
    shown = by_title("voicespan-pipeline", "Turn")
    assert (shown["type"], shown["targets"][0]["query"]) == ("traces", "${trace}")
    (trace,) = [each for each in BOARDS["voicespan-pipeline"]["templating"]["list"] if each["name"] == "trace"]
    assert trace["type"] == "textbox"
    tables = [panel for _, panel in all_panels() if panel["title"].startswith("Slow turns")]
    assert len(tables) >= 4
    for panel in [*tables, by_title("voicespan-pipeline", "Turns without an answer")]:
        (override,) = panel["fieldConfig"]["overrides"]
        assert override["matcher"] == {"id": "byName", "options": "traceID"}
        (link,) = override["properties"][0]["value"]
        assert link["url"].startswith("/d/voicespan-pipeline?")
        assert link["url"].endswith("&var-trace=${__value.raw}")


def test_a_search_for_no_answer_finds_errors() -> None:
    """Turns without an answer are found with a reason and without one, as errors and time-outs are."""
    (target,) = by_title("voicespan-slo", "No answer")["targets"]
    reason = "span.voice.turn.no_reply.reason"
    assert f"({reason} = nil || ({reason} != " in target["query"]
    for query in of_traces():
        assert query.expression.count(f"{reason} != ") == 0 or f"{reason} = nil ||" in query.expression, query.where


def test_places_of_measurement_are_not_mixed() -> None:
    """Every query over lengths of the heard silence is of one place of measurement, or tells the places apart."""
    lengths = re.compile(rf"(?:sum by \(([^)]*)\) )?\((?:rate|increase)\({q.DURATION}_(?:bucket|sum)\{{([^}}]*)\}}")
    held = 0
    for query in asked():
        for by, inner in lengths.findall(query.expression):
            if re.search(r'span_name=~?"[^"]*voice\\*\.response', inner):
                held += 1
                assert q.POINT in inner or q.POINT in by, query
    assert held > 30
    for query in of_traces():
        if n.SPAN_RESPONSE in query.expression and "_over_time(" in query.expression:
            assert f"span.{n.VOICE_MEASUREMENT_POINT} = " in query.expression, query


def test_deploys_are_marked() -> None:
    """A new version of a service is an annotation on every dashboard; one that was there within an hour is not new."""
    for board in BOARDS.values():
        (deploys,) = board["annotations"]["list"]
        assert "service_version" in deploys["expr"]
        assert deploys["expr"].startswith("group by "), "a value of 0 is not drawn"
        assert "max_over_time(" in deploys["expr"]
        assert "[1h] offset 1m)" in deploys["expr"]
        assert deploys["datasource"] == panels.PROMETHEUS
