"""`voicespan doctor`, as a process in the environment of a service."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from voicespan.sdk.spool import Spool

from .receiver import Receiver, black_hole, nobody
from .service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHOSEN = {"OTEL_PYTHON_DISTRO": "voicespan", "OTEL_PYTHON_CONFIGURATOR": "voicespan"}
DOCTOR = (sys.executable, "-c", "from voicespan.cli import main; main(prog_name='voicespan')", "doctor", "--json")

Report = dict[str, tuple[str, str, str]]


def doctor(**environ: str) -> tuple[int, Report]:
    """Run it; return its exit status and, by name, the worst line of each check."""
    done = Service("", (), command=DOCTOR, **(CHOSEN | environ)).finish()
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
    """Where everything is right all lines say so, real requests were taken, and the exit status is 0."""
    code, report = doctor(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert code == 0
    assert {name: verdict for name, (verdict, _, _) in report.items()} == dict.fromkeys(
        ("versions", "distro", "configurator", "service name", "integrations", "traces", "metrics"), "ok"
    )
    assert "opentelemetry-sdk 1." in report["versions"][1]
    assert f"{receiver.url}/v1/traces" in report["traces"][1]
    assert sorted(receiver.paths) == ["/v1/metrics", "/v1/traces"]


def test_the_spool(receiver: Receiver, tmp_path: Path) -> None:
    """What waits on disk is counted; a folder that cannot be written fails, and one that is nearly full warns."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "VOICESPAN_SPOOL_DIR": str(tmp_path)}
    assert doctor(**environ)[1]["spool"][:2] == ("ok", f"{tmp_path}/traces: nothing waits")
    Spool(tmp_path / "traces", 1 << 20).put(os.urandom(100_000), 12, 1)
    assert doctor(**environ)[1]["spool"][1].startswith(f"12 spans wait in {tmp_path}/traces (0.1 of 256 MiB)")
    verdict, message, remedy = doctor(**environ, VOICESPAN_SPOOL_MIB="0.1")[1]["spool"]
    assert (verdict, "nearly full" in message, "VOICESPAN_SPOOL_MIB" in remedy) == ("warn", True, True)
    (tmp_path / "file").write_text("")
    code, report = doctor(**environ | {"VOICESPAN_SPOOL_DIR": str(tmp_path / "file")})
    assert (code, report["spool"][0]) == (1, "fail")
    assert "Not a directory" in report["spool"][1]
    assert len(list(tmp_path.rglob("*.gz"))) == 1


def test_nobody_listens() -> None:
    """A refused connection fails, with what to do."""
    with nobody() as url:
        code, report = doctor(OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert code == 1
    assert report["traces"][1].endswith("did not take an empty request: connection refused")
    assert "voicespan ui" in report["traces"][2]


def test_nobody_answers() -> None:
    """A port that never answers fails within its time-out, with a question about the protocol."""
    with black_hole() as url:
        code, report = doctor(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")
    assert code == 1
    assert report["traces"][1].endswith("no answer in time")
    assert "is that an OTLP port for http/protobuf?" in report["traces"][2]


@pytest.mark.parametrize(("status", "words"), [(401, "OTEL_EXPORTER_OTLP_HEADERS"), (404, "without /v1/traces")])
def test_an_answer_that_is_no_success(status: int, words: str) -> None:
    """A request that is refused by an answer fails, with what usually helps."""
    with Receiver(status) as receiver:
        code, report = doctor(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert code == 1
    assert f"{status} " in report["traces"][1]
    assert words in report["traces"][2]


def test_what_is_misspelt_or_missing(receiver: Receiver) -> None:
    """Misspelt names and a missing service name are each a line."""
    code, report = doctor(
        OTEL_PYTHON_CONFIGURATOR="voicespam", OTEL_SERVICE_NAME="", VOICESPAN_TURN_MX_S="1", OTEL_CONFIG_FILE="x",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
    )  # fmt: skip
    assert code == 1
    assert report["configurator"][0] == "fail"
    assert "did you mean voicespan?" in report["configurator"][1]
    assert report["service name"][0] == "warn"
    assert "did you mean VOICESPAN_TURN_MAX_S?" in report["settings"][1]
    assert report["config file"][0] == "fail"


def test_what_is_switched_off(receiver: Receiver) -> None:
    """What is switched off is a warning, not a failure."""
    code, report = doctor(
        VOICESPAN_DISABLED="true", OTEL_METRICS_EXPORTER="none", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url
    )
    assert code == 0
    assert report["settings"][0] == report["metrics"][0] == "warn"


def test_the_lines_for_people(receiver: Receiver) -> None:
    """Without --json each check is a line, with what to do below it."""
    done = Service("", (), command=DOCTOR[:-1], OTEL_SERVICE_NAME="", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url).finish()
    assert (
        "warn  service name: not set: the service appears as unknown_service\n      -> OTEL_SERVICE_NAME=...\n"
        in done.out
    )
