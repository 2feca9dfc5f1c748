"""Putting the wrappers in place, each when the module of its function is imported."""

from __future__ import annotations

import inspect
import pathlib
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import wrapt

from voicespan.diagnostics import say
from voicespan.guard import swallowed
from voicespan.nearest import nearest
from voicespan.stagemap import source
from voicespan.stagemap.document import StageMap, StageMapError, read
from voicespan.stagemap.pipeline import Pipeline
from voicespan.stagemap.wrapping import wrapper

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from voicespan.stagemap.document import Hook

LOOK_AFTER_S = 2.0
"""How long after the start the source is looked at for names that do not exist."""
_ORDER = ("stages", "playback", "turn", "session")
"""What is wrapped later lies outside: a function that is a session and a mark is the session first."""


@dataclass(slots=True)
class Installed:
    """What a process has wrapped; the doctor and the line at the end read it."""

    waiting: set[str] = field(default_factory=set)
    """Functions whose module has not been imported."""
    wrapped: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    """Functions that their module does not have."""


installed = Installed()


def install_file(path: str) -> None:
    """Install the stage map of this file. What is wrong with it is said, and the service starts without it."""
    try:
        stage_map = read(pathlib.Path(path).expanduser())
        install(stage_map)
        _look_later(stage_map)
    except StageMapError as error:
        say("stages", f"stages: {error}; nothing is wrapped")
    except Exception as error:  # ours: turns and telemetry of everything else go on
        swallowed(f"stages: {path}: installing it", error)


def install(stage_map: StageMap) -> Pipeline:
    """Wrap the functions of the map, now where their module is imported already, else when it is."""
    pipeline = Pipeline(stage_map)
    for hook in sorted(stage_map.hooks, key=lambda hook: _ORDER.index(hook.section)):
        installed.waiting.add(str(hook.target))
        if hook.target.module == _script():
            say(
                f"stages.{hook.target}",
                f"stages: {hook.target} is part of the script that Python runs itself, which is imported under no "
                "name: move it into a module, and import that from the script",
            )
        wrapping = _Wrapping(pipeline, hook)
        if hook.target.module not in sys.modules:
            source.wrap_in(hook.target.module, hook.target.name, wrapping.defined)
        wrapt.register_post_import_hook(wrapping, hook.target.module)
    return pipeline


def _script() -> str | None:
    """Return the module that runs as the script already; `python -m` begins with it after this, and is hooked."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None) or (sys.argv[0] if sys.argv else None)
    return pathlib.Path(file).stem if file and file.endswith(".py") else None


def _look_later(stage_map: StageMap) -> None:
    """Look for the names in the source, on a thread, once the service has had the time to set its path."""
    timer = threading.Timer(LOOK_AFTER_S, _look, (stage_map,))
    timer.name = "voicespan-stages"
    timer.daemon = True
    timer.start()


def _look(stage_map: StageMap) -> None:
    """Say what of the map is not in the source; of what is imported already the import has told."""
    try:
        from voicespan.stagemap.check import check

        for checked in check(stage_map, importing=False):
            if checked.target in installed.wrapped or checked.target in installed.missing:
                continue
            for problem in checked.problems:
                say(f"stages.{checked.target}", f"stages: {checked.role}: {checked.target}: {problem}")
    except Exception as error:
        swallowed("stages: looking at the source", error)


class _Wrapping:
    """Wraps one function when its module is there. Never raises: an import of the service would fail."""

    def __init__(self, pipeline: Pipeline, hook: Hook) -> None:
        self.pipeline = pipeline
        self.hook = hook
        self.done = False

    def defined(self, function: Callable[..., Any], bound: bool) -> Any:
        """Return the wrapper of the function that has just been defined."""
        plain = inspect.unwrap(function) if isinstance(function, wrapt.FunctionWrapper) else function
        around = wrapper(self.pipeline, self.hook, plain, bound=bound)
        self._is_wrapped()
        self.done = True
        return around

    def __call__(self, module: ModuleType) -> None:
        target = self.hook.target
        if self.done:
            return
        try:
            installed.waiting.discard(str(target))
            problem = self._wrap(module)
        except Exception as error:
            swallowed(f"stage map: {target}", error)
            return
        if problem is None:
            self._is_wrapped()
        else:
            installed.missing.add(str(target))
            say(f"stages.{target}", f"stages: {self.hook.role}: {target}: {problem}")

    def _is_wrapped(self) -> None:
        target = self.hook.target
        installed.waiting.discard(str(target))
        installed.wrapped.add(str(target))
        say(f"stages.{target}.wrapped", f"stages: {target} is {self.hook.role}", level="debug")

    def _wrap(self, module: ModuleType) -> str | None:
        """Wrap the function; return what is wrong where that is not possible."""
        owner: Any = module
        *path, name = self.hook.target.name.split(".")
        for step in path:
            if not hasattr(owner, step):
                return missing(step, owner)
            owner = getattr(owner, step)
        if not hasattr(owner, name):
            return missing(name, owner)
        function = inspect.getattr_static(owner, name)
        plain = function.__func__ if isinstance(function, classmethod | staticmethod) else function
        if isinstance(plain, wrapt.FunctionWrapper):
            plain = inspect.unwrap(plain)
        if not callable(plain) or inspect.isclass(plain):
            return f"is {type(plain).__name__}, not a function"
        bound = inspect.isclass(owner) and not isinstance(function, staticmethod)
        around = wrapper(self.pipeline, self.hook, plain, bound=bound)
        wrapt.wrap_function_wrapper(module, self.hook.target.name, around)
        return None


def missing(name: str, owner: object) -> str:
    """Say that an object has no such attribute, with the one that was perhaps meant."""
    near = nearest(name, [each for each in dir(owner) if not each.startswith("__")])
    return f"there is no {name!r}" + (f": did you mean {near!r}?" if near else "")
