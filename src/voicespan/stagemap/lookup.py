"""Finding a function in source files, without importing anything: a check must not start somebody's service."""

from __future__ import annotations

import ast
import importlib.machinery
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from voicespan.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from voicespan.stagemap.document import Target

_MAX_HOPS = 8
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class NotFoundError(LookupError):
    """There is no such function; the message says what is there instead."""


@dataclass(frozen=True, slots=True)
class Found:
    """A function as its source tells it."""

    file: Path
    line: int
    kind: str
    """function, coroutine, generator or async generator; of a class: the same with `method`."""
    parameters: tuple[str, ...] | None
    """Names of its parameters, without `self`; None where it takes any."""
    is_method: bool

    @property
    def streams(self) -> bool:
        """Whether its body is a stream."""
        return "generator" in self.kind


def look_up(target: Target, path: Sequence[str]) -> Found | None:
    """Find a function along these folders; None when the source does not tell (built elsewhere, or while it runs).

    Raises:
        NotFoundError: the module or the function is not there.

    """
    return _named(_module(target.module, tuple(path)), target.name.split("."), tuple(path), _MAX_HOPS)


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    file: Path
    tree: ast.Module


@cache
def _module(name: str, path: tuple[str, ...]) -> _Module:
    folders: Sequence[str] | None = path
    parts = name.split(".")
    spec = None
    for depth in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:depth]), folders)
        if spec is None:
            near = nearest(parts[depth - 1], _modules(folders or ()))
            hint = f": did you mean {near!r}?" if near else ""
            inside = f" in {'.'.join(parts[: depth - 1])}" if depth > 1 else ""
            raise NotFoundError(f"there is no module {parts[depth - 1]!r}{inside}{hint}")
        folders = spec.submodule_search_locations or []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise NotFoundError(f"{name} has no source file to look at")
    file = Path(spec.origin)
    try:
        return _Module(name, file, ast.parse(file.read_bytes(), str(file)))
    except (OSError, SyntaxError, ValueError) as error:
        raise NotFoundError(f"cannot read {file}: {error}") from None


def _modules(folders: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for folder in folders:
        place = Path(folder or ".")
        if place.is_dir():
            found.update(entry.stem for entry in place.iterdir() if entry.suffix == ".py" or entry.is_dir())
    return found


def _named(module: _Module, names: Sequence[str], path: tuple[str, ...], hops: int) -> Found | None:
    first, *rest = names
    found = _definitions(module.tree.body)
    if first in found:
        return _inside(module, found[first], rest, path, hops)
    imported = _imports(module)
    if first in imported and hops:
        where, what = imported[first]
        target = [*([what] if what else []), *rest]
        try:
            return _named(_module(where, path), target, path, hops - 1) if target else None
        except NotFoundError:
            return None  # perhaps a module of its own, or made while it runs
    if first in _assigned(module.tree.body) or "*" in imported or "__getattr__" in found:
        return None
    raise NotFoundError(_there_is_no(first, module.name, [*found, *imported]))


def _inside(
    module: _Module, definition: _Definition, rest: Sequence[str], path: tuple[str, ...], hops: int
) -> Found | None:
    if not rest:
        if isinstance(definition, ast.ClassDef):
            raise NotFoundError(f"{definition.name} is a class, not a function")
        return _found(module, definition, is_method=False)
    if not isinstance(definition, ast.ClassDef):
        return None
    inner = _definitions(definition.body)
    if rest[0] not in inner:
        return _inherited(module, definition, rest, path, hops, list(inner))
    found = inner[rest[0]]
    if len(rest) > 1 or isinstance(found, ast.ClassDef):
        return _inside(module, found, rest[1:], path, hops)
    return _found(module, found, is_method=True)


def _inherited(
    module: _Module,
    definition: ast.ClassDef,
    rest: Sequence[str],
    path: tuple[str, ...],
    hops: int,
    known: list[str],
) -> Found | None:
    bases = [base for base in definition.bases if not (isinstance(base, ast.Name) and base.id == "object")]
    for base in bases:
        if not isinstance(base, ast.Name) or not hops:
            return None
        try:
            return _named(module, [base.id, *rest], path, hops - 1)
        except NotFoundError:
            continue
    if rest[0] in _assigned(definition.body):
        return None
    raise NotFoundError(_there_is_no(rest[0], definition.name, known))


def _there_is_no(name: str, where: str, known: list[str]) -> str:
    near = nearest(name, known)
    return f"there is no {name!r} in {where}" + (f": did you mean {near!r}?" if near else "")


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements that run when the body does, also those within `if`, `try` and `with`."""
    for statement in body:
        yield statement
        for name in ("body", "orelse", "finalbody"):
            if not isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
                yield from _statements(getattr(statement, name, []))
        for handler in getattr(statement, "handlers", []):
            yield from _statements(handler.body)


def _definitions(body: Sequence[ast.stmt]) -> dict[str, _Definition]:
    found = [each for each in _statements(body) if isinstance(each, (*_FUNCTIONS, ast.ClassDef))]
    return {each.name: each for each in found}


def _assigned(body: Sequence[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for statement in _statements(body):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        found.update(each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name))
    return found


def _imports(module: _Module) -> dict[str, tuple[str, str]]:
    """Return what each imported name is: the module, and the name in it (empty for the module itself)."""
    found: dict[str, tuple[str, str]] = {}
    for statement in _statements(module.tree.body):
        if isinstance(statement, ast.ImportFrom):
            where = _absolute(module, statement)
            found.update({alias.asname or alias.name: (where, alias.name) for alias in statement.names})
        elif isinstance(statement, ast.Import):
            found.update({alias.asname: (alias.name, "") for alias in statement.names if alias.asname})
    return found


def _absolute(module: _Module, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    package = module.name.split(".")
    up = statement.level - (1 if module.file.name == "__init__.py" else 0)
    return ".".join([*package[: len(package) - up], *([statement.module] if statement.module else [])])


def _found(module: _Module, definition: ast.FunctionDef | ast.AsyncFunctionDef, *, is_method: bool) -> Found:
    decorators = {each.id for each in definition.decorator_list if isinstance(each, ast.Name)}
    yields = any(isinstance(each, ast.Yield | ast.YieldFrom) for each in _own(definition))
    if isinstance(definition, ast.AsyncFunctionDef):
        kind = "async generator" if yields else "coroutine"
    else:
        kind = "generator" if yields else "function"
    if is_method:
        kind = {"function": "method"}.get(kind, f"{kind} method")
    every = definition.args
    names = [each.arg for each in (*every.posonlyargs, *every.args)]
    if is_method and "staticmethod" not in decorators:
        names = names[1:]
    names += [each.arg for each in every.kwonlyargs]
    return Found(module.file, definition.lineno, kind, None if every.kwarg else tuple(names), is_method)


def _own(definition: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body, without those of functions inside it."""
    for node in ast.iter_child_nodes(definition):
        if not isinstance(node, (*_FUNCTIONS, ast.Lambda, ast.ClassDef)):
            yield node
            yield from _own(node)
