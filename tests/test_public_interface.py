"""What is public is small, exists, and says what it does; and so does every test."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import voicespan

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def is_public(path: Path) -> bool:
    """A module that no part of its path marks as private, and that no compiler wrote."""
    return not any(part.startswith("_") for part in path.with_suffix("").parts) and "_pb2" not in path.name


def public_sources() -> list[str]:
    """Paths of the public modules, relative to the source root."""
    paths = [path.relative_to(SOURCE) for path in (SOURCE / "voicespan").rglob("*.py")]
    return sorted(str(path) for path in paths if is_public(path))


def public_definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions and classes of a module, and the public methods of those classes, by dotted name."""
    for child in node.body:
        if not isinstance(child, Definition) or child.name.startswith("_"):
            continue
        yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from public_definitions(child, f"{prefix}{child.name}.")


def is_overload(node: Definition) -> bool:
    """One of several signatures, or the setter that belongs to a property: the documented one stands beside it."""
    return any(ast.unparse(each).endswith(("overload", ".setter")) for each in node.decorator_list)


def test_the_public_names_are_few() -> None:
    """The package offers at most fifteen names, sorted, and each of them exists."""
    assert len(voicespan.__all__) <= 15
    assert list(voicespan.__all__) == sorted(voicespan.__all__)
    assert [name for name in voicespan.__all__ if not hasattr(voicespan, name)] == []


def test_the_public_names_say_where_they_live() -> None:
    """A public class or function has a docstring of its own."""
    for name in voicespan.__all__:
        value = getattr(voicespan, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"voicespan.{name} has no docstring"


@pytest.mark.parametrize("source", public_sources())
def test_public_functions_are_documented(source: str) -> None:
    """Every public function, class and method of a public module has a docstring."""
    tree = ast.parse((SOURCE / source).read_text())
    bare = [name for name, node in public_definitions(tree) if not ast.get_docstring(node) and not is_overload(node)]
    assert bare == []


@pytest.mark.parametrize("source", [each for each in public_sources() if "integrations/" not in each])
def test_public_modules_import(source: str) -> None:
    """Every public module but the integrations imports without an error when all extras are installed."""
    name = ".".join(Path(source).with_suffix("").parts)
    importlib.import_module(name)


def all_tests() -> list[tuple[str, Definition]]:
    """Every test function of the suite with the file that it stands in."""
    return [
        (f"{path.relative_to(ROOT)}::{node.name}", node)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def test_every_test_says_its_behaviour_in_a_sentence() -> None:
    """A test's docstring begins with a sentence on its own: the behaviour; a table of times may follow."""
    wrong = []
    for name, node in all_tests():
        sentence, _, _ = (ast.get_docstring(node) or "").partition("\n\n")
        if not sentence.endswith("."):
            wrong.append(name)
    assert wrong == []
