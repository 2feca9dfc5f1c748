"""Faults of the back ends, each seeded alone: `voicespan doctor` finds it and names its cure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.processes.receiver import nobody

from voicespan.doctor import grafana, machine, reading, service
from voicespan.doctor.ask import Program, Unanswered
from voicespan.doctor.check import Check, Wanted
from voicespan.doctor.prometheus import Prometheus
from voicespan.stack.files import deploy

from .backends import TRACE, Answering, ScriptedPrometheus, every_rule

if TYPE_CHECKING:
    from collections.abc import Iterable

SHORT_S = 0.1


def bad(checks: Iterable[Check]) -> list[Check]:
    return [check for check in checks if check.verdict != "ok"]


def only(checks: Iterable[Check]) -> Check:
    found = bad(checks)
    assert len(found) == 1, found
    return found[0]


def of_prometheus(url: str, before: float = 0) -> list[Check]:
    return list(Prometheus(Program(url)).examine(TRACE, before, SHORT_S))


def test_nothing_is_wrong_with_prometheus() -> None:
    """Where targets, series, exemplars, rules and Alertmanager are there, each is a line that says so."""
    with ScriptedPrometheus() as program:
        found = of_prometheus(program.url)
    assert [check.name for check in found] == ["targets", "series", "exemplars", "rules", "alertmanager", "dropped"]
    assert bad(found) == []


@pytest.mark.parametrize(
    ("fault", "name", "verdict", "says", "cure"),
    [
        ({"down": ("otel-collector-span-metrics",)},
         "targets", "fail", "otel-collector-span-metrics at http://127.0.0.1:8889/metrics: connection refused",
         "prometheus.yml"),
        ({"turns": 0}, "series", "fail", "no span-derived series of the test turn", "span_metrics connector"),
        ({"features": "otlp-deltatocumulative"},
         "exemplars", "fail", "keeps none", "--enable-feature=exemplar-storage"),
        ({"exemplars": ("another",)}, "exemplars", "fail", "no exemplar of the test turn", "enable_open_metrics"),
        ({"rules": []}, "rules", "fail", "not loaded: ", "rule_files"),
        ({"rules": [*every_rule(), {"name": "Mine", "health": "err", "lastError": "unknown function"}]},
         "rules", "fail", "Mine: unknown function", "voicespan slo"),
        ({"alertmanagers": ()}, "alertmanager", "warn", "no Alertmanager", "alerting.alertmanagers"),
        ({"dropped": 17}, "dropped", "warn", "services dropped 17 spans", "service-drops-spans"),
        ({"refused": 5}, "dropped", "warn", "the Collector refused or lost 5 spans", "runbooks"),
    ],
)  # fmt: skip
def test_a_fault_of_prometheus(fault: dict[str, Any], name: str, verdict: str, says: str, cure: str) -> None:
    """What is missing in Prometheus is the one line that is not well, and says what to do."""
    with ScriptedPrometheus(**fault) as program:
        check = only(of_prometheus(program.url))
    assert (check.name, check.verdict) == (name, verdict)
    assert says in check.message
    assert cure in check.remedy


def test_an_old_test_turn_is_not_taken_for_the_new_one() -> None:
    """Series that an earlier run left behind do not count."""
    with ScriptedPrometheus(turns=3) as program:
        assert only(of_prometheus(program.url, before=3)).name == "series"
        assert bad(of_prometheus(program.url, before=2)) == []


def test_another_program_than_prometheus() -> None:
    """An address where nobody, or somebody else, answers is one failure that asks for the address."""
    with nobody() as url:
        assert "connection refused" in only(of_prometheus(url)).message
    with Answering() as program:
        assert "answers 404" in only(of_prometheus(program.url)).message
    assert "is no address" in only(of_prometheus("localhost:9090")).message


@pytest.mark.parametrize(("ahead_s", "verdict", "words"), [(-7, "warn", "behind ours"), (600, "fail", "before ours")])
def test_a_clock_that_is_off(ahead_s: float, verdict: str, words: str) -> None:
    """A back end whose clock is off by seconds warns, by more it fails, and a time server is the cure."""
    with Answering(ahead_s=ahead_s) as off, Answering() as right:
        found = list(machine.clock([Program(off.url), Program(right.url)]))
    check = only(found)
    assert check.verdict == verdict
    assert words in check.message
    assert "chrony" in check.remedy
    assert len(found) == 2


def of_tempo(url: str, *headers: tuple[str, str]) -> list[Check]:
    return list(reading.tempo(Wanted(tempo=url, headers=headers, wait_s=SHORT_S), TRACE))


def test_the_turn_is_not_in_tempo() -> None:
    """A turn that Tempo does not have by its id is a failure that points at the Collector; one that it has is well."""
    path = f"/api/v2/traces/{TRACE}"
    with Answering({path: (200, {"trace": {}})}) as tempo:
        check = only(of_tempo(tempo.url))
        assert "the test turn is not in" in check.message
        assert "Collector exports traces" in check.remedy
        tempo.answers[path] = (
            200,
            {"trace": {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "voice.turn"}]}]}]}},
        )
        assert bad(of_tempo(tempo.url, ("X-Scope-OrgID", "voice"))) == []
        assert tempo.asked[-1][1]["x-scope-orgid"] == "voice"
        tempo.answers[path] = (401, "no")
        assert "--header" in only(of_tempo(tempo.url)).remedy


def test_dashboards_and_data_sources_that_are_missing() -> None:
    """Dashboards and data sources that Grafana lacks are named, with the files that bring them."""
    boards = [{"uid": file.stem} for file in (deploy() / "grafana" / "dashboards").glob("*.json")]
    sources = [{"uid": "prometheus"}, {"uid": "tempo"}]
    with Answering({"/api/search": (200, boards), "/api/datasources": (200, sources)}) as program:
        found = list(grafana.examine(Program(program.url.replace("//", "//admin:secret@"))))
        assert bad(found) == []
        assert program.asked[0][1]["authorization"] == "Basic YWRtaW46c2VjcmV0"
        program.answers["/api/search"] = (200, [each for each in boards if each["uid"] != "voicespan-calls"])
        check = only(grafana.examine(Program(program.url)))
        assert check.message == "not in Grafana: voicespan-calls"
        assert "VOICESPAN_DASHBOARDS_DIR" in check.remedy
        program.answers |= {"/api/search": (200, boards), "/api/datasources": (200, sources[:1])}
        check = only(grafana.examine(Program(program.url)))
        assert "uid tempo" in check.message
        assert "datasources/voicespan.yml" in check.remedy
        program.answers["/api/search"] = (401, "no")
        assert "Authorization=Bearer" in only(grafana.examine(Program(program.url))).remedy


METRICS = """# TYPE voice_service_up gauge
voice_service_up 1.0
# TYPE otel_sdk_processor_span_processed_total counter
otel_sdk_processor_span_processed_total{error_type="",otel_component_type="x"} 900.0
"""


def test_a_service_that_runs() -> None:
    """A service is asked for its health, its metrics and its door for browsers; what it lacks is named."""
    answers = {"/health": (200, {}), "/metrics": (200, METRICS), "/api/metrics": (400, "")}
    with Answering(dict(answers)) as program:
        found = list(service.examine(Program(program.url)))
        assert bad(found) == []
        assert "2 metrics; voice_service_up is 1.0" in found[0].message
        for path, status, name, cure in (
            ("/health", 404, "service", "add a route"),
            ("/metrics", 404, "scrape", "VOICESPAN_PROMETHEUS_PORT=9464"),
            ("/metrics", 401, "scrape", "Authorization=Bearer"),
            ("/api/metrics", 404, "client reports", "docs/client.md"),
        ):
            program.answers = answers | {path: (status, "")}
            check = only(service.examine(Program(program.url)))
            assert (check.name, cure in check.remedy) == (name, True)
        program.answers = answers | {"/metrics": (200, "# TYPE up gauge\nup 1\n")}
        check = only(service.examine(Program(program.url)))
        assert "voicespan does not run in this service" in check.message
        assert "voicespan run" in check.remedy
        lost = METRICS + 'otel_sdk_processor_span_processed_total{error_type="queue_full"} 12.0\n'
        program.answers = answers | {"/metrics": (200, lost)}
        assert "dropped 12 spans" in only(service.examine(Program(program.url))).message


def test_what_does_not_speak_http() -> None:
    """A port that answers in another protocol is said to, and is no crash."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(Unanswered, match="does not speak HTTP"):
            Program(f"http://127.0.0.1:{port}").ask("/")
    finally:
        server.stop(0).wait()
