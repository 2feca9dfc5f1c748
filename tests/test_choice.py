from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from opentelemetry.util import _importlib_metadata

from voicespan import choice, diagnostics, settings
from voicespan.choice import CONFIGURATOR, DISTRO, Choice
from voicespan.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing has been said, the settings are the defaults, and nothing is chosen."""
    monkeypatch.delenv(DISTRO, raising=False)
    monkeypatch.delenv(CONFIGURATOR, raising=False)
    settings.reset(Settings())
    diagnostics.forget()
    yield
    settings.reset()
    diagnostics.forget()


def install(monkeypatch: pytest.MonkeyPatch, distros: list[str], configurators: list[str]) -> None:
    found = EntryPoints(
        EntryPoint(name, "x:y", group)
        for group, names in (("opentelemetry_distro", distros), ("opentelemetry_configurator", configurators))
        for name in names
    )
    monkeypatch.setattr(_importlib_metadata, "entry_points", found.select)


@pytest.mark.parametrize(
    ("installed", "value", "loaded", "words"),
    [
        (["voicespan"], None, "voicespan", None),
        (["other", "voicespan"], "voicespan", "voicespan", None),
        (["voicespan", "other"], None, "voicespan", None),
        (["other", "voicespan"], None, "other", "'other' is loaded and not voicespan, because several are installed"),
        (["other", "voicespan"], "other", "other", None),
        (["voicespan"], "voicespam", None, "is not installed, so its defaults are not set: did you mean voicespan?"),
        (["voicespan"], "zzz", None, "is not installed, so its defaults are not set (installed: voicespan)"),
    ],
)
def test_what_is_loaded(
    installed: list[str], value: str | None, loaded: str | None, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The named one is loaded, else the first; it is a problem when that is not voicespan and nobody chose so."""
    install(monkeypatch, installed, [])
    found = Choice.read(DISTRO, {DISTRO: value} if value else {})
    assert found.loaded == loaded
    assert (words or "") in (found.problem or "")
    assert bool(words) is bool(found.problem)


def test_several_without_a_choice_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another distribution wins by being first, the two variables that choose are named."""
    install(monkeypatch, [], ["configurator", "voicespan"])
    problem = Choice.read(CONFIGURATOR, {}).problem or ""
    assert problem.endswith("set OTEL_PYTHON_DISTRO=voicespan and OTEL_PYTHON_CONFIGURATOR=voicespan")


def test_the_check_is_silent_when_all_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When voicespan's distribution and configurator were loaded, nothing is looked up or said."""
    monkeypatch.setitem(sys.modules, "voicespan.distro", SimpleNamespace(loaded={DISTRO, CONFIGURATOR}))
    monkeypatch.setattr(Choice, "read", None)
    choice.check()
    assert capsys.readouterr().err == ""


def test_the_check_says_what_was_not_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the configurator was not loaded because its name is misspelt, that is one line."""
    install(monkeypatch, ["voicespan"], ["voicespan"])
    monkeypatch.setitem(sys.modules, "voicespan.distro", SimpleNamespace(loaded={DISTRO}))
    monkeypatch.setenv(CONFIGURATOR, "voice-span")
    choice.check()
    assert capsys.readouterr().err == (
        "voicespan: OTEL_PYTHON_CONFIGURATOR=voice-span is not installed, so no telemetry is sent: did you mean "
        "voicespan? (installed: voicespan)\n"
    )


@pytest.mark.parametrize(
    ("value", "unknown"), [("", []), ("none", []), ("tracecontext, baggage", []), ("tracecontext,b4", ["b4"])]
)
def test_unknown_propagators(value: str, unknown: list[str]) -> None:
    """Propagators that are not installed are found before they keep OpenTelemetry from being imported."""
    assert choice.unknown_propagators({"OTEL_PROPAGATORS": value}) == unknown
