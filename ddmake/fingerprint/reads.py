"""What a function reads from outside of itself: globals, attributes of modules, and imports in its body."""

import ast
import dis
import importlib
import importlib.util
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ddmake.fingerprint import source

Chain = tuple[str, ...]  # "a.b.c" as it stands in the text


class Namespace:
    """A base for objects of which a reader depends on the attributes that it reads, and on no others."""


def of_function(function: FunctionType, node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) for all that a function reads; of modules and namespaces only what it names of them."""
    scope, chains = function.__globals__, list(_chains(node))
    imported = dict(_imports(node, scope))
    names = {**{n: scope[n] for n in _globals(function.__code__) if n in scope and n != "__name__"}, **imported}
    found: dict[str, Any] = {}
    for name, value in names.items():
        for chain in [c for c in chains if c[0] == name] or [(name,)]:
            found.update(_follow(chain, value))
            if chain[1:] == ("__doc__",):
                found[".".join(chain)] = value.__doc__
    yield from sorted(found.items())


def _follow(chain: Chain, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a chain of attributes leads to, as far as it goes through modules and namespaces."""
    taken = 1
    while taken < len(chain) and isinstance(value, (ModuleType, Namespace)):
        if isinstance(value, ModuleType) and not source.is_users(getattr(value, "__file__", None)):
            return  # a package counts by its version
        if not hasattr(value, chain[taken]):
            return  # an error when it is run, or an attribute that is set later
        value, taken = getattr(value, chain[taken]), taken + 1
    if not isinstance(value, ModuleType) or source.is_users(getattr(value, "__file__", None)):
        yield ".".join(chain[:taken]), value


def _globals(code: CodeType) -> set[str]:
    """Return the global names that code reads, nested functions included."""
    found: set[str] = set()
    waiting = [code]
    while waiting:
        one = waiting.pop()
        found.update(i.argval for i in dis.get_instructions(one) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
        waiting.extend(c for c in one.co_consts if isinstance(c, CodeType))
    return found


def _chains(node: ast.AST) -> Iterator[Chain]:
    """Yield each name in a text with the attributes that are read of it: `a.b.c` whole, and not `a.b` besides."""
    inside: set[int] = set()
    for n in ast.walk(node):  # outer nodes come first
        if id(n) in inside:
            continue
        parts: list[str] = []
        at = n
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
            inside.add(id(at))
        if isinstance(at, ast.Name):
            yield (at.id, *reversed(parts))


def _imports(node: ast.AST, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what code imports in its body from the user's own files, by the name it goes by."""
    package = scope.get("__package__") or ""
    for n in ast.walk(node):
        if isinstance(n, ast.Import):
            for name in n.names:
                module = _own(name.name)
                if module is not None:
                    top = name.name.partition(".")[0]
                    yield (name.asname, module) if name.asname else (top, importlib.import_module(top))
        elif isinstance(n, ast.ImportFrom):
            module = _own("." * n.level + (n.module or ""), package)
            for name in n.names if module is not None else ():
                yield name.asname or name.name, _member(module, name.name)
        elif isinstance(n, ast.Call) and getattr(n.func, "attr", getattr(n.func, "id", "")) in ("import_module", "__import__"):
            given = n.args[0].value if n.args and isinstance(n.args[0], ast.Constant) else None
            module = _own(given) if isinstance(given, str) else None
            if module is not None:
                yield f"import {given}", module


def _member(module: ModuleType | None, name: str) -> Any:
    """Return what `from module import name` gives."""
    if module is None or name == "*":
        return module
    found = getattr(module, name, None)
    return _own(f"{module.__name__}.{name}") if found is None else found


def _own(name: str, package: str = "") -> ModuleType | None:
    """Import a module if it is the user's own."""
    try:
        full = importlib.util.resolve_name(name, package)
        spec = importlib.util.find_spec(full)
    except (ImportError, ValueError):
        return None
    origin = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    return importlib.import_module(full) if source.is_users(origin) else None
