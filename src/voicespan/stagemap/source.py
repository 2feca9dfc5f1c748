"""Wrapping functions where they are defined, so that whoever registers or takes them there gets the wrapped ones.

`@app.websocket("/ws")` hands its function to a router while the module runs: a wrapper put around the module's
attribute afterwards is never called. So the mapped functions of a module get one more decorator, the innermost, while
the module is compiled: it is there before any other. The source file, line numbers and tracebacks stay; compiled files
(`.pyc`) of such a module are neither read nor written.
"""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from typing import TYPE_CHECKING, Any

import wrapt

from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import CodeType, ModuleType

    Around = Callable[[Callable[..., Any], bool], Any]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_LEFT_ALONE = frozenset(
    {
        *("contextmanager", "asynccontextmanager"),  # what they make of the function is the stage, not its one item
        *("overload", "singledispatch"),
        *("jit", "njit", "vectorize", "guvectorize", "compile", "script", "cuda_jit"),  # compilers take plain functions
    }
)
"""Decorators whose function is wrapped after the module has run, with what they have made of it."""

_around: dict[str, dict[str, list[Around]]] = {}
"""By module and by name in it: what makes the wrapper of a function."""


def wrap_in(module: str, name: str, around: Around) -> None:
    """Have `around(function, bound)` give the wrapper of this function, in wrapt's form, when it is defined."""
    _around.setdefault(module, {}).setdefault(name, []).append(around)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(_behind_wrapt(), _Finder())


def _behind_wrapt() -> int:
    """Return the first place behind wrapt's finder, which asks those after it and must be asked before."""
    places = [place for place, finder in enumerate(sys.meta_path) if type(finder).__module__.startswith("wrapt")]
    return max(places, default=-1) + 1


def defined(module: str, name: str, method: str) -> Callable[[Any], Any]:
    """Return the decorator of a function that has just been defined; `method` is empty for a plain function."""

    def decorate(function: Any) -> Any:
        try:
            for around in _around.get(module, {}).get(name, ()):
                around_it = around(function, bool(method))
                function = wrapt.FunctionWrapper(function, _unbound(around_it) if method else around_it)
        except Exception as error:
            swallowed(f"stage map: {module}:{name}", error)
        return function

    return decorate


def _unbound(around: Any) -> Any:
    """Let a method's wrapper find its object also where a decorator calls it as a function: `function(self, ...)`."""

    def call(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if instance is None and args:
            instance, args = args[0], args[1:]
            wrapped = wrapped.__get__(instance, type(instance))
        return around(wrapped, instance, args, kwargs)

    return call


class _Finder:
    """Finds the modules with mapped functions as the others do, and gives them a loader that adds the decorators."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's specification; None for modules that are not mapped, or not made of a source file."""
        if name not in _around:
            return None
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :] if self in sys.meta_path else []
        for finder in behind:
            find = getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                if type(spec.loader) is importlib.machinery.SourceFileLoader:
                    spec.loader = _Loader(spec.loader.name, spec.loader.path)
                return spec  # type: ignore[no-any-return]
        return None


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module with one more decorator on each function that is mapped."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the module's code."""
        try:
            tree = ast.parse(self.get_data(self.path), self.path)
            names = _around.get(self.name, {})
            for path, function, method in _definitions(tree.body, (), in_class=False):
                if ".".join(path) in names and _may_wrap(function):
                    function.decorator_list.append(_decorator(self.name, ".".join(path), method, function))
            return compile(tree, self.path, "exec", dont_inherit=True)
        except SyntaxError:
            return super().get_code(fullname)  # raises it in its own words
        except Exception as error:
            swallowed(f"stage map: {self.name}", error)
            return super().get_code(fullname)


def _definitions(
    body: Sequence[ast.stmt], path: tuple[str, ...], *, in_class: bool
) -> Iterator[tuple[tuple[str, ...], _Function, bool]]:
    """Yield the functions that a module and its classes define, with the path of names that leads to each."""
    for statement in body:
        if isinstance(statement, _FUNCTIONS):
            plain = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in statement.decorator_list)
            yield (*path, statement.name), statement, in_class and not plain
        elif isinstance(statement, ast.ClassDef):
            yield from _definitions(statement.body, (*path, statement.name), in_class=True)
        else:
            for name in ("body", "orelse", "finalbody"):
                yield from _definitions(getattr(statement, name, []), path, in_class=in_class)
            for handler in getattr(statement, "handlers", []):
                yield from _definitions(handler.body, path, in_class=in_class)


def _may_wrap(function: _Function) -> bool:
    for decorator in function.decorator_list:
        named = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", None)
        if name in _LEFT_ALONE:
            return False
    return True


def _decorator(module: str, name: str, method: bool, function: _Function) -> ast.expr:
    """Return `__import__("voicespan.stagemap.source", …).defined(…)`, on the line of the `def`."""
    source = f"__import__({__name__!r}, None, None, ['defined']).defined({module!r}, {name!r}, {'self' * method!r})"
    added = ast.parse(source, mode="eval").body
    for node in ast.walk(added):
        ast.copy_location(node, function)
        if isinstance(node, ast.expr):
            node.end_lineno, node.end_col_offset = function.lineno, function.col_offset + len("def")
    return added
