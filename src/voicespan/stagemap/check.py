"""Checking a stage map before a service runs with it: what each name is, and what would not work."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voicespan.stagemap.install import missing
from voicespan.stagemap.lookup import Found, NotFoundError, look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.stagemap.document import Hook, StageMap
    from voicespan.stagemap.value import Path as ValuePath


@dataclass(frozen=True, slots=True)
class Checked:
    """One hook: where its function is, and what is wrong with it."""

    role: str
    target: str
    found: Found | None
    problems: tuple[str, ...]
    """What will not work."""
    remarks: tuple[str, ...] = ()
    """What could not be checked, or is assumed."""


def check(stage_map: StageMap, *, importing: bool) -> list[Checked]:
    """Check every hook; `importing`: import the modules, which runs their code, and look at what is there."""
    here = str(Path.cwd())
    path = sys.path if here in sys.path else [here, *sys.path]
    return [_checked(stage_map, hook, path, importing=importing) for hook in stage_map.hooks]


def _checked(stage_map: StageMap, hook: Hook, path: list[str], *, importing: bool) -> Checked:
    try:
        found = look_up(hook.target, path)
    except NotFoundError as error:
        return Checked(hook.role, str(hook.target), None, (str(error),))
    problems, remarks = [*_problems(hook, found)], [*_remarks(stage_map, hook, found)]
    if importing and (problem := _imported(hook, path)):
        problems.append(problem)
    return Checked(hook.role, str(hook.target), found, tuple(problems), tuple(remarks))


def _problems(hook: Hook, found: Found | None) -> Iterator[str]:
    if found is None:
        return
    if hook.role == "session.enter" and found.streams:
        yield "a generator function cannot be a session: use `start` and `end`"
    for path in hook.paths():
        yield from _path_problems(path, found)


def _path_problems(path: ValuePath, found: Found) -> Iterator[str]:
    if path.root == "self" and not found.is_method:
        yield f"{path}: {found.kind} has no self"
    if path.root != "arg" or found.parameters is None or not path.steps or path.steps[0].isdigit():
        return
    if path.steps[0] not in found.parameters:
        there = ", ".join(found.parameters) or "none"
        yield f"{path}: there is no such parameter (there are: {there})"


def _remarks(stage_map: StageMap, hook: Hook, found: Found | None) -> Iterator[str]:
    if found is None:
        yield "not defined in the source: try --import"
    frames = hook.role == "playback.frame" and "seconds" not in hook.options
    if frames and "sample_rate" not in hook.options and not stage_map.sample_rate_given:
        yield f"sample_rate is not set: {stage_map.sample_rate} is assumed for the length of frames"


def _imported(hook: Hook, path: list[str]) -> str | None:
    sys.path[:] = path
    try:
        owner: Any = importlib.import_module(hook.target.module)
    except Exception as error:
        return f"cannot be imported: {type(error).__name__}: {error}"
    for step in hook.target.name.split("."):
        if not hasattr(owner, step):
            return missing(step, owner)
        owner = getattr(owner, step)
    return None if callable(owner) else f"is {type(owner).__name__}, not a function"
