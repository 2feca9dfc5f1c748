"""Which instrumentor of a library is loaded, when, and what becomes of the others; the doctor's words about it."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.instrumentation import dependencies
from opentelemetry.instrumentation.dependencies import DependencyConflict, DependencyConflictError

from voicespan import distro, hooked
from voicespan.distro import VoicespanDistro
from voicespan.integrations import known
from voicespan.integrations.known import Library

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    hooked.forget()
    yield
    known.installed.cache_clear()
    hooked.forget()


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, known.GROUP)


def installed(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    by_name: dict[str, tuple[EntryPoint, ...]] = {}
    for each in entries:
        by_name[each.name] = (*by_name.get(each.name, ()), each)
    monkeypatch.setattr(known, "installed", lambda: by_name)


OURS = entry("redis", "voicespan.integrations.redis:RedisInstrumentor")
OFFICIAL = entry("redis", "opentelemetry.instrumentation.redis:RedisInstrumentor")
SOMEBODYS = entry("redis", "somebody.redis:Instrumentor")


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [((SOMEBODYS, OFFICIAL, OURS), OURS), ((SOMEBODYS, OFFICIAL), OFFICIAL), ((SOMEBODYS,), SOMEBODYS)],
)
def test_one_instrumentor_of_a_name_is_loaded(
    monkeypatch: pytest.MonkeyPatch, entries: tuple[EntryPoint, ...], chosen: EntryPoint
) -> None:
    """Of several with one name, ours is loaded, else OpenTelemetry's, else the first; the others never are."""
    installed(monkeypatch, *entries)
    loaded: list[str] = []
    monkeypatch.setattr(known, "when_imported", lambda entry, _load: loaded.append(entry.value))
    for each in entries:
        VoicespanDistro().load_instrumentor(each)
    assert loaded == [chosen.value]


def test_opentelemetry_s_instrumentor_waits_for_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded when the service imports the library, with our options, and then counts as hooked."""
    library = Library(("late",), "click", "a_library", options={"exclude_spans": ["send"]})
    monkeypatch.setitem(known._BY_NAME, "late", library)
    loaded: list[Mapping[str, Any]] = []
    known.when_imported(entry("late", "opentelemetry.instrumentation.late:L"), loaded.append)
    assert loaded == []
    _import(monkeypatch, "a_library")
    assert loaded == [{"exclude_spans": ["send"]}]
    assert "click" in hooked._libraries


@pytest.mark.parametrize(
    ("version", "imported", "fits"), [("1.0", True, False), ("1.0", False, True), ("2.5", True, True)]
)
def test_a_version_is_checked_when_the_library_is_imported(
    version: str, imported: bool, fits: bool, tmp_path: Path
) -> None:
    """Where OpenTelemetry's instrumentor does not take the version of its library, one line says so, and what it takes.

    Nothing is said, and no time spent, in a process that never imports the library.
    """
    (tmp_path / "requests.py").write_text("")
    about = tmp_path / f"requests-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: requests\nVersion: {version}\n")
    names = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_"))}
    program = "import requests" if imported else "pass"
    done = subprocess.run(
        [sys.executable, "-m", "voicespan", "run", "--", sys.executable, "-c", program],
        env=names | {"PYTHONPATH": str(tmp_path), "VOICESPAN_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ("requests 1.0 is not instrumented" in done.stderr) is not fits
    assert ('only instruments "requests~=2.0' in done.stderr) is not fits


def test_what_nobody_waits_for_is_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader checks nothing itself; what it hands over is checked before it is loaded, but for our own."""
    loader: Any = types.SimpleNamespace(get_dist_dependency_conflicts=lambda _: "a conflict")
    monkeypatch.setitem(sys.modules, distro._LOADER, loader)
    distro._check_late()
    assert loader.get_dist_dependency_conflicts(None) is None
    monkeypatch.setattr(dependencies, "get_dist_dependency_conflicts", lambda _: DependencyConflict("flask ~= 9"))
    real = {each.name: each for each in entry_points(group=known.GROUP)}
    known.check(real["livekit"])
    with pytest.raises(DependencyConflictError, match="flask ~= 9"):
        known.check(real["httpx"])


def test_a_library_that_comes_with_another_s_instrumentor_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one instrumentor is loaded, that of a library which it imports waits: they may share a module."""
    order: list[str] = []

    def first(_options: object) -> None:
        second_late(None)
        order.append("first")

    library = Library(("late",), "click", "none")
    second_late = known._Late(entry("b", "b:b"), library, lambda _options: order.append("second"))
    known._Late(entry("a", "a:a"), library, first)(None)
    assert order == ["first", "second"]


def test_an_instrumentor_that_fails_late_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When it fails, the service's import does not; one line names the library and its version."""
    monkeypatch.setitem(known._BY_NAME, "late", Library(("late",), "click", "another_library"))

    def fail(_options: object) -> None:
        raise ImportError("no such name")

    known.when_imported(entry("late", "opentelemetry.instrumentation.late:L"), fail)
    _import(monkeypatch, "another_library")
    said = capsys.readouterr().err
    assert said.startswith("voicespan: click 8.")
    assert "no such name" in said


def _import(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Import a module that is made now."""
    import importlib.abc
    import importlib.machinery

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
            return importlib.machinery.ModuleSpec(name, self) if fullname == name else None

        def exec_module(self, module: types.ModuleType) -> None:
            """Do nothing."""

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    __import__(name)
    del sys.modules[name]


def test_the_doctor_says_who_instruments_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library is named with its version, and with the package that instruments it and that one's version."""
    library = next(each for each in known.LIBRARIES if each.names == ("redis",))
    state = library.examined()
    assert state is not None
    assert state.remedy == ""
    assert state.message.startswith("redis ")
    assert " by voicespan " in state.message


def test_the_doctor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library without its instrumentation has the command that brings it; without the library there is no line."""
    installed(monkeypatch)
    there, missing = (Library(("x",), name, "x", "voicespan[http]") for name in ("click", "no-such-library"))
    state = there.examined()
    assert state is not None
    assert "its instrumentation is not installed" in state.message
    assert state.remedy == "pip install 'voicespan[http]'"
    assert missing.examined() is None


class Brought:
    """A distribution, as far as it matters who needs it."""

    def __init__(self, name: str, *requires: str, requested: bool = False) -> None:
        self.metadata = {"Name": name}
        self.requires = list(requires)
        self._requested = requested

    def read_text(self, name: str) -> str | None:
        return "" if name == "REQUESTED" and self._requested else None


OURS_NEED_IT = (
    Brought("voicespan", "Star_Lette>=1 ; extra == 'ui'"),
    Brought("opentelemetry-exporter-x", "star-lette"),
    Brought("elsewhere", "star-lette ; extra == 'web'", "what is this"),
)


@pytest.mark.parametrize(
    ("there", "alone"),
    [
        ((Brought("star.lette"),), True),
        ((Brought("star.lette", requested=True),), False),
        ((Brought("star.lette"), Brought("web-framework", "Star.Lette>0.4")), False),
    ],
    ids=["nobody else", "asked for", "required"],
)
def test_a_library_that_only_voicespan_needs_is_not_missed(
    monkeypatch: pytest.MonkeyPatch, there: tuple[Brought, ...], alone: bool
) -> None:
    """What was installed for voicespan itself is no warning; what somebody asked for, or needs, is."""
    monkeypatch.setattr("importlib.metadata.distributions", lambda: [*there, *OURS_NEED_IT])
    monkeypatch.setattr(known, "version", {"star-lette": "1.0"}.get)
    installed(monkeypatch)
    state = Library(("x",), "star-lette", "x", "voicespan[http]").examined()
    assert state is not None
    assert (state.remedy == "") is alone
    assert ("for voicespan itself" in state.message) is alone


def test_the_doctor_misses_the_instrumentation_of_starlette(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette has one of its own, which the doctor names where there is no FastAPI to come with."""
    versions = {"starlette": "1.10.0", "fastapi": "0.165.0"}
    monkeypatch.setattr(known, "version", versions.get)
    installed(monkeypatch)
    starlette = next(each for each in known.LIBRARIES if each.distribution == "starlette")
    assert starlette.examined() is None  # with FastAPI
    del versions["fastapi"]
    state = starlette.examined()
    assert state is not None
    assert state.message == "starlette 1.10.0 is not instrumented: its instrumentation is not installed"
    assert state.remedy == "pip install 'opentelemetry-instrumentation-starlette'"


def test_the_doctor_says_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment leaves out is said with the variable, wholly or in part."""
    grpc = next(each for each in known.LIBRARIES if each.distribution == "grpcio")
    monkeypatch.setenv(known.DISABLED, "grpc_server")
    partly = grpc.examined()
    monkeypatch.setenv(known.DISABLED, ",".join(grpc.names))
    wholly = grpc.examined()
    assert partly is not None
    assert wholly is not None
    assert "but for grpc_server (OTEL_PYTHON_DISABLED_INSTRUMENTATIONS)" in partly.message
    assert "is not instrumented: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS names grpc_client" in wholly.message


def test_the_doctor_says_that_a_version_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version out of range is said with the range."""
    from voicespan.integrations.redis import RedisInstrumentor

    monkeypatch.setattr(RedisInstrumentor, "requirement", "redis >= 99")
    library = next(each for each in known.LIBRARIES if each.names == ("redis",))
    state = library.examined()
    assert state is not None
    assert "is not instrumented: its instrumentation is made for redis >= 99" in state.message
    assert state.remedy


def test_who_comes_second_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another distribution has loaded OpenTelemetry's instrumentor before ours, ours leaves the library to it."""
    from voicespan.integrations.redis import RedisInstrumentor

    stock = types.ModuleType(RedisInstrumentor.stock[0])
    instance = types.SimpleNamespace(_is_instrumented_by_opentelemetry=True)
    stock.RedisInstrumentor = types.SimpleNamespace(_instance=instance)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, RedisInstrumentor.stock[0], stock)
    ours = RedisInstrumentor()
    ours.instrument()
    assert not ours.on
    ours.uninstrument()


def test_a_function_that_has_moved_is_said_with_library_and_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version of a library without one of the functions is left alone, with one line that names both."""
    from voicespan.integrations.redis import RedisInstrumentor

    module = types.ModuleType("redis.client")
    hooked.forget()
    RedisInstrumentor()._install(module)
    said = capsys.readouterr().err
    hooked.explain()
    assert "not hooked, since it has moved something: redis" in capsys.readouterr().err
    hooked.forget()
    assert said.count("\n") == 1
    assert said.startswith("voicespan: redis ")
    assert "is not instrumented" in said
    assert "redis.client.Redis.execute_command" in said
