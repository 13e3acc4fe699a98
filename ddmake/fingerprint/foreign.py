"""Packages' functions that were made around the user's own, as decorators make them."""

import ast
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from ddmake.fingerprint.source import file_of, is_users


def wrapped(function: FunctionType, wanted: Callable[[Any], bool]) -> list[Any]:
    """Return the user's functions and classes that a package's function was made around."""
    found, seen, waiting = [], {id(function)}, [function]
    while waiting:
        for value in _held(waiting.pop(0)):
            if id(value) in seen:
                continue
            seen.add(id(value))
            if wanted(value):
                found.append(value)
            elif isinstance(value, (FunctionType, MethodType)):
                waiting.append(value)
    return found


def _held(function: Any) -> Iterator[Any]:
    """Yield what a package's function holds: its cells, defaults and attributes, and what containers among them hold."""
    function = getattr(function, "__func__", function)
    held = [cell.cell_contents for cell in function.__closure__ or () if cell != type(cell)()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]
    for value in held:
        yield value
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()


def counts(decorator: ast.expr, scope: dict[str, Any]) -> bool:
    """Tell whether a decorator counts by its text: what a package's decorator makes of a function is hidden from us.

    What the user's own decorators do is reached through the wrapper; `step` and `train` have ingredients of their own.
    """
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called
    while isinstance(name, ast.Attribute):
        name = name.value
    value = scope.get(name.id) if isinstance(name, ast.Name) else None
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    if not isinstance(module, str) or module.partition(".")[0] == "ddmake" or ast.unparse(called).endswith("wraps"):
        return False
    return not is_users(file_of(sys.modules.get(module)))


def is_modules_own(method: MethodType) -> bool:
    """Tell whether a bound method is what a package's module offers as its function."""
    module = sys.modules.get(method.__func__.__module__)
    return module is not None and not is_users(file_of(module)) and getattr(module, method.__name__, None) == method
