"""Hooks on the functions of a framework, whichever it is."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from voicespan.integrations.hook import Hook


class Base:
    """What a framework's classes have in common."""

    def run(self, frame: object) -> object:
        """Do nothing with it."""
        return frame


class Old(Base):
    """A class as it is known."""

    def run(self, frame: object) -> object:
        """Do the work."""
        return frame


class New(Base):
    """The same, whose work is done elsewhere now."""

    def process(self, frame: object) -> object:
        """Do the work."""
        return frame


def as_it_was(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
    """Change nothing."""
    return wrapped(*args, **kwargs)


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with these classes."""
    module = ModuleType("a_framework")
    vars(module).update(Old=Old, New=New)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.mark.parametrize(
    ("name", "inherited", "moved"),
    [
        ("Old.run", False, None),
        ("New.run", False, "a_framework.New.run"),
        ("New.run", True, None),
        ("New.walk", True, "a_framework.New.walk"),
        ("Newer.run", False, "a_framework.Newer.run"),
    ],
)
def test_a_function_that_only_a_base_class_has_has_moved(
    framework: str, name: str, inherited: bool, moved: str | None
) -> None:
    """A class that no longer has its own function is noticed though a base class has one, unless that one is meant."""
    assert Hook(framework, name, as_it_was, inherited=inherited).moved() == moved
