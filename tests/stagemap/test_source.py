"""Functions that a decorator takes away while their module runs are wrapped where they are defined."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import traceback
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import diagnostics, emit
from voicespan import names as n
from voicespan.stagemap import install as installing
from voicespan.stagemap.document import parse

from .test_stagemap import _forget_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voicespan.testing import VoiceRecorder

SOURCE = '''\
"""A module."""
from __future__ import annotations

import functools
from contextlib import asynccontextmanager, contextmanager

HANDLERS = {}


def on(name):
    def register(function):
        HANDLERS[name] = function
        return function
    return register


def twice(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args), function(*args)
    return call


@on("text")
def text(message: Message) -> None:
    if message == "fail":
        raise LookupError(message)


if True:
    class Service:
        @on("method")
        def method(self, city):
            return f"{self.name} in {city}"

        @twice
        def called(self, city):
            return city

        @on("class")
        @classmethod
        def of_class(cls, city):
            return cls.__name__ + city

        @staticmethod
        @on("static")
        def of_nobody(city):
            return city

        name = "service"


@contextmanager
def opened(city):
    yield city


def main():
    text("hello")


if __name__ == "__main__":
    import sys
    text("hello")
    print(text.__module__, text.__code__.co_filename == __file__, sys._getframe().f_lineno)
'''


@pytest.fixture
def module(
    voice: VoiceRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Give a function that installs a map and imports the module."""
    (tmp_path / "mapped_service.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(emit, "_recorder", voice)

    def load(document: dict[str, Any]) -> Any:
        installing.install(parse(document))
        return importlib.import_module("mapped_service")

    yield load
    sys.modules.pop("mapped_service", None)
    _forget_hooks()


def tools(*names: str) -> dict[str, Any]:
    """A map with these functions as tools."""
    return {
        "stages": {"tool": [{"call": f"mapped_service:{name}", "attributes": {"city": "arg.city"}} for name in names]}
    }


def test_a_registered_function_is_wrapped(module: Callable[[dict[str, Any]], Any], voice: VoiceRecorder) -> None:
    """What the registry holds is what the map means, and it keeps its name, annotations and place."""
    loaded = module({"session": {"enter": "mapped_service:main"}, "turn": {"text": "mapped_service:text"}})
    handler = loaded.HANDLERS["text"]
    assert handler is loaded.text
    assert inspect.signature(handler).parameters["message"].annotation == "Message"
    assert inspect.getsourcelines(handler)[1] == SOURCE.splitlines().index('@on("text")') + 1
    loaded.main()
    assert len(voice.settle(1)) == 1
    with pytest.raises(LookupError) as caught:
        handler("fail")
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.name) == (loaded.__file__, "text")
    assert last.line == "raise LookupError(message)"


def test_methods_are_wrapped_under_their_decorators(
    module: Callable[[dict[str, Any]], Any], voice: VoiceRecorder
) -> None:
    """Methods, class methods and static methods; the arguments are counted from behind the object."""
    names = ["Service.method", "Service.called", "Service.of_class", "Service.of_nobody"]
    loaded = module(tools(*names))
    service = loaded.Service()
    assert service.method("Rome") == "service in Rome"
    assert loaded.HANDLERS["method"](service, "Rome") == "service in Rome"
    assert service.called("Rome") == ("Rome", "Rome")
    assert loaded.Service.of_class("Rome") == service.of_class("Rome") == "ServiceRome"
    assert loaded.Service.of_nobody("Rome") == loaded.HANDLERS["static"]("Rome") == "Rome"
    voice.settle(700)
    spans = [span for turn in voice.turns for span in turn.spans if span.name.startswith(n.SPAN_EXECUTE_TOOL)]
    assert [span.name.rpartition(" ")[2] for span in spans] == [
        *["method"] * 2, *["called"] * 2, *["of_class"] * 2, *["of_nobody"] * 2
    ]  # fmt: skip
    assert {span.attributes.get("city") for span in spans} == {"Rome"}
    assert diagnostics.counters.get("internal_error") == 0


def test_what_a_decorator_makes_a_manager_of_is_wrapped_as_one(
    module: Callable[[dict[str, Any]], Any], voice: VoiceRecorder
) -> None:
    """The generator under `contextmanager` is no stream: the stage is the block."""
    with module({"stages": {"tool": "mapped_service:opened"}}).opened("Rome") as city:
        assert city == "Rome"
        voice.clock.advance(ms=50)
    (turn,) = voice.settle(700)
    (tool,) = [span for span in turn.spans if span.name.startswith(n.SPAN_EXECUTE_TOOL)]
    assert tool.duration_ns == 50_000_000


def test_compiled_files_are_left_alone(module: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    """A process without the map finds no trace of it in the cache."""
    module(tools("Service.method"))
    assert not list(tmp_path.rglob("mapped_service*.pyc"))


def run(folder: Path, *command: str, wait: str = "") -> subprocess.CompletedProcess[str]:
    """Run a Python of this environment as a service with the map of the folder."""
    (folder / "service.py").write_text(SOURCE + dedent(wait))
    environ = {**os.environ, "VOICESPAN_STAGES": str(folder / "map.yaml"), "OTEL_TRACES_EXPORTER": "console"}
    environ |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_SERVICE_NAME": "s"}
    program = [str(Path(sys.executable).with_name("voicespan")), "run", "--", sys.executable, *command]
    return subprocess.run(program, cwd=folder, env=environ, check=True, capture_output=True, text=True, timeout=60)


def test_a_module_that_python_runs_is_wrapped(tmp_path: Path) -> None:
    """`python -m service` runs the mapped functions as well, on the same lines."""
    (tmp_path / "map.yaml").write_text("turn: {text: 'service:text'}\nstages: {tool: 'service:text'}\n")
    done = run(tmp_path, "-m", "service")
    line = next(i for i, text in enumerate(SOURCE.splitlines(), 1) if "f_lineno" in text)
    assert f"__main__ True {line}" in done.stdout
    assert '"name": "execute_tool text"' in done.stdout
    assert "part of the script" not in done.stderr


def test_a_wrong_module_is_said_while_the_service_runs(tmp_path: Path) -> None:
    """A module that does not exist is never imported: a look at the source says so, with the nearest."""
    (tmp_path / "map.yaml").write_text("stages: {tool: ['servise:text', 'service:tekst', 'service:text']}\n")
    done = run(tmp_path, "-c", "import time, os; os.close(1); time.sleep(4)")
    assert "stages.tool: servise:text: there is no module 'servise': did you mean 'service'?" in done.stderr
    assert "service:tekst: there is no 'tekst' in service: did you mean 'text'?" in done.stderr
    assert "service:text:" not in done.stderr
