"""From the names that code reads to the values that stand behind them, as far as these are the user's own."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from ddmake.errors import DdfileError
from ddmake.fingerprint import source, text
from ddmake.fingerprint.source import Imported, Module, file_of, is_users
from ddmake.fingerprint.text import Read, Text

PLACE = {"__name__", "__file__", "__spec__", "__loader__", "__package__", "__path__", "__cached__", "__builtins__"}


class Namespace:
    """A base for objects of which a reader depends on the attributes that it reads, and on no others."""


def known_imports(module: Module, scope: dict[str, Any]) -> dict[str, Imported]:
    """Return the names that a module's own imports bind, as far as they still stand for what was imported."""
    found = module.imports(scope.get("__package__") or "")
    return {name: one for name, several in found.items() for one in several if name in scope and _stands_for(scope[name], one)}


def _stands_for(value: Any, imported: Imported) -> bool:
    module = sys.modules.get(imported[0])
    return module is not None and value is (module if imported[1] is None else getattr(module, imported[1], module))


def of(told: Text, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for all that code reads; of modules and namespaces only what it names of them.

    Raises DdfileError where a module that is imported in the code's body can't be imported.
    """
    given = [scope[name] for name in told.modules_named if isinstance(scope.get(name), str)]
    for name in (*told.modules, *given):
        _imported(name)
    yield from ((name, sys.modules[name]) for name in given if is_users(file_of(sys.modules.get(name))))
    if "globals" in told.sees and scope.get("__name__") in sys.modules:
        yield "globals()", sys.modules[scope["__name__"]]
    for package in told.packages:
        yield from _files(package, scope)
    for read in told.reads:
        if read.local or read.name in scope and read.name not in PLACE:
            yield from _follow(read, _root(read) if read.local else scope[read.name])


def _files(package: str, scope: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield the user's modules in a package by what their code means, or all that lie where code's own module does."""
    spec = _spec(package) if package else None
    own = Path(scope["__file__"]).parents[len((scope.get("__package__") or "").split(".")) if scope.get("__package__") else 0]
    for folder in (spec.submodule_search_locations or () if spec else () if package else (str(own),)):
        for file in source.files(folder):
            yield f"code of {Path(file).relative_to(own)}" if Path(file).is_relative_to(own) else file, _meaning(file)


def _meaning(file: str) -> bytes:
    try:
        return text.of(source.module(file).tree, {}).sha.encode()
    except (SyntaxError, ValueError):
        return Path(file).read_bytes()


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _root(read: Read) -> Any:
    """Return what an import in the code's own body gives; of a package's nothing counts but the name."""
    module, member = read.imported or (read.name, None)
    found = _imported(module)
    if found is None or member is None or member == "*":
        return found
    return getattr(found, member) if hasattr(found, member) else _imported(f"{module}.{member}")


def _imported(name: str) -> ModuleType | None:
    """Import a module if it is the user's own."""
    spec = _spec(name)
    origin = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    if not is_users(origin):
        return None
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise DdfileError(f"the module {name}, which a recipe imports in its body, can't be hashed: importing it raises "
                          f"{type(error).__name__}: {error}.") from None


def _follow(read: Read, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a chain of attributes leads to, as far as it goes through modules, namespaces and classes' plain values."""
    if read.imported is not None and not is_users(file_of(sys.modules.get(read.imported[0]))):
        yield from _patched(read)
        return  # a package counts by its name, which stands in the text
    path = Read(read.name, (), read.imported).path
    for part in read.attributes:
        held = _held(value, part)
        if held is None:
            break
        if part not in held or part in PLACE:  # an error when it is run, or an attribute that is set later
            if "__getattr__" in held and isinstance(value, ModuleType):
                yield f"{path}.__getattr__", held["__getattr__"]
            return
        value, path = held[part], f"{path}.{part}"
    yield path, value


def _patched(read: Read) -> Iterator[tuple[str, Any]]:
    """Yield the user's function that was put in the place of a package's own."""
    module, member = read.imported or (read.name, None)
    value: Any = sys.modules.get(module)
    for part in (*([member] if member else []), *read.attributes):
        if not isinstance(value, (ModuleType, type)):
            return
        value = vars(value).get(part)
        if isinstance(value, FunctionType) and is_users(value.__code__.co_filename):
            yield read.path, value


def _held(value: Any, part: str) -> Mapping[str, Any] | None:
    """Return what an attribute is taken from, None where a reader depends on the whole."""
    if isinstance(value, ModuleType):
        return vars(value) if is_users(file_of(value)) and part != "__dict__" else None
    if isinstance(value, Namespace):
        return vars(value)
    if type(value) is type and is_users(file_of(sys.modules.get(value.__module__))):
        found = next((vars(cls)[part] for cls in value.__mro__ if part in vars(cls)), None)
        plain = type(found) in (int, float, str, bool, bytes, tuple, list, dict, set, frozenset)
        return {part: found} if plain and not part.startswith("__") else None
    return None
