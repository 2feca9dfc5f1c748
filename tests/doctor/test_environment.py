"""Faults of an environment, each seeded alone: `voicespan doctor` finds it and names its cure."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from voicespan.doctor import installation, machine, start
from voicespan.sdk.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from voicespan.doctor.check import Check

GOOD = {
    "OTEL_PYTHON_DISTRO": "voicespan",
    "OTEL_PYTHON_CONFIGURATOR": "voicespan",
    "OTEL_SERVICE_NAME": "svc",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*",
}


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell finds the Python that voicespan is installed for."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "*")


def bad(checks: Iterable[Check]) -> list[Check]:
    return [check for check in checks if check.verdict != "ok"]


def faults(**environ: str) -> list[Check]:
    return bad(installation.examine({name: value for name, value in (GOOD | environ).items() if value}))


def only(checks: list[Check]) -> Check:
    assert len(checks) == 1, checks
    return checks[0]


def test_nothing_is_wrong() -> None:
    """Where nothing is wrong there is no line that says so."""
    assert faults() == []


@pytest.mark.parametrize(
    ("environ", "name", "verdict", "says", "cure"),
    [
        ({"OTEL_PYTHON_DISTRO": "voicespam"}, "distro", "fail", "did you mean voicespan?", "DISTRO=voicespan"),
        ({"OTEL_PYTHON_CONFIGURATOR": "configurator"}, "configurator", "fail", "not installed", "=voicespan"),
        ({"OTEL_SERVICE_NAME": ""}, "service name", "warn", "unknown_service", "OTEL_SERVICE_NAME="),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "sampler", "fail", "no turn is recorded", "unset it"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
         "sampler", "warn", "with 0.1", "sampling.yaml"),
        ({"OTEL_CONFIG_FILE": "otel.yaml"}, "config file", "fail", "nothing is sent", "OTEL_* variables"),
        ({"OTEL_PROPAGATORS": "b4"}, "propagators", "fail", "importing OpenTelemetry fails", "tracecontext,baggage"),
        ({"VOICESPAN_DISABLED": "true"}, "settings", "warn", "nothing is recorded", "unset it"),
        ({"OTEL_SDK_DISABLED": "true"}, "settings", "warn", "nothing is recorded", "unset it"),
        ({"VOICESPAN_TURN_MAX_S": "ten"}, "settings", "fail", "is not a number of seconds", "docs/settings.md"),
        ({"VOICESPAN_SPOOL_DIR": "/proc/self/nowhere"}, "spool", "fail", "cannot be written", "VOICESPAN_SPOOL_DIR="),
        ({"VOICESPAN_STAGES": "/nowhere/voicespan.yaml"}, "stages", "fail", "voicespan.yaml", "voicespan stages check"),
    ],
)  # fmt: skip
def test_a_variable(environ: Mapping[str, str], name: str, verdict: str, says: str, cure: str) -> None:
    """A variable that keeps telemetry away is the one line that is not well, and says what to write instead."""
    check = only(faults(**environ))
    assert (check.name, check.verdict) == (name, verdict)
    assert says in check.message
    assert cure in check.remedy


def test_a_stage_map_that_resolves_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name of a stage map that is not in the service is a failure, with the command that says more."""
    (tmp_path / "app.py").write_text("def listen(): ...\n")
    stages = tmp_path / "voicespan.yaml"
    stages.write_text(
        "session: {enter: 'app:handle'}\nturn: {committed: 'app:listen'}\nstages: {llm: 'gone.llm:ask'}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = faults(VOICESPAN_STAGES=str(stages))
    assert [(check.name, check.verdict) for check in found] == [("stages", "fail")] * 2
    assert [check.message.partition(":")[0] for check in found] == ["session.enter", "stages.llm"]
    assert all(check.remedy == f"voicespan stages check {stages}" for check in found)


def a_package(folder: Path, name: str, version: str, *needs: str) -> None:
    """Put a package where Python finds it first."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")


def test_packages_in_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instrumentation that needs another release of OpenTelemetry is named with what it needs and what there is."""
    a_package(tmp_path, "opentelemetry-instrumentation-llama", "0.30b0", "opentelemetry-api (<1.20)", "numpy")
    monkeypatch.syspath_prepend(str(tmp_path))
    check = only(faults())
    assert (check.name, check.verdict) == ("conflict", "fail")
    assert "opentelemetry-instrumentation-llama 0.30b0 needs opentelemetry-api<1.20, and 1." in check.message
    assert "pip install 'opentelemetry-api<1.20'" in check.remedy


def test_parts_of_different_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """API and SDK of different releases are told apart, with what to install."""
    a_package(tmp_path, "opentelemetry-sdk", "1.99.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    versions = next(check for check in faults() if check.name == "versions")
    assert versions.verdict == "warn"
    assert "opentelemetry-sdk 1.99.0" in versions.message
    assert "install the same version of opentelemetry-api, opentelemetry-sdk" in versions.remedy


def test_a_second_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose set-up makes a provider of its own is a warning."""
    a_package(tmp_path, "logfire", "4.1.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    check = only(faults())
    assert (check.name, check.verdict) == ("second provider", "warn")
    assert "logfire 4.1.0" in check.message
    assert check.remedy == "do not call the set-up of logfire"


def test_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that finds a Python without voicespan is told which one to use."""
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    check = only(faults())
    assert (check.name, check.verdict) == ("python", "warn")
    assert str(other) in check.message
    assert "activate that environment, or name" in check.remedy


def test_a_gpu_that_nobody_can_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that the service is told to use, and whose driver or library is not there, is a warning."""
    (tmp_path / "pynvml.py").write_text("def nvmlInit(): raise RuntimeError('Driver Not Loaded')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    check = only(bad(machine.gpu({"CUDA_VISIBLE_DEVICES": "0"})))
    assert "Driver Not Loaded" in check.message
    assert "nvidia-smi" in check.remedy
    monkeypatch.delitem(sys.modules, "pynvml")
    (tmp_path / "pynvml.py").write_text("raise ModuleNotFoundError(name='pynvml')\n")
    assert "voicespan[gpu]" in only(bad(machine.gpu({"CUDA_VISIBLE_DEVICES": "0"}))).remedy


def test_the_spool(tmp_path: Path) -> None:
    """What waits on disk is counted; a folder that is nearly full warns, and one that cannot be written fails."""

    def line(**environ: str) -> Check:
        return next(check for check in installation.examine(GOOD | environ) if check.name == "spool")

    environ = {"VOICESPAN_SPOOL_DIR": str(tmp_path)}
    assert line(**environ).message == f"{tmp_path}/traces: nothing waits"
    Spool(tmp_path / "traces", 1 << 20).put(os.urandom(100_000), 12, 1)
    assert line(**environ).message.startswith(f"12 spans wait in {tmp_path}/traces (0.1 of 256 MiB)")
    full = line(**environ, VOICESPAN_SPOOL_MIB="0.1")
    assert (full.verdict, "nearly full" in full.message) == ("warn", True)
    assert "VOICESPAN_SPOOL_MIB" in full.remedy
    (tmp_path / "file").write_text("")
    broken = line(VOICESPAN_SPOOL_DIR=str(tmp_path / "file"))
    assert broken.verdict == "fail"
    assert "Not a directory" in broken.message
    assert len(list(tmp_path.rglob("*.gz"))) == 1


def test_a_start_is_judged_by_what_it_tells() -> None:
    """A turn that was not sampled, not exported or not taken is not said to have arrived, and why is said."""
    told = {
        "loaded": ["OTEL_PYTHON_CONFIGURATOR", "OTEL_PYTHON_DISTRO"], "provider": "p", "trace_id": "0" * 32,
        "exporters": True, "sampled": True, "sent": True, "counters": {}, "said": [], "doubles": [], "broken": [],
    }  # fmt: skip

    def judged(**changes: object) -> tuple[str | None, list[Check]]:
        started = start.Started(told | changes)
        return started.trace_id, bad(start.examine(started, ()))

    assert judged() == ("0" * 32, [])
    for changes, verdict, says in (
        ({"sampled": False}, "fail", "was not sampled"),
        ({"exporters": False}, "warn", "no exporter"),
        ({"sent": False}, "fail", "was not taken"),
        ({"counters": {"mark.refused": 2}}, "warn", "mark.refused 2"),
        ({"said": [["internal", "something went wrong"]]}, "warn", "something went wrong"),
    ):
        trace_id, checks = judged(**changes)
        check = only(checks)
        assert (check.verdict, says in check.message) == (verdict, True)
        assert (trace_id is None) == (check.name == "test turn")
