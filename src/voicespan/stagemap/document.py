"""Reading a stage map: YAML, checked against its JSON schema, as a list of hooks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from voicespan.stagemap.value import Path, Value, value

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator, Mapping

DEFAULT_SAMPLE_RATE = 16_000
STAGES = ("asr", "llm", "tool", "tts", "realtime")
_CONSTANTS = ("trigger", "when", "remote")


class StageMapError(Exception):
    """The file cannot be used; the message says where and why, one line for each problem."""


@dataclass(frozen=True, slots=True)
class Target:
    """A function of the service: `app.vad:Detector.on_speech`."""

    module: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `module:name`."""
        module, _, name = text.partition(":")
        return cls(module, name)

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


@dataclass(frozen=True, slots=True)
class Time:
    """When something really happened, as a call tells it."""

    path: Path
    unit: str = "ns"
    clock: str = "monotonic"


@dataclass(frozen=True, slots=True)
class Hook:
    """One function, and what its call means for the turn."""

    role: str
    """`session.enter`, `turn.committed`, `stages.llm`, `playback.frame`."""
    target: Target
    at: Time | None = None
    when: str | None = None
    condition: Mapping[Path, Any] = field(default_factory=dict)
    session: Path | None = None
    options: Mapping[str, Value] = field(default_factory=dict)
    attributes: Mapping[str, Value] = field(default_factory=dict)

    @property
    def section(self) -> str:
        """The part of the file that it stands in."""
        return self.role.partition(".")[0]

    @property
    def kind(self) -> str:
        """What it is within its section."""
        return self.role.partition(".")[2]

    def paths(self) -> Iterator[Path]:
        """Yield every path that is read at a call."""
        if self.at is not None:
            yield self.at.path
        if self.session is not None:
            yield self.session
        yield from self.condition
        yield from (each for each in (*self.options.values(), *self.attributes.values()) if isinstance(each, Path))


@dataclass(frozen=True, slots=True)
class StageMap:
    """The hooks of a file."""

    hooks: tuple[Hook, ...]
    sample_rate: int = DEFAULT_SAMPLE_RATE
    sample_rate_given: bool = False

    def has(self, role: str) -> bool:
        """Return whether the file names a function for this role."""
        return any(hook.role == role for hook in self.hooks)

    @property
    def marks_turns(self) -> bool:
        """Whether the pipeline says itself when the user's turns begin."""
        return any(self.has(f"turn.{kind}") for kind in ("speech_started", "committed", "text", "dtmf"))


def read(path: pathlib.Path) -> StageMap:
    """Read a stage map.

    Raises:
        StageMapError: there is no such file, it is no YAML, or not of the form that `voicespan stages schema` prints.

    """
    try:
        import jsonschema
        import yaml
    except ModuleNotFoundError as error:
        raise StageMapError(f"a stage map needs: pip install 'voicespan[stages]' (no module {error.name!r})") from None
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StageMapError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise StageMapError(f"{path} is no YAML: {error}") from None
    validator = jsonschema.Draft202012Validator(schema())
    problems = sorted(validator.iter_errors(document), key=lambda error: [str(step) for step in error.absolute_path])
    if problems:
        raise StageMapError("\n".join(f"{path}: {_words(jsonschema.exceptions.best_match([p]))}" for p in problems))
    return parse(document)


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of the file."""
    text = files("voicespan.stagemap").joinpath("schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _words(error: Any) -> str:
    place = ".".join(str(step) for step in error.absolute_path)
    if error.validator == "pattern":
        return f"{place}: {error.instance!r} is not {error.schema.get('description', error.message)}"
    return f"{place}: {error.message}" if place else str(error.message)


def parse(document: Mapping[str, Any]) -> StageMap:
    """Return the stage map of a document that the schema allows."""
    session = document.get("session", {})
    hooks = [*_session(session)]
    for section in ("turn", "stages", "playback"):
        for kind, given in document.get(section, {}).items():
            hooks.extend(_hooks(f"{section}.{kind}", given))
    rate = document.get("sample_rate")
    return StageMap(tuple(hooks), rate or DEFAULT_SAMPLE_RATE, rate is not None)


def _session(given: Mapping[str, Any]) -> Iterator[Hook]:
    own = {key: value(given[key]) for key in ("id", "key", "transport") if key in given}
    for kind in ("enter", "start"):
        if kind in given:
            yield Hook(f"session.{kind}", Target.parse(given[kind]), options=own)
    if "end" in given:
        key = given.get("end_key") or given.get("key") or given.get("id")
        options = {"key": value(key)} if key is not None else {}
        yield Hook("session.end", Target.parse(given["end"]), options=options)
    for kind in ("media_up", "hung_up"):
        if kind in given:
            yield from _hooks(f"session.{kind}", given[kind])


def _hooks(role: str, given: Any) -> Iterator[Hook]:
    for each in given if isinstance(given, list) else [given]:
        yield _hook(role, {"call": each} if isinstance(each, str) else each)


def _hook(role: str, given: Mapping[str, Any]) -> Hook:
    session = Path.parse(given["session"]) if "session" in given else None
    known = ("call", "at", "when", "if", "session", "attributes")
    options = {key: each if key in _CONSTANTS else value(each) for key, each in given.items() if key not in known}
    return Hook(
        role,
        Target.parse(given["call"]),
        at=_time(given["at"]) if "at" in given else None,
        when=given.get("when"),
        condition={path: wanted for text, wanted in given.get("if", {}).items() if (path := Path.parse(text))},
        session=session,
        options=options,
        attributes={key: value(each) for key, each in given.get("attributes", {}).items()},
    )


def _time(given: Any) -> Time:
    parts = {"path": given} if isinstance(given, str) else dict(given)
    path = Path.parse(parts.pop("path"))
    assert path is not None
    return Time(path, **parts)
