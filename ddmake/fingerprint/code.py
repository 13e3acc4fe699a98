"""Code by meaning: a function, and all of the user's own code and values that it reaches.

What lies in an installed package counts as that package, whose version is recorded; a rule may declare it.
Nothing is skipped in silence: a value that can't be hashed soundly raises DdfileError and is named.
"""

import ast
import builtins
import dis
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ddmake.errors import DdfileError
from ddmake.fingerprint import hashes, source, values

Special = Callable[[Any], Any]  # canonical form of what a higher floor knows; NotImplemented for the rest


def of_function(function: Callable[..., Any], special: Special) -> dict[str, Any]:
    """Return a function's code as a readable dict: a hash for each function and class it reaches, each value it reads.

    Raises DdfileError for a value that can't be hashed.
    """
    walk = Walk(special)
    walk.take("recipe", function)
    while walk.waiting:
        label, thing = walk.waiting.pop()
        walk.found[label] = walk.describe(label, thing)
    return dict(sorted(walk.found.items()))


class Walk:
    """One walk over all that a function reaches; each thing is visited once."""

    def __init__(self, special: Special):
        self.special = special
        self.found: dict[str, Any] = {}
        self.waiting: list[tuple[str, Any]] = []
        self.labels: dict[int, str] = {}
        self.keep: list[Any] = []  # so that no id is given twice

    def take(self, label: str, thing: Any) -> str:
        """Queue a thing to be described, and return the label it goes by."""
        if id(thing) not in self.labels:
            taken = set(self.labels.values())
            unique = label if label not in taken else next(
                f"{label}#{i}" for i in range(2, len(taken) + 3) if f"{label}#{i}" not in taken)
            self.labels[id(thing)] = unique
            self.keep.append(thing)
            self.waiting.append((unique, thing))
        return self.labels[id(thing)]

    def describe(self, label: str, thing: Any) -> Any:
        """Return what a thing counts as."""
        thing = inspect.unwrap(thing) if hasattr(thing, "cache_info") else thing
        if isinstance(thing, MethodType):
            self.take(f"{label}'s self", thing.__self__)
            thing = thing.__func__
        if isinstance(thing, FunctionType):
            return self._function(label, thing)
        if isinstance(thing, type) and self._file(thing):
            return self._class(label, thing)
        if isinstance(thing, ModuleType):
            return self._module(thing)
        return values.canonical(thing, label, self._leaf)

    def _leaf(self, value: Any) -> Any:
        """Describe code that lies inside a value: a function in a list, an object's class."""
        known = self.special(value)
        if known is not NotImplemented:
            return known
        if isinstance(value, (FunctionType, MethodType)) or hasattr(value, "cache_info"):
            return {"code": self.take(getattr(value, "__qualname__", "function"), value)}
        if isinstance(value, type) and self._file(value):
            return {"code": self.take(value.__qualname__, value)}
        return NotImplemented

    def _function(self, label: str, function: FunctionType) -> Any:
        if not source.is_users(function.__code__.co_filename):
            return _third_party(function.__module__ or "", function.__qualname__)
        node = source.function_node(function.__code__)
        if node is None:
            raise DdfileError(f"{label} can't be hashed: its text isn't in {function.__code__.co_filename}. Define it in a file.")
        for name, value in _defaults(function):
            self.take(f"{label}({name}=)", value)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            if name != "__class__":
                self.take(name, _cell(cell, label, name))
        self._globals(label, node, _read_globals(function.__code__), function.__globals__)
        return hashes.of_value(source.normalised(node))[:16]

    def _globals(self, label: str, node: ast.AST, names: set[str], scope: dict[str, Any]) -> None:
        """Queue what code reads from its module: of modules and namespaces only the attributes that it names."""
        chains = dict(_chains(node))
        for name in sorted(names):
            if name in scope and name != "__name__":
                self._reached(name, scope[name], chains.get(name))
        for module, attribute, place in _imports(node, scope.get("__package__")):
            if attribute is None:
                self._reached(place, module, chains.get(place))
            else:
                self._reached(attribute, getattr(module, attribute, module), None)

    def _reached(self, name: str, value: Any, attributes: set[str] | None) -> None:
        if isinstance(value, ModuleType) and not source.is_users(getattr(value, "__file__", None)):
            return
        spaced = isinstance(value, ModuleType) or type(value).__name__ == "Knobs"
        if not spaced or not attributes or None in attributes:
            self.take(name, value)
            return
        for attribute in sorted(attributes):
            self.take(f"{name}.{attribute}", getattr(value, attribute, None))

    def _class(self, label: str, cls: type) -> Any:
        node = source.class_node(cls, self._file(cls))
        if node is None:
            raise DdfileError(f"{label} can't be hashed: the text of class {cls.__qualname__} isn't in its file.")
        for base in cls.__bases__:
            if self._file(base):
                self.take(base.__qualname__, base)
        for member in vars(cls).values():
            function = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            if isinstance(function, FunctionType) and source.is_users(function.__code__.co_filename):
                inner = source.function_node(function.__code__)
                if inner is not None:
                    self._globals(label, inner, _read_globals(function.__code__), function.__globals__)
        module = sys.modules.get(cls.__module__)
        read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        self._globals(label, node, read - {cls.__name__}, vars(module) if module else {})
        return hashes.of_value(source.normalised(node))[:16]

    def _module(self, module: ModuleType) -> Any:
        """Describe a user's module that is handed around whole: all of its text."""
        if not source.is_users(getattr(module, "__file__", None)):
            return _third_party(module.__name__, "")
        return hashes.of_value(source.normalised(source.module_tree(module.__file__)))[:16]

    def _file(self, cls: type) -> str | None:
        """Return the file of a user's class, None for any other."""
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        return file if source.is_users(file) else None


def _third_party(module: str, name: str) -> dict[str, str]:
    return {"package": module.partition(".")[0], "name": f"{module}.{name}".strip(".")}


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, parameter in inspect.signature(function, follow_wrapped=False).parameters.items():
        if parameter.default is not parameter.empty:
            yield name, parameter.default


def _cell(cell: Any, label: str, name: str) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        raise DdfileError(f"{label} can't be hashed: {name!r}, which it closes over, isn't set yet.") from None


def _read_globals(code: CodeType) -> set[str]:
    """Return the global names that code reads, nested functions included, builtins aside."""
    found: set[str] = set()
    waiting = [code]
    while waiting:
        one = waiting.pop()
        found.update(i.argval for i in dis.get_instructions(one) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
        waiting.extend(c for c in one.co_consts if isinstance(c, CodeType))
    return found


def _chains(node: ast.AST) -> Iterator[tuple[str, set[str | None]]]:
    """Yield for each name the attributes that are read of it, None among them where it stands alone."""
    found: dict[str, set[str | None]] = {}
    inner = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name):
            found.setdefault(n.value.id, set()).add(n.attr)
            inner.add(id(n.value))
    for n in ast.walk(node):
        if isinstance(n, ast.Name) and id(n) not in inner:
            found.setdefault(n.id, set()).add(None)
    yield from found.items()


def _imports(node: ast.AST, package: str | None) -> Iterator[tuple[ModuleType, str | None, str]]:
    """Yield what code imports in its body from the user's own files: (module, attribute, name it goes by)."""
    for n in ast.walk(node):
        if isinstance(n, ast.Import):
            for name in n.names:
                if module := _own(name.name):
                    yield module, None, name.asname or name.name.partition(".")[0]
        elif isinstance(n, ast.ImportFrom) and n.module and not n.level:
            if module := _own(n.module):
                yield from ((module, name.name, name.asname or name.name) for name in n.names)


def _own(name: str) -> ModuleType | None:
    """Import a module if it is the user's own."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not source.is_users(spec.origin) or hasattr(builtins, name):
        return None
    return importlib.import_module(name)
