"""`voicespan doctor`, as a process in the environment of a service."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from tests.processes.receiver import Receiver, attributes
from tests.processes.service import Service

from voicespan.local.server import Receiver as Viewer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHOSEN = {"OTEL_PYTHON_DISTRO": "voicespan", "OTEL_PYTHON_CONFIGURATOR": "voicespan"}
DOCTOR = (sys.executable, "-c", "from voicespan.cli import main; main(prog_name='voicespan')", "doctor")
TOKEN = "a-token-of-sixteen-letters"

Report = dict[str, tuple[str, str, str]]


def doctor(*options: str, **environ: str) -> tuple[int, Report]:
    """Run it; return its exit status and, by name, the worst line of each check."""
    done = Service("", (), command=(*DOCTOR, "--json", *options), **(CHOSEN | environ)).finish(60)
    said = json.loads(done.out)
    assert said["ok"] is (done.code == 0), done.err
    worst = sorted(said["checks"], key=lambda check: ("ok", "warn", "fail").index(check["verdict"]))
    return done.code, {check["name"]: (check["verdict"], check["message"], check["remedy"]) for check in worst}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP receiver of this test."""
    with Receiver() as made:
        yield made


def test_all_is_well(receiver: Receiver) -> None:
    """Where everything is right all lines say so, each signal and a turn were taken, and the status is 0."""
    code, report = doctor(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_LOGS_EXPORTER="otlp")
    assert code == 0, report
    assert {name: verdict for name, (verdict, _, _) in report.items()} == dict.fromkeys(
        ("versions", "distro", "configurator", "service name", "integrations", "traces", "metrics", "logs", "clock",
         "start", "test turn"), "ok",
    )  # fmt: skip
    assert "opentelemetry-sdk 1." in report["versions"][1]
    assert f"{receiver.url}/v1/traces" in report["traces"][1]
    assert sorted(receiver.paths) == ["/v1/logs", "/v1/metrics", "/v1/traces", "/v1/traces"]
    assert {"voice.turn", "voice.response"} <= set(receiver.span_names)
    (who,) = {attributes(list(each.resource.attributes))["service.name"] for each in receiver.resource_spans}
    assert who == "voicespan-doctor"


def test_the_turn_is_read_back_from_the_viewer() -> None:
    """A viewer that takes the spans is asked for the turn, with the token that it wants."""
    with Viewer(port=0, token=TOKEN) as viewer:
        code, report = doctor(
            OTEL_EXPORTER_OTLP_ENDPOINT=viewer.endpoint,
            OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{TOKEN}",
            VOICESPAN_TOKEN=TOKEN,
        )
    assert report["viewer"] == ("ok", f"the test turn was read back from {viewer.endpoint}", "")
    assert code == 0, report


SECOND = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
RequestsInstrumentor().instrument()
"""


def test_a_service_that_sets_up_again(receiver: Receiver, tmp_path: Path) -> None:
    """A module that sets a second provider, and instruments a library again, is named with file and line."""
    (tmp_path / "bot.py").write_text(SECOND)
    code, report = doctor(
        "--import", "bot", "--import", "no_bot",
        PYTHONPATH=str(tmp_path), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="redis,fastapi",
    )  # fmt: skip
    assert code == 1
    assert report["second provider"][0] == "fail"
    assert "bot.py:4 set a second TracerProvider" in report["second provider"][1]
    assert "leave the set-up" in report["second provider"][2]
    assert report["double instrumentation"][0] == "warn"
    assert "bot.py:7 instruments a library" in report["double instrumentation"][1]
    assert "take the call of instrument() out" in report["double instrumentation"][2]
    assert report["start"][:2] == ("fail", "cannot import no_bot: ModuleNotFoundError: No module named 'no_bot'")


def test_another_configurator_is_loaded(receiver: Receiver) -> None:
    """Where voicespan is not what is loaded, the start says so."""
    code, report = doctor(OTEL_PYTHON_CONFIGURATOR="none", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert code == 1
    assert "does not load voicespan" in report["start"][1]
    assert "OTEL_PYTHON_CONFIGURATOR=voicespan" in report["start"][2]


def test_the_lines_for_people() -> None:
    """Without --json each check is a line, with what to do below it; also where OpenTelemetry cannot be imported."""
    done = Service("", (), command=(*DOCTOR, "--offline"), OTEL_SERVICE_NAME="", OTEL_PROPAGATORS="b4").finish()
    assert "fail  propagators: OTEL_PROPAGATORS names b4, which is not installed" in done.out
    assert done.code == 1
    assert (
        "warn  service name: not set: the service appears as unknown_service\n      -> OTEL_SERVICE_NAME=...\n"
        in done.out
    )
